"""Runs the Python blocks of a page, one after the other, and compares what they print with what the page shows.

python -m tools.run_page docs/walkthrough.md                          says where they differ
python -m tools.run_page docs/walkthrough.md --write                  puts what they print on the page
python -m tools.run_page docs/walkthrough.md --notebook walk.ipynb    the same page as a notebook, to try things in
"""

import io
import json
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support.config import command
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_atomically

BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks(page):
    """Yields (the block's match, what the page shows, what it prints), of all blocks in one namespace."""
    names = {"__name__": "walkthrough"}
    for match in BLOCK.finditer(page):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(match[1], f"<block at {match.start()}>", "exec"), names)
        yield match, match[2] or "", printed.getvalue()


def alike(one, other, tolerance=0.02):
    """Whether two texts are the same but for rounding: another processor adds up in another order."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (one, other)]
    close = all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(*numbers))
    words = [NUMBER.sub("#", text).split() for text in (one, other)]
    return words[0] == words[1] and close


def written(page):
    """The page with what its blocks print."""
    parts, end = [], 0
    for match, _, printed in blocks(page):
        shown = f"\n```text\n{printed}```\n" if printed else ""
        parts += [page[end : match.start()], f"```python\n{match[1]}```\n{shown}"]
        end = match.end()
    return "".join(parts) + page[end:]


def notebook(page):
    """A Jupyter notebook, as a dict: text and blocks are cells of it."""
    cells, end = [], 0

    def add(kind, text):
        if text.strip():
            code = {"outputs": [], "execution_count": None} if kind == "code" else {}
            lines = text.strip().splitlines(keepends=True)
            cells.append({"cell_type": kind, "metadata": {}, "source": lines, "id": f"cell-{len(cells)}"} | code)

    for match in BLOCK.finditer(page):
        add("markdown", page[end : match.start()])
        add("code", match[1])
        end = match.end()
    add("markdown", page[end:])
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@dataclass(frozen=True)
class Config:
    page: str  # a Markdown file
    write: bool = False  # put what the blocks print on the page
    notebook: str | None = None  # write the page as this .ipynb file instead

    def __post_init__(self):
        if not Path(self.page).is_file():
            raise InputError(f"{self.page}: no such file")


def main(config):
    page = Path(config.page).read_text(encoding="utf-8")
    if config.notebook:
        write_atomically(config.notebook, (json.dumps(notebook(page), indent=1) + "\n").encode())
    elif config.write:
        write_atomically(config.page, written(page).encode())
    else:
        for match, shown, printed in blocks(page):
            if not alike(shown, printed):
                raise InputError(f"{config.page}: after {match[1].splitlines()[0]!r} it prints\n{printed}")
        print(f"{config.page}: all {len(BLOCK.findall(page))} blocks print what the page shows")


if __name__ == "__main__":
    command(main, Config, "page")
