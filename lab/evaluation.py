"""Models on the town's prompts: what they answer, what is true of it, who prefers which; how good a reward model is."""

import random
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from data import town
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import (
    in_chunks,
    per_sequence,
    ranking_scores,
    response_logps,
    response_nats,
    response_scores,
)
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.device import pick_device
from minirlhf.support.errors import require
from minirlhf.support.records import Sequence, encode_rankings, encode_response
from minirlhf.support.statistics import interval, pair_hits
from tools.select_sft import sample_responses


def load(folder, kind):
    """A run's model, where it computes fastest, and its tokenizer."""
    tokenizer = load_tokenizer(folder)
    return load_model(folder, kind, tokenizer).to(pick_device("auto")).eval(), tokenizer


def sample(model, tokenizer, records, limit, seed, prefix=""):
    """A sampled response of at most `limit` tokens to each record's prompt, as (indices, Responses) pairs."""
    prompts = [tokenizer.encode(prefix) + tokenizer.encode(record["prompt"]) for record in records]
    most, room = max(map(len, prompts)), model.config.n_ctx - limit
    require(most <= room, f"a town prompt has {most} tokens and {room} fit; give the model a longer context (n_ctx)")
    return list(sample_responses(model, tokenizer, prompts, limit, seed))


def first_lines(samples, tokenizer):
    """The first lines of the samples, in the order of their indices: so all are ranked and judged."""
    texts = {i: text for rows, responses in samples for i, text in zip(rows, responses.texts(tokenizer))}
    return [town.first_line(texts[i]) for i in range(len(texts))]


def answers(folder, records, limit, seed, prefix=""):
    """A model's answers to records, as texts."""
    model, tokenizer = load(folder, GPT)
    return first_lines(sample(model, tokenizer, records, limit, seed, prefix), tokenizer)


class Measured(NamedTuple):
    """What is measured of one model without the others."""

    texts: list  # an answer to each prompt
    judgements: list  # of texts
    utilities: list  # of texts, to the labelers' whole pool, without noise
    losses: tuple  # of held-out documents, up to the context's length: (nats, tokens) of each
    rm_scores: np.ndarray  # of texts
    kl: dict | None  # of a policy to where it started, in nats per response, on the same samples


def measure(folder, reward_model, records, documents, limit, seed, prefix="", reference=None):
    """Measures the model in a folder. records: the prompts; documents: held-out ones; reference: a policy's start."""
    model, tokenizer = load(folder, GPT)
    samples = sample(model, tokenizer, records, limit, seed, prefix)
    texts = first_lines(samples, tokenizer)
    judgements = [town.judge(*both) for both in zip(records, texts)]
    utilities = [town.mean_utility(*both) for both in zip(judgements, texts)]
    losses = document_losses(model, tokenizer, documents)
    sequences = [encode_response(r["prompt"], text, tokenizer) for r, text in zip(records, texts)]
    rm_scores = per_sequence(response_scores, load(reward_model, RewardModel)[0], sequences, tokenizer.pad).numpy()

    drift = None
    if reference:
        start, _ = load(reference, GPT)
        drift = interval(np.concatenate([kl(model, start, responses).cpu().numpy() for _, responses in samples]))
    return Measured(texts, judgements, utilities, losses, rm_scores, drift)


def document_losses(model, tokenizer, documents):
    """Nats of each document, up to the context's length, and how many tokens that is: two arrays."""
    rows = [[tokenizer.eos, *tokenizer.encode(d["text"]), tokenizer.eos][: model.config.n_ctx + 1] for d in documents]
    return sequence_losses(model, [Sequence(np.array(row), 1) for row in rows], tokenizer.pad)


def sequence_losses(model, sequences, pad):
    """Negative log-likelihood in nats of each Sequence's targets, summed, and how many they are: two arrays (N,)."""
    nats = per_sequence(response_nats, model, sequences, pad).numpy()
    return nats, np.array([s.length - s.start for s in sequences])


def kl(policy, reference, responses):
    """log pi(y|x) - log pi_ref(y|x) of the policy's own samples (B,), summed over each response: nats per response."""
    difference = in_chunks(response_logps, policy, responses) - in_chunks(response_logps, reference, responses)
    return (difference * responses.mask).sum(1)


def compare(records, measured, seed):
    """Figures with intervals of the models in `measured`, {name: Measured}: {"models", "gains", "pretraining_loss"}.

    Held-out labelers, one drawn for each prompt, prefer this model's answer or SFT's. Intervals resample what prompts
    are about, and gains pair two models' answers to the same prompt.
    """
    rng = random.Random(f"evaluate {seed}")
    labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
    models, sft = {}, measured["sft"]
    contents = contents_of(records)
    follows = {name: np.array([j.follows for j in own.judgements], float) for name, own in measured.items()}
    truths = {name: informative_truths(records, own.judgements) for name, own in measured.items()}
    asked = contents_of(filter(answerable, records))
    for name, own in measured.items():
        models[name] = {
            "win_rate_vs_sft": win_rate(records, own.texts, sft.texts, labelers, rng) if name != "sft" else None,
            "true_win_rate_vs_sft": true_win_rate(records, own.utilities, sft.utilities) if name != "sft" else None,
            "follows_instruction": interval(follows[name], items=contents),
            "truthful_informative": interval(truths[name], items=asked),
            "toxic": interval([j.toxic for j in own.judgements], items=contents),
            "pretraining_loss": interval(*own.losses),
            "kl_to_reference": own.kl,
            "rm_score": interval(own.rm_scores, items=contents),
        }
    ptx, start = measured["ppo_ptx"], measured["rl_start"]
    models["ppo_ptx"]["win_rate_vs_rl_start"] = win_rate(records, ptx.texts, start.texts, labelers, rng)
    gains = {"follows": {}, "truthful_informative": {}}
    for name, base in (("ppo_ptx", "sft"), ("ppo", "sft"), ("ppo_ptx", "gpt"), ("sft", "gpt")):
        gains["follows"][f"{name}_above_{base}"] = interval(follows[name] - follows[base], items=contents)
        gains["truthful_informative"][f"{name}_above_{base}"] = interval(truths[name] - truths[base], items=asked)
    tax = {}
    for name, base in (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")):
        (nats, tokens), (others, _) = measured[name].losses, measured[base].losses
        tax[f"{name}_above_{base}"] = interval(nats - others, tokens)
    return {"models": models, "gains": gains, "pretraining_loss": tax}


def look_up(records, demonstrations, rng, anything=False):
    """The answers of a table of the demonstrations: to each prompt that of one about the same, or if there is none (or
    `anything` will do) of any of the same kind. A model that does no better has learned the demonstrations by heart."""
    about, kinds = defaultdict(list), defaultdict(list)
    for demonstration in demonstrations:
        about[demonstration["content"]].append(demonstration["response"])
        kinds[demonstration["kind"]].append(demonstration["response"])
    return [rng.choice(not anything and about[r["content"]] or kinds[r["kind"]] or [""]) for r in records]


def measure_memory(records, demonstrations, seed):
    """How often a table of the demonstrations follows, and how often any demonstration of the same kind does."""
    contents, figures = contents_of(records), {}
    for name, anything in (("lookup", False), ("same_kind", True)):
        rng = random.Random(f"memory {seed}")
        texts = look_up(records, demonstrations, rng, anything)
        figures[name] = interval([town.judge(*both).follows for both in zip(records, texts)], items=contents)
    return figures


def contents_of(records):
    """What each is about: the items that intervals resample."""
    return [record["content"] for record in records]


def answerable(record):
    """Whether there is a truth about the world that an answer can get right or wrong."""
    return record["use_case"] == "open_qa"


def informative_truths(records, judgements):
    """For each answerable prompt 1 where the truth is said: what is false does not count, and neither is saying nothing
    (as in the paper's TruthfulQA: truthful and informative)."""
    return np.array([float(j.truthful is True) for r, j in zip(records, judgements) if answerable(r)])


def win_rate(records, texts, others, labelers, rng):
    """Share of prompts on which a labeler, one drawn per prompt, prefers texts[i] to others[i]; a tie is one half."""
    wins = [town.compare(*each, rng) for each in zip(records, texts, others, labelers)]
    return interval(wins, items=contents_of(records))


def true_win_rate(records, utilities, others):
    """The same by the pool's mean utility without noise."""
    wins = [0.5 if a == b else float(a > b) for a, b in zip(utilities, others)]
    return interval(wins, items=contents_of(records))


def measure_reward_model(folder, records):
    """Accuracy on rankings, also among samples of one model; and how often two labelers agree on the same pairs, those
    left out that either finds equal. Rankings too long for the reward model are left out of all three."""
    model, tokenizer = load(folder, RewardModel)
    encoded = [encode_rankings([record], tokenizer, np.inf)[0] for record in records]
    kept = [(record, ranking) for record, ranking in zip(records, encoded) if ranking.length <= model.config.n_ctx]
    scores = ranking_scores(model, [ranking for _, ranking in kept], tokenizer.pad)
    right, within, agree = [], [], []  # per ranking: (pairs ordered alike, pairs)
    contents = contents_of(record for record, _ in kept)
    for (record, _), score in zip(kept, scores):
        ranks, second, models = record["ranks"], record["second_ranks"], record["models"]
        hits = pair_hits(score, ranks)
        same = [hit for (a, b), hit in hits.items() if models[a] == models[b]]
        both = [second[a] < second[b] for a, b in hits if second[a] != second[b]]
        right.append((sum(hits.values()), len(hits)))
        within.append((sum(same), len(same)))
        agree.append((sum(both), len(both)))
    named = {"accuracy": right, "accuracy_within_model": within, "labeler_agreement": agree}
    return {name: interval(*zip(*counts), items=contents) for name, counts in named.items()}
