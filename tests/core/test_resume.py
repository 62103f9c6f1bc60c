"""A run that was killed, however often and wherever, ends bit by bit as the run that was left alone."""

import json
import os
import random
import resource
import signal
import sys
import time
from contextlib import redirect_stderr
from multiprocessing import get_context

import pytest
import torch
from ranks import launch
from test_distributed import CLOCK, RANKS, torchrun

from minirlhf.support import run
from minirlhf.support.config import command
from minirlhf.support.curves import read_metrics
from tiny import to_flags

SCRIPTS = ("train_sft", "train_rm", "train_ppo")
processes = get_context("forkserver")  # starts them in milliseconds, torch loaded
processes.set_forkserver_preload(
    [*SCRIPTS, "pretrain", "ranks", "test_resume", "torch._dynamo"]
)  # which optimizers load


def jobs(world, folder, steps=1, **other):
    """Runs of dozens of steps with a state after every third, by script, unless `other` flags say otherwise."""
    common = dict(save_every=3, lr=1e-3, seed=2, max_tokens=80)
    sft = dict(init=world.gpt, data=[world.demonstrations], documents=[world.documents], batch_size=3)
    rm = dict(init=world.gpt, data=[world.rankings], demonstrations=[world.demonstrations], batch_size=2)
    ppo = dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], documents=[world.documents])
    ppo |= dict(max_response=8, batch_size=6, minibatch_size=3, inner_epochs=2, documents_per_episode=1)
    sft, rm, ppo = sft | {"epochs": 8 * steps}, rm | {"epochs": 8 * steps}, ppo | {"episodes": 108 * steps}
    own = dict(train_sft=sft | dict(dropout=0.2), train_rm=rm, train_ppo=ppo)
    return {script: to_flags(own[script] | common | other | dict(out=str(folder / script))) for script in SCRIPTS}


def work(script, flags, die_in_write=0, room=None, stderr=None):
    """Runs a script; with die_in_write, is killed in the n-th write of a state, written whole and not yet renamed.
    With `room`, the second state is the last thing for which there is any: then files end at so many bytes."""
    torch.set_num_threads(1)
    script = __import__(script)
    run.draw_curves = lambda *args: None
    replace, writes = os.replace, []

    def watched(source, target):
        writes.extend(["state"] * ("state-" in str(target)))
        if writes and len(writes) == die_in_write:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(writes) == 2 and room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    os.replace = watched
    sys.argv[1:] = flags
    with redirect_stderr(open(stderr, "w", buffering=1) if stderr else sys.stderr):
        command(script.main, script.Config)


def start(*args):
    process = processes.Process(target=work, args=args)
    process.start()
    return process


def finish(*args):
    process = start(*args)
    process.join(60)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The folder of each script's run that was left alone."""
    folder = tmp_path_factory.mktemp("alone")
    for script, flags in jobs(world, folder).items():
        finish(script, flags)
    return folder


def metrics(folder):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder)]


def assert_same(folder, other):
    """Every checkpoint, bit by bit, the metrics but for the clock's, and nothing left lying about."""
    assert not list(folder.glob("state-*"))
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())
    for path in folder.glob("*.pt"):
        mine, theirs = torch.load(path)["model"], torch.load(other / path.name)["model"]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), path.name
    assert metrics(folder) == metrics(other)
    for path in folder.glob("samples.jsonl"):
        assert path.read_bytes() == (other / path.name).read_bytes()


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(script, flags, folder, line, delay=0.0):
    """Starts or goes on with a run, and kills it once it has written `line` lines of metrics."""
    process = start(script, [*flags, "--resume"])
    while lines(folder) < line and process.is_alive():
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it was killed"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(script, alone, world, tmp_path):
    flags = jobs(world, tmp_path)[script]
    kill_at(script, flags, tmp_path / script, 10)
    finish(script, [*flags, "--resume"])
    assert_same(tmp_path / script, alone / script)


def test_a_run_killed_ten_times_at_random_moments(world, tmp_path):
    rng, script = random.Random(os.environ.get("KILLS_SEED", 0)), os.environ.get("KILLS_SCRIPT", "train_ppo")
    for name in ("alone", "killed"):
        flags, folder = jobs(world, tmp_path / name, steps=4)[script], tmp_path / name / script
        for _ in range(10 if name == "killed" else 0):
            kill_at(script, flags, folder, lines(folder) // 3 * 3 + rng.randint(0, 4), rng.uniform(0, 0.02))
        finish(script, [*flags, "--resume"])
    assert_same(folder, tmp_path / "alone" / script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_killed_between_the_write_of_a_state_and_its_renaming(script, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    process = start(script, flags, 3)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(folder.glob(".state-00000009.pt.*")) and not (folder / "state-00000009.pt").exists()
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_whose_newest_state_is_truncated(script, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    kill_at(script, flags, folder, 13)
    newest = max(folder.glob("state-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("room", "named"), [(16_000, ".pt"), (600, ".jsonl")])
def test_a_full_disk_is_a_line_and_the_run_goes_on_where_there_is_room(script, room, named, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    process = start(script, flags, 0, room, tmp_path / "stderr")
    process.join(60)
    assert process.exitcode == 2
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith(f"error: {folder}/") and f"{named}: cannot be written (File too large); " in line
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)


def test_torchrun_starts_a_job_again_that_lost_a_rank(world, tmp_path):
    """Three ranks, so that the order in which gradients are summed matters."""
    for name in ("left_alone", "restarted"):
        folder = tmp_path / name
        folder.mkdir()
        flags = jobs(world, folder, episodes=36, save_every=1, resume=True)["train_ppo"]
        (folder / "jobs.json").write_text(json.dumps([("train_ppo", flags)]))
        if name == "left_alone":
            launch(3, folder / "jobs.json")
        else:
            result = torchrun(3, "--max-restarts", "2", RANKS, str(folder / "jobs.json"), "die")
            assert result.returncode == 0, result.stderr
        for rank in range(3):
            (folder / "train_ppo" / f"seen-{rank}.pt").unlink()
    assert "going on after step" in result.stdout
    assert_same(tmp_path / "restarted" / "train_ppo", tmp_path / "left_alone" / "train_ppo")
