"""The findings' pictures: points with intervals, and curves. Grey text and no background suit light and dark pages."""

import re

from lab import shown
from minirlhf.support.curves import optional_picture, save_figure

GREY = "#7f8b99"
COLOURS = shown.COLOURS | {"sft": "#3a8fb7"}  # the usual one is too dark for dark pages
LINES = ("#647acb", "#d64545", "#e8a33d", "#3a9d8f", "#9b6bc9", "#7f8b99")


def write(finding, figures, path):
    """Draws a finding's figures to a PNG file, if there is matplotlib."""
    with optional_picture(path):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.6), layout="constrained")
        finding.draw(figure, figures)
        save_figure(figure, path, transparent=True)


def is_figure(value):
    return isinstance(value, dict) and {"mean", "low", "high"} <= value.keys()


def dots(axis, figures, mark=None):
    """A row for each of {label: figure}, the first on top; `mark`: a value to compare with."""
    for y, (label, value) in enumerate(figures.items()):
        colour = next((COLOURS[word] for word in label.split() if word in COLOURS), LINES[0])
        error = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
        axis.errorbar(value["mean"], y, xerr=error, fmt="o", color=colour, markersize=6, capsize=3)
    axis.set_yticks(range(len(figures)), map(display_name, figures))
    axis.set_ylim(len(figures) - 0.5, -0.5)
    if mark is not None:
        axis.axvline(mark, color=GREY, linewidth=1, linestyle="--")
    style(axis)


def display_name(label):
    """'ppo_ptx minus gpt' -> 'PPO-ptx minus GPT'."""
    return re.sub(r"\w+", lambda word: shown.NAMES.get(word[0], word[0]), label)


def curve(axis, xs, figures, label=None, colour=LINES[0]):
    """Figures at xs, joined, in the band of their intervals."""
    axis.plot(xs, [f["mean"] for f in figures], marker="o", markersize=4, color=colour, label=label)
    low, high = ([f[end] for f in figures] for end in ("low", "high"))
    axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    style(axis)


def steps(axis, labels, figures, label=None, colour=LINES[0]):
    """A curve of one figure for each label, at equal distances."""
    curve(axis, range(len(labels)), figures, label, colour)
    axis.set_xticks(range(len(labels)), labels)


def style(axis):
    """Colours of text, ticks and frame that can be read on light and dark backgrounds."""
    axis.grid(alpha=0.25)
    axis.tick_params(colors=GREY, labelsize=8)
    for part in (axis.title, axis.xaxis.label, axis.yaxis.label):
        part.set_color(GREY)
        part.set_size(9)
    for side in axis.spines.values():
        side.set_color(GREY)


def legend(axis):
    axis.legend(frameon=False, fontsize=8, labelcolor=GREY)
