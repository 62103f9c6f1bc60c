"""Encoded records: token ids end to end, from which Sequences, Rankings and prompts are made when they are used.

The ids are in memory, or in a folder that tools/encode.py has written and each process maps into memory:

    tokens.bin              ids, little-endian: uint16, or uint32 for a vocabulary of more than 65,536
    cuts.bin, firsts.bin    where texts begin in tokens.bin, and records in cuts.bin, int64; not of documents
    ranks.bin               the rank of each text, 0 for a prompt, int32; of rankings
    about.json              the kind of record, the tokenizer's hash, the numbers of tokens and records, what was read,
                            and hashes of the other files: of all bytes, and of a sample that each start checks
"""

import bisect
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import InputError, require, reraise
from .files import read_json

ABOUT, AGAIN = "about.json", "encode the data again (python -m tools.encode)"
TYPES = {"cuts": "<i8", "firsts": "<i8", "ranks": "<i4"}
TEXTS = ("tokens", "cuts", "firsts")
PARTS = {"document": ("tokens",), "demonstration": TEXTS, "prompt": TEXTS, "ranking": (*TEXTS, "ranks")}
SAMPLES, BLOCK = 100, 65_536  # of each file: blocks, and bytes of each


class Sequence(NamedTuple):
    """Token ids, of which those from `start` on are targets: a prompt and its response, or (start 1) a document."""

    tokens: np.ndarray
    start: int

    @property
    def length(self):
        return len(self.tokens)


class Ranking(NamedTuple):
    """A prompt's K responses, each prompt + response + end-of-text, and their ranks."""

    sequences: list
    ranks: list

    @property
    def length(self):
        return max(s.length for s in self.sequences)

    @property
    def has_pair(self):
        return len(set(self.ranks)) > 1  # else all responses tie


class Items:
    """What is made when it is used: items[3], items[2:9] (a list), len(items), and `lengths`, those of all. vocabulary:
    all ids are below it, or an error names `where` they are from."""

    vocabulary, where = 2**31, ""

    def ids(self, array):
        """An array of ids as int32."""
        if len(array) and array.max() >= self.vocabulary:
            raise InputError(f"{self.where}: the id {array.max()}, in a vocabulary of {self.vocabulary}; {AGAIN}")
        return array.astype(np.int32)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self.item(j) for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.item(int(i) % len(self))


class Documents(Items):
    """Sequences of n_ctx + 1 tokens of a stream of documents. Neighbours share one token, so that each token but the
    very first is a target exactly once. streams: arrays of ids, one after the other."""

    def __init__(self, streams, n_ctx):
        self.streams, self.n_ctx = streams, n_ctx
        self.ends = np.cumsum([len(stream) for stream in streams], dtype=np.int64)
        self.total = int(self.ends[-1]) if streams else 0

    def __len__(self):
        return -(-max(0, self.total - 1) // self.n_ctx)

    @property
    def lengths(self):
        lengths = np.full(len(self), self.n_ctx + 1)
        lengths[-1:] = self.total - (len(self) - 1) * self.n_ctx
        return lengths

    def item(self, i):
        begin, parts = i * self.n_ctx, []
        end = min(begin + self.n_ctx + 1, self.total)
        for stream, last in zip(self.streams, self.ends.tolist()):
            first = last - len(stream)
            if first < end and begin < last:
                parts.append(stream[max(begin - first, 0) : end - first])
        return Sequence(self.ids(np.concatenate(parts)), 1)


class Records(Items):
    """Demonstrations (Sequences), rankings (Rankings) or prompts (lists of ids). Record i is the texts firsts[i] to
    firsts[i + 1] - 1: a prompt and its responses; text j is tokens[cuts[j] : cuts[j + 1]]."""

    def __init__(self, kind, tokens, cuts, firsts, ranks=None):
        self.kind, self.tokens, self.cuts, self.firsts, self.ranks = kind, tokens, cuts, firsts, ranks

    def __len__(self):
        return len(self.firsts) - 1

    @property
    def lengths(self):
        """The tokens of each: of a ranking, of its longest response with the prompt."""
        texts = np.diff(self.cuts)
        prompts = texts[self.firsts[:-1]]
        if self.kind == "prompt" or not len(self):
            return prompts
        texts = np.array(texts)
        texts[self.firsts[:-1]] = 0
        return prompts + np.maximum.reduceat(texts, self.firsts[:-1])

    def item(self, i):
        first, last = int(self.firsts[i]), int(self.firsts[i + 1])
        cuts = self.cuts[first : last + 1].tolist()
        prompt, *responses = (self.ids(self.tokens[a:b]) for a, b in zip(cuts, cuts[1:]))
        if self.kind == "prompt":
            return prompt.tolist()
        sequences = [Sequence(np.concatenate((prompt, response)), len(prompt)) for response in responses]
        if self.kind == "demonstration":
            return sequences[0]
        return Ranking(sequences, self.ranks[first + 1 : last].tolist())


class Joined(Items):
    """Several Items, one after the other."""

    def __init__(self, parts):
        self.parts, self.ends = parts, np.cumsum([0, *map(len, parts)])[1:].tolist()

    def __len__(self):
        return self.ends[-1] if self.ends else 0

    @property
    def lengths(self):
        return np.concatenate([part.lengths for part in self.parts]) if self.parts else np.zeros(0, int)

    def item(self, i):
        part = bisect.bisect_right(self.ends, i)
        return self.parts[part][i - self.ends[part] + len(self.parts[part])]


class Encoder:
    """Gathers encoded records as arrays."""

    def __init__(self, tokenizer):
        self.dtype = id_type(tokenizer)
        self.tokens, self.texts, self.counts, self.ranks = [], [], [], []

    def add(self, texts, ranks=()):
        """texts: the ids of a prompt and its responses, or of a document."""
        self.tokens.append(np.concatenate([np.array(own, self.dtype) for own in texts]))
        self.texts += map(len, texts)
        self.counts.append(len(texts))
        self.ranks += [0, *ranks]

    def arrays(self):
        """{part: array} of what was gathered; cuts and firsts begin with 0."""
        tokens = np.concatenate(self.tokens) if self.tokens else np.zeros(0, self.dtype)
        cuts, firsts = (np.cumsum([0, *counts], dtype=np.int64) for counts in (self.texts, self.counts))
        return dict(tokens=tokens, cuts=cuts, firsts=firsts, ranks=np.array(self.ranks, np.int32))


def id_type(tokenizer):
    return np.dtype("<u2" if tokenizer.n_vocab <= 2**16 else "<u4")


# --- folders of tools/encode.py --------------------------------------------------------------------------------------


def is_encoded(path):
    return path != "" and Path(path).is_dir() and any((Path(path) / name).is_file() for name in (ABOUT, "tokens.bin"))


def open_encoded(path, kind, tokenizer, limit=None):
    """The arrays {part: array} of a folder, mapped into memory. InputError if the folder is not whole, is of another
    kind of record or another tokenizer, or was encoded for another number of tokens than `limit`."""
    require((Path(path) / ABOUT).is_file(), f"{path}: not finished; the same command of tools.encode goes on")
    about = read_json(Path(path) / ABOUT, AGAIN)
    sizes, parts = about.get("sizes"), PARTS.get(str(about.get("kind")), ())
    valid = isinstance(sizes, dict) and sizes.keys() == set(parts)
    valid = valid and all(type(n) is int and n >= 0 for n in sizes.values()) and about.get("type") in ("<u2", "<u4")
    require(valid, f"{path}/{ABOUT}: no description of encoded data; {AGAIN}")
    require(about.get("kind") == kind, f"{path}: holds {about.get('kind')}s, and {kind}s are needed here")
    same = about.get("tokenizer") == tokenizer.hash and about["type"] == id_type(tokenizer).str
    require(same, f"{path}: was encoded by another tokenizer; {AGAIN}")
    fits = limit is None or about.get("limit") == limit
    require(fits, f"{path}: was encoded for at most {about.get('limit')} tokens, and {limit} are needed; {AGAIN}")
    arrays = {}
    for name, size in sizes.items():
        file, type_ = Path(path) / f"{name}.bin", np.dtype(TYPES.get(name, about["type"]))
        require(file.is_file(), f"{file}: missing; {AGAIN}")
        found, wanted = file.stat().st_size, size * type_.itemsize
        require(found == wanted, f"{file}: has {found:,} bytes, and {ABOUT} says {wanted:,}; {AGAIN}")
        arrays[name] = np.memmap(file, type_, "r") if size else np.zeros(0, type_)
    texts = sizes.get("cuts", 1) - 1
    for name, total, least in (("cuts", sizes["tokens"], 0), ("firsts", texts, 1)):
        if name in arrays:
            own = arrays[name]
            whole = len(own) and own[0] == 0 and own[-1] == total and (np.diff(own) >= least).all()
            require(whole, f"{path}/{name}.bin: does not fit the other files; {AGAIN}")
    require(sizes.get("ranks", texts) == texts, f"{path}/ranks.bin: does not fit the other files; {AGAIN}")
    same = about.get("sample") == sample_of(paths_of(path, kind))
    require(same, f"{path}: its files are not those that {ABOUT} describes; if it is a copy, copy it again, or {AGAIN}")
    return arrays


def paths_of(folder, kind):
    """The files of a folder beside its description."""
    return [os.path.join(folder, f"{name}.bin") for name in PARTS[kind]]


def sample_of(paths):
    """SHA-256 of a hundred blocks of each file, evenly spread, with the first and the last. It notices if a fiftieth of
    a file in a row is missing, as after a copy that was broken off; not if a byte is wrong."""
    digest = hashlib.sha256()
    for path in paths:
        with reraise(f"{path}: cannot be read"), open(path, "rb") as file:
            last = max(0, os.path.getsize(path) - BLOCK)
            for start in sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)}):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
