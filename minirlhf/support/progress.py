"""Shows the progress of a loop: steps done, steps per second, time left, and what the loop has to say."""

import sys
import time
from contextlib import suppress

from .distributed import rank


def progress(items, label, start=0, note=lambda: ("", "")):
    """Yields (i, items[i]) from i = start on; rank 0 shows progress, as a bar on a terminal, else as lines. note() says
    how it goes, in a few words, and gives an example or "", which is shown every half a minute."""
    steps, print_lines, bar = range(start, len(items)), rank() == 0, None
    if print_lines and sys.stderr and sys.stderr.isatty():
        with suppress(ImportError):
            from tqdm import tqdm

            steps = bar = tqdm(steps, desc=label, leave=False, initial=start, total=len(items))
            print_lines = False
    began, shown, told = time.perf_counter(), 0, 0
    for i in steps:
        yield i, items[i]
        seconds, done = time.perf_counter() - began, i + 1
        if seconds - shown < 10 and done < len(items) or not (bar or print_lines):
            continue
        (words, example), shown = note(), seconds
        if print_lines:
            rate = (done - start) / seconds
            left_over = f"{(len(items) - done) / rate:.0f} s left" if done < len(items) else f"took {seconds:.0f} s"
            says = f", {words}" if words else ""
            print(f"{label}: {done}/{len(items)}, {rate:.1f}/s, {left_over}{says}", flush=True)
        else:
            bar.set_postfix_str(words)
        if example and seconds - told > 30:
            told = seconds
            print(f"    {example}", flush=True) if print_lines else bar.write(f"    {example}")
