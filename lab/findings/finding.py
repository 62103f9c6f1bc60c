"""What a finding is: a claim of the paper, what is measured of it, and the verdict that follows from the figures."""

import inspect
import math
import re
from dataclasses import dataclass

from . import pictures


@dataclass(frozen=True)
class Claim:
    """That a figure lies above one bound, or below another, or between them. It holds where its whole interval does."""

    text: str
    value: dict  # a figure: {"mean", "low", "high"}
    above: float = -math.inf
    below: float = math.inf

    @property
    def holds(self):
        """True, False, or None where the interval has values on both sides."""
        low, high = self.value["low"], self.value["high"]  # of a ratio, high may be infinite
        if (self.above < low or self.above == -math.inf) and (high < self.below or self.below == math.inf):
            return True
        return False if high <= self.above or low >= self.below else None


def verdict(claims):
    """Of a finding: reproduced if all its claims hold, not reproduced if one does not, else inconclusive."""
    states = [claim.holds for claim in claims]
    return "reproduced" if all(states) else "not reproduced" if False in states else "inconclusive"


class Finding:
    """A finding is a subclass in one of this folder's files; its docstring says what the paper claims.

    `measure` trains what it needs and returns figures: {name: {"mean", "low", "high"}}, or lists for a curve. `claims`
    and `draw` read those figures and nothing else.
    """

    paper = ""  # the paper's own figure, and where it stands
    remark = ""  # what is otherwise in the town
    minutes = 0  # on two cores; without the models of sizes, which findings share
    sizes = ("toy",)  # whose models it needs

    @classmethod
    def name(cls):
        """KlSweep -> kl_sweep."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def claim(cls):
        return " ".join(inspect.getdoc(cls).split())

    def measure(self, lab):
        raise NotImplementedError

    def claims(self, f):
        raise NotImplementedError

    def draw(self, figure, f):
        """All figures with intervals, one below the other. A finding that has more to show draws its own."""
        pictures.dots(figure.subplots(), {name: value for name, value in f.items() if pictures.is_figure(value)})

    def examples(self, f):
        """[(heading, text)] to read beside the figures."""
        return f.get("examples", [])
