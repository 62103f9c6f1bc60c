"""What a finding is: a claim of the paper, the figures that test it, and the verdict that follows from them.

The claims of all findings, with their bounds, are listed in claims.md, which is older than the runs that confirm them.
"""

import inspect
import math
import re
from dataclasses import dataclass

from . import pictures


@dataclass(frozen=True)
class Claim:
    """A claim that a figure is above one bound, below another, or between both. It holds if the whole interval is."""

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
    """Reproduced if all claims hold, not reproduced if one does not, else inconclusive; shown if there is none."""
    if not claims:
        return "shown"
    states = [claim.holds for claim in claims]
    return "reproduced" if all(states) else "not reproduced" if False in states else "inconclusive"


class Finding:
    """A finding is a subclass in one of this folder's files; its docstring says what the paper claims.

    `measure` trains what it needs and returns figures: {name: {"mean", "low", "high"}}, or lists of them for a curve.
    `claims` and `draw` read only those figures.
    """

    paper = ""  # the paper's own figure, and its source
    remark = ""  # what differs in the town
    sample = "2,000 test prompts"  # what the figures of a run are means over
    minutes = 0  # on two cores, without the training of the models that findings share
    sizes = ("toy",)  # the sizes of models that it needs
    seeds = ()  # on which it is confirmed, if not on those of claims.py
    panels = {}  # {heading: names}: the picture's panels, each of the figures "heading: name"
    mark = None  # a value to compare with, drawn as a line
    hypotheses = ()  # claims about figures: (text, figure's name, its bounds: dict(above=..., below=...))

    @classmethod
    def name(cls):
        """KlSweep -> kl_sweep."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def claim(cls):
        return " ".join(inspect.getdoc(cls).split())

    def claims(self, f):
        """The Claims about figures f."""
        return [Claim(text, f[name], **bounds) for text, name, bounds in self.hypotheses]

    def draw(self, figure, f):
        """Draws the panels, or one panel of all figures. A finding with curves draws its own."""
        panels = self.panels or {"": [name for name, value in f.items() if pictures.is_figure(value)]}
        shape = (2, 2) if len(panels) == 4 else (1, len(panels))
        for axis, (heading, names) in zip(figure.subplots(*shape, squeeze=False).flat, panels.items()):
            start = f"{heading}: " if heading else ""
            pictures.dots(axis, {name: f[start + name] for name in names}, self.mark)
            axis.set_title(heading)
