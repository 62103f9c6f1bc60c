"""Means with 95 % intervals, and pairs that a reward model orders as a labeler did."""

import functools

import numpy as np


def interval(values, weights=None, items=None, resamples=2000, seed=0):
    """Mean of values (N,) and its 95 % bootstrap interval over the N: {"mean", "low", "high", "n", "items"}.

    weights (N,): the mean is the ratio sum(values) / sum(weights), such as nats per token of documents. items (N,): a
    key for each value, the item it is about. An item's values are not independent, so they are drawn together."""
    values = np.asarray(values, float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    n = len(values)
    if items is not None:
        _, index = np.unique(np.asarray(items), return_inverse=True)
        values, weights = np.bincount(index, values), np.bincount(index, weights)
    counts = draw_counts(len(values), resamples, seed)
    low, high = np.quantile((counts @ values) / (counts @ weights), [0.025, 0.975])
    mean = values.sum() / weights.sum()
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": n, "items": len(values)}


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
