"""Draws what a run logged."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .distributed import print0, rank
from .files import write_atomically
from .logs import column, read_metrics

MANY = 200  # a line with more points is drawn pale, with means of its parts over it


@contextmanager
def optional_picture(path):
    """Context manager: prints an exception instead of raising it, so that a picture cannot end a run."""
    try:
        yield
    except Exception as error:
        advice = '; pip install "minirlhf[plots]"' if isinstance(error, ImportError) else ""
        print0(f"no {path}: {error}{advice}")


def draw_panels(panels, across=None, colours=None):
    """A matplotlib Figure with a panel for each title of {title: {label: [(step, value), ...]}}, `across` in a row. An
    axis whose values differ widely is logarithmic. One legend is for all panels, where they have the same labels.
    colours: {label: colour}, where it should not be the default."""
    from matplotlib.figure import Figure

    across = across or len(panels)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.4 * across, 2.7 * down), layout="constrained")
    labels = [list(lines) for lines in panels.values()]
    shared = len(labels) > 1 and len(labels[0]) > 1 and all(own == labels[0] for own in labels)
    for axis, (title, lines) in zip(figure.subplots(down, across, squeeze=False).flat, panels.items()):
        for label, points in lines.items():
            draw_line(axis, points, label, (colours or {}).get(label))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(lines) > 1 and not shared:
            axis.legend(frameon=False, fontsize=8)
        values = [y for points in lines.values() for _, y in points]
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axis.set_yscale("log")
    if shared:
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_line(axis, points, label, colour=None):
    if len(points) > MANY:
        (pale,) = axis.plot(*zip(*points), color=colour, linewidth=0.6, alpha=0.35)
        colour = pale.get_color()
        points = [tuple(np.mean(part, 0)) for part in np.array_split(np.array(points), 30)]
    style = dict(linewidth=1.2, marker="o" if len(points) < 20 else None, markersize=3)
    axis.plot(*zip(*points), label=label, color=colour, **style)


def save_figure(figure, path, **how):
    """Writes a matplotlib Figure as PNG."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110, **how))


def draw_curves(out, titles):
    """Draws columns of a run's metrics, {column: title}, to curves.png: a panel for each that has values."""
    if rank() != 0:
        return
    with optional_picture(Path(out) / "curves.png"):
        rows = read_metrics(out)
        panels = {title: {name: column(rows, name)} for name, title in titles.items() if column(rows, name)}
        if panels:
            figure = draw_panels(panels)
            figure.suptitle(str(out), parse_math=False)
            save_figure(figure, Path(out) / "curves.png")
