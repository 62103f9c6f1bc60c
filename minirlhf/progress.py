"""Progress of long work: a bar on a terminal, plain lines elsewhere; and the pictures a run leaves."""

import sys
import time
from pathlib import Path

from .distributed import rank
from .files import read_metrics


def progress(items, label, start=0):
    """Yields (i, items[i]) from i = start on, showing how far, how fast and how long still."""
    left = range(start, len(items))
    if rank() != 0:
        yield from ((i, items[i]) for i in left)
        return
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm and sys.stderr.isatty():
        for i in tqdm(left, desc=label, leave=False, initial=start, total=len(items)):
            yield i, items[i]
        return
    began, shown = time.perf_counter(), 0
    for i in left:
        yield i, items[i]
        seconds, done = time.perf_counter() - began, i + 1
        if seconds - shown > 10 or done == len(items):
            shown, rate = seconds, (done - start) / seconds
            still = f"{(len(items) - done) / rate:.0f} s left" if done < len(items) else f"took {seconds:.0f} s"
            print(f"{label}: {done}/{len(items)}, {rate:.1f}/s, {still}", flush=True)


def draw_curves(out, names, title):
    """Draws the columns `names` of a run's metrics.jsonl to curves.png, one panel each. Needs matplotlib (an extra)."""
    if rank() != 0:
        return
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print(f'no {Path(out) / "curves.png"}: pip install "minirlhf[plots]" for pictures', flush=True)
        return
    rows = read_metrics(out)
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.8), squeeze=False, layout="constrained")
    for axis, (name, label) in zip(axes[0], names.items()):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axis.plot(*zip(*points) if points else ([], []), marker="o" if len(points) < 20 else None, markersize=3)
        axis.set(xlabel="step", title=label)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(Path(out) / "curves.png", dpi=110)
    plt.close(figure)
