"""Measures models on the town's prompts: their answers, judged; win rates; losses; a reward model's accuracy."""

import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import town
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import in_chunks, per_sequence, ranking_scores, response_logps, response_nats, response_scores
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.device import pick_device
from minirlhf.support.errors import InputError
from minirlhf.support.records import Sequence, encode_rankings, encode_response
from minirlhf.support.statistics import interval, pair_hits
from tools.select_sft import sample_responses

BASE = "gpt"  # the folder of a base model


def load(folder, kind):
    """A run's model, in evaluation mode on the fastest device, and its tokenizer."""
    tokenizer = load_tokenizer(folder)
    return load_model(folder, kind, tokenizer).to(pick_device("auto")).eval(), tokenizer


def sample(model, tokenizer, records, limit, seed, prefix=""):
    """A sampled response of at most `limit` tokens to each record's prompt, as (indices, Responses) pairs."""
    prompts = [tokenizer.encode(prefix) + tokenizer.encode(record["prompt"]) for record in records]
    longest, room = max(map(len, prompts)), model.config.n_ctx - limit
    if longest > room:
        raise InputError(f"a town prompt has {longest} tokens and {room} fit; give the model a longer context (n_ctx)")
    return list(sample_responses(model, tokenizer, prompts, limit, seed))


def texts_of(samples, tokenizer, folder):
    """The samples' texts, which are ranked, scored and judged, in the order of their indices. Only a base model's end
    with the first line, since nothing taught it to end."""
    texts = {i: text.strip() for rows, responses in samples for i, text in zip(rows, responses.texts(tokenizer))}
    cut = town.first_line if Path(folder).name == BASE else str
    return [cut(texts[i]) for i in range(len(texts))]


def answers(folder, records, limit, seed, prefix=""):
    """A model's answers to records, as texts."""
    model, tokenizer = load(folder, GPT)
    return texts_of(sample(model, tokenizer, records, limit, seed, prefix), tokenizer, folder)


def judge_all(records, texts):
    """The judgement of each text as an answer to its record's prompt."""
    return [town.judge(*both) for both in zip(records, texts)]


def utilities(records, texts):
    """The true utility of each text: its mean over all labelers, without noise. (N,)"""
    return np.array(utilities_of(judge_all(records, texts), texts))


def utilities_of(judgements, texts):
    """The same of texts that are judged already, as a list."""
    return [town.mean_utility(*both) for both in zip(judgements, texts)]


def rm_scores(reward_model, tokenizer, records, texts):
    """The reward model's score of each text as an answer to its record's prompt (N,)."""
    sequences = [encode_response(r["prompt"], text, tokenizer) for r, text in zip(records, texts)]
    return per_sequence(response_scores, reward_model, sequences, tokenizer.pad).numpy()


class Measured(NamedTuple):
    """What is measured of one model without the others."""

    texts: list  # its answer to each prompt
    judgements: list  # of texts
    utilities: list  # of texts, to all labelers on average, without noise
    losses: tuple  # of held-out documents, as document_losses returns them
    rm_scores: np.ndarray  # of texts
    kl: dict | None  # figure: KL of a policy to its start on the same samples, in nats per response


def measure(folder, reward_model, records, documents, limit, seed, prefix="", reference=None):
    """Measures the model in a folder. records: the prompts; documents: held-out ones; reference: a policy's start."""
    model, tokenizer = load(folder, GPT)
    samples = sample(model, tokenizer, records, limit, seed, prefix)
    texts = texts_of(samples, tokenizer, folder)
    judgements = judge_all(records, texts)
    gold = utilities_of(judgements, texts)
    losses = document_losses(model, tokenizer, documents)
    scores = rm_scores(load(reward_model, RewardModel)[0], tokenizer, records, texts)
    drift = None
    if reference:
        start, _ = load(reference, GPT)
        drift = interval(np.concatenate([kl(model, start, responses).cpu().numpy() for _, responses in samples]))
    return Measured(texts, judgements, gold, losses, scores, drift)


def document_losses(model, tokenizer, documents):
    """Nats of each document, cut to the context's length, and its number of tokens: two arrays (N,)."""
    rows = [[tokenizer.eos, *tokenizer.encode(d["text"]), tokenizer.eos][: model.config.n_ctx + 1] for d in documents]
    return sequence_losses(model, [Sequence(np.array(row), 1) for row in rows], tokenizer.pad)


def page_losses(folder, documents):
    """document_losses of the GPT in a folder."""
    return document_losses(*load(folder, GPT), documents)


def sequence_losses(model, sequences, pad):
    """Negative log-likelihood in nats of each Sequence's targets, summed, and their number: two arrays (N,)."""
    nats = per_sequence(response_nats, model, sequences, pad).numpy()
    return nats, np.array([s.length - s.start for s in sequences])


def loss_difference(one, other):
    """One model's loss minus the other's, in nats per token, from their document_losses of the same documents."""
    return interval(one[0] - other[0], one[1])


def kl(policy, reference, responses):
    """log pi(y|x) - log pi_ref(y|x) of the policy's own samples (B,), summed over each response: nats per response."""
    difference = in_chunks(response_logps, policy, responses) - in_chunks(response_logps, reference, responses)
    return (difference * responses.mask).sum(1)


def compare(records, measured, seed):
    """Figures with intervals of the models in `measured`, {name: Measured}: {"models", "gains", "pretraining_loss",
    "follows_by_kind"}.

    Held-out labelers, one drawn for each prompt, prefer this model's answer or SFT's. Intervals resample what prompts
    are about, and gains pair two models' answers to the same prompt.
    """
    rng = random.Random(f"evaluate {seed}")
    labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
    models, sft = {}, measured["sft"]
    contents, questions = contents_of(records), contents_of(filter(answerable, records))
    follows = {name: np.array([j.follows for j in own.judgements], float) for name, own in measured.items()}
    truths = {name: informative_truths(records, own.judgements) for name, own in measured.items()}
    for name, own in measured.items():
        models[name] = {
            "win_rate_vs_sft": win_rate(records, own.texts, sft.texts, labelers, rng) if name != "sft" else None,
            "true_win_rate_vs_sft": true_win_rate(records, own.utilities, sft.utilities) if name != "sft" else None,
            "follows_instruction": interval(follows[name], items=contents),
            "truthful_informative": interval(truths[name], items=questions),
            "toxic": interval([j.toxic for j in own.judgements], items=contents),
            "pretraining_loss": interval(*own.losses),
            "kl_to_reference": own.kl,
            "rm_score": interval(own.rm_scores, items=contents),
        }
    ptx, start = measured["ppo_ptx"], measured["rl_start"]
    models["ppo_ptx"]["win_rate_vs_rl_start"] = win_rate(records, ptx.texts, start.texts, labelers, rng)
    gains = {"follows": {}, "truthful_informative": {}}
    for name, base in (("ppo_ptx", "sft"), ("ppo", "sft"), ("ppo_ptx", "gpt"), ("sft", "gpt")):
        gains["follows"][f"{name}_above_{base}"] = interval(follows[name] - follows[base], items=contents, signed=True)
        gains["truthful_informative"][f"{name}_above_{base}"] = interval(
            truths[name] - truths[base], items=questions, signed=True
        )
    tax = {}
    for name, base in (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")):
        tax[f"{name}_above_{base}"] = loss_difference(measured[name].losses, measured[base].losses)
    kinds = defaultdict(dict)
    for kind in dict.fromkeys(record["kind"] for record in records):
        rows = [i for i, record in enumerate(records) if record["kind"] == kind]
        for name in measured:
            kinds[kind][name] = interval(follows[name][rows], items=[contents[i] for i in rows])
    return {"models": models, "gains": gains, "pretraining_loss": tax, "follows_by_kind": kinds}


def look_up(records, demonstrations):
    """For each prompt the answer to the demonstrated prompt that shares the largest part of its words with it: what a
    model could do that has only memorized."""
    words = [set(record["prompt"].lower().split()) for record in [*records, *demonstrations]]
    column = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    has = np.zeros((len(words), len(column)), np.float32)
    for row, own in zip(has, words):
        row[[column[word] for word in own]] = 1
    asked, known = has[: len(records)], has[len(records) :]
    shared = asked @ known.T
    share = shared / np.maximum(asked.sum(1)[:, None] + known.sum(1) - shared, 1)  # of the words of both
    return [demonstrations[i]["response"] for i in share.argmax(1)]


def any_of_kind(records, demonstrations, rng):
    """For each prompt the answer of any demonstration of its kind: what a model could do that has learned only the
    kinds."""
    kinds = defaultdict(list)
    for demonstration in demonstrations:
        kinds[demonstration["kind"]].append(demonstration["response"])
    return [rng.choice(kinds[r["kind"]] or [""]) for r in records]


def measure_memorization(records, demonstrations, seed):
    """How often the answer of the most similar demonstration follows, and how often that of any of the same kind."""
    answers = {"most_similar": look_up(records, demonstrations),
               "same_kind": any_of_kind(records, demonstrations, random.Random(f"memory {seed}"))}  # fmt: skip
    return {name: interval([j.follows for j in judge_all(records, texts)], items=contents_of(records))
            for name, texts in answers.items()}  # fmt: skip


def contents_of(records):
    """The content of each record: the items that intervals resample."""
    return [record["content"] for record in records]


def answerable(record):
    """Whether the prompt asks about the world, so that an answer is true or false."""
    return record["kind"] in ("fact", "myth")


def informative_truths(records, judgements):
    """For each answerable prompt 1.0 if the answer is true and informative, else 0.0, as in the paper's TruthfulQA."""
    return np.array([float(j.truthful is True) for r, j in zip(records, judgements) if answerable(r)])


def win_rate(records, texts, others, labelers, rng):
    """Share of prompts on which a labeler, one drawn per prompt, prefers texts[i] to others[i]; a tie is one half."""
    wins = [town.compare(*each, rng) for each in zip(records, texts, others, labelers)]
    return interval(wins, items=contents_of(records))


def true_win_rate(records, utilities, others):
    """The same by the mean utility to all labelers, without noise."""
    return interval((np.sign(np.subtract(utilities, others)) + 1) / 2, items=contents_of(records))


def scores_of_rankings(folder, rankings):
    """A reward model's scores of each ranking's responses."""
    model, tokenizer = load(folder, RewardModel)
    return ranking_scores(model, encode_rankings(rankings, tokenizer, model.config.n_ctx), tokenizer.pad)


def pairs_right(folder, rankings):
    """For each ranking the pairs that a reward model orders as the labeler did, and all untied pairs: (N, 2)."""
    return count_right(scores_of_rankings(folder, rankings), rankings)


def count_right(scores, rankings):
    """The same by the scores of each ranking's responses."""
    hits = [pair_hits(row, r["ranks"]) for row, r in zip(scores, rankings, strict=True)]
    return np.array([(sum(h.values()), len(h)) for h in hits], float)


def measure_reward_model(folder, records):
    """Figures: accuracy on all pairs, and on pairs of samples of one model; and how often two labelers agree on the
    pairs, without those that either ranks equal. Rankings too long for the model are left out of all three."""
    model, tokenizer = load(folder, RewardModel)
    encoded = [encode_rankings([record], tokenizer, np.inf)[0] for record in records]
    kept = [(record, ranking) for record, ranking in zip(records, encoded) if ranking.length <= model.config.n_ctx]
    scores = ranking_scores(model, [ranking for _, ranking in kept], tokenizer.pad)
    counts = {"accuracy": [], "accuracy_within_model": [], "labeler_agreement": []}  # per ranking: (hits, pairs)
    for (record, _), score in zip(kept, scores):
        second, models = record["second_ranks"], record["models"]
        hits = pair_hits(score, record["ranks"])
        within = [hit for (a, b), hit in hits.items() if models[a] == models[b]]
        agree = [second[a] < second[b] for a, b in hits if second[a] != second[b]]
        for own, pairs in zip(counts.values(), (list(hits.values()), within, agree)):
            own.append((sum(pairs), len(pairs)))
    contents = contents_of(record for record, _ in kept)
    return {name: interval(*zip(*own), items=contents) for name, own in counts.items()}
