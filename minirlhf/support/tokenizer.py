"""Byte-level BPE: a trainer to read (tools/train_tokenizer.py runs it), and an encoder that runs on tiktoken.

A tokenizer is saved as tokenizer.tiktoken (tiktoken's own format: a token in base64 and its rank on each line) and
tokenizer.json (the pattern that splits text into words, and the end-of-text token)."""

import base64
import hashlib
import heapq
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import tiktoken

from .errors import InputError, require, reraise
from .files import read_json, write_atomically

EOS = "<|endoftext|>"
# Letters, digits and the rest, each with the space before it. Python's re and tiktoken's engine read it alike.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = PATTERN, GPT2_PATTERN  # no others are read from a file: a pattern can lose text, or never end
LONG = 100_000  # spaces in a row; tiktoken's engine fails at several times as many


def train_bpe(texts, vocab_size, pattern=PATTERN):
    """Learns byte-pair merges (Sennrich et al. 2016) from `texts`, an iterable of str: starts from the 256 bytes and
    merges the most frequent adjacent pair, again and again, but never across words. Of equally frequent pairs the
    smaller is merged, so that the same texts give the same ranks on any machine. Returns {token bytes: rank}: 256 bytes
    and up to vocab_size - 257 merges; one id is left for end-of-text."""
    counts = cut_long_words(Counter(word for text in texts for word in re.findall(pattern, text)))
    words = [[bytes([b]) for b in word.encode("utf-8", "replace")] for word in counts]
    counts = list(counts.values())
    pair_counts, pair_words = Counter(), defaultdict(set)  # how often a pair occurs, and in which words
    for index, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += counts[index]
            pair_words[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    ranks = {bytes([b]): b for b in range(256)}
    while heap and len(ranks) < vocab_size - 1:
        count, pair = heapq.heappop(heap)
        if -count != pair_counts[pair] or count == 0:
            continue  # outdated: the pair's count has changed since, and is in the heap again
        ranks.setdefault(pair[0] + pair[1], len(ranks))
        changed = set()
        for index in pair_words.pop(pair):
            before = words[index]
            words[index] = after = merge(before, pair)
            for old in zip(before, before[1:]):
                pair_counts[old] -= counts[index]
            for new in zip(after, after[1:]):
                pair_counts[new] += counts[index]
                pair_words[new].add(index)
            changed.update(zip(before, before[1:]), zip(after, after[1:]))
        for pair in changed:
            heapq.heappush(heap, (-pair_counts[pair], pair))
    return ranks


def cut_long_words(counts, most=50_000):
    """Counts {word: n}, in which words of more than 100 characters have at most `most` characters together. Every merge
    passes through all of a long word, so that DNA, or Chinese without a space, would take forever."""
    kept, longer = Counter(), 0
    for word, count in counts.items():
        if len(word) > 100:
            word, longer = word[: max(0, most - longer)], longer + len(word)
        if word:
            kept[word] += count
    if longer > most:
        print(f"words of more than 100 characters: learned from {most:,} of {longer:,} characters, to end in time")
    return kept


def merge(word, pair):
    """[b"a", b"b", b"c"] with pair (b"a", b"b") gives [b"ab", b"c"]."""
    merged, i = [], 0
    while i < len(word):
        size = 2 if tuple(word[i : i + 2]) == pair else 1
        merged.append(b"".join(word[i : i + size]))
        i += size
    return merged


@dataclass(frozen=True)
class Tokenizer:
    """ranks {bytes: int}, the pattern that splits words, and two ids of its own: eos, the last of the vocabulary, and
    pad, the first outside it. No model has an embedding or a logit for pad, so it can be neither read nor sampled."""

    ranks: dict
    pattern: str = PATTERN

    def __post_init__(self):
        eos = max(self.ranks.values()) + 1
        options = dict(pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens={EOS: eos})
        encoding = tiktoken.Encoding("minirlhf", **options)
        digest = hashlib.sha256(f"{self.pattern}\n{EOS} {eos}\n".encode() + ranks_file(self.ranks)).hexdigest()
        for name, value in dict(encoding=encoding, eos=eos, pad=eos + 1, n_vocab=eos + 1, hash=digest).items():
            object.__setattr__(self, name, value)

    def encode(self, text):
        """Ids of a str. "<|endoftext|>" in a text is text, so no data can end a document."""
        parts = re.split(f"(\\s{{{LONG}}})", text) if len(text) > LONG else [text]
        return sum(map(self.encoding.encode_ordinary, parts), [])

    def decode(self, ids):
        """The text of ids; an incomplete character at either end becomes U+FFFD."""
        return self.encoding.decode(ids, errors="replace")

    def save(self, folder):
        """Writes both files, the ranks last: if they exist, the tokenizer is complete."""
        description = json.dumps({"pattern": self.pattern, "eos": EOS}, indent=1)
        write_atomically(Path(folder) / "tokenizer.json", description.encode())
        write_atomically(Path(folder) / "tokenizer.tiktoken", ranks_file(self.ranks))


def ranks_file(ranks):
    """The content of tokenizer.tiktoken, as bytes."""
    in_order = sorted(ranks, key=ranks.get)
    return b"".join(base64.b64encode(token) + b" %d\n" % ranks[token] for token in in_order)


def load(source):
    """A Tokenizer from a folder that holds one, from a ranks file in tiktoken's format, or "gpt2" by name. For a ranks
    file without tokenizer.json beside it, GPT-2's pattern is used."""
    if source == "gpt2":
        advice = "give a local ranks file: --tokenizer FILE.tiktoken, or train one: python -m tools.train_tokenizer"
        with reraise(f"--tokenizer gpt2: tiktoken could not fetch GPT-2's ranks, as it does at first use; {advice}"):
            return Tokenizer(tiktoken.get_encoding("gpt2")._mergeable_ranks, GPT2_PATTERN)
    path = Path(source) / "tokenizer.tiktoken" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise InputError(f"{source}: no tokenizer there; give a folder with tokenizer.tiktoken, a ranks file, or gpt2")
    with reraise(f"{path}: cannot be read; give another tokenizer"):
        lines = path.read_bytes().splitlines()
    ranks = {}
    for number, line in enumerate(lines, 1):
        with reraise(f"{path}:{number}: not a line of a ranks file (base64 token, space, rank)"):
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    if set(ranks.values()) != set(range(len(ranks))) or not all(bytes([b]) in ranks for b in range(256)):
        fault = "ranks must be 0, 1, 2, ... with no gap, and of all 256 bytes; the file looks cut off"
        raise InputError(f"{path}: {fault}")
    description = path.with_name("tokenizer.json")
    if not description.is_file():
        return Tokenizer(ranks, GPT2_PATTERN)
    advice = "copy it from the run it came from"
    pattern = read_json(description, advice).get("pattern")
    require(pattern in PATTERNS, f"{description}: its pattern is not one of these scripts'; {advice}")
    return Tokenizer(ranks, pattern)
