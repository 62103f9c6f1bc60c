"""Shows the progress of a loop: steps done, steps per second, and time left."""

import sys
import time
from contextlib import suppress

from .distributed import rank


def progress(items, label, start=0):
    """Yields (i, items[i]) from i = start on; rank 0 shows progress, as a bar on a terminal, else as lines."""
    steps, print_lines = range(start, len(items)), rank() == 0
    if print_lines and sys.stderr and sys.stderr.isatty():
        with suppress(ImportError):
            from tqdm import tqdm

            steps = tqdm(steps, desc=label, leave=False, initial=start, total=len(items))
            print_lines = False
    began, shown = time.perf_counter(), 0
    for i in steps:
        yield i, items[i]
        seconds, done = time.perf_counter() - began, i + 1
        if print_lines and (seconds - shown > 10 or done == len(items)):
            shown, rate = seconds, (done - start) / seconds
            left_over = f"{(len(items) - done) / rate:.0f} s left" if done < len(items) else f"took {seconds:.0f} s"
            print(f"{label}: {done}/{len(items)}, {rate:.1f}/s, {left_over}", flush=True)
