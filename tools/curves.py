"""Draws what several runs logged beside each other: a panel for each column of metrics.jsonl, a line for each run.

python -m tools.curves runs/toy/ppo runs/mine/beta0 --columns score kl entropy clip_fraction --out compared.png
"""

from lab.report import block_means
from minirlhf.support.config import Parser, command, file_name
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import write_atomically
from minirlhf.support.run import read_metrics


def main(argv):
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=file_name, help="folders of runs; NAME=FOLDER gives one another name")
    parser.add_argument("--columns", nargs="+", required=True, help="of metrics.jsonl")
    parser.add_argument("--out", type=file_name, required=True, help="the picture, .png")
    args = parser.parse_args(argv)
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError:
        raise InputError('pictures need matplotlib; pip install "minirlhf[plots]"') from None
    figure = Figure(figsize=(3 * len(args.columns), 2.8), layout="constrained")
    axes = figure.subplots(1, len(args.columns), squeeze=False)[0]
    for given in args.runs:
        name, _, folder = given.rpartition("=")
        rows = read_metrics(folder)
        for axis, column in zip(axes, args.columns):
            points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
            require(points, f"{folder}: no {column} in its metrics.jsonl")
            if len(points) > 200:  # steps of one batch each: too noisy to compare
                points = zip(*block_means(*zip(*points)))
            axis.plot(*zip(*points), ".-", label=name or folder, linewidth=1.2, markersize=3)
            axis.set(title=column.replace("_", " "), xlabel="step")
            axis.grid(alpha=0.3)
    for axis in axes:
        drawn = [y for line in axis.get_lines() for y in line.get_ydata()]
        if min(drawn) > 0 and max(drawn) > 20 * min(drawn):
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(args.runs))
    write_atomically(args.out, lambda file: figure.savefig(file, format="png", dpi=110))


if __name__ == "__main__":
    command(main)
