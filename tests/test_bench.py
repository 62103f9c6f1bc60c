"""The benchmark runs, and its shares are shares."""

import importlib.util
from pathlib import Path

import pytest


def test_an_iteration_of_ppo_is_timed():
    path = Path(__file__).parent.parent / "bench" / "bench.py"
    spec = importlib.util.spec_from_file_location("bench", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    figures = bench.time_ppo((50, 16, 1, 1, 8, 4, 3, 4, 2), iterations=1)
    assert figures["seconds_per_iteration"] > 0
    assert figures["episodes_per_second"] == pytest.approx(4 / figures["seconds_per_iteration"])
    assert sum(figures["shares"].values()) == pytest.approx(1, abs=0.01)
