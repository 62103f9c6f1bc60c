"""A run that was killed, however often and wherever, ends bit by bit as the run that was left alone."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from ranks import launch
from test_distributed import CLOCK, RANKS, torchrun

from forked import PYTHON, kill
from minirlhf.support.curves import read_metrics
from tiny import to_flags

SCRIPTS = ("train_sft", "train_rm", "train_ppo")
HARMED = str(Path(__file__).parent / "harmed.py")


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


def start(script, flags, die_in_write=0, room=0, stderr=None):
    """Starts harmed.py, whose docstring says what the last two numbers do."""
    return subprocess.Popen([*PYTHON, HARMED, script, str(die_in_write), str(room), *flags], stderr=stderr, text=True)


def finish(*args):
    assert start(*args).wait(60) == 0


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
    while lines(folder) < line and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    assert kill(process), "it was over before it was killed"


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
    assert start(script, flags, 3).wait(60) == -signal.SIGKILL
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
    process = start(script, flags, 0, room, subprocess.PIPE)
    (line,) = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 2
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
            result = torchrun(3, RANKS, str(folder / "jobs.json"), "die", options=("--max-restarts", "2"))
            assert result.returncode == 0, result.stderr
        for rank in range(3):
            (folder / "train_ppo" / f"seen-{rank}.pt").unlink()
    assert "going on after step" in result.stdout
    assert_same(tmp_path / "restarted" / "train_ppo", tmp_path / "left_alone" / "train_ppo")
