"""Token ids as tensors, and items in batches. Records are read in support/records.py."""

from typing import NamedTuple

import torch

from .support.records import Sequence  # noqa: F401  (the example below)


class Responses(NamedTuple):
    """B prompts with a response each, as tensors. R is the longest response's length.

    >>> responses = collate([Sequence([5, 6, 7, 8, 9], 2), Sequence([1, 2, 3], 2)], pad=0)
    >>> responses.tokens.tolist()  # prompts 5 6 and 1 2, responses 7 8 9 and 3
    [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    >>> responses.mask.tolist()
    [[True, True, True], [True, False, False]]
    >>> responses.positions.tolist()  # token 7 is predicted from position 1, where 6 is
    [[1, 2, 3], [1, 2, 3]]
    >>> responses.targets.tolist()
    [[7, 8, 9], [3, 0, 0]]
    """

    tokens: torch.Tensor  # (B, T) long: prompt, response, right padding
    prompt_lengths: torch.Tensor  # (B,) long
    mask: torch.Tensor  # (B, R) bool: True on a response's tokens, including end-of-text

    @property
    def response_lengths(self):
        return self.mask.sum(1)

    @property
    def lengths(self):
        """(B,) long: of prompt and response."""
        return self.prompt_lengths + self.response_lengths

    @property
    def positions(self):
        """(B, R) long: the position before response token t, where log-prob and value are read."""
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        positions = self.prompt_lengths[:, None] - 1 + steps
        return positions.clamp(max=self.tokens.shape[1] - 2)  # past the end the mask hides them

    @property
    def targets(self):
        """(B, R) long: the response tokens; 0 past the end."""
        return self.tokens.gather(1, self.positions + 1) * self.mask

    def ended(self, eos):
        """(B,) bool: whether a response has an end-of-text, and was not cut off."""
        return ((self.targets == eos) & self.mask).any(1)

    def select(self, rows):
        """The given rows (list of ints or long tensor), without padding beyond the longest."""
        prompt_lengths, mask = self.prompt_lengths[rows], self.mask[rows]
        R, T = mask.sum(1).max(), (prompt_lengths + mask.sum(1)).max()
        return Responses(self.tokens[rows, :T], prompt_lengths, mask[:, :R])

    def prompts(self, tokenizer):
        """The prompts as text."""
        rows = zip(self.tokens.tolist(), self.prompt_lengths.tolist())
        return [tokenizer.decode(row[:n]) for row, n in rows]

    def texts(self, tokenizer):
        """The responses as text, without end-of-text."""
        rows = zip(self.targets.tolist(), self.response_lengths.tolist())
        return [tokenizer.decode([t for t in row[:n] if t != tokenizer.eos]) for row, n in rows]


def collate(sequences, pad, device="cpu"):
    """Sequences as right-padded tensors. The response begins at `start`, a document's at 1."""
    lengths = [s.length for s in sequences]
    starts = torch.tensor([s.start for s in sequences], dtype=torch.long)
    tokens = torch.full((len(sequences), max(lengths, default=1)), pad)
    for row, sequence in zip(tokens, sequences):
        row[: len(sequence.tokens)] = torch.as_tensor(sequence.tokens)
    response_lengths = torch.tensor(lengths, dtype=torch.long) - starts
    mask = torch.arange(max(response_lengths.tolist(), default=0)) < response_lengths[:, None]
    return Responses(tokens.to(device), starts.to(device), mask.to(device))


def batches(lengths, size, rng, pool=16):
    """An epoch's random batches: arrays of `size` indices (one may be smaller) of lengths (N,) int.

    Items are shuffled and, in pools of `pool` batches, sorted by length; batches are shuffled.
    """
    order = rng.permutation(len(lengths))
    for i in range(0, len(order), pool * size):
        chunk = order[i : i + pool * size]
        chunk[:] = chunk[lengths[chunk].argsort(kind="stable")]
    starts = size * rng.permutation(-(-len(order) // size))
    return [order[start : start + size] for start in starts]
