"""Plots the metrics of several runs together: a panel for each column of metrics.jsonl, a line for each run.

python -m tools.curves runs/toy/ppo runs/mine/beta0 --columns score kl entropy clip_fraction --out compared.png
"""

from dataclasses import dataclass
from pathlib import Path

from minirlhf.support import curves, logs
from minirlhf.support.config import check_fields, command, require_ending
from minirlhf.support.errors import InputError, require


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...]  # folders of runs; NAME=FOLDER sets the name in the legend
    columns: tuple[str, ...]  # columns of metrics.jsonl
    out: str  # file to write, .png

    def __post_init__(self):
        check_fields(self)
        require_ending(self, "out", ".png")
        for given in self.runs:
            folder = label_and_folder(given)[1]
            require(Path(folder).is_dir(), f"{folder}: no such folder; give the folders of runs")


def label_and_folder(given):
    """NAME=FOLDER as (NAME, FOLDER); a folder's label is its path."""
    label, equals, folder = given.partition("=")
    return (label, folder) if equals and not Path(given).is_dir() else (given, given)


def main(config):
    panels = {name.replace("_", " "): {} for name in config.columns}
    for given in config.runs:
        label, folder = label_and_folder(given)
        rows = logs.read_metrics(folder)
        for name, lines in zip(config.columns, panels.values()):
            lines[label] = logs.column(rows, name)
            require(lines[label], f"{folder}: no {name} in its metrics.jsonl")
    try:
        figure = curves.draw_panels(panels)
    except ImportError:
        raise InputError('pictures need matplotlib; pip install "minirlhf[plots]"') from None
    curves.save_figure(figure, config.out)


if __name__ == "__main__":
    command(main, Config, "runs")
