"""Runs of training scripts that are killed, or for which the disk is full; and what must be left in the end.

    python tests/harmed.py train_sft DIE ROOM [flags of train_sft.py]

DIE: SIGKILL ends it in its n-th write of a state, written whole and not yet renamed. ROOM: its second state is the last
file for which there is room; from then on files can have so many bytes. 0 for neither.
"""

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from forked import PYTHON, kill  # noqa: E402
from minirlhf.support import run  # noqa: E402
from minirlhf.support.config import command  # noqa: E402
from minirlhf.support.curves import read_metrics  # noqa: E402
from tiny import to_flags  # noqa: E402

SCRIPTS = ("train_sft", "train_rm", "train_ppo")
CLOCK = ("tokens_per_second", "rankings_per_second", "episodes_per_second", "memory_gb", "seconds",
         "sampling_seconds", "learning_seconds", "slowest_rank", "others_wait")  # fmt: skip


def jobs(world, folder, steps=1, **other):
    """Runs of dozens of steps with a state after every third, by script, unless `other` flags say otherwise."""
    common = dict(save_every=3, lr=1e-3, seed=2, max_tokens=80)
    sft = dict(init=world.gpt, data=[world.demonstrations], documents=[world.documents], batch_size=3)
    rm = dict(init=world.gpt, data=[world.rankings], demonstrations=[world.demonstrations], batch_size=2)
    ppo = dict(show=1, policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], documents=[world.documents])
    ppo |= dict(max_response=8, batch_size=6, minibatch_size=3, inner_epochs=2, documents_per_episode=1)
    sft, rm, ppo = sft | {"epochs": 8 * steps}, rm | {"epochs": 8 * steps}, ppo | {"episodes": 108 * steps}
    own = dict(train_sft=sft | dict(dropout=0.2), train_rm=rm, train_ppo=ppo)
    return {script: to_flags(own[script] | common | other | dict(out=str(folder / script))) for script in SCRIPTS}


def start(script, flags, die_in_write=0, room=0, stderr=None):
    """Starts this file as a program; the docstring above says what the last two numbers do."""
    return subprocess.Popen([*PYTHON, __file__, script, str(die_in_write), str(room), *flags], stderr=stderr, text=True)


def finish(*args):
    assert start(*args).wait(60) == 0


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
    for path in (*folder.glob("samples.jsonl"), *folder.glob("tokens.jsonl")):
        assert path.read_bytes() == (other / path.name).read_bytes()


def lines(folder):
    path = folder / "metrics.jsonl"
    with suppress(FileNotFoundError):  # a run that begins anew removes it
        return path.read_bytes().count(b"\n")
    return 0


def kill_at(script, flags, folder, line, delay=0.0):
    """Starts or goes on with a run, and kills it once it has written `line` lines of metrics."""
    process = start(script, [*flags, "--resume"])
    while lines(folder) < line and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    assert kill(process), "it was over before it was killed"


def main(script, die, room, *flags):
    script, die, room = importlib.import_module(script), int(die), int(room)
    replace, states = os.replace, 0

    def watched(source, target):
        nonlocal states
        states += "state-" in str(target)
        if states and states == die:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if states == 2 and room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    os.replace = watched
    run.draw_curves = lambda *args: None
    sys.argv[1:] = flags
    command(script.main, script.Config)


if __name__ == "__main__":
    main(*sys.argv[1:])
