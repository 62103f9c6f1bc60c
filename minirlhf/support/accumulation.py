"""Gradient accumulation: a batch in micro-batches that fit in memory, whose gradients add up to the batch's."""

from .clock import spent
from .distributed import no_sync, shard


def micro_batches(batch, lengths, max_tokens, *learners, rows=None, sync_later=()):
    """Yields this process's share of a batch (a list) in micro-batches: lists of items, of at most max_tokens tokens.

    The body of the loop calls backward, and gradients add up. With several processes, the last backward sums the
    gradients of `learners` (from distributed.wrap) over them, but not those of `sync_later`. lengths: tokens of each
    item's longest row. rows: how many rows an item has, 1 unless given."""
    batch, lengths = shard(batch), shard(lengths)
    *first, last = split_by_tokens(lengths, max_tokens, rows and shard(rows))
    for part in first:
        with no_sync(*learners, *sync_later), spent("learning"):
            yield [batch[i] for i in part]
    with no_sync(*sync_later), spent("learning"):
        yield [batch[i] for i in last]


def split_by_tokens(lengths, max_tokens, rows=None):
    """Splits a batch into lists of indices. Each has a padded size of at most max_tokens, at most half of it padding.
    lengths: tokens of each item's longest row. rows: rows of each item, 1 unless given. An item larger than
    max_tokens is a micro-batch of its own. An empty batch gives an empty one: every process takes part in a backward.
    """
    parts, current, height, tokens = [], [], 0, 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        own = rows[i] if rows is not None else 1
        height, tokens = height + own, tokens + own * lengths[i]
        if current and height * lengths[i] > min(max_tokens, 2 * tokens):  # lengths[i] is the longest so far
            parts.append(current)
            current, height, tokens = [], own, own * lengths[i]
        current.append(i)
    return [*parts, current]
