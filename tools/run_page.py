"""Runs the Python blocks of a page, one after the other, and compares their output with the page.

python -m tools.run_page docs/walkthrough.md            reports the first difference
python -m tools.run_page docs/walkthrough.md --write    writes the output into the page
"""

import io
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support.config import command
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import write_atomically

BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks(page):
    """Runs all blocks in one namespace. Yields (the block's match, the page's output, the block's output)."""
    names = {"__name__": "walkthrough"}
    for match in BLOCK.finditer(page):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(match[1], f"<block at {match.start()}>", "exec"), names)
        yield match, match[2] or "", printed.getvalue()


def alike(one, other, tolerance=0.02):
    """Whether two texts are equal but for rounding of numbers: other processors sum in another order."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (one, other)]
    close = all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(*numbers))
    words = [NUMBER.sub("#", text).split() for text in (one, other)]
    return words[0] == words[1] and close


def written(page):
    """The page with its blocks' output."""
    parts, end = [], 0
    for match, _, printed in blocks(page):
        shown = f"\n```text\n{printed}```\n" if printed else ""
        parts += [page[end : match.start()], f"```python\n{match[1]}```\n{shown}"]
        end = match.end()
    return "".join(parts) + page[end:]


@dataclass(frozen=True)
class Config:
    page: str  # a Markdown file
    write: bool = False  # write the blocks' output into the page

    def __post_init__(self):
        require(Path(self.page).is_file(), f"{self.page}: no such file")


def main(config):
    page = Path(config.page).read_text(encoding="utf-8")
    if config.write:
        write_atomically(config.page, written(page).encode())
    else:
        for match, shown, printed in blocks(page):
            if not alike(shown, printed):
                raise InputError(f"{config.page}: after {match[1].splitlines()[0]!r} it prints\n{printed}")
        print(f"{config.page}: all {len(BLOCK.findall(page))} blocks print what the page shows")


if __name__ == "__main__":
    command(main, Config, "page")
