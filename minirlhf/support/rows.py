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
from collections import Counter
from pathlib import Path

from .errors import InputError, require, reraise
from .files import note_signature
from .logs import LOGS

WRAPPERS = {"data", "rows", "records", "examples", "train"}  # {"data": [...]}: names of the array
ENDOFTEXT = "<|endoftext|>"
KINDS = (".jsonl", ".ndjson", ".parquet", ".arrow"), (".json", ".csv", ".tsv"), (".txt",)
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test",
          "evaluation": "test", "holdout": "test", "heldout": "test", "validation": "validation", "valid": "validation",
          "val": "validation", "dev": "validation"}  # fmt: skip
PACKED = {b"PK\x03\x04": "a zip archive (or .xlsx, or a model)", b"BZh": "packed by bzip2", b"\xfd7zXZ": "packed by xz",
          b"7z\xbc\xaf": "a 7z archive", b"%PDF": "a PDF", b"PAR1": "parquet", b"\x1f\x8b": "packed by gzip",
          b"\x28\xb5\x2f\xfd": "packed by zstandard", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
          b"version https://git-lfs": "a Git LFS pointer"}  # fmt: skip
MORE = "<|more|>"  # a field of a piece of a document that others follow
PIECE = 16_000_000  # characters of a .txt after which a document is cut
NO_DATA = {*LOGS, "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json",
         "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "generation_config.json",
         "package.json", "README.txt", "LICENSE.txt", "merges.txt"}  # fmt: skip


_now = ["", 0]  # the file that is being read; how many bytes of it have been, or of a text file its handle


def rows(path, wanted):
    """Yields ("file:line", row) for each row of a file, a folder or a pattern. wanted: tells whether a name may matter;
    a parquet or Arrow file's other columns are not read. Raises InputError with file and line."""
    for file in files(path):
        require(os.path.exists(file), f"{file}: no such file")
        require(os.path.isfile(file), f"{file}: a folder or a pipe; give a file, since a resumed run reads it again")
        note_signature(file)
        _now[:] = file, 0
        kind = suffix(file)
        if kind in (".parquet", ".arrow"):
            yield from table_rows(file, wanted)
        elif kind == ".txt":
            yield from documents(file)
        elif kind in (".csv", ".tsv"):
            yield from csv_rows(file, "," if kind == ".csv" else "\t")
        else:
            yield from json_rows(file, wanted)
        _now[:] = file, os.path.getsize(file)


def bytes_read(sizes):
    """How many bytes have been read of files, {name: bytes}, while rows() reads them in order. Of a packed file the
    packed bytes count; one that is no text file counts when it has been read."""
    file, inside = _now
    if file not in sizes:
        return 0
    if not isinstance(inside, int):
        inside = 0 if inside.closed else inside.tell()
    return inside + sum(sizes[before] for before in itertools.takewhile(lambda other: other != file, sizes))


def skipped(path):
    """Names of data files in a folder that are not read, since they are of another kind, or metrics."""
    if not os.path.isdir(path):
        return []
    kinds = [kind for group in KINDS for kind in group]
    names = [name for name in os.listdir(path) if suffix(name) in kinds and name not in NO_DATA - {*LOGS}]
    there = {os.path.join(path, name) for name in names}
    return sorted(os.path.basename(name) for name in there - set(files(path)))


def files(path):
    """The names of the data files that a path stands for: its own, those in a folder, or those that match a pattern."""
    path = str(path)
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        require(found, f"{path}: no file matches this")
        return require_once(path, found)
    if not os.path.isdir(path):
        return [path]
    found = data_files(path) or (os.path.isdir(f"{path}/data") and data_files(f"{path}/data"))
    endings = "one of .jsonl, .json, .csv, .parquet, .arrow, or .jsonl.gz"
    require(found, f"{path}: no file in this folder ends in {endings}; name the files")
    names = [os.path.basename(file) for file in found]
    splits = {split for name in names for split in splits_in(name)}
    shards = filter(None, (re.search(r"(.*)-\d{5}-of-(\d{5})", name) for name in names))
    for (first, n), there in Counter((shard[1], int(shard[2])) for shard in shards).items():
        require(there >= n, f"{path}: holds {there} of the {n} parts of {first}; add the others")
    require(len(splits) < 2, f"{path}: holds {' and '.join(sorted(splits))} data; name the files of one of them")
    return require_once(path, found)


def require_once(path, found):
    """The files; InputError if one is there twice, packed and unpacked."""
    unpacked = [name.removesuffix(".gz").removesuffix(".zst") for name in found]
    double = [os.path.basename(name) for name, n in Counter(unpacked).items() if n > 1]
    require(not double, f"{path}: holds {double and double[0]} twice, packed and unpacked; name one of them")
    return found


def splits_in(name):
    """The splits that a file's name speaks of: {"train"} for myTrain-1.jsonl."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("held_out", "heldout")
    parts = (re.sub(r"set$|\d+$", "", part) for part in re.split(r"[^a-z0-9]", words))
    return {SPLITS[part] for part in parts if part in SPLITS}


def data_files(folder):
    """The data files right in a folder, sorted: of the first kinds in KINDS of which there are any."""
    names = sorted(name for name in os.listdir(folder) if name not in NO_DATA and name[0] != ".")
    names = [name for name in names if not (name.startswith("cache-") and name.endswith(".arrow"))]  # of datasets
    paths = [os.path.join(folder, name) for name in names if os.path.isfile(os.path.join(folder, name))]
    return next((found for kinds in KINDS if (found := [path for path in paths if suffix(path) in kinds])), [])


def suffix(path):
    """.jsonl of data.jsonl.gz"""
    return Path(path.lower().removesuffix(".gz").removesuffix(".zst")).suffix


def opened(file, path):
    """An open text file, which may be compressed, for reading the bytes of its text."""
    if path.lower().endswith(".zst"):
        return import_pyarrow(path).input_stream(file, compression="zstd")
    return gzip.open(file, "rb") if path.lower().endswith(".gz") else file


def lines(path):
    """Yields (number, text) for each line of a text file. Only "\\n" ends a line."""
    number = 0
    try:
        with open(path, "rb") as packed, opened(packed, path) as file:
            _now[1] = packed
            for number, line in enumerate(split_lines(file), 1):
                if number == 1:
                    refuse_other_kinds(path, line)
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        where = f"{path}:{number}: byte {error.start + 1}"
        raise InputError(f"{where} is not UTF-8; convert the file to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        where = f"{path}: cannot be read after line {number}"
        raise InputError(f"{where} ({error}); is it complete, and what its name says?") from None


def refuse_other_kinds(path, line):
    """Raises InputError if the first line of what should be text begins as a file of another kind does."""
    for begin, kind in PACKED.items():
        advice = "convert it to UTF-8" if kind == "UTF-16" else "unpack it, or give it the ending that it should have"
        require(not line.startswith(begin), f"{path}: {kind}, and no text; {advice}")
    require(b"ustar" not in line[257:263], f"{path}: a tar archive, and no text; unpack it")
    require(b"\0" not in line, f"{path}: has null bytes, and is no text in UTF-8 (UTF-16?); convert it to UTF-8")


def split_lines(file):
    """The lines of a file of bytes. pyarrow's files can't be iterated by lines."""
    if hasattr(file, "peek"):
        yield from file
        return
    rest = []  # of a line that goes on
    while block := file.read(1 << 20):
        first, *others = block.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest) + b"\n"
            rest = [other]
    if last := b"".join(rest):
        yield last


def json_rows(path, wanted):
    numbered = ((number, line) for number, line in lines(path) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    numbered = itertools.chain([first], numbered)
    if first[1].lstrip()[0] == "[" or first[1].strip() == "{":  # one value, on one or many lines
        yield from array_rows(path, "\n".join(line for _, line in numbered), wanted)
        return
    for number, line in numbered:
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); each line must be one JSON object") from None
        require(isinstance(row, dict), f"{where}: a JSON object is needed, {type(row).__name__} found")
        if wrapped := array_in(row, wanted):
            yield from ((f"{where}: item {i}", item) for i, item in enumerate(wrapped, 1))
        else:
            yield where, row


def array_rows(path, text, wanted):
    """The objects of a JSON array, or of the only array in a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); an array of objects, or an object a line, is needed") from None
    if isinstance(value, dict):
        value = array_in(value, wanted) or [value]
    for number, row in enumerate(value, 1):
        require(isinstance(row, dict), f"{path}: item {number} of the array is no object; objects are needed")
        yield f"{path}: item {number}", row


def array_in(row, wanted):
    """The array of objects in {"data": [...]} and the like, or None: it has no field of a record beside it."""
    (name, *others) = [name for name, value in row.items() if isinstance(value, list)] or [None]
    found = row[name] if name in WRAPPERS and not others and not any(map(wanted, row.keys() - {name})) else None
    return found if found and all(isinstance(each, dict) for each in found) else None


def csv_rows(path, separator):
    """Rows of a table. An empty cell is null."""
    numbered, at = itertools.dropwhile(lambda line: not line[1].strip(), lines(path)), [0]

    def texts():
        for at[0], line in numbered:
            yield line + "\n"

    reader = csv.DictReader(texts(), delimiter=separator, strict=True)
    csv.field_size_limit(1 << 30)
    try:
        header = reader.fieldnames or []
        double = [name for name in header if header.count(name) > 1]
        require(not double, f"{path}: the column {double and double[0]!r} is there twice; rename one")
        for row in reader:
            where = f"{path}:{at[0]}"
            require(None not in row, f"{where}: more values than the header has names")
            merged = separator == "\t" and any("\t" in (value or "") for value in row.values())
            require(not merged, f"{where}: a tab inside a cell; is a quotation mark before it never closed?")
            if list(row.values()) != header:  # of another file that was added
                yield where, {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{path}:{at[0]}: not a row ({error}); write it as JSON lines") from None


def documents(path):
    """The whole text, or if there is <|endoftext|> in it, each part without the line breaks at its ends. A long one
    comes in pieces, of which all but the last have {MORE: True}. A piece begins at a line that begins with a letter or
    sign, after one that ends so. No token spans such a place, so the pieces' tokens are those of the whole. (But the
    first of several documents keeps the line breaks that it begins with, if it is cut.)"""
    parts, begun, several, size = [], 1, False, 0
    for number, line in lines(path):
        first, *others = line.split(ENDOFTEXT)
        if size > PIECE and parts[-1][-1:].strip() and first[:1].strip():
            text = "\n".join([*parts, ""])
            yield f"{path}:{begun}", {"text": text.lstrip("\n") if several else text, MORE: True}
            parts, begun, size = [], number, 0
        parts.append(first)
        size += len(first)
        for other in others:
            if text := "\n".join(parts).strip("\n"):
                yield f"{path}:{begun}", {"text": text}
            parts, begun, several, size = [other], number, True, len(other)
    text = "\n".join(parts)
    if not several or text.strip():
        yield f"{path}:{begun}", {"text": text.strip("\n") if several else text}


def table_rows(path, wanted):
    pyarrow = import_pyarrow(path)
    with reraise(f"{path}: not a complete {Path(path).suffix[1:]} file; download it again"):
        number = 0
        for batch in table_batches(pyarrow, path, wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row


def table_batches(pyarrow, path, wanted):
    if suffix(path) == ".parquet":
        from pyarrow import parquet

        file = parquet.ParquetFile(path)
        yield from file.iter_batches(1000, columns=[*filter(wanted, file.schema_arrow.names)])
        return
    with pyarrow.memory_map(path) as source:
        try:
            batches = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            batch = batch.select([*filter(wanted, batch.schema.names)])
            yield from (batch.slice(start, 1000) for start in range(0, batch.num_rows, 1000))


def import_pyarrow(path):
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        kind = Path(path).suffix[1:]
        raise InputError(f'{path}: reading {kind} needs pyarrow; pip install "minirlhf[parquet]"') from None
    return pyarrow
