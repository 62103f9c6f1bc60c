"""Encodes records once, into a folder that the training scripts take in place of a file. Its token ids are mapped into
memory: every process reads what it needs, and none waits for the encoding.

    python -m tools.encode --data corpus.jsonl --tokenizer gpt2 --out corpus.tokens
    python -m tools.encode --data pairs.jsonl --kind ranking --limit 1024 --tokenizer runs/sft --out pairs.tokens
    python pretrain.py --data corpus.tokens --out runs/gpt

After a stop, a kill, or a line that could not be read and has been mended, the same command goes on. The memory that it
needs grows with the longest line, and not with the data; but an array in a .json file, and records that are put
together from several rows (HelpSteer's, OASST's), are read as a whole.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from minirlhf.support import formats, records, rows, tokens
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.config import Text, check_fields, command, require_choice, require_positive
from minirlhf.support.device import cores
from minirlhf.support.errors import InputError, NotPermitted, require, reraise
from minirlhf.support.files import disk_errors, read_json, write_json
from minirlhf.support.folder import hash_of_files, lock_output
from minirlhf.support.processes import ignoring_ctrl_c
from minirlhf.support.tokenizer import load

RECORDS, BYTES = 1000, 4_000_000  # of a chunk: it ends when it has as many (bytes of JSON)
SECONDS = 5  # between notes of how far a run has come
STATE = "encoded.json"  # the note


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files of records
    tokenizer: str  # gpt2, a folder with a tokenizer, a ranks file, or a checkpoint that has one
    out: str  # folder to write
    kind: Text = "document"  # document, demonstration, ranking or prompt
    limit: int | None = None  # the most tokens: the model's context; of prompts, the context less --max_response
    processes: int | None = None  # that encode at the same time; default: one for each core

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "limit", "processes", most=10**9)
        require_choice(self, "kind", ("document", "demonstration", "ranking", "prompt"))
        if (self.kind == "document") != (self.limit is None):
            fault = "documents are cut by the training" if self.limit else "is needed: the model's context"
            raise InputError(f"--limit: {fault}")


def main(config):
    lock_output(config, ignore=("processes", "data"))
    out, tokenizer = Path(config.out), tokenizer_of(config.tokenizer)
    files = files_of(config)
    if (out / tokens.ABOUT).exists():
        fault = fault_of(config, tokenizer)
        (out / STATE).unlink(missing_ok=True)
        if not fault:
            return print(f"{out} is finished already; nothing to do")
        print(f"{fault}\n{out}: is encoded again", flush=True)
        (out / tokens.ABOUT).unlink()
    with Encoded(out, tokenizer, config.kind) as encoded:
        given = itertools.chain.from_iterable(records.convert(path, config.kind) for path in config.data)
        digest = read_past(given, encoded, config)
        show = progress(encoded, config, files)
        for (count, content), (arrays, fits) in in_order(config, chunks(given, config.kind, digest)):
            encoded.append(arrays, fits, count, content)
            show()
        records.tell(encoded.fits, config.kind, config.limit, out)
    same = files_of(config) == files
    require(same, f"--data {' '.join(config.data)}: has other files than at the start; run the command again")
    encoded.finish(config)


def files_of(config):
    """The files of --data. InputError if one is missing."""
    files = [file for path in config.data for file in rows.files(path)]
    missing = [file for file in files if not os.path.exists(file)]
    require(not missing, f"{missing and missing[0]}: no such file")
    return files


def fault_of(config, tokenizer):
    """What is wrong with a folder that was finished, or None. InputError if --data has changed since."""
    about = {}
    with suppress(InputError):
        about = read_json(Path(config.out) / tokens.ABOUT)
    same = about.get("read", "") in ("", hash_of_files([*config.data]))
    data = " ".join(config.data)
    require(same, f"--data {data} has changed since --out {config.out} was encoded; choose another --out")
    try:
        tokens.open_encoded(config.out, config.kind, tokenizer, config.limit)
        whole = about.get("sha256") == hash_of_files(tokens.paths_of(config.out, config.kind))
        return None if whole else f"{config.out}: its files are not those that {tokens.ABOUT} describes"
    except NotPermitted:
        raise
    except InputError as error:
        return str(error)


def read_past(given, encoded, config):
    """Reads the records that are encoded already. Returns a hash of their content; InputError if they have changed."""
    digest, done, told = hashlib.sha256(), encoded.records, time.perf_counter()
    if done:
        print(f"{config.out}: goes on after {done:,} {config.kind}s, which are read and compared", flush=True)
    for i, record in enumerate(itertools.islice(given, done)):
        digest.update(content_of(record, config.kind))
        if (now := time.perf_counter()) > told + 10:
            told = now
            print(f"{config.out}: {i:,} of {done:,} compared", flush=True)
    what = f"the first {done:,} {config.kind}s of --data {' '.join(config.data)}"
    same = not done or digest.hexdigest() == encoded.content
    require(same, f"{what} have changed since they were encoded; put them back, or remove {config.out} to begin again")
    return digest


def progress(encoded, config, files):
    """A function that shows every ten seconds how far the encoding is."""
    began = told = time.perf_counter()
    sizes = {file: os.path.getsize(file) for file in files}
    first, begin, total = encoded.records, rows.bytes_read(sizes), sum(sizes.values())

    def show():
        nonlocal told
        if (now := time.perf_counter()) < told + 10:
            return
        told, seconds, read = now, now - began, rows.bytes_read(sizes)
        left = f", {seconds * (total - read) / (read - begin):,.0f} s left" if read > begin else ""
        rate, share = (encoded.records - first) / seconds, read / max(total, 1)
        print(f"{config.out}: {encoded.records:,} {config.kind}s, {share:.0%}, {rate:,.0f}/s{left}", flush=True)

    return show


def tokenizer_of(source):
    """The tokenizer of a name, a folder or a ranks file, or beside a checkpoint."""
    try:
        return load(source)
    except InputError as error:
        try:
            return load_tokenizer(source)
        except InputError:
            raise error from None


def content_of(record, kind):
    """What is encoded of a record, as bytes."""
    more = {"ranking": ["ranks"], "document": [rows.MORE]}.get(kind, [])
    return json.dumps([record.get(name) for name in [*formats.FIELDS[kind], *more]]).encode()


def chunks(given, kind, digest):
    """Yields (records, hash of all records up to here) for lists of records, of about as much text."""
    chunk, size = [], 0
    for record in given:
        chunk.append(record)
        content = content_of(record, kind)
        size += len(content)
        digest.update(content)
        if len(chunk) == RECORDS or size > BYTES:
            yield chunk, digest.hexdigest()
            chunk, size = [], 0
    if chunk:
        yield chunk, digest.hexdigest()


def in_order(config, given):
    """((number of records, hash), what records.encode gives) of each chunk, in order. Several are encoded at once."""
    processes = config.processes or cores()
    if processes == 1:
        tokenizer = tokenizer_of(config.tokenizer)
        for chunk, content in given:
            yield (len(chunk), content), encode(chunk, config, tokenizer)
        return
    workers, idle, busy, done, due, numbered = [], [], {}, {}, 0, enumerate(given)
    try:
        while True:
            while len(busy) < processes and len(done) < 2 * processes and (one := next(numbered, None)):
                if not idle:
                    workers.append(start(config))
                    idle.append(workers[-1][1])
                number, (chunk, content) = one
                with alive():
                    idle[-1].send(chunk)
                busy[idle.pop()] = number, (len(chunk), content)
            if not busy:
                return
            for connection in wait(busy):
                number, about = busy.pop(connection)
                with alive():
                    result = connection.recv()
                if isinstance(result, Exception):
                    raise result
                done[number] = about, result
                idle.append(connection)
            while due in done:
                yield done.pop(due)
                due += 1
    finally:
        for process, _ in workers:
            process.kill()
            process.join()


def start(config):
    """(a process that encodes chunks, the connection to it)."""
    spawn = multiprocessing.get_context("spawn")
    with ignoring_ctrl_c(), reraise("a process that encodes cannot be started; take fewer --processes"):
        own, other = spawn.Pipe()
        process = spawn.Process(target=work, args=(config, other), daemon=True)
        process.start()
        other.close()  # so that its end is noticed here
    return process, own


@contextmanager
def alive():
    """Context manager: an InputError in place of what a connection raises whose other process has ended."""
    try:
        yield
    except (EOFError, OSError):
        advice = "take fewer --processes if memory was short; the same command goes on"
        raise InputError(f"a process that encodes was killed; {advice}") from None


def work(config, connection):
    """Encodes chunk after chunk, until the process that gives them has ended."""
    tokenizer = tokenizer_of(config.tokenizer)
    while True:
        try:
            chunk = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = encode(chunk, config, tokenizer)
        except Exception as error:
            result = error
        with suppress(OSError):
            connection.send(result)


def encode(chunk, config, tokenizer):
    return records.encode(chunk, config.kind, tokenizer, config.limit or float("inf"))


class Encoded:
    """The files of a folder, which grow; a context manager. What is in them beyond the sizes that STATE names is cut
    off when a run goes on."""

    def __init__(self, out, tokenizer, kind):
        self.out, self.tokenizer, self.kind = out, tokenizer, kind
        self.types = {name: tokens.TYPES.get(name, tokens.id_type(tokenizer).str) for name in tokens.PARTS[kind]}
        self.records, self.content, self.fits, self.sizes = 0, "", Counter(), dict.fromkeys(self.types, 0)
        if (out / STATE).exists():
            with reraise(f"{out / STATE}: damaged; remove {out}, and encode again"):
                known = read_json(out / STATE)
                self.records, self.content = int(known["records"]), known["content"]
                self.fits = Counter({int(fit): int(n) for fit, n in known["fits"].items()})
                self.sizes = {name: int(known["sizes"][name]) for name in self.types}

    def __enter__(self):
        self.files = {}
        for name in self.types:
            path, size = self.path(name), self.sizes[name] * self.width(name)
            whole = size == 0 or (path.is_file() and path.stat().st_size >= size)
            require(whole, f"{path}: shorter than {STATE} says; remove {self.out}, and encode again")
            with disk_errors(path):
                self.files[name] = open(path, "r+b" if path.exists() else "w+b")
                self.files[name].truncate(size)
                self.files[name].seek(size)
        self.saved = time.perf_counter()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.save()
        for file in self.files.values():
            with suppress(OSError):
                file.close()

    def path(self, name):
        return self.out / f"{name}.bin"

    def width(self, name):
        return int(self.types[name][2:])

    def append(self, arrays, fits, count, content):
        """Adds a chunk's arrays. Where texts and records begin is counted on from the chunks before. content: the hash
        of all records up to here."""
        begun = {"cuts": self.sizes["tokens"], "firsts": max(0, self.sizes.get("cuts", 0) - 1)}
        for name, type_ in self.types.items():
            array = arrays[name]
            if name in begun:
                array = (array[1:] if self.sizes[name] else array) + begun[name]
            with disk_errors(self.path(name), "and give the same command again"):
                self.files[name].write(array.astype(type_).tobytes())
            self.sizes[name] += len(array)
        self.records, self.content = self.records + count, content
        self.fits.update(fits)
        if time.perf_counter() > self.saved + SECONDS:
            self.save()

    def save(self):
        """Notes how far the files have come, once they are on the disk."""
        for name, file in self.files.items():
            with disk_errors(self.path(name), "and give the same command again"):
                file.flush()
                os.fsync(file.fileno())
        known = {"records": self.records, "content": self.content, "fits": self.fits, "sizes": self.sizes}
        write_json(self.out / STATE, known)
        self.saved = time.perf_counter()

    def finish(self, config):
        """Writes the description, which makes the folder one that can be read."""
        about = {"kind": self.kind, "tokenizer": self.tokenizer.hash, "type": self.types["tokens"]}
        about |= {"limit": config.limit, "sizes": self.sizes, "records": self.records, "data": config.data}
        paths = tokens.paths_of(self.out, self.kind)
        about |= {"read": hash_of_files([*config.data]), "sha256": hash_of_files(paths)}
        about["sample"] = tokens.sample_of(paths)
        write_json(self.out / tokens.ABOUT, about)
        (self.out / STATE).unlink(missing_ok=True)
        size = sum(self.sizes[name] * self.width(name) for name in self.types) / 1e6
        print(f"{self.out}: {self.records:,} {self.kind}s, {self.sizes['tokens']:,} tokens, {size:,.1f} MB")


if __name__ == "__main__":
    command(main, Config)
