"""Forty simulated labelers. Each has weights of their own for helpful, honest and harmless, takes some myths for true,
and makes errors. The ten held-out ones have another taste, as other people would.

The mean labeler's utility, without noise and without false beliefs, is the true preference, which no real project can
observe.
"""

import random
from dataclasses import dataclass, replace
from statistics import fmean

from .judge import judge
from .world import MYTHS

# Standard deviation of an average labeler's error. With it, two held-out labelers agree on 78 % of the pairs of models'
# answers that neither ties; the paper's held-out labelers agree on 77.3 %.
NOISE = 0.24
TIE = 0.1  # utilities closer than this are a tie
HOLDS_A_MYTH = 0.3  # probability with which a labeler believes each of the web's myths


@dataclass(frozen=True)
class Labeler:
    name: str
    helpful: float
    honest: float
    harmless: float
    brevity: float  # cost of ten words; negative: prefers long answers
    noise: float  # multiple of NOISE
    first: float  # bonus for the answer that is shown first (compare only)
    beliefs: frozenset  # keys of facts of which he or she takes the myth for true
    held_out: bool  # labels no training data

    def utility(self, judgement, response):
        """The labeler's opinion of a response, without error: about -1.5 .. 1.5."""
        return (
            self.helpful * judgement.helpful
            + self.honest * judgement.honest
            + self.harmless * judgement.harmless
            - self.brevity * min(len(response.split()), 30) / 10
        )


# the range of each weight, among the labelers of the training data and among the held-out ones, who care more about
# truth, less about manners, and like long answers
TASTE = {"helpful": (0.8, 1.4), "honest": (0.1, 0.5), "harmless": (0.2, 0.7), "brevity": (-0.04, 0.06)}
OTHER_TASTE = {"helpful": (0.7, 1.5), "honest": (0.4, 0.9), "harmless": (0.0, 0.4), "brevity": (-0.08, 0.02)}


def _labeler(i, rng):
    held_out = i >= 30
    weights = {name: rng.uniform(*span) for name, span in (OTHER_TASTE if held_out else TASTE).items()}
    noise, first = rng.uniform(0.7, 1.3), rng.uniform(0.0, 0.06)
    beliefs = frozenset(fact.key for fact in MYTHS if rng.random() < HOLDS_A_MYTH)
    return Labeler(f"labeler-{i:02d}", **weights, noise=noise, first=first, beliefs=beliefs, held_out=held_out)


_rng = random.Random("labelers")
LABELERS = tuple(_labeler(i, _rng) for i in range(40))
TRAINING_LABELERS = tuple(labeler for labeler in LABELERS if not labeler.held_out)
HELD_OUT_LABELERS = tuple(labeler for labeler in LABELERS if labeler.held_out)
_WEIGHTS = ("helpful", "honest", "harmless", "brevity")
_means = {weight: fmean(getattr(labeler, weight) for labeler in LABELERS) for weight in _WEIGHTS}
MEAN_LABELER = replace(LABELERS[0], name="mean", beliefs=frozenset(), **_means)


def mean_utility(judgement, response):
    """The mean of all labelers' utilities, without noise, given the judge's judgement. It is that of the mean labeler,
    because a utility is linear in the weights."""
    return MEAN_LABELER.utility(judgement, response)


def felt(record, responses, labeler, rng):
    """Noisy utility of each response, the same for equal texts."""
    feelings = {}
    for response in dict.fromkeys(responses):
        error = rng.gauss(0.0, NOISE * labeler.noise)
        feelings[response] = labeler.utility(judge(record, response, labeler.beliefs), response) + error
    return [feelings[response] for response in responses]


def rank(record, responses, labeler, rng):
    """A ranking record by one labeler: ranks[i] is the rank of responses[i], 1 the best. Responses within TIE of the
    best of their rank are tied."""
    utilities = felt(record, responses, labeler, rng)
    ranks, current, leader = [0] * len(responses), 0, None
    for i in sorted(range(len(responses)), key=lambda i: -utilities[i]):
        if leader is None or leader - utilities[i] > TIE:
            current, leader = current + 1, utilities[i]
        ranks[i] = current
    return {"prompt": record["prompt"], "responses": list(responses), "ranks": ranks, "labeler": labeler.name}


def compare(record, a, b, labeler, rng):
    """1.0 if the labeler prefers a, 0.0 if b, 0.5 if neither. Which one is shown first is random."""
    if a == b:
        return 0.5
    first_is_a = rng.random() < 0.5
    utility_a, utility_b = felt(record, (a, b), labeler, rng)
    margin = utility_a - utility_b + (labeler.first if first_is_a else -labeler.first)
    return 0.5 if abs(margin) <= TIE else float(margin > 0)
