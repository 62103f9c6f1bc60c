"""The findings' pictures: points with intervals, and curves. Grey letters, no ground: for white pages and black."""

import re

from lab import report

GREY = "#7f8b99"
COLOURS = report.COLOURS | {"sft": "#3a8fb7"}  # the report is for white pages alone
LINES = ("#647acb", "#d64545", "#e8a33d", "#3a9d8f", "#9b6bc9", "#7f8b99")


def is_figure(value):
    return isinstance(value, dict) and {"mean", "low", "high"} <= value.keys()


def dots(axis, figures, mark=None):
    """A line for each of {label: figure}, the first on top; `mark`: a value to compare with."""
    labels = list(figures)
    for y, label in enumerate(labels):
        value = figures[label]
        error = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
        words = label.split()
        colour = next((COLOURS[word] for word in words if word in COLOURS), LINES[0])
        axis.errorbar(value["mean"], y, xerr=error, fmt="o", color=colour, markersize=6, capsize=3)
    axis.set_yticks(range(len(labels)), [spoken(label) for label in labels])
    axis.set_ylim(len(labels) - 0.5, -0.5)
    if mark is not None:
        axis.axvline(mark, color=GREY, linewidth=1, linestyle="--")
    plain(axis)


def spoken(label):
    """'ppo_ptx less gpt' -> 'PPO-ptx less GPT'."""
    return re.sub(r"\w+", lambda word: report.NAMES.get(word[0], word[0]), label)


def curve(axis, xs, figures, label=None, colour=LINES[0]):
    """Figures at xs, joined, in the band of their intervals."""
    axis.plot(xs, [f["mean"] for f in figures], marker="o", markersize=4, color=colour, label=label)
    axis.fill_between(
        xs, [f["low"] for f in figures], [f["high"] for f in figures], color=colour, alpha=0.2, linewidth=0
    )
    plain(axis)


def plain(axis):
    """Letters, ticks and frame that both backgrounds bear."""
    axis.grid(alpha=0.25)
    axis.tick_params(colors=GREY, labelsize=8)
    for part in (axis.title, axis.xaxis.label, axis.yaxis.label):
        part.set_color(GREY)
        part.set_size(9)
    for side in axis.spines.values():
        side.set_color(GREY)


def legend(axis):
    axis.legend(frameon=False, fontsize=8, labelcolor=GREY)
