"""Encodes records once, into a folder that the training scripts take in place of a file. Its token ids are mapped into
memory: every process reads what it needs, and none waits for the encoding.

    python -m tools.encode --data corpus.jsonl --tokenizer gpt2 --out corpus.tokens
    python -m tools.encode --data pairs.jsonl --kind ranking --limit 1024 --tokenizer runs/sft --out pairs.tokens
    python pretrain.py --data corpus.tokens --out runs/gpt

The memory that it needs does not grow with the data. After a stop or a kill, the same command goes on.
"""

import itertools
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support import records, tokens
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.config import Text, check_fields, command, require_choice, require_positive
from minirlhf.support.device import cores
from minirlhf.support.distributed import end_with
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import disk_errors, read_json, write_json
from minirlhf.support.folder import hash_of_files, lock_output
from minirlhf.support.tokenizer import load

RECORDS, CHARACTERS = 1000, 4_000_000  # of a chunk: it ends when it has as many
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
    lock_output(config, ignore=("processes",))
    out = Path(config.out)
    if (out / tokens.ABOUT).exists():
        return print(f"{out} is finished already; nothing to do")
    tokenizer, began = tokenizer_of(config.tokenizer), time.perf_counter()
    with Encoded(out, tokenizer, config.kind) as encoded:
        done, told = encoded.records, began
        given = itertools.chain.from_iterable(records.convert(path, config.kind) for path in config.data)
        for count, (arrays, fits) in in_order(config, chunks(itertools.islice(given, done, None))):
            encoded.append(arrays, fits, count)
            if (now := time.perf_counter()) > told + 10:
                told, rate = now, (encoded.records - done) / (now - began)
                print(f"{out}: {encoded.records:,} {config.kind}s, {rate:,.0f}/s", flush=True)
        records.tell(list(encoded.fits.elements()), config.kind, config.limit, out)
    encoded.finish(config)


def tokenizer_of(source):
    """The tokenizer of a name, a folder or a ranks file, or beside a checkpoint."""
    try:
        return load(source)
    except InputError as error:
        try:
            return load_tokenizer(source)
        except InputError:
            raise error from None


def chunks(given):
    """Lists of records, of about as much text."""
    chunk, characters = [], 0
    for record in given:
        chunk.append(record)
        characters += sum(map(len, record.get("responses", []))) + sum(
            len(record.get(name, "")) for name in ("text", "prompt", "response")
        )
        if len(chunk) == RECORDS or characters > CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def in_order(config, given):
    """(number of records, what records.encode gives) of each chunk, in order. Several are encoded at the same time."""
    processes = config.processes or cores()
    limit = config.limit or float("inf")
    if processes == 1:
        tokenizer = tokenizer_of(config.tokenizer)
        for chunk in given:
            yield len(chunk), records.encode(chunk, config.kind, tokenizer, limit)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, start, (config.tokenizer,)) as pool:
        ahead = deque()
        for chunk in given:
            ahead.append((len(chunk), pool.submit(encode, chunk, config.kind, limit)))
            if len(ahead) > 2 * processes:
                yield first(ahead)
        while ahead:
            yield first(ahead)


def first(ahead):
    count, future = ahead.popleft()
    try:
        return count, future.result()
    except BrokenProcessPool:
        advice = "take fewer --processes if memory was short; the same command goes on"
        raise InputError(f"a process that encodes was killed; {advice}") from None


def start(source):
    global tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says that it was stopped
    end_with(multiprocessing.parent_process().pid)
    tokenizer = tokenizer_of(source)


def encode(chunk, kind, limit):
    return records.encode(chunk, kind, tokenizer, limit)


class Encoded:
    """The files of a folder, which grow; a context manager. What is in them beyond the sizes that STATE names is cut
    off when a run goes on."""

    def __init__(self, out, tokenizer, kind):
        self.out, self.tokenizer, self.kind = out, tokenizer, kind
        names = {"document": ("tokens",), "ranking": ("tokens", "cuts", "firsts", "ranks")}
        names = names.get(kind, ("tokens", "cuts", "firsts"))
        self.types = {name: tokens.TYPES.get(name, tokens.id_type(tokenizer).str) for name in names}
        known = read_json(out / STATE) if (out / STATE).exists() else {"records": 0, "fits": {}, "sizes": {}}
        self.records, self.fits = known["records"], Counter({int(fit): n for fit, n in known["fits"].items()})
        self.sizes = {name: known["sizes"].get(name, 0) for name in names}

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

    def append(self, arrays, fits, count):
        """Adds a chunk's arrays. Where texts and records begin is counted on from the chunks before."""
        begun = {"cuts": self.sizes["tokens"], "firsts": max(0, self.sizes.get("cuts", 0) - 1)}
        for name, type_ in self.types.items():
            array = arrays[name]
            if name in begun:
                array = (array[1:] if self.sizes[name] else array) + begun[name]
            with disk_errors(self.path(name), "and give the same command again"):
                self.files[name].write(array.astype(type_).tobytes())
            self.sizes[name] += len(array)
        self.records += count
        self.fits.update(fits)
        if time.perf_counter() > self.saved + SECONDS:
            self.save()

    def save(self):
        """Notes how far the files have come, once they are on the disk."""
        for name, file in self.files.items():
            with disk_errors(self.path(name), "and give the same command again"):
                file.flush()
                os.fsync(file.fileno())
        write_json(self.out / STATE, {"records": self.records, "fits": self.fits, "sizes": self.sizes})
        self.saved = time.perf_counter()

    def finish(self, config):
        """Writes the description, which makes the folder one that can be read."""
        about = {"kind": self.kind, "tokenizer": self.tokenizer.hash, "type": self.types["tokens"]}
        about |= {"limit": config.limit, "sizes": self.sizes, "records": self.records, "data": config.data}
        about["sha256"] = hash_of_files([str(self.path(name)) for name in self.types])
        write_json(self.out / tokens.ABOUT, about)
        (self.out / STATE).unlink(missing_ok=True)
        size = sum(self.sizes[name] * self.width(name) for name in self.types) / 1e6
        print(f"{self.out}: {self.records:,} {self.kind}s, {self.sizes['tokens']:,} tokens, {size:,.1f} MB")


if __name__ == "__main__":
    command(main, Config)
