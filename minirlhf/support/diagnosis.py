"""Which disease a run has: the signs that are outside the healthy band, and what they mean together.

A disease is a row of DISEASES: the signs that it needs, each too high or too low, and what to change first. The first
row whose signs are all there is the diagnosis. So what must be exactly so stands before what is usually so, and causes
stand before what follows from them.

The healthy band of a sign is where healthy runs had it, at each tenth of the run (bands.json, which lab.doctor writes).
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

from . import signs

PPO, PTX, RM, GPT = ("ppo", "ppo_ptx"), ("ppo_ptx",), ("rm",), ("gpt",)
SFT, LOSSES = ("sft", "rl_start"), ("sft", "rl_start", "rm")
FEW = 10
# The bands of what must be exactly so need no healthy run: (low, high) of a sign.
EXACT = {
    "first_kl": (None, 0.02),  # rounding, in bfloat16 too
    "first_ratios": (0.4, None),  # chance: of eight answers shown some are in the first minibatch
    "wrong_rewards": (None, 0.01),  # four digits are logged
    "after_the_end": (None, 0.0),
    "unequal_scores": (None, 0.05),  # rounding, in bfloat16 too
    "first_values": (-0.6, None),  # chance, of sixteen answers
    "clipped_at_first": (None, 0.04),  # at most 0.03 where the score still rose
    "own_answers": (None, 4.0),  # standard errors
    "share_of_start": (None, 0.5),
    "learned": (2.0, None),  # standard errors
    "pairs_right": (0.45, None),
}


class Disease(NamedTuple):
    name: str
    kinds: tuple  # of runs that can have it
    needs: dict  # {sign: "high" or "low"}
    advice: str  # what to look at, or to change, first


class Sign(NamedTuple):
    """A sign that is outside: its value, the healthy band there, and since which step it has been outside."""

    name: str
    value: float
    low: float | None
    high: float | None
    since: int

    @property
    def side(self):
        return "high" if self.high is not None and self.value > self.high else "low"


class Diagnosis(NamedTuple):
    disease: Disease | None  # None: healthy, as far as the log shows
    evidence: tuple  # its Signs
    others: tuple  # further Diseases whose signs are all there
    also: tuple  # Signs outside that the disease does not need
    unseen: tuple  # names of signs that this log does not have, or that no healthy run has been seen with


DISEASES = (
    # what must be exactly so
    Disease("padding counts", PPO, {"after_the_end": "high"},
            "Answers have tokens after their end: the mask is True at padding. Look at where it is made."),
    Disease("sampling and learning differ", PPO, {"first_kl": "high"},
            "Before the first step policy and reference are one model. Look for dropout that is left on, another "
            "temperature, top-k or top-p in sampling, tokens that are forbidden, another precision."),
    Disease("answers are stale", PPO, {"first_ratios": "low"},
            "Hardly any answer is learned from with a ratio of 1. Learn from each batch before the next is sampled, "
            "and take the old log-probs from the policy that sampled it."),
    Disease("rewards are wrong", PPO, {"wrong_rewards": "high"},
            "A token's reward is not minus beta times its KL (plus the score, at the last). Look at the sign of the "
            "KL, and for a clamp."),
    Disease("the same answer has several scores", PPO, {"unequal_scores": "high"},
            "The reward depends on more than prompt and answer. Is it read at the last token, and not at padding?"),
    Disease("scores have the wrong sign", PPO, {"first_values": "low"},
            "The value network starts as the reward model, and predicts the opposite of the scores. Look at what is "
            "done to the score. (If a function gives the scores, it may be right.)"),
    Disease("the average is too slow", PPO, {"share_of_start": "high"},
            "Most of model.pt is the initial weights. Lower --ema_decay, or train longer; policy.pt has the last."),
    # PPO's curves, those that are seen first before the others
    Disease("it learns too fast", PPO, {"clipped_at_first": "high"},
            "The policy moves too far with each batch. Lower --lr (and --value_lr)."),
    Disease("answers are not the policy's own", PPO, {"own_answers": "high"},
            "Answers are drawn from another distribution than their log-probs are of. Look for temperature, top-k, "
            "top-p, a minimal length, and for log-probs that are computed again after sampling."),
    Disease("the score rises with length", PPO, {"score_length": "high", "length": "high"},
            "Longer answers score higher, so they become longer. Look at what the reward likes. If many are cut off, "
            "raise --max_response, or set --no_end_penalty."),
    Disease("the score falls with length", PPO, {"score_length": "low", "length": "low"},
            "Shorter answers score higher, so they become shorter. Look at what the reward likes."),
    Disease("scores are too large", PPO, {"score_size": "high"},
            "Beta and the value's clip range are made for scores that differ by about 1. Divide the reward."),
    Disease("scores hardly differ", PPO, {"score_size": "low"},
            "Measure the reward model on held-out pairs: one that has learned nothing gives all answers about the same "
            "score. If it is right, multiply the reward, or lower --kl_coef."),
    Disease("gamma is too large", PTX, {"ended": "low", "ptx_fall": "high"},
            "The policy learns to write like the documents, which do not end as answers do. Lower --ptx_coef."),
    Disease("the entropy collapses", PPO, {"entropy": "low"},
            "Answers become alike. Raise --kl_coef; if the score does not rise either, look for what else is in the "
            "loss."),
    Disease("beta is too large", PPO, {"kl_penalty": "high", "score_gain": "low"},
            "Answers differ more in the penalty for their KL than in score, which is not learned. Lower --kl_coef."),
    Disease("beta is too small", PPO, {"kl": "high"},
            "The policy moves far from its start, to where the reward model has seen nothing. Raise --kl_coef, and "
            "read answers: the score says nothing there."),
    Disease("the value network does not learn", PPO, {"explained": "low"},
            "Its predictions explain less of the returns than they should. Change --value_lr."),
    Disease("it learns too slowly", PPO, {"kl": "low"}, "The policy hardly moves. Raise --lr."),
    # losses
    Disease("it learns too fast", LOSSES, {"loss_peak": "high"}, "The first steps raise the loss. Lower --lr."),
    Disease("it learns nothing", RM, {"learned": "low"},
            "The model orders pairs no better than chance. Look at the ranks: are they shuffled? Then lower --lr."),
    Disease("the rankings contradict the validation", RM, {"pairs_right": "low"},
            "Fewer than half of the validation pairs are in the right order. Are two columns swapped in one file?"),
    Disease("it memorises its data", RM, {"pairs_gap": "high"},
            "Many more pairs are right in training than in validation. Train for one epoch; look for repetitions."),
    Disease("it learns too slowly", RM, {"ranking_loss": "high"}, "The loss has hardly fallen. Raise --lr."),
    Disease("data are repeated", GPT + SFT, {"first_gap": "high"},
            "Already in the first epoch the loss on training data is low beside the validation loss. Do records occur "
            "several times?"),
    Disease("it memorises its data", SFT, {"validation_rise": "high"},
            "The validation loss has risen since its lowest. Take an earlier epoch, fewer epochs, or more data."),
    Disease("it learns too slowly", SFT, {"loss_end": "high"}, "The loss has hardly fallen. Raise --lr."),
    Disease("it learns too slowly", GPT, {"slowness": "high"}, "The loss falls slowly. Raise --lr and --muon_lr."),
    Disease("it learns too fast", GPT, {"late_fall": "high"},
            "The loss falls only when the learning rate does. Lower --lr and --muon_lr."),
)  # fmt: skip


@functools.cache
def learned():
    """{"bands": {kind of run: {sign: [[low, high] at each tenth]}}, "trials": {kind: {disease: [right, said]}}}."""
    path = Path(__file__).parent / "bands.json"
    return json.loads(path.read_text()) if path.exists() else {"bands": {}}


def trials(kind):
    """{disease: (in how many trials it was rightly said, in how many it was said)} of a kind of run. PPO-ptx is PPO."""
    return learned().get("trials", {}).get(kind.removesuffix("_ptx"), {})


def band(log, name):
    """(low, high) of healthy runs; None where there is no bound. A run of fewer than FEW steps has no curves."""
    if name in EXACT:
        return EXACT[name]
    own = learned()["bands"].get(log.kind, {}).get(name)
    return tuple(own[log.tenth - 1]) if own and log.steps >= FEW else (None, None)


def outside(value, low, high):
    return value is not None and ((low is not None and value < low) or (high is not None and value > high))


def history(log, name):
    """[(step, value, low, high)] of a sign, as it was after each twentieth of the log."""
    found = []
    for part in log.parts():
        value = getattr(signs, name)(part)
        if value is not None:
            found.append((part.rows[-1]["step"], value, *band(part, name)))
    return found


def line(log):
    """A Diagnosis in a few words; None if there was nothing to compare with."""
    found = diagnose(log, quick=True)
    return found.disease.name if found.disease else healthy(log) if is_known(log) else None


def healthy(log):
    """What is said if no disease is found."""
    missing = "nothing found, and no healthy curves to compare with"
    return "healthy, as far as the log shows" if is_known(log) else missing


def is_known(log):
    """Whether there are healthy runs to compare a log with."""
    return log.kind in learned()["bands"] and log.steps >= FEW


def since(rows):
    """The step of the first of the last rows of a history that are all outside."""
    inside = [i for i, (_, *value) in enumerate(rows) if not outside(*value)]
    return rows[inside[-1] + 1 if inside else 0][0]


def names_of(kind):
    """The names of the signs that diseases of a kind of run need."""
    return list(dict.fromkeys(name for disease in DISEASES if kind in disease.kinds for name in disease.needs))


def diagnose(log, quick=False):
    """The Diagnosis of a signs.Log. quick: without looking since when."""
    values = {name: getattr(signs, name)(log) for name in names_of(log.kind)}
    found = {}
    for name, value in values.items():
        low, high = band(log, name)
        if outside(value, low, high):
            step = log.rows[-1]["step"] if quick else since(history(log, name))
            found[name] = Sign(name, value, low, high, step)
    has = [own for own in DISEASES if log.kind in own.kinds
           and all(name in found and found[name].side == side for name, side in own.needs.items())]  # fmt: skip
    evidence = tuple(found[name] for name in has[0].needs) if has else ()
    also = tuple(sign for sign in found.values() if sign not in evidence)
    unseen = tuple(name for name, value in values.items() if value is None or band(log, name) == (None, None))
    return Diagnosis(has[0] if has else None, evidence, tuple(has[1:]), also, unseen)
