"""Records in, batches out. data/README.md shows every format with an example.

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
import torch

from . import formats
from .config import require
from .distributed import say


class Sequence(NamedTuple):
    """Token ids of which those from `start` on are targets: a prompt and its response, or (start 1) a document."""

    tokens: np.ndarray
    start: int


class Ranking(NamedTuple):
    """A prompt's K responses, each prompt + response + end-of-text, and their ranks."""

    sequences: list
    ranks: list


class Responses(NamedTuple):
    """B prompts with a response each, as tensors. R is the longest response's length.

    >>> responses = collate([Sequence([5, 6, 7, 8, 9], 2), Sequence([1, 2, 3], 2)], pad=0)
    >>> responses.tokens.tolist()  # prompts 5 6 and 1 2, responses 7 8 9 and 3
    [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    >>> responses.mask.tolist()
    [[True, True, True], [True, False, False]]
    >>> responses.positions.tolist()  # 7 is predicted at position 1, where 6 stands; 3 at 1 too, where 2 stands
    [[1, 2, 3], [1, 2, 3]]
    >>> responses.targets.tolist()
    [[7, 8, 9], [3, 0, 0]]
    """

    tokens: torch.Tensor  # (B, T) long: prompt, response, right padding
    prompt_lengths: torch.Tensor  # (B,) long
    mask: torch.Tensor  # (B, R) bool: True on a response's tokens; it ends with end-of-text, or where it was cut off

    @property
    def response_lengths(self):
        return self.mask.sum(1)

    @property
    def lengths(self):
        """(B,) long: of prompt and response."""
        return self.prompt_lengths + self.response_lengths

    @property
    def positions(self):
        """(B, R) long: the place before response token t. A model's output there is about t: log-prob and value."""
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        positions = self.prompt_lengths[:, None] - 1 + steps
        return positions.clamp(max=self.tokens.shape[1] - 2)  # past a response's end, where the mask hides what is read

    @property
    def targets(self):
        """(B, R) long: the response tokens; 0 past the end."""
        return self.tokens.gather(1, self.positions + 1) * self.mask

    def select(self, rows):
        """Some rows (long tensor), cut to the longest of them."""
        prompt_lengths, mask = self.prompt_lengths[rows], self.mask[rows]
        R, T = mask.sum(1).max(), (prompt_lengths + mask.sum(1)).max()
        return Responses(self.tokens[rows, :T], prompt_lengths, mask[:, :R])

    def prompts(self, tokenizer):
        """The prompts as text."""
        return [tokenizer.decode(row[:n]) for row, n in zip(self.tokens.tolist(), self.prompt_lengths.tolist())]

    def texts(self, tokenizer):
        """The responses as text, without end-of-text."""
        rows = zip(self.targets.tolist(), self.response_lengths.tolist())
        return [tokenizer.decode([t for t in row[:n] if t != tokenizer.eos]) for row, n in rows]


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
        return sequence, len(sequence.tokens)

    return _fitting(records, encode, n_ctx, where, "demonstrations")[1]


def encode_rankings(records, tokenizer, n_ctx, where=""):
    """Rankings whose longest prompt + response + end-of-text has at most n_ctx tokens."""

    def encode(record, prompt):
        sequences = [encode_response(prompt, response, tokenizer) for response in record["responses"]]
        ranking = Ranking(sequences, record["ranks"])
        return ranking, longest(ranking)

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
        say(f"{where}: {shortened} of {len(records)} {what} lost their oldest turns, to fit in {limit} tokens")
    if len(kept) < len(records):
        say(f"{where}: dropped {len(records) - len(kept)} of {len(records)} {what}, longer than {limit} tokens")
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


def longest(ranking):
    return max(len(s.tokens) for s in ranking.sequences)


# --- batching -----------------------------------------------------------------------------------------------------


def collate(sequences, pad, device="cpu"):
    """Sequences as right-padded tensors. Tokens from `start` on are the response: of a document, all but the first."""
    lengths = [len(s.tokens) for s in sequences]
    starts = torch.tensor([s.start for s in sequences], dtype=torch.long)
    tokens = torch.full((len(sequences), max(lengths, default=1)), pad)
    for row, sequence in zip(tokens, sequences):
        row[: len(sequence.tokens)] = torch.as_tensor(sequence.tokens)
    response_lengths = torch.tensor(lengths, dtype=torch.long) - starts
    mask = torch.arange(max(response_lengths.tolist(), default=0)) < response_lengths[:, None]
    return Responses(tokens.to(device), starts.to(device), mask.to(device))


def batches(lengths, size, rng, pool=16):
    """Indices of items in batches of `size` (the last may be smaller), in random order, rows of like length together.

    Items are shuffled, sorted by length within pools of 16 batches, and the batches are shuffled again.
    """
    order = rng.permutation(len(lengths))
    cut = []
    for i in range(0, len(order), pool * size):
        chunk = sorted(order[i : i + pool * size], key=lambda j: lengths[j])
        cut += [chunk[j : j + size] for j in range(0, len(chunk), size)]
    return [cut[i] for i in rng.permutation(len(cut))]


def micro_batches(lengths, max_tokens, widths=None):
    """Splits a batch for gradient accumulation: lists of indices whose padded size is at most max_tokens, and of which
    padding is at most half, so that a few long documents do not stretch many short demonstrations.

    lengths: tokens of each item's longest row. widths: rows of each item, 1 unless given. An item larger than
    max_tokens comes alone.
    """
    parts, current, rows, tokens = [], [], 0, 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        width = widths[i] if widths is not None else 1
        rows, tokens = rows + width, tokens + width * lengths[i]
        if current and rows * lengths[i] > min(max_tokens, 2 * tokens):
            parts.append(current)
            current, rows, tokens = [], width, width * lengths[i]
        current.append(i)
    return [*parts, current]
