"""Means with 95 % intervals, and pairs that a reward model orders as a labeler did."""

import functools
import math

import numpy as np

FEW = 10  # items with an event, or fewer, and at most a quarter of all: a bootstrap's interval would be too narrow
# The 97.5 % quantiles of Student's t for 1, 2, 3, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093)  # fmt: skip


def interval(values, weights=None, items=None, signed=False, resamples=2000, seed=0):
    """Mean of values (N,) and its 95 % bootstrap interval over the N: {"mean", "low", "high", "n", "items"}.

    weights (N,): the mean is the ratio sum(values) / sum(weights), such as nats per token of documents. items (N,): a
    key for each value, the item it is about. An item's values are not independent, so they are drawn together. A share
    near 0 or 1 (values 0 and 1 or, if signed, their differences, and FEW items with an event) has an exact
    interval: 0 of n items does not mean never. Of fewer than 20 items the interval is stretched as Student's t is
    wider than a normal distribution."""
    values, index = np.asarray(values, float), None
    n = len(values)
    if items is not None:
        _, index = np.unique(np.asarray(items), return_inverse=True)
    if weights is None and (rare := few_events(values, index, signed)):
        return {"mean": float(values.mean()), **rare, "n": n}
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    if items is not None:
        values, weights = np.bincount(index, values), np.bincount(index, weights)
    counts = draw_counts(len(values), resamples, seed)
    low, high = np.quantile((counts @ values) / (counts @ weights), [0.025, 0.975])
    mean = values.sum() / weights.sum()
    if 1 < (m := len(values)) <= len(STUDENT):
        stretch = STUDENT[m - 2] / 1.96 * math.sqrt(m / (m - 1))
        low, high = mean + stretch * (low - mean), mean + stretch * (high - mean)
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": n, "items": len(values)}


def few_events(values, index=None, signed=False):
    """The exact interval {"low", "high", "items"} of a share, or of a difference of two (signed), whose events are FEW;
    else None. values: 0 and 1, or -1, 0 and 1; index: each value's item. An event's chance is that of an item."""
    if not len(values) or not np.isin(values, (-1, 0, 1)).all():
        return None
    index = np.arange(len(values)) if index is None else index
    items, size = index.max() + 1, len(values)

    def bounds(events):
        share = events.sum() / size
        if len(set(index[events])) <= min(FEW, items / 4):
            return exact(share * items, items)
        if len(set(index[~events])) <= min(FEW, items / 4):
            low, high = exact((1 - share) * items, items)
            return 1 - high, 1 - low
        return None

    won, lost = bounds(values == 1), bounds(values == -1)
    ends = won and lost and (won[0] - lost[1], won[1] - lost[0]) if signed or values.min() < 0 else won
    return ends and {"low": ends[0], "high": ends[1], "items": int(items)}


def exact(k, n):
    """The 95 % interval of a chance that came true in k of n trials (Clopper and Pearson 1934): (low, high). A k that
    is not whole is rounded down for the low end, and up for the high one."""

    def where(most, chance):
        """The p for which at most `most` of n come true with this chance."""
        low, high = 0.0, 1.0
        for _ in range(60):
            p = (low + high) / 2
            likely = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(most + 1))
            low, high = (p, high) if likely > chance else (low, p)
        return low

    down, up = math.floor(k + 1e-9), math.ceil(k - 1e-9)
    return where(down - 1, 0.975) if down > 0 else 0.0, where(up, 0.025) if up < n else 1.0


@functools.lru_cache(maxsize=4)
def draw_counts(n, resamples, seed):
    """How often each of n values is drawn in each resample: (resamples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32)


def pair_hits(scores, ranks):
    """{(a, b): hit} for each pair of responses of which a is ranked above b. hit is 1.0 if a also has the higher score,
    0.5 if the scores are equal, 0.0 if b has the higher. scores, ranks: a number per response."""
    k = range(len(ranks))
    pairs = [(a, b) for a in k for b in k if ranks[a] < ranks[b]]
    return {(a, b): (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a, b in pairs}
