"""Figures of one seed made figures of several: the mean of the runs, and an interval that holds their spread.

A run's own interval says how the figure would vary with other prompts. Two trainings by the same recipe differ, too,
and a claim about the recipe needs both.
"""

import math

import numpy as np

from minirlhf.support.statistics import STUDENT

from .pictures import is_figure


def combine(runs):
    """One seed's figures of each run, as one: {name: figure, list or dict of figures, or what is the same in all runs}.

    Three runs or more: to each side the interval is sqrt(a^2 + b^2) long, where a is Student's t times the standard
    error of the mean over the runs, and b the mean length of the runs' own intervals. Two runs say too little of their
    spread, so the interval holds both of theirs, and a claim is one about these two runs.
    """
    return {name: _combined([run[name] for run in runs]) for name in runs[0] if all(name in run for run in runs)}


def _combined(values):
    if all(isinstance(value, dict) and not is_figure(value) for value in values):
        return combine(values)
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [_combined(column) for column in zip(*values)]
    if not all(map(is_figure, values)):
        numbers = all(isinstance(value, float) for value in values)
        return float(np.mean(values)) if numbers else values[0]
    means, lows, highs = (np.array([value[end] for value in values], float) for end in ("mean", "low", "high"))
    mean = float(means.mean())
    if len(values) < 3:
        low, high = float(lows.min()), float(highs.max())
    else:
        spread = STUDENT[len(values) - 2] * means.std(ddof=1) / math.sqrt(len(values))
        low = mean - math.hypot(spread, (means - lows).mean())
        high = mean + math.hypot(spread, (highs - means).mean())
    n = {"n": sum(value["n"] for value in values)} if all("n" in value for value in values) else {}
    items = {"items": values[0]["items"]} if "items" in values[0] else {}
    unknown = math.isnan(mean)
    return {"mean": mean, "low": -math.inf if unknown else low, "high": math.inf if unknown else high, **n, **items,
            "runs": len(values), "of each run": [float(m) for m in means]}  # fmt: skip
