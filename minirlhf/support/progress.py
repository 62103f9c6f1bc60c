"""Shows the progress of a loop: steps done, steps per second, and time left."""

import sys
import time

from .distributed import rank


def progress(items, label, start=0):
    """Yields (i, items[i]) from i = start on, and shows progress on rank 0: a bar on a terminal, plain lines
    elsewhere."""
    left = range(start, len(items))
    if rank() != 0:
        yield from ((i, items[i]) for i in left)
        return
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm and sys.stderr and sys.stderr.isatty():
        for i in tqdm(left, desc=label, leave=False, initial=start, total=len(items)):
            yield i, items[i]
        return
    began, shown = time.perf_counter(), 0
    for i in left:
        yield i, items[i]
        seconds, done = time.perf_counter() - began, i + 1
        if seconds - shown > 10 or done == len(items):
            shown, rate = seconds, (done - start) / seconds
            left_over = f"{(len(items) - done) / rate:.0f} s left" if done < len(items) else f"took {seconds:.0f} s"
            print(f"{label}: {done}/{len(items)}, {rate:.1f}/s, {left_over}", flush=True)
