"""Reads records from files, checks them, and encodes them as token ids. data/README.md shows every format.

    document      {"text"}                            all of its tokens are learned
    demonstration {"prompt", "response"}              the response's are
    ranking       {"prompt", "responses", "ranks"}    K = 2 to 9 responses, rank 1 is best, equal ranks are ties
    prompt        {"prompt"}

Other people's records become these in formats.py. Prompt and response are encoded separately and concatenated, at
every stage; a response ends with end-of-text."""

from typing import NamedTuple

import numpy as np

from . import formats
from .distributed import print0
from .errors import InputError, require

FIELDS = dict(document=["text"], demonstration=["prompt", "response"], ranking=["prompt"], prompt=["prompt"])


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


def read(path, kind):
    """The records of a file as a list of dicts of that kind ("document", ...), with any other fields kept. A .txt file
    is one document. Raises InputError with file and line on anything that is not such a record."""
    records = [check(record, kind, where) for where, record in formats.records(path, kind)]
    require(records, f"{path}: no records in it; a {kind} a line is needed (data/README.md)")
    return records


def texts(path):
    """Yields every text in a file of any kind of record, for training a tokenizer."""
    for _, record in formats.records(path, "text"):
        responses = record.get("responses")
        fields = [record.get("text"), record.get("prompt")]
        fields += responses if isinstance(responses, list) else [record.get("response")]
        yield from (field for field in fields if isinstance(field, str))


def check(record, kind, where):
    """Returns the record. Raises InputError if it is not of this kind."""
    for field in FIELDS[kind]:
        fault = f"{where}: field {field!r} is missing or not a string; it has {', '.join(record) or 'no field'}"
        require(isinstance(record.get(field), str), fault)
        require(record[field], f"{where}: {field!r} is empty; write one or remove the line")
    if kind == "ranking":
        n, ranks = len(formats.strings(record, "responses", where)), record.get("ranks")
        require(2 <= n <= 9, f"{where}: {n} responses; a ranking has 2 to 9")
        if not isinstance(ranks, list) or not all(type(r) is int and 0 < r < 10**6 for r in ranks):
            raise InputError(f"{where}: 'ranks' must be a list of positive integers, 1 the best")
        require(len(ranks) == n, f"{where}: {len(ranks)} ranks for {n} responses; ranks[i] is that of responses[i]")
    return record


def pack(records, tokenizer, n_ctx):
    """Documents, each ended by end-of-text, concatenated and cut into Sequences of n_ctx + 1 tokens. Neighbours share
    one token, so that each token but the very first is a target exactly once."""
    stream = np.concatenate([np.array([*tokenizer.encode(r["text"]), tokenizer.eos], np.int32) for r in records])
    return [Sequence(stream[i : i + n_ctx + 1], 1) for i in range(0, len(stream) - 1, n_ctx)]


def encode_response(prompt, response, tokenizer):
    """The Sequence of prompt + response + end-of-text."""
    prompt = tokenizer.encode(prompt)
    return Sequence(np.array([*prompt, *tokenizer.encode(response), tokenizer.eos], np.int32), len(prompt))


def encode_demonstrations(records, tokenizer, n_ctx, where=""):
    """Sequences of prompt + response + end-of-text, of at most n_ctx tokens."""

    def encode(prompt, record):
        return encode_response(prompt, record["response"], tokenizer)

    return encode_fitting(records, encode, n_ctx, where, "demonstrations")[1]


def encode_rankings(records, tokenizer, n_ctx, where=""):
    """Rankings whose longest prompt + response + end-of-text has at most n_ctx tokens."""

    def encode(prompt, record):
        return Ranking([encode_response(prompt, text, tokenizer) for text in record["responses"]], record["ranks"])

    return encode_fitting(records, encode, n_ctx, where, "rankings")[1]


def encode_prompts(records, tokenizer, limit, where=""):
    """(records, their token lists) of the prompts that have at most `limit` tokens."""
    return encode_fitting(records, lambda prompt, _: tokenizer.encode(prompt), limit, where, "prompts")


def encode_fitting(records, encode, limit, where, what):
    """(records, encode(prompt, record) for each) of those that fit in `limit` tokens. A long conversation loses its
    oldest turns; if it is still too long, it is dropped. Prints how many."""

    def too_long(item):
        return (len(item) if isinstance(item, list) else item.length) > limit

    kept, items, shortened = [], [], 0
    for record in records:
        prompt = record["prompt"]
        item = encode(prompt, record)
        while too_long(item) and (prompt := formats.without_first_turn(prompt)):
            item = encode(prompt, record)
        if not too_long(item):
            kept.append(record)
            items.append(item)
            shortened += prompt != record["prompt"]
    if shortened:
        print0(f"{where}: {shortened} of {len(records)} {what} lost their oldest turns, to fit in {limit} tokens")
    if len(kept) < len(records):
        print0(f"{where}: dropped {len(records) - len(kept)} of {len(records)} {what}, longer than {limit} tokens")
    require(kept, f"{where}: none of its {what} fits in {limit} tokens; use a longer context")
    return kept, items


def load_documents(paths, tokenizer, n_ctx):
    """The Sequences of files of documents."""
    records = [record for path in paths for record in read(path, "document")]
    return pack(records, tokenizer, n_ctx) if records else []


def load_demonstrations(paths, tokenizer, n_ctx):
    """The Sequences of files of demonstrations, of at most n_ctx tokens."""
    return [s for path in paths for s in encode_demonstrations(read(path, "demonstration"), tokenizer, n_ctx, path)]


def load_rankings(paths, tokenizer, n_ctx):
    """The Rankings of files of rankings, of at most n_ctx tokens."""
    return [r for path in paths for r in encode_rankings(read(path, "ranking"), tokenizer, n_ctx, path)]


def load_prompts(paths, tokenizer, n_ctx, max_response):
    """The token lists of files of prompts, of those that leave room in n_ctx for max_response tokens."""
    room, fault = n_ctx - max_response, f"leaves no room for a prompt in a context of {n_ctx} tokens"
    require(room > 0, f"--max_response {max_response} {fault}; take less than {n_ctx}")
    return [tokens for path in paths for tokens in encode_prompts(read(path, "prompt"), tokenizer, room, path)[1]]
