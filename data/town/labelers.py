"""Forty simulated labelers. Each weighs helpful, honest and harmless in his or her own way, and each errs.

The pool's mean utility without noise is the true preference, which no real project ever sees.
"""

import random
from dataclasses import dataclass, replace
from statistics import fmean

from .judge import judge

# Standard deviation of an average labeler's error. Two labelers then agree on 78 to 80 % of the pairs of answers by
# models that neither ties; the paper's held-out ones on 77.3.
NOISE = 0.33
TIE = 0.1  # utilities closer than this are a tie


@dataclass(frozen=True)
class Labeler:
    name: str
    helpful: float
    honest: float
    harmless: float
    brevity: float  # cost of ten words; negative in those who like to read
    noise: float  # multiple of NOISE
    first: float  # favour for whichever answer is shown first (compare only)
    held_out: bool  # labels nothing that is trained on

    def utility(self, judgement, response):
        """What this labeler would think of a response on a good day: about -1.5 .. 1.5."""
        return (
            self.helpful * judgement.helpful
            + self.honest * judgement.honest
            + self.harmless * judgement.harmless
            - self.brevity * min(len(response.split()), 30) / 10
        )


def _pool(training=30, held_out=10):
    rng = random.Random("labelers")
    return tuple(
        Labeler(
            f"labeler-{i:02d}",
            helpful=rng.uniform(0.8, 1.4),
            honest=rng.uniform(0.1, 0.5),
            harmless=rng.uniform(0.3, 0.9),
            brevity=rng.uniform(-0.04, 0.06),
            noise=rng.uniform(0.7, 1.3),
            first=rng.uniform(0.0, 0.06),
            held_out=i >= training,
        )
        for i in range(training + held_out)
    )


LABELERS = _pool()
TRAINING_LABELERS = tuple(labeler for labeler in LABELERS if not labeler.held_out)
HELD_OUT_LABELERS = tuple(labeler for labeler in LABELERS if labeler.held_out)


def _mean(labelers):
    weights = ("helpful", "honest", "harmless", "brevity")
    means = {name: fmean(getattr(labeler, name) for labeler in labelers) for name in weights}
    return replace(labelers[0], name="mean", **means)


MEAN_LABELER = _mean(LABELERS)


def mean_utility(judgement, response):
    """The whole pool's utility without noise: that of its mean labeler, since utilities are linear in the weights."""
    return MEAN_LABELER.utility(judgement, response)


def felt(record, responses, labeler, rng):
    """Noisy utility of each response. Equal texts feel equal: nobody prefers an answer to itself."""
    feelings = {}
    for response in responses:
        if response not in feelings:
            error = rng.gauss(0.0, NOISE * labeler.noise)
            feelings[response] = labeler.utility(judge(record, response), response) + error
    return [feelings[response] for response in responses]


def rank(record, responses, labeler, rng):
    """One labeler ranks K responses: ranks[i] is the rank of responses[i], 1 best, close ones tied."""
    utilities = felt(record, responses, labeler, rng)
    ranks, current, leader = [0] * len(responses), 0, None
    for i in sorted(range(len(responses)), key=lambda i: -utilities[i]):
        if leader is None or leader - utilities[i] > TIE:
            current, leader = current + 1, utilities[i]
        ranks[i] = current
    return {"prompt": record["prompt"], "responses": list(responses), "ranks": ranks, "labeler": labeler.name}


def compare(record, a, b, labeler, rng):
    """1.0 if the labeler prefers a, 0.0 if b, 0.5 if neither. Which is shown first is drawn by lot."""
    if a == b:
        return 0.5
    first_is_a = rng.random() < 0.5
    utility_a, utility_b = felt(record, (a, b), labeler, rng)
    margin = utility_a - utility_b + (labeler.first if first_is_a else -labeler.first)
    return 0.5 if abs(margin) <= TIE else float(margin > 0)
