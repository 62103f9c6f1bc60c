"""Measuring: losses, samples, RM scores, KL, and means with 95 % intervals that resample items, or documents."""

import functools

import numpy as np
import torch

from .. import data
from ..rollout import generate, in_chunks, response_logps, response_scores, uniforms
from .distributed import all_reduce, shard


@torch.no_grad()
def validation_loss(model, sequences, pad, max_tokens=16384):
    """The SFT loss of Sequences in nats, without dropout: averaged over each one's targets, then over sequences. Each
    rank measures its share of them."""
    losses, counts = sequence_losses(model, shard(sequences), pad, max_tokens)
    return all_reduce((losses / counts).sum())[0] / len(sequences)


@torch.no_grad()
def sequence_losses(model, sequences, pad, max_tokens=16384):
    """Negative log-likelihood in nats of each Sequence's targets, summed, and how many they are: two arrays (N,)."""
    model.eval()
    losses, counts = np.zeros(len(sequences)), np.array([len(s.tokens) - s.start for s in sequences])
    for part in data.micro_batches([len(s.tokens) for s in sequences], max_tokens):
        responses = data.collate([sequences[i] for i in part], pad, next(model.parameters()).device)
        losses[part] = -(response_logps(model, responses) * responses.mask).sum(1).cpu().numpy()
    return losses, counts


def sample_responses(model, tokenizer, prompts, limit, seed, batch=512):
    """A sampled response to each prompt (lists of token ids): yields (indices, Responses), rows of like length
    together. seed: ints that fix the noise; row i's noise depends on i alone."""
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    noise = uniforms(seed, list(range(len(prompts))), limit)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        rows = [prompts[i] for i in part]
        yield part, generate(model, rows, noise[part], tokenizer.eos, tokenizer.pad)[0]


def kl(policy, reference, responses):
    """log pi(y|x) - log pi_ref(y|x) of the policy's own samples (B,), summed over each response: nats per response."""
    difference = in_chunks(response_logps, policy, responses) - in_chunks(response_logps, reference, responses)
    return (difference * responses.mask).sum(1)


def interval(values, weights=None, items=None, resamples=2000, seed=0):
    """Mean of values (N,) and its 95 % bootstrap interval over the N: {"mean", "low", "high", "n", "items"}.

    weights (N,): the mean is the ratio sum(values) / sum(weights), such as nats per token of documents. items (N,):
    what each value is of, as a key. All values of an item are drawn together, since they say much the same: a thousand
    answers about ten facts tell of ten facts.
    """
    values = np.asarray(values, float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    n = len(values)
    if items is not None:
        _, index = np.unique(np.asarray(items), return_inverse=True)
        values, weights = np.bincount(index, values), np.bincount(index, weights)
    counts = _resamples(len(values), resamples, seed)
    low, high = np.quantile((counts @ values) / (counts @ weights), [0.025, 0.975])
    mean = values.sum() / weights.sum()
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": n, "items": len(values)}


@functools.lru_cache(maxsize=4)
def _resamples(n, resamples, seed):
    """How often each of n values is drawn in each resample: (resamples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32)


def pair_hits(scores, ranks):
    """{(a, b): 1.0, 0.5 or 0.0} for each pair of responses of which a is ranked above b: whether the scores say so too,
    a tie of scores counting one half. scores, ranks: a number per response."""
    k = range(len(ranks))
    return {
        (a, b): (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a in k for b in k if ranks[a] < ranks[b]
    }


def ranking_accuracy(model, rankings, pad, max_tokens=16384):
    """How many untied pairs of each ranking the reward model orders as the labeler did (list), and how many there are
    (list)."""
    scored = ranking_scores(model, rankings, pad, max_tokens)
    hits = [pair_hits(row, ranking.ranks) for ranking, row in zip(rankings, scored)]
    return [sum(h.values()) for h in hits], [len(h) for h in hits]


def ranking_scores(model, rankings, pad, max_tokens=16384):
    """The reward model's score of each response of each ranking: a list of lists."""
    scored = iter(sequence_scores(model, [s for r in rankings for s in r.sequences], pad, max_tokens).tolist())
    return [[next(scored) for _ in ranking.sequences] for ranking in rankings]


@torch.no_grad()
def sequence_scores(model, sequences, pad, max_tokens=16384):
    """r(x, y) of each Sequence (prompt + response + end-of-text), (N,) float64 on the CPU."""
    model.eval()
    scored, device = torch.zeros(len(sequences), dtype=torch.float64), next(model.parameters()).device
    for part in data.micro_batches([len(s.tokens) for s in sequences], max_tokens):
        responses = data.collate([sequences[i] for i in part], pad, device)
        scored[part] = response_scores(model, responses).cpu().double()  # MPS knows no float64
    return scored
