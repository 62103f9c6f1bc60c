"""Records: read from files, checked, and encoded as token ids. data/README.md shows every format with an example.

A record is a line of a JSON-lines file, checked here, once, with the file and line named:

    document      {"text"}                            all of its tokens are learned
    demonstration {"prompt", "response"}              the response's are
    ranking       {"prompt", "responses", "ranks"}    K = 2 to 9 responses, rank 1 is best, equal ranks are ties
    prompt        {"prompt"}

Other people's records become these in formats.py. Prompt and response are encoded separately and concatenated, at
every stage; a response ends with end-of-text.
"""

from typing import NamedTuple

import numpy as np

from . import formats
from .distributed import print0
from .errors import require


class Sequence(NamedTuple):
    """Token ids of which those from `start` on are targets: a prompt and its response, or (start 1) a document."""

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
        """Of the longest response, with the prompt."""
        return max(s.length for s in self.sequences)

    @property
    def has_pair(self):
        """Whether one response is ranked above another."""
        return len(set(self.ranks)) > 1


# --- reading ------------------------------------------------------------------------------------------------------


def read(path, kind):
    """The records of a file as a list of dicts of that kind ("document", ...), with any other fields kept.

    A .txt file is one document. Raises InputError with file and line on anything that is not such a record.
    """
    check = {"document": _document, "demonstration": _demonstration, "ranking": _ranking, "prompt": _prompt}[kind]
    if str(path).endswith(".txt") and kind == "document":
        return [check({"text": "\n".join(text for _, text in formats.lines(path))}, str(path))]
    records = [check(record, where) for where, record in formats.records(path, kind)]
    require(records, f"{path}: no records in it; a {kind} a line is needed (data/README.md)")
    return records


def texts(path):
    """Every text in a file of any kind of record, for training a tokenizer."""
    if str(path).endswith(".txt"):
        yield "\n".join(text for _, text in formats.lines(path))
        return
    for _, record in formats.records(path, "text"):
        several = record.get("responses")
        fields = [record.get("text"), record.get("prompt")]
        fields += several if isinstance(several, list) else [record.get("response")]
        yield from (field for field in fields if isinstance(field, str))


def _string(record, field, where, empty=False):
    present = isinstance(record.get(field), str)
    require(present, f"{where}: field {field!r} is missing or not a string; it has {', '.join(record) or 'no field'}")
    require(empty or record[field], f"{where}: {field!r} is empty; write one or remove the line")


def _document(record, where):
    _string(record, "text", where)
    return record


def _prompt(record, where):
    _string(record, "prompt", where)
    return record


def _demonstration(record, where):
    _string(record, "prompt", where)
    _string(record, "response", where)
    return record


def _ranking(record, where):
    _string(record, "prompt", where)
    responses, ranks = record.get("responses"), record.get("ranks")
    listed = isinstance(responses, list) and all(isinstance(r, str) for r in responses)
    require(listed, f"{where}: 'responses' must be a list of strings")
    require(2 <= len(responses) <= 9, f"{where}: {len(responses)} responses; a ranking has 2 to 9")
    right = isinstance(ranks, list) and all(type(r) is int and 0 < r < 10**6 for r in ranks)
    require(right, f"{where}: 'ranks' must be a list of positive integers, 1 the best")
    fit = len(ranks) == len(responses)
    require(fit, f"{where}: {len(ranks)} ranks for {len(responses)} responses; ranks[i] is the rank of responses[i]")
    return record


# --- encoding -----------------------------------------------------------------------------------------------------


def pack(records, tokenizer, n_ctx):
    """Documents, each ended by end-of-text, laid end to end and cut into Sequences of n_ctx + 1 tokens.

    Neighbours share one token, so that each token but the very first is a target exactly once.
    """
    stream = np.concatenate([np.array([*tokenizer.encode(r["text"]), tokenizer.eos], np.int32) for r in records])
    return [Sequence(stream[i : i + n_ctx + 1], 1) for i in range(0, len(stream) - 1, n_ctx)]


def encode_response(record_prompt, response, tokenizer):
    prompt = tokenizer.encode(record_prompt)
    return Sequence(np.array([*prompt, *tokenizer.encode(response), tokenizer.eos], np.int32), len(prompt))


def encode_demonstrations(records, tokenizer, n_ctx, where=""):
    """Sequences of prompt + response + end-of-text, of at most n_ctx tokens."""

    def encode(record, prompt):
        sequence = encode_response(prompt, record["response"], tokenizer)
        return sequence, sequence.length

    return _fitting(records, encode, n_ctx, where, "demonstrations")[1]


def encode_rankings(records, tokenizer, n_ctx, where=""):
    """Rankings whose longest prompt + response + end-of-text has at most n_ctx tokens."""

    def encode(record, prompt):
        sequences = [encode_response(prompt, response, tokenizer) for response in record["responses"]]
        ranking = Ranking(sequences, record["ranks"])
        return ranking, ranking.length

    return _fitting(records, encode, n_ctx, where, "rankings")[1]


def encode_prompts(records, tokenizer, limit, where=""):
    """(records, their token lists), of the prompts that have at most `limit` tokens."""

    def encode(record, prompt):
        tokens = tokenizer.encode(prompt)
        return tokens, len(tokens)

    return _fitting(records, encode, limit, where, "prompts")


def _fitting(records, encode, limit, where, what):
    """(records, what encode(record, its prompt) makes of them), those that fit in `limit` tokens. A long conversation
    loses its oldest turns; what is too long even so is dropped. Both are said aloud."""
    kept, items, shortened = [], [], 0
    for record in records:
        prompt, (item, length) = record["prompt"], encode(record, record["prompt"])
        while length > limit and (prompt := formats.without_first_turn(prompt)):
            item, length = encode(record, prompt)
        if length <= limit:
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
    """The Sequences of files of demonstrations; those that do not fit in n_ctx are dropped, aloud."""
    return [s for path in paths for s in encode_demonstrations(read(path, "demonstration"), tokenizer, n_ctx, path)]


def load_rankings(paths, tokenizer, n_ctx):
    """The Rankings of files of rankings; those that do not fit in n_ctx are dropped, aloud."""
    return [r for path in paths for r in encode_rankings(read(path, "ranking"), tokenizer, n_ctx, path)]


def load_prompts(paths, tokenizer, n_ctx, max_response):
    """The token lists of files of prompts; those that leave no room for a response in n_ctx are dropped, aloud."""
    room = n_ctx - max_response
    message = f"--max_response {max_response} leaves no room for a prompt in a context of {n_ctx} tokens"
    require(room > 0, f"{message}; take less than {n_ctx}")
    return [tokens for path in paths for tokens in encode_prompts(read(path, "prompt"), tokenizer, room, path)[1]]
