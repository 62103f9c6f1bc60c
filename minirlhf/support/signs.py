"""Signs of a run's health: numbers that are computed from its log, and that a learner could read off the curves.

A sign is a function below whose only argument is a logs.Log. It returns a number, or None if the log does not have what
it needs. Its docstring says what the number tells. diagnosis.py says where healthy runs have it, and which signs make
which disease.
"""

import itertools
import math

import numpy as np

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


def first_kl(log):
    """The KL of the first iteration, nats per answer, without its sign. Policy and reference are one model then: if it
    is not 0, sampling and learning do not compute the same log-probs."""
    return abs(float(log["kl"][0])) if len(log["kl"]) and log.flags else None  # other projects log means of iterations


def first_ratios(log):
    """In how many iterations an answer is shown that was learned from before any step, so that the ratios of all its
    tokens are 1; divided by how many that should be. (Of a batch the answers of the first minibatch are.)"""
    flags, most, iterations = log.flags, 5 * rounding(log), {}
    for row in log.tokens:
        if row.get("ratio"):
            whole = max(abs(ratio - 1) for ratio in row["ratio"]) < max(ROUNDING, most)
            iterations.setdefault(row["step"], []).append(whole)
    if not iterations or flags.get("inner_epochs") != 1:  # the ratios of a later epoch are not 1
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
    KL is 1 nat per answer for the first time. Over answers that the policy itself draws, their means are the same.
    (From there on the mean hangs on rare answers, and shares of a KL of about 0 are rounding.)"""
    near = itertools.takewhile(lambda row: row.get("kl", math.inf) < 1 and "kl3" in row, log.rows)
    gaps = np.array([1 - row["kl"] / row["kl3"] for row in near if row["kl3"] > 1e-4])
    return float(abs(gaps.mean()) / gaps.std() * len(gaps) ** 0.5) if len(gaps) >= 10 and gaps.std() else None


def first_agreement(log):
    """The correlation of score and last value among answers that are equally long, over the first three iterations. The
    value network starts as the reward model."""
    scores, values, lengths = last_values(log, 3)
    return correlation(without(scores, lengths), without(values, lengths), 16) if len(scores) else None


def first_spread(log):
    """How much scores vary, divided by how much last values do, among answers of the first iteration that are equally
    long (standard deviations). The value network starts as the reward model."""
    scores, values, lengths = last_values(log, 1)
    return ratio(without(scores, lengths).std(), without(values, lengths).std()) if len(scores) >= 8 else None


def added_by_length(log):
    """The correlation of score and length among answers of equal last value, in standard errors, over the first three
    iterations. The value network starts as the reward model."""
    scores, values, lengths = last_values(log, 3)
    partial = correlation(without(scores, values), without(lengths, values), 16) if len(scores) else None
    return None if partial is None else partial * math.sqrt((len(scores) - 3) / max(1e-8, 1 - partial**2))


def last_values(log, iterations):
    """Scores, last values and lengths of the answers of the first iterations, if a reward model gives the scores."""
    rows = first_answers(log, iterations) if log.flags.get("reward_model") else []
    return np.array([(row["score"], row["value"][-1], len(row["ids"])) for row in rows]).reshape(-1, 3).T


def without(ys, xs):
    """What is left of ys without what is linear in xs (least squares)."""
    xs = xs - xs.mean()
    return ys - xs * (xs @ ys) / max(1e-8, xs @ xs)


def correlation(xs, ys, least=8):
    """None of fewer than `least` pairs, or where one does not vary."""
    enough = len(xs) >= least and min(np.std(xs), np.std(ys)) > 1e-8
    return float(np.corrcoef(xs, ys)[0, 1]) if enough else None


def after_the_end(log):
    """The most tokens that an answer has after its end-of-text."""
    ids = [row["tokens"] for row in log.tokens]
    return max((len(own) - 1 - own.index("<|endoftext|>") for own in ids if "<|endoftext|>" in own), default=None)


def unequal_scores(log):
    """The largest difference between two scores of the same answer to the same prompt."""
    seen = {}
    for row in log.tokens:
        seen.setdefault((row["prompt"], *row["ids"]), []).append(row["score"])
    return max((max(scores) - min(scores) for scores in seen.values() if len(scores) > 1), default=None)


def share_of_start(log):
    """The share of the initial weights in the saved average."""
    flags = log.flags
    if not {"ema_decay", "inner_epochs", "minibatch_size"} <= flags.keys() or not log.kind.startswith("ppo"):
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
    return beta * float(np.std(kls)) / max(1e-8, float(np.std([row["score"] for row in rows])))


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
    """The largest loss of ten steps among the first fifth, divided by the loss before the first step."""
    values = smooth(log["loss"])
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


def gap(log):
    """How much lower the loss is on training data than on validation data: their difference after the newest epoch,
    divided by the latter."""
    measured = [i for i, row in enumerate(log.rows) if row.get("validation_loss") is not None]
    if not measured:
        return None
    rows = log.rows[: measured[-1] + 1]
    epoch = [row["loss"] for row in rows if row.get("epoch") == rows[-1].get("epoch") and row.get("loss") is not None]
    share = ratio(last(np.array(epoch), 4), rows[-1]["validation_loss"]) if epoch else None
    return None if share is None else 1 - share


def first_gap(log):
    """How much lower the loss is on training data than on validation data after the first epoch, in which each record
    should be new: their difference, divided by the latter."""
    measured = [i for i, row in enumerate(log.rows) if row.get("validation_loss") is not None]
    return gap(log.upto(measured[0] + 1)) if measured else None


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
    values = log["validation_accuracy"]
    return last(log["accuracy"]) - float(values[-1]) if len(values) else None


def pairs_right(log):
    """The share of validation pairs in the right order."""
    values = log["validation_accuracy"]
    return float(values[-1]) if len(values) else None


def pairs_wrong(log):
    """The share of validation pairs in the wrong order."""
    right = pairs_right(log)
    return None if right is None else 1 - right
