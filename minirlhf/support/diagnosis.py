"""Which disease a run has: the signs that are outside the healthy band, and what they mean together.

A disease is a row of DISEASES: the signs that it needs, each too high or too low, and what to change first. The first
row whose signs are all there is the diagnosis. So what must be exactly so stands before what is usually so, and causes
stand before what follows from them.

The healthy band of a sign is where healthy runs had it, at each tenth of the run (bands.json, which lab.doctor writes).
A curve's sign counts if it is outside now, and was on the same side a tenth of a run before. Those runs read texts of
the town. A run that reads others is judged by what needs no healthy runs (FIXED).
"""

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

from . import signs

PPO, PTX, RM, GPT = ("ppo", "ppo_ptx"), ("ppo_ptx",), ("rm",), ("gpt",)
SFT, LOSSES = ("sft", "rl_start"), ("sft", "rl_start", "rm")
ALL = (*PPO, *GPT, *LOSSES, "other")
HEALTHY = "healthy, as far as the log shows"
IF_FUNCTION = " (If a function gives the scores, this may be right.)"
FEW = 5  # a log of fewer rows has no curves
ITERATIONS = 50  # of the runs of PPO from which the healthy bands were learned
# Bounds, (low, high), that are set by hand and need no healthy run: what must be so in any run, but for rounding and
# chance.
FIXED = {
    "not_finite": (None, 0.0),
    "first_kl_per_token": (None, 2e-3),  # rounding: about 2e-4 in bfloat16
    "first_ratios": (0.4, None),  # chance: of eight answers shown some are in the first minibatch
    "wrong_rewards": (None, 0.01),  # four digits are logged
    "after_the_end": (None, 0.0),
    "unequal_scores": (None, 0.05),  # rounding, in bfloat16 too
    "own_answers": (None, 4.0),  # standard errors
    "share_of_start": (None, 0.5),
    "loss_peak": (None, 1.5),  # chance, of a batch of eight
    "learned": (2.0, None),  # standard errors
    "pairs_wrong": (None, 0.55),  # two standard errors of 400 validation pairs
    "pairs_right": (0.52, None),
    "pairs_gap": (None, 0.1),  # four; where texts are alike, a band is learned
}
# Those that are set by hand after runs of the town's texts. Of others, a reward model may judge an answer that is not
# at its end otherwise. In brackets, what healthy runs of train had.
OF_THE_TOWN = {
    "first_agreement": (-0.5, None),  # (0.04 to 0.99)
    "first_spread": (0.4, 2.5),  # (0.66 to 1.63)
    "score_per_token": (-0.15, 0.15),  # (-0.03 to 0.10)
    "score_length": (-0.7, 0.7),  # about half of the scores' variance (-0.42 to 0.70)
}
BY_HAND = {*FIXED, *OF_THE_TOWN} - {"pairs_gap"}  # of these no band is learned
AT_ONCE = {*FIXED, *OF_THE_TOWN, "first_gap", "validation_rise"}  # the last two change only after an epoch


class Disease(NamedTuple):
    name: str
    kinds: tuple  # of runs that can have it
    needs: dict  # {sign: "high" or "low"}
    advice: str  # what to look at, or to change, first


class Look(NamedTuple):
    """What a log shows at one time."""

    kind: str  # of run
    place: float | None  # in tenths of a healthy run, 1 to 10; None: too early for curves
    values: dict  # {sign: its value, or None}
    alike: bool = True  # whether the run's texts are like those of the runs from which the bands were learned


class Sign(NamedTuple):
    """A sign's value, and the healthy band there."""

    name: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def side(self):
        """Where the value is: "low", "within" or "high"; None if there is no value, or no band."""
        if self.value is None or (self.low, self.high) == (None, None):
            return None
        if self.high is not None and self.value > self.high:
            return "high"
        return "low" if self.low is not None and self.value < self.low else "within"

    @property
    def outside(self):
        return self.side in ("low", "high")


class Diagnosis(NamedTuple):
    disease: Disease | None  # None: healthy, as far as the log shows
    evidence: tuple  # its Signs
    others: tuple  # further Diseases whose signs are all there
    also: tuple  # Signs outside that the disease does not need
    unseen: tuple  # names of signs that could not be judged: the log does not have them yet, or no healthy run has


DISEASES = (
    # what must be exactly so
    Disease("it has diverged", ALL, {"not_finite": "high"},
            "A number of the log is not finite. If it is the loss, the weights are lost: go back to a checkpoint "
            "before it, and lower the learning rates."),
    Disease("padding is not masked", PPO, {"after_the_end": "high"},
            "Answers have tokens after their end: the mask is True at padding. Look at where it is made."),
    Disease("sampling and learning differ", PPO, {"first_kl_per_token": "high"},
            "Before the first step policy and reference are one model. Look for dropout that is left on, another "
            "temperature, top-k or top-p in sampling, tokens that are forbidden, another precision."),
    Disease("answers come from an older policy", PPO, {"first_ratios": "low"},
            "Hardly any answer is learned from with a ratio of 1. Learn from each batch before the next is sampled, "
            "and take the old log-probs from the policy that sampled it."),
    Disease("rewards are wrong", PPO, {"wrong_rewards": "high"},
            "A token's reward is not minus beta times its KL (plus the score, at the last). Look at the sign of the "
            "KL, and for a clamp."),
    Disease("the same answer has several scores", PPO, {"unequal_scores": "high"},
            "The reward depends on more than prompt and answer. Is it read at the last token, and not at padding?"),
    Disease("scores have the wrong sign", PPO, {"first_agreement": "low"},
            "The value network starts as the reward model, and predicts the opposite of the scores. Look at what is "
            "done to the score." + IF_FUNCTION),
    Disease("scores are too large", PPO, {"first_spread": "high"},
            "Scores vary more than the reward model's do. Look at what is done to the score: beta and the value's clip "
            "range are made for scores that differ by about 1." + IF_FUNCTION),
    Disease("scores hardly differ", PPO, {"first_spread": "low"},
            "Scores vary less than the reward model's do. Look at what is done to the score." + IF_FUNCTION),
    Disease("the EMA decay is too high", PPO, {"share_of_start": "high"},
            "Most of model.pt is the initial weights. Lower --ema_decay, or train longer; policy.pt has the last."),
    # PPO's curves, those that are seen first before the others
    Disease("the learning rate is too high", PPO, {"clipped_at_first": "high"},
            "The policy moves too far with each batch. Lower --lr (and --value_lr)."),
    Disease("answers are not sampled from the policy", PPO, {"own_answers": "high"},
            "Answers are drawn from another distribution than their log-probs are of. Look for temperature, top-k, "
            "top-p, a minimal length, and for log-probs that are computed again after sampling."),
    Disease("the score rises with length", PPO, {"score_per_token": "high"},
            "Something is added to the reward model's scores that rises with length. Look at what is done to the "
            "score." + IF_FUNCTION),
    Disease("the score falls with length", PPO, {"score_per_token": "low"},
            "Something is taken from the reward model's scores that rises with length. Look at what is done to the "
            "score." + IF_FUNCTION),
    Disease("the score rises with length", PPO, {"score_length": "high", "length_ratio": "high"},
            "Longer answers score higher, so they become longer. Look at what the reward likes. If many are cut off, "
            "raise --max_response, or set --no_end_penalty."),
    Disease("the score falls with length", PPO, {"score_length": "low", "length_ratio": "low"},
            "Shorter answers score higher, so they become shorter. Look at what the reward likes."),
    Disease("scores are too large", PPO, {"score_size": "high"},
            "Beta and the value's clip range are made for scores that differ by about 1. Divide the reward."),
    Disease("scores hardly differ", PPO, {"score_size": "low"},
            "Measure the reward model on held-out pairs: one that has learned nothing gives all answers about the same "
            "score. If it is right, multiply the reward, or lower --kl_coef."),
    Disease("the pretraining weight (gamma) is too large", PTX, {"ended_ratio": "low", "ptx_fall": "high"},
            "The policy learns to write like the documents, which do not end as answers do. Lower --ptx_coef."),
    Disease("beta is too small", PPO, {"kl_per_token": "high", "kl_penalty": "low"},
            "The policy moves far from its start, since that costs little beside what the score gains. Raise "
            "--kl_coef, and read answers: the reward model has seen nothing like them."),
    Disease("the entropy collapses", PPO, {"entropy_ratio": "low"},
            "Answers become alike. Raise --kl_coef; if the score does not rise either, look for what else is in the "
            "loss."),
    Disease("beta is too large", PPO, {"kl_penalty": "high"},
            "Answers differ more in the penalty for their KL than in score, which is hardly learned. Lower --kl_coef."),
    Disease("beta is too small", PPO, {"kl_per_token": "high"},
            "The policy moves far from its start. Raise --kl_coef, and read answers: the reward model has seen nothing "
            "like them."),
    Disease("the value network does not learn", PPO, {"explained": "low"},
            "Its predictions explain less of the returns than they should. Look at --value_lr, which may be too low or "
            "too high; the paper's is nearly as large as --lr."),
    Disease("the learning rate is too low", PPO, {"kl_per_token": "low"}, "The policy hardly moves. Raise --lr."),
    # losses
    Disease("the learning rate is too high", LOSSES, {"loss_peak": "high"},
            "The first steps raise the loss. Lower --lr."),
    Disease("it learns nothing", RM, {"learned": "low"},
            "The model orders pairs no better than chance. Are the ranks shuffled? If they are not, lower --lr."),
    Disease("the rankings contradict the validation", RM, {"pairs_wrong": "high"},
            "Fewer than half of the validation pairs are in the right order. Are the ranks of one file reversed? (1 is "
            "the best.)"),
    Disease("it learns nothing", RM, {"pairs_right": "low"},
            "What it has learned does not help with validation pairs. Are the ranks shuffled? If they are not, lower "
            "--lr."),
    Disease("it memorises its data", RM, {"pairs_gap": "high"},
            "Many more pairs are right in training than in validation. Train for one epoch; look for repetitions."),
    Disease("the learning rate is too low", RM, {"gradient": "high"},
            "The gradient is large beside the little that was learned. Raise --lr."),
    Disease("data are repeated", GPT, {"first_gap": "high"},
            "Already in the first epoch the loss on training data is low beside the validation loss. Do records occur "
            "several times?"),
    Disease("it memorises its data", SFT, {"validation_rise": "high"},
            "The validation loss has risen since its lowest. Do records occur several times? If not, it may do no "
            "harm: the paper goes on all the same, and lets the reward model choose the epoch (tools/select_sft.py)."),
    Disease("the learning rate is too low", SFT, {"loss_end": "high"}, "The loss has hardly fallen. Raise --lr."),
    Disease("the learning rate is too low", GPT, {"slowness": "high"},
            "The loss falls slowly. Raise --lr and --muon_lr."),
    Disease("the learning rate is too high", GPT, {"late_fall": "high"},
            "The loss falls only when the learning rate does. Lower --lr and --muon_lr."),
    Disease("the learning rate is too high", GPT, {"late_fall": "low"},
            "The loss falls at once, and then no more. Lower --lr and --muon_lr."),
)  # fmt: skip


@functools.cache
def learned():
    """{"bands": {kind of run: {sign: [[low, high] at each tenth]}}, "vocabulary": [the town's tokens of several bytes],
    "trials": {kind: {disease: [right, said]}}, "analogies": [healthy runs of other texts called ill, all of them]}."""
    path = Path(__file__).parent / "bands.json"
    return json.loads(path.read_text()) if path.exists() else {"bands": {}}


def trials(kind):
    """{disease: (in how many trials it was rightly said, in how many it was said)} of a kind of run. PPO-ptx is PPO."""
    return learned().get("trials", {}).get(kind.removesuffix("_ptx"), {})


def names_of(kind):
    """The names of the signs that diseases of a kind of run need."""
    return list(dict.fromkeys(name for disease in DISEASES if kind in disease.kinds for name in disease.needs))


def banded(kind):
    """The names of those of which a band is learned."""
    return [name for name in names_of(kind) if name not in BY_HAND]


def whole(kind, steps):
    """How many rows ten tenths of a run are, one of `steps` steps (None: not known): of PPO as many as healthy runs
    had."""
    return ITERATIONS if kind.startswith("ppo") else steps


def place_of(kind, rows, steps):
    """Which tenth of a healthy run a log of so many rows is compared with, a number from 1 to 10. PPO is compared after
    as many iterations; the others, whose learning rate falls over the run, after as large a share of their steps. None
    if it is too early, or not known."""
    all_rows = whole(kind, steps)
    tenths = 10 * rows / all_rows if all_rows else 0
    return min(10.0, tenths) if rows >= FEW and tenths >= 1 else None


def band(name, kind, place, bands=None):
    """(low, high) of a sign in healthy runs, between the bands of the two nearest tenths; None where there is no
    bound. bands: {kind of run: {sign: [[low, high] at each tenth]}}, those of bands.json unless given."""
    known = (learned()["bands"] if bands is None else bands).get(kind, {})
    if name in OF_THE_TOWN:
        return OF_THE_TOWN[name] if known else (None, None)
    own = known.get(name)
    if not own or place is None:
        return FIXED.get(name, (None, None))
    before, after, share = own[int(place) - 1], own[math.ceil(place) - 1], place % 1
    return tuple(None if None in ends else ends[0] + share * (ends[1] - ends[0]) for ends in zip(before, after))


def look(log):
    """What a logs.Log shows now."""
    values = {name: getattr(signs, name)(log) for name in names_of(log.kind)}
    return Look(log.kind, place_of(log.kind, len(log.rows), log.steps), values, is_alike(log))


def is_alike(log):
    """Whether a run's texts are like the town's: at least half of its tokens of several bytes are the town's, too. True
    if its tokens are not known."""
    if log.vocabulary is None:
        return True
    own = {token for token in log.vocabulary if len(token) > 1}
    known = {token.encode() for token in learned().get("vocabulary", ())}
    return bool(own) and len(own & known) >= len(own) / 2


def cuts(log):
    """After how many rows a log is looked at: after all, and each tenth of a run before."""
    tenth = max(1, round((whole(log.kind, log.steps) or len(log.rows)) / 10))
    return [*range(len(log.rows), 0, -tenth)][::-1]


def looks(log):
    """The Looks that a diagnosis needs: at the log as it was a tenth of a run before, if it was, and as it is."""
    return [look(log.upto(rows)) for rows in cuts(log)[-2:]]


def diagnose(looks, bands=None):
    """The Diagnosis of one Look, or of two, a tenth of a run apart, of which the second is judged. With one, curves are
    not judged; nor are they if the run's texts are unlike the town's. bands: as in band."""
    bands = bands if looks[-1].alike else {}
    *before, now = ([Sign(name, value, *band(name, own.kind, own.place, bands)) for name, value in own.values.items()]
                    for own in looks)  # fmt: skip
    sides = {sign.name: sign.side for own in before for sign in own}
    sides |= {sign.name: sign.side for sign in now if sign.name in AT_ONCE}
    found = {sign.name: sign for sign in now if sign.outside and sign.side == sides.get(sign.name)}
    has = [own for own in DISEASES if looks[-1].kind in own.kinds
           and all(name in found and found[name].side == side for name, side in own.needs.items())]  # fmt: skip
    evidence = tuple(found[name] for name in has[0].needs) if has else ()
    also = tuple(sign for sign in found.values() if sign not in evidence)
    unseen = tuple(sign.name for sign in now if not sign.side or not sides.get(sign.name))
    others = {own.name: own for own in has if own.name != has[0].name}  # several rows may be of one disease
    return Diagnosis(has[0] if has else None, evidence, tuple(others.values()), also, unseen)


def history(log, name, alike=True):
    """[(step, Sign)] as it was after each twentieth of the log. alike: whether to judge by the town's bands."""
    found, bands = [], None if alike else {}
    for part in log.parts():
        value = getattr(signs, name)(part)
        if value is not None:
            place = place_of(log.kind, len(part.rows), log.steps)
            found.append((part.rows[-1]["step"], Sign(name, value, *band(name, log.kind, place, bands))))
    return found


def since(rows):
    """The step of the first of the last rows of a history that are all outside."""
    inside = [i for i, (_, sign) in enumerate(rows) if not sign.outside]
    return rows[inside[-1] + 1 if inside else 0][0]


def line(log):
    """A Diagnosis in a few words; None if there was nothing to compare with."""
    seen = looks(log)
    found = diagnose(seen)
    if found.disease is None and not_judged(seen):
        return None
    exact = BY_HAND - OF_THE_TOWN.keys()
    compared = not found.disease or any(sign.name not in exact for sign in found.evidence)
    said = found.disease.name if found.disease else HEALTHY
    return f"{said}, compared with small runs of the town" if compared and seen[-1].alike else said


def healthy(looks):
    """What is said if no disease is found."""
    why = not_judged(looks)
    return f"nothing found, and no curve could be judged: {why}" if why else HEALTHY


def not_judged(looks):
    """Why no curve is compared with healthy runs; None if one is."""
    now, before = looks[-1], looks[0]
    if now.kind not in learned()["bands"]:
        return "no such run is known to be healthy"
    if not now.alike:
        return "its texts are not the town's, or its tokenizer is not found"
    curves = [name for name in now.values if name not in AT_ONCE]
    both = [name for name in curves if now.values[name] is not None and before.values[name] is not None]
    early = len(looks) < 2 or before.place is None or not both
    return "the log is too short, or lacks the columns" if early else None
