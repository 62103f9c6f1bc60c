"""A thousand random mutations of valid inputs (fuzz.py). Run it by hand for longer, with other seeds."""

import subprocess
from pathlib import Path

from forked import PYTHON

FUZZ = Path(__file__).parents[1] / "fuzz.py"


def test_wrong_inputs_end_in_a_line_and_change_nothing():
    words = [*PYTHON, str(FUZZ), "--attempts", "500"]
    halves = [subprocess.Popen([*words, "--seed", seed], stdout=subprocess.PIPE, text=True) for seed in "01"]
    broken = [half.communicate()[0] for half in halves]
    assert not any(broken), "".join(broken)
    assert not any(half.returncode for half in halves)
