"""Signs of a run's health: numbers that are computed from its log, and that a learner could read off the curves.

A sign is a function below whose only argument is a logs.Log. It returns a number, or None if the log does not have what
it needs. Its docstring says what the number tells. diagnosis.py says where healthy runs have it, and which signs make
which disease.
"""

import itertools
import math

import numpy as np

from .tokenizer import EOS

FIRST = 10  # iterations that count as the first ones
ROUNDING = 2e-3  # what rounding to four digits, twice, may change of a number of a few units


def ratio(value, base):
    """value / base; None if one of them is None, or the base 0."""
    return float(value / base) if value is not None and base else None


def last(values, share=5):
    """The mean of the last fifth."""
    return float(values[-max(1, len(values) // share) :].mean()) if len(values) else None


def first(values, count=3):
    return float(values[:count].mean()) if len(values) else None


def not_finite(log):
    """How many numbers of the log are not finite."""
    return sum(not math.isfinite(value) for row in log.rows for value in row.values() if isinstance(value, float))


# --- PPO: what must be exactly so ------------------------------------------------------------------------------------


def first_kl_per_token(log):
    """The KL of the first iteration, nats per token of an answer, without its sign. Policy and reference are one model
    then: if it is not 0, sampling and learning do not compute the same log-probs."""
    if not log.flags or not log.rows or log.rows[0]["step"] != 0:  # other projects log means of iterations
        return None
    share = ratio(log.rows[0].get("kl"), log.rows[0].get("response_length"))
    return None if share is None else abs(share)


def first_ratios(log):
    """The share of iterations with a shown answer whose ratios are all 1, divided by the share that is expected. The
    answers of the first minibatch have them, since no step has been taken."""
    flags, most, iterations = log.flags, 5 * rounding(log), {}
    for row in log.tokens:
        if row.get("ratio"):
            whole = max(abs(ratio - 1) for ratio in row["ratio"]) < max(ROUNDING, most)
            iterations.setdefault(row["step"], []).append(whole)
    if not iterations or flags.get("inner_epochs") != 1:  # the ratios of a later epoch are not 1
        return None
    if not {"minibatch_size", "batch_size"} <= flags.keys():
        return None
    others, shown = 1 - flags["minibatch_size"] / flags["batch_size"], map(len, iterations.values())
    expected = sum(1 - others**count for count in shown)
    return sum(map(any, iterations.values())) / expected if expected >= 5 else None


def rounding(log):
    """How far two log-probs of one token, by models that are the same, differ at most."""
    rows = [row for row in log.tokens if row["step"] == 0]
    return max((abs(a - b) for row in rows for a, b in zip(row["logp"], row["ref_logp"])), default=0.0)


def wrong_rewards(log):
    """The largest difference between the reward at a token and what it should be: minus beta times the KL at the token,
    and at the last one the score, too."""
    beta, worst = log.flags.get("kl_coef"), None
    for row in log.tokens if beta is not None else ():
        right = -beta * (np.array(row["logp"]) - row["ref_logp"])
        right[-1] += row["score"]
        worst = max(worst or 0.0, float(np.abs(right - row["reward"]).max()))
    return worst


def own_answers(log):
    """How far apart two estimates of the KL are, as a share of it, in standard errors, over the iterations before the
    KL is 1 nat per answer for the first time. Over answers that the policy itself draws, their means are the same. (A
    larger KL depends on a few rare answers; a KL near 0 is only rounding.)"""
    near = itertools.takewhile(lambda row: row.get("kl", math.inf) < 1 and "kl3" in row, log.rows)
    gaps = np.array([1 - row["kl"] / row["kl3"] for row in near if row["kl3"] > 1e-4])
    return float(abs(gaps.mean()) / gaps.std() * len(gaps) ** 0.5) if len(gaps) >= 10 and gaps.std() else None


def first_agreement(log):
    """The correlation of score and last value among answers that are equally long, over the first three iterations. The
    value network starts as the reward model."""
    scores, values, lengths = last_values(log)
    return correlation(without(scores, lengths), without(values, lengths), 16) if len(scores) else None


def first_spread(log):
    """How much scores vary, divided by how much last values do, among answers that are equally long (standard
    deviations), over the first three iterations. The value network starts as the reward model."""
    scores, values, lengths = last_values(log)
    return ratio(without(scores, lengths).std(), without(values, lengths).std()) if len(scores) >= 16 else None


def score_per_token(log):
    """How much the score rises with each token of an answer, among answers of equal last value, over the first three
    iterations. The value network starts as the reward model."""
    scores, values, lengths = last_values(log)
    longer = without(lengths, values) if len(scores) >= 16 else np.zeros(1)
    return ratio(longer @ without(scores, values), longer @ longer) if longer.std() > 1e-6 else None


def last_values(log):
    """Scores, last values and lengths of the answers of the first three iterations that came to their end, if there is
    a reward model."""
    rows = first_answers(log, 3) if log.flags.get("reward_model") else []
    ended = [row for row in rows if row["tokens"][-1] == EOS]  # others may have a penalty
    return np.array([(row["score"], row["value"][-1], len(row["ids"])) for row in ended]).reshape(-1, 3).T


def without(ys, xs):
    """What is left of ys without their mean, and without what is linear in xs (least squares)."""
    xs, ys = xs - xs.mean(), ys - ys.mean()
    return ys - xs * (xs @ ys) / max(1e-8, xs @ xs)


def correlation(xs, ys, least):
    """None of fewer than `least` pairs, or where one does not vary."""
    enough = len(xs) >= least and min(np.std(xs), np.std(ys)) > 1e-8
    return float(np.corrcoef(xs, ys)[0, 1]) if enough else None


def after_the_end(log):
    """The most tokens that an answer has after its end-of-text."""
    ids = [row["tokens"] for row in log.tokens]
    return max((len(own) - 1 - own.index(EOS) for own in ids if EOS in own), default=None)


def unequal_scores(log):
    """The largest difference between two scores of the same answer to the same prompt."""
    seen = {}
    for row in log.tokens:
        seen.setdefault((row["prompt"], *row["ids"]), []).append(row["score"])
    return max((max(scores) - min(scores) for scores in seen.values() if len(scores) > 1), default=None)


def share_of_start(log):
    """The share of the initial weights in the saved average."""
    flags = log.flags
    if not {"ema_decay", "inner_epochs", "minibatch_size", "batch_size"} <= flags.keys():
        return None
    return flags["ema_decay"] ** (log.steps * flags["inner_epochs"] * flags["batch_size"] / flags["minibatch_size"])


# --- PPO: curves -----------------------------------------------------------------------------------------------------


def first_answers(log, iterations=FIRST):
    return [row for row in log.tokens if row["step"] < iterations and not row.get("again")]


def score_size(log):
    """The standard deviation of the scores of the answers shown in the first five iterations."""
    scores = [row["score"] for row in first_answers(log, FIRST // 2)]
    return float(np.std(scores)) if len(scores) >= 8 else None


def score_length(log):
    """The correlation of score and length over the answers shown in the first ten iterations."""
    rows = first_answers(log)
    return correlation([len(row["ids"]) for row in rows], [row["score"] for row in rows], 40)


def kl_per_token(log):
    """The KL from the start, nats per token of an answer."""
    return ratio(last(log["kl"]), last(log["response_length"]))


def kl_penalty(log):
    """How much answers differ in the penalty for their KL, beta times it, divided by how much they differ in score
    (both standard deviations, of the answers shown in the newest fifth)."""
    beta, rows = log.flags.get("kl_coef"), [row for row in log.tokens if not row.get("again")]
    rows = rows[-max(16, len(rows) // 5) :]
    if beta is None or len(rows) < 16:
        return None
    kls = [sum(row["logp"]) - sum(row["ref_logp"]) for row in rows]
    scores = float(np.std([row["score"] for row in rows]))
    return beta * float(np.std(kls)) / scores if scores > 1e-6 else None


def clipped_at_first(log):
    """The largest share of clipped tokens in the first iterations, if each batch is learned once: how far the policy
    moves with it."""
    values = log["clip_fraction"][:FIRST]
    return float(values.max()) if len(values) and log.flags.get("inner_epochs") == 1 else None


def explained(log):
    """The share of the returns' variance that the value network explains."""
    return last(log["explained_variance"])


def ended_ratio(log):
    """The share of answers that end, divided by that at the beginning."""
    return ratio(last(log["ended"]), first(log["ended"]))


def length_ratio(log):
    """The length of answers, divided by that at the beginning."""
    return ratio(last(log["response_length"]), first(log["response_length"], 1))


def entropy_ratio(log):
    """The entropy of a token, divided by that at the beginning."""
    return ratio(last(log["entropy"]), first(log["entropy"], 1))


def ptx_fall(log):
    """How far the loss on documents has fallen, nats per token."""
    return first(log["ptx_loss"]) - last(log["ptx_loss"]) if len(log["ptx_loss"]) else None


# --- losses ----------------------------------------------------------------------------------------------------------


def smooth(values, width=10):
    """The means of successive parts of ten steps, or fewer if there are few."""
    return np.array([part.mean() for part in np.array_split(values, max(1, len(values) // width)) if len(part)])


def loss_peak(log):
    """The largest loss of ten steps among the first fifth, divided by the loss before the first step, which is that of
    one batch (of at least eight)."""
    values = smooth(log["loss"]) if log.flags.get("batch_size", 8) >= 8 else ()
    return ratio(values[: max(2, len(values) // 5)].max(), log["loss"][0]) if len(values) >= 10 else None


def loss_end(log):
    """The loss of the last fifth, divided by the loss before the first step."""
    return ratio(last(log["loss"]), log["loss"][0]) if len(log["loss"]) >= 100 else None


def slowness(log):
    """After which share of the steps so far four fifths of the loss's fall so far were done."""
    values = smooth(log["loss"])
    if len(values) < 10:
        return None
    fall = values[0] - last(values, 10)
    return float(np.argmax(values <= values[0] - 0.8 * fall)) / len(values) if fall > 0 else 1.0


def late_fall(log):
    """The loss of the middle fifth, divided by that of the last fifth."""
    values = log["loss"]
    fifth = len(values) // 5
    return ratio(values[2 * fifth : 3 * fifth].mean(), last(values)) if len(values) >= 100 else None


def first_gap(log):
    """How much lower the loss is on training data (the newest quarter) than on validation data after the first epoch,
    in which each record should be new: their difference, divided by the latter."""
    rows = [row for row in log.rows if row.get("epoch") == log.rows[0].get("epoch")]
    losses, measured = (np.array([row[name] for row in rows if row.get(name) is not None])
                        for name in ("loss", "validation_loss"))  # fmt: skip
    share = ratio(last(losses, 4), measured[-1]) if len(measured) else None
    return None if share is None else 1 - share


def validation_rise(log):
    """How far the validation loss is above its lowest value, as a share of it."""
    values = log["validation_loss"]
    share = ratio(values[-1], values.min()) if len(values) else None
    return None if share is None else share - 1


def learned(log):
    """How far the share of pairs in the right order is above one half, in standard errors."""
    values = log["accuracy"]
    error = values.std() / len(values) ** 0.5 if len(values) >= 200 else 0
    return float((values.mean() - 0.5) / error) if error else None


def gradient(log):
    """The norm of the gradient in the last fifth, before it is clipped, divided by how far the share of pairs in the
    right order is above one half, over all steps so far."""
    accuracy, norms = log["accuracy"], log["grad_norm"]
    learned = accuracy.mean() - 0.5 if len(accuracy) >= 100 and len(norms) else 0
    return last(norms) / float(learned) if learned > 0 else None


def pairs_gap(log):
    """How much larger the share of pairs in the right order is on training data (the last fifth) than on validation
    data."""
    train, validation = last(log["accuracy"]), pairs_right(log)
    return None if train is None or validation is None else train - validation


def pairs_right(log):
    """The share of validation pairs in the right order, if there are at least 400: a standard error of 0.025."""
    values, pairs = log["validation_accuracy"], log["validation_pairs"]
    return float(values[-1]) if len(values) and (not len(pairs) or pairs[-1] >= 400) else None


def pairs_wrong(log):
    """The share of validation pairs in the wrong order."""
    right = pairs_right(log)
    return None if right is None else 1 - right
