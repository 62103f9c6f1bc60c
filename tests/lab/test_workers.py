"""Functions at once: in order, with one line where one is killed, and gone when the run is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from forked import PYTHON
from lab import workers
from lab.workers import at_once
from minirlhf.support.errors import InputError

ROOT = Path(__file__).parents[2]


def test_calls_at_once_come_back_in_order():
    assert at_once((pow, 2, 3), (pow, 3, 2), (max, 2, 5)) == [8, 9, 5]


@pytest.mark.parametrize(("mine", "allowed", "calls", "each"), [(8, 8, 2, 4), (1, 8, 2, 1), (2, 2, 6, 1), (6, 2, 6, 3)])
def test_threads_are_shared_out_and_no_more_than_this_process_has(monkeypatch, mine, allowed, calls, each):
    """`mine`: what OMP_NUM_THREADS, or torch by itself, gave this process; `allowed`: the cores it may use."""
    given = SimpleNamespace(submit=lambda work, i, threads, call: SimpleNamespace(result=lambda: threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: mine)
    monkeypatch.setattr(workers, "cores", lambda: allowed)
    monkeypatch.setattr(workers, "_workers", lambda: given)
    assert at_once(*[(pow, 2, 3)] * calls) == [each] * calls


def test_a_killed_process_ends_the_run_with_a_line():
    with pytest.raises(InputError, match="a process was killed"):
        at_once((os._exit, 1), (os._exit, 1))


def test_processes_end_with_the_run_that_started_them(tmp_path):
    """However it ended: a restarted run must have its folder to itself."""
    beat = tiny.beats(tmp_path / "beat")
    code = f"from lab.workers import at_once; at_once((exec, {beat!r}), (exec, {beat!r}))"
    run = subprocess.Popen([*PYTHON, "-c", code], cwd=ROOT)
    tiny.kill_when_it_beats(run, tmp_path / "beat")
    assert tiny.stopped_beating(tmp_path / "beat")


def test_ctrl_c_ends_the_work_without_a_traceback(tmp_path):
    code = "from lab.workers import at_once; import time\ntry: at_once(*[(time.sleep, 60)] * 4)\n"
    code += "except KeyboardInterrupt: print('stopped', flush=True)"
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        pytest.skip("no /proc that lists a process's children")
    while len(children.read_text().split()) < 3:
        time.sleep(0.1)
    time.sleep(4)
    os.killpg(run.pid, signal.SIGINT)
    printed, complained = run.communicate(timeout=60)
    assert (printed, complained) == ("stopped\n", "")


def test_processes_that_begin_ignore_ctrl_c():
    """They would have a traceback for it; the parent has a line, and ends them."""
    code = "from lab.workers import at_once; print(at_once((pow, 2, 3), (pow, 3, 2)))"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    children, heard = Path(f"/proc/{run.pid}/task/{run.pid}/children"), set()
    if not children.exists():
        pytest.skip("no /proc that lists a process's children")
    while len(heard) < 3 and run.poll() is None:  # two, and the one that counts multiprocessing's resources
        for process in set(children.read_text().split()) - heard:
            os.kill(int(process), signal.SIGINT)
            heard.add(process)
    assert run.communicate(timeout=60)[0] == "[8, 9]\n"
