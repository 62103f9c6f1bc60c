"""Reads rows, dicts of named values, from the files in which data sets are published.

    .jsonl .json         an object a line, or one array of objects (also the one array in an object)
    .csv .tsv            a header, then a row a line
    .parquet .arrow      with pyarrow (pip install "minirlhf[parquet]")
    .txt                 documents, parted by <|endoftext|>
    .gz .zst after any of the text formats: compressed; .zst with pyarrow

A folder stands for the data files in it, or in its folder data/; a path with * ? [ for the files that match."""

import csv
import glob
import gzip
import itertools
import json
import os
import re
import zlib
from pathlib import Path

from .errors import InputError, require, reraise
from .files import watch

ENDOFTEXT = "<|endoftext|>"
KINDS = (".jsonl", ".parquet", ".arrow"), (".json", ".csv", ".tsv"), (".txt",)
SPLITS = {"train", "validation", "valid", "val", "dev", "test"}
ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "tokenizer.json",
         "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "generation_config.json",
         "metrics.jsonl", "samples.jsonl", "README.txt", "LICENSE.txt", "merges.txt"}  # fmt: skip


def rows(path, columns):
    """Yields ("file:line", row) for each row of a file, a folder or a pattern. columns: the names that are needed, a
    set; a parquet or Arrow file's other columns are not read. Raises InputError with file and line."""
    for file in files(path):
        require(os.path.exists(file), f"{file}: no such file")
        require(os.path.isfile(file), f"{file}: a folder or a pipe; give a file, since a resumed run reads it again")
        watch(file)
        kind = suffix(file)
        if kind in (".parquet", ".arrow"):
            yield from table_rows(file, columns)
        elif kind == ".txt":
            yield from documents(file)
        elif kind in (".csv", ".tsv"):
            yield from csv_rows(file, "," if kind == ".csv" else "\t")
        else:
            yield from json_rows(file)


def files(path):
    """The names of the data files that a path stands for: its own, those in a folder, or those that match a pattern."""
    path = str(path)
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        require(found, f"{path}: no file matches this")
        return found
    if not os.path.isdir(path):
        return [path]
    found = data_files(path) or (os.path.isdir(f"{path}/data") and data_files(f"{path}/data"))
    endings = "one of .jsonl, .json, .csv, .parquet, .arrow, or .jsonl.gz"
    require(found, f"{path}: no file in this folder ends in {endings}; name the files")
    stems = {re.split("[-.]", os.path.basename(file))[0] for file in found}  # train_sft of train_sft-00000-of-00003
    splits = sorted(stem for stem in stems if SPLITS & set(stem.split("_")))
    require(len(splits) < 2, f"{path}: holds {' and '.join(splits)} data; name the files of one of them")
    return found


def data_files(folder):
    """The data files right in a folder, sorted: of the first kinds in KINDS of which there are any."""
    names = sorted(name for name in os.listdir(folder) if name not in ABOUT and name[0] != ".")
    paths = [os.path.join(folder, name) for name in names if os.path.isfile(os.path.join(folder, name))]
    return next((found for kinds in KINDS if (found := [path for path in paths if suffix(path) in kinds])), [])


def suffix(path):
    """.jsonl of data.jsonl.gz"""
    return Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower()


def text_file(path):
    """Opens a text file, which may be compressed, for reading bytes."""
    if path.endswith(".zst"):
        return import_pyarrow(path).input_stream(path, compression="zstd")
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def lines(path):
    """Yields (number, text) for each line of a text file. Only "\\n" ends a line."""
    number = 0
    try:
        with text_file(path) as file:
            for number, line in enumerate(split_lines(file), 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        where = f"{path}:{number}: byte {error.start + 1}"
        raise InputError(f"{where} is not UTF-8; convert the file to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        where = f"{path}: cannot be read after line {number}"
        raise InputError(f"{where} ({error}); is it complete, and what its name says?") from None


def split_lines(file):
    """The lines of a file of bytes. pyarrow's files can't be iterated by lines."""
    if hasattr(file, "peek"):
        yield from file
        return
    rest = b""
    while block := file.read(1 << 20):
        *complete, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in complete)
    if rest:
        yield rest


def json_rows(path):
    numbered = ((number, line) for number, line in lines(path) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    numbered = itertools.chain([first], numbered)
    if first[1].lstrip()[0] == "[" or first[1].strip() == "{":  # one value, on one or many lines
        yield from array_rows(path, "\n".join(line for _, line in numbered))
        return
    for number, line in numbered:
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); each line must be one JSON object") from None
        require(isinstance(row, dict), f"{where}: a JSON object is needed, {type(row).__name__} found")
        yield where, row


def array_rows(path, text):
    """The objects of a JSON array, or of the only array in a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); an array of objects, or an object a line, is needed") from None
    if isinstance(value, dict):
        arrays = [each for each in value.values() if isinstance(each, list)]
        value = arrays[0] if len(arrays) == 1 else [value]
    for number, row in enumerate(value, 1):
        require(isinstance(row, dict), f"{path}: item {number} of the array is no object; objects are needed")
        yield f"{path}: item {number}", row


def csv_rows(path, separator):
    numbered = lines(path)
    reader = csv.DictReader((line + "\n" for _, line in numbered), delimiter=separator)
    csv.field_size_limit(1 << 30)
    try:
        for row in reader:
            require(None not in row, f"{path}:{reader.line_num}: more values than the header has names")
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a row ({error}); write it as JSON lines") from None


def documents(path):
    """The whole text, or if there is <|endoftext|> in it, each part without the line breaks at its ends."""
    parts, begun, several = [], 1, False
    for number, line in lines(path):
        first, *others = line.split(ENDOFTEXT)
        parts.append(first)
        for other in others:
            if text := "\n".join(parts).strip("\n"):
                yield f"{path}:{begun}", {"text": text}
            parts, begun, several = [other], number, True
    text = "\n".join(parts)
    if not several or text.strip():
        yield f"{path}:{begun}", {"text": text.strip("\n") if several else text}


def table_rows(path, columns):
    pyarrow = import_pyarrow(path)
    with reraise(f"{path}: not a complete {Path(path).suffix[1:]} file; download it again"):
        number = 0
        for batch in table_batches(pyarrow, path, columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row


def table_batches(pyarrow, path, columns):
    if path.endswith(".parquet"):
        from pyarrow import parquet

        file = parquet.ParquetFile(path)
        yield from file.iter_batches(1000, columns=[name for name in file.schema_arrow.names if name in columns])
        return
    with pyarrow.memory_map(path) as source:
        try:
            batches = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            batch = batch.select([name for name in batch.schema.names if name in columns])
            yield from (batch.slice(start, 1000) for start in range(0, batch.num_rows, 1000))


def import_pyarrow(path):
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        kind = Path(path).suffix[1:]
        raise InputError(f'{path}: reading {kind} needs pyarrow; pip install "minirlhf[parquet]"') from None
    return pyarrow
