"""Functions at once: in order, with one line where one is killed, and gone when the run is."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments import workers
from experiments.workers import at_once
from minirlhf.config import InputError

ROOT = Path(__file__).parents[1]


def test_calls_at_once_come_back_in_order():
    assert at_once((pow, 2, 3), (pow, 3, 2), (max, 2, 5)) == [8, 9, 5]


@pytest.mark.parametrize(("mine", "allowed", "calls", "each"), [(8, 8, 2, 4), (1, 8, 2, 1), (2, 2, 6, 1), (6, 2, 6, 3)])
def test_threads_are_shared_out_and_no_more_than_this_process_has(monkeypatch, mine, allowed, calls, each):
    """`mine`: what OMP_NUM_THREADS, or torch by itself, gave this process; `allowed`: the cores it may use."""
    given = SimpleNamespace(map=lambda work, positions, threads, calls: [next(threads) for _ in calls])
    monkeypatch.setattr(torch, "get_num_threads", lambda: mine)
    monkeypatch.setattr(workers, "cores", lambda: allowed)
    monkeypatch.setattr(workers, "_workers", lambda: given)
    assert at_once(*[(pow, 2, 3)] * calls) == [each] * calls


def test_a_killed_process_ends_the_run_with_a_line():
    with pytest.raises(InputError, match="a process was killed"):
        at_once((os._exit, 1), (os._exit, 1))


def test_processes_end_with_the_run_that_started_them(tmp_path):
    """However it ended: a restarted run must have its folder to itself."""
    beat = f"import time\nwhile True: open({str(tmp_path / 'beat')!r}, 'a').write('x'); time.sleep(0.01)"
    code = f"from experiments.workers import at_once; at_once((exec, {beat!r}), (exec, {beat!r}))"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (tmp_path / "beat").exists():
        time.sleep(0.1)
    run.kill()
    run.wait()
    time.sleep(1)
    size = (tmp_path / "beat").stat().st_size
    time.sleep(1)
    assert (tmp_path / "beat").stat().st_size == size
