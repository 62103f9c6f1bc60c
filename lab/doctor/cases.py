"""Runs of which it is known what is wrong: healthy ones, and some with a fault of a strength drawn at random.

All share a few starting points, here called bases: the models and files that a training starts from.
"""

import math
from typing import NamedTuple


class Fault(NamedTuple):
    """What is put into a run, and what a doctor should say."""

    name: str  # a function of faults.py; or repeated, shuffled, flipped, which are faults of the data
    low: float  # strengths are drawn between low and high, evenly on a logarithmic scale
    high: float
    disease: str  # of minirlhf/support/diagnosis.py; "" is healthy


# A twentieth of SFT's rate is too low: docs/healthy.md.
SLOW, FAST = "the learning rate is too low", "the learning rate is too high"
FAULTS = {
    "gpt": (
        Fault("none", 1, 1, ""),
        Fault("learning_rate", 8, 40, FAST),
        Fault("learning_rate", 0.01, 0.05, SLOW),
        Fault("repeated", 5, 20, "data are repeated"),
    ),
    "sft": (
        Fault("none", 1, 1, ""),
        Fault("learning_rate", 8, 40, FAST),
        Fault("learning_rate", 0.01, 0.05, SLOW),
        Fault("epochs", 10, 20, "it memorises its data"),
        Fault("repeated", 5, 20, "it memorises its data"),
    ),
    "rl_start": (
        Fault("none", 1, 1, ""),
        Fault("learning_rate", 8, 40, FAST),
        Fault("learning_rate", 0.01, 0.05, SLOW),
    ),
    "rm": (
        Fault("none", 1, 1, ""),
        Fault("learning_rate", 8, 40, FAST),
        Fault("learning_rate", 0.01, 0.05, SLOW),
        Fault("epochs", 6, 10, "it memorises its data"),
        Fault("repeated", 5, 20, "it memorises its data"),
        Fault("shuffled", 1, 1, "it learns nothing"),
        Fault("flipped", 1, 1, "the rankings contradict the validation"),
    ),
    "ppo": (
        Fault("none", 1, 1, ""),
        Fault("learning_rate", 5, 40, FAST),
        Fault("learning_rate", 0.01, 0.1, SLOW),
        Fault("value_learning_rate", 30, 200, "the value network does not learn"),
        Fault("value_learning_rate", 0.0005, 0.02, "the value network does not learn"),
        Fault("both_learning_rates", 5, 40, FAST),
        Fault("beta", 0.001, 0.05, "beta is too small"),
        Fault("beta", 20, 200, "beta is too large"),
        Fault("kl_sign", 0.3, 3, "rewards are wrong"),
        Fault("kl_clamped", 1, 1, "rewards are wrong"),
        Fault("less_entropy", 0.3, 2, "the entropy collapses"),
        Fault("scaled", 5, 30, "scores are too large"),
        Fault("scaled", 0.03, 0.2, "scores hardly differ"),
        Fault("reversed_scores", 1, 1, "scores have the wrong sign"),
        Fault("shuffled", 1, 1, "scores hardly differ"),
        Fault("likes_length", 0.1, 3, "the score rises with length"),  # in the end, answers never end,
        Fault("likes_length", -3, -0.1, "the score falls with length"),  # or they end at once
        Fault("at_padding", 1, 1, "the same answer has several scores"),
        Fault("temperature", 0.5, 0.8, "sampling and learning differ"),
        Fault("temperature", 1.25, 1.6, "sampling and learning differ"),
        Fault("another_policy", 0.5, 0.8, "answers are not sampled from the policy"),
        Fault("another_policy", 1.25, 1.6, "answers are not sampled from the policy"),
        Fault("dropout", 0.05, 0.2, "sampling and learning differ"),
        Fault("stale", 1, 4, "answers come from an older policy"),
        Fault("padding_counts", 1, 1, "padding is not masked"),
        Fault("short", 0.9995, 0.99999, "the EMA decay is too high"),
    ),
    "ppo_ptx": (
        Fault("none", 1, 1, ""),
        Fault("gamma", 30, 300, "the pretraining weight (gamma) is too large"),
        Fault("learning_rate", 5, 40, FAST),
        Fault("beta", 0.001, 0.05, "beta is too small"),
        Fault("less_entropy", 0.3, 2, "the entropy collapses"),
    ),
}  # fmt: skip

NEAR = [(stage, Fault("near_learning_rate", 0.5, 2, "")) for stage in FAULTS]  # healthy runs of other settings
NEAR += [(stage, Fault("near_beta", 0.5, 2, "")) for stage in ("ppo", "ppo_ptx")]

# Faults that replace the same function, or that may cancel each other: a run has one of each at most.
ALIKE = (
    {"learning_rate", "value_learning_rate", "both_learning_rates"}, {"beta", "kl_sign", "kl_clamped"},
    {"scaled", "reversed_scores", "likes_length", "at_padding"}, {"less_entropy"}, {"stale"}, {"short"},
    {"temperature", "another_policy", "dropout", "padding_counts"},
)  # fmt: skip


def pair(rng):
    """Two faults of PPO that are not alike."""
    groups = rng.sample(ALIKE, 2)
    return [rng.choice([fault for fault in FAULTS["ppo"] if fault.name in group]) for group in groups]


def strength(fault, rng):
    """A strength between a fault's low and high."""
    sign = -1 if fault.low < 0 else 1
    ends = sorted((abs(fault.low), abs(fault.high)))
    return sign * math.exp(rng.uniform(*map(math.log, ends)))


def changed(records, fault, strength, rng):
    """Records with a fault that is in the data."""
    if fault == "repeated":
        few = rng.sample(records, max(1, round(len(records) / strength)))
        return (few * math.ceil(strength))[: len(records)]
    if fault == "shuffled":
        return [r | {"ranks": rng.sample(r["ranks"], len(r["ranks"]))} for r in records]
    return [r | {"ranks": [max(r["ranks"]) + 1 - rank for rank in r["ranks"]]} for r in records]  # flipped


class Thread(NamedTuple):
    """A public question about a run that went wrong, and what is put into a run to see the same."""

    link: str
    seen: str  # what the asker saw
    stage: str
    faults: tuple  # ((name, strength), ...)
    columns: tuple  # of metrics.jsonl, where the same should be seen
    found: str  # what the thread found out in the end


GITHUB = "https://github.com/"
THREADS = (
    Thread(f"{GITHUB}huggingface/trl/issues/204", "The score settles and the KL goes on rising; in the end all prompts "
           "get the same answer", "ppo", (("beta", 0.02),), ("score", "kl"), "nothing"),
    Thread(f"{GITHUB}huggingface/trl/issues/355", "The KL is below 0 when a minimal length is set for answers", "ppo",
           (("another_policy", 1.4),), ("kl",), "that setting is the cause"),
    Thread(f"{GITHUB}huggingface/trl/issues/615", "The score is unsteady, and the KL falls", "ppo",
           (("another_policy", 0.6),), ("score", "kl"),
           "maintainers see a KL below 0, suspect the settings of sampling, and advise other learning rates"),
    Thread(f"{GITHUB}huggingface/trl/issues/925", "The KL is below 0 with a LoRA adapter, and not without", "ppo",
           (("dropout", 0.1),), ("kl",), "the asker found other parameters that work"),
    Thread(f"{GITHUB}huggingface/trl/issues/1857", "Batches are skipped since their ratio is 12 on average; "
           "the KL is below 0", "ppo",
           (("learning_rate", 30),), ("clip_fraction", "kl"), "the policy moves too far; no cause is named"),
    Thread(f"{GITHUB}huggingface/trl/issues/4159", "Ratios are 2 before the first step at temperature 0.6", "ppo",
           (("temperature", 0.6),), ("kl", "clip_fraction"),
           "log-probs were not divided by the temperature; it was mended"),
    Thread(f"{GITHUB}hpcaitech/ColossalAI/issues/3574", "The reward is between -300 and -10", "ppo",
           (("scaled", 50),), ("score",), "nothing; maintainers advise to look at statistics"),
    Thread(f"{GITHUB}deepspeedai/DeepSpeedExamples/issues/489", "The reward goes up and down at random", "ppo",
           (("learning_rate", 0.01),), ("score",), "nothing"),
    Thread(f"{GITHUB}deepspeedai/DeepSpeedExamples/issues/556", "The value network's loss does not fall", "ppo",
           (("value_learning_rate", 0.001),), ("value_loss",), "nothing"),
    Thread(f"{GITHUB}CarperAI/trlx/issues/338", "The loss falls, and half of the validation pairs are right",
           "rm", (("shuffled", 1.0), ("epochs", 8.0)), ("loss", "validation_accuracy"),
           "to fine-tune the model on demonstrations first was advised"),
)  # fmt: skip
