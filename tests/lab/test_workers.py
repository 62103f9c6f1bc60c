"""Functions at once: in order, with one line where one is killed, and gone when the run is."""

import ast
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
from lab.workers import at_once, in_ranks
from minirlhf.support import distributed
from minirlhf.support.errors import InputError
from minirlhf.support.muon import Muon

ROOT = Path(__file__).parents[2]


def test_calls_at_once_come_back_in_order():
    assert at_once((pow, 2, 3), (pow, 3, 2), (max, 2, 5)) == [8, 9, 5]


def test_what_is_called_at_once_stands_in_a_module_that_another_process_can_import():
    """A package's __main__ is not imported there, so that a function of it is not found."""
    for path in ROOT.glob("*/**/__main__.py"):
        tree = ast.parse(path.read_text())
        own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "at_once"
        ]
        tuples = [node for call in calls for node in ast.walk(call) if isinstance(node, ast.Tuple)]
        assert not own & {getattr(node.elts[0], "id", "") for node in tuples}, path


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


def share(path):
    distributed.start("cpu")
    total = distributed.all_reduce(1 + distributed.rank())
    (path / f"{distributed.rank()}").write_text(f"{total} {torch.get_num_threads()}")
    distributed.finish()


def one_refuses(path):
    distributed.start("cpu")
    if distributed.rank() == 1:
        raise InputError(f"{path}: no")
    distributed.barrier()


def one_is_killed(path):
    distributed.start("cpu")
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def test_ranks_are_connected_and_share_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    in_ranks(share, tmp_path, 2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[3.0] 3", "[3.0] 3"]


def steps_of_muon(path):
    """Three steps on five square matrices, three at once in one parameter, and one that is wider."""
    distributed.start("cpu")
    random = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((6, 6), (6, 6), (6, 8), (18, 6))]
    optimizer = Muon(weights[:3], weights[3:])
    for _ in range(3):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
    torch.save([p.detach() for p in weights], path / f"{distributed.rank()}.pt")
    distributed.finish()


@pytest.mark.parametrize("n", [2, 3])
def test_muons_matrices_are_dealt_out_to_ranks_and_take_the_steps_of_one_process(tmp_path, n):
    (tmp_path / "alone").mkdir()
    steps_of_muon(tmp_path / "alone")
    in_ranks(steps_of_muon, tmp_path, n)
    alone = torch.load(tmp_path / "alone" / "0.pt")
    for rank in range(n):
        for a, b in zip(alone, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("function", "says"), [(one_refuses, "/folder: no"), (one_is_killed, "a process was killed")])
def test_a_rank_that_fails_ends_the_others(function, says):
    with pytest.raises(InputError, match=says):
        in_ranks(function, "/folder", 2)


def test_processes_end_with_the_run_that_started_them(tmp_path):
    """However it ended: a restarted run must have its folder to itself."""
    beat = tiny.beats(tmp_path / "beat")
    code = f"from lab.workers import at_once; at_once((exec, {beat!r}), (exec, {beat!r}))"
    run = subprocess.Popen([*PYTHON, "-c", code], cwd=ROOT)
    tiny.kill_when_it_beats(run, tmp_path / "beat")
    assert tiny.stopped_beating(tmp_path / "beat")


@pytest.mark.parametrize("work", ["at_once(*[(exec, code)] * 4)", "in_ranks(exec, code, 2)"])
def test_ctrl_c_ends_the_work_without_a_traceback(work, tmp_path):
    """When two processes are at work."""
    code = f"import os, time; open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w'); time.sleep(60)"
    lines = ["import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"]  # a shell's & ignores it
    lines += [f"from lab.workers import at_once, in_ranks; code = {code!r}", f"try: {work}"]
    lines.append("except KeyboardInterrupt: print('stopped', flush=True)")
    run = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    while len(list(tmp_path.iterdir())) < min(2, workers.cores()):
        assert run.poll() is None
        time.sleep(0.1)
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
