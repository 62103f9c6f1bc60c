"""Runs training scripts in float64, alone or under torchrun, and notes what each process did.

    torchrun --nproc_per_node 2 tests/ranks.py jobs.json [fault]         jobs.json: [[script, flags], ...]

Beside what the script leaves in --out comes seen-<rank>.pt: the gradients of each step, as that rank's optimizers got
them, and the weights that it ended with.
"""

import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import tiny  # noqa: E402
import train_sft  # noqa: E402
from forked import PYTHON  # noqa: E402
from minirlhf import losses  # noqa: E402
from minirlhf.support import distributed, run  # noqa: E402
from minirlhf.support.config import command  # noqa: E402
from minirlhf.support.errors import InputError  # noqa: E402

Adam = torch.optim.Adam
RANKS = __file__
LOSSES = {}  # the scripts' own


class Watched(Adam):
    made = []

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.gradients = []
        self.made.append(self)

    def parameters(self):
        return [p for group in self.param_groups for p in group["params"]]

    def step(self):
        self.gradients.append([p.grad.clone() for p in self.parameters()])
        return super().step()


def nan(step):
    """The loss of rank 1 alone is no number at step 3."""
    return float("nan") if step == 3 and distributed.rank() == 1 else 1.0


def die(step):
    """Rank 1 is killed at step 9, but not again where torchrun starts it again."""
    if step == 9 and distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def term(step):
    """Rank 1, or the only one, is told to end in its third step."""
    if step == 2 and distributed.rank() == distributed.world_size() - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


def harm(script, fault):
    name = {"train_rm": "ranking_loss", "train_ppo": "policy_loss"}.get(script.__name__, "sft_loss")
    script = {"train_ppo": losses, "pretrain": train_sft}.get(script.__name__, script)
    steps, loss = itertools.count(), LOSSES.setdefault(name, getattr(script, name))
    setattr(script, name, lambda *args, **kwargs: loss(*args, **kwargs) * fault(next(steps)))


@dataclass(frozen=True)
class Config:
    jobs: str  # jobs.json
    fault: str | None = None  # nan, die or term


def main(config):
    path, fault = config.jobs, config.fault
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.optim.Adam = Watched
    finish, distributed.finish = distributed.finish, lambda: None  # the group serves all jobs
    run.draw_curves = lambda *args: None
    for name, flags in json.loads(Path(path).read_text()):
        script, flags = (
            importlib.import_module(name),
            [word.replace("{rank}", os.environ.get("RANK", "0")) for word in flags],
        )
        if fault:
            harm(script, {"nan": nan, "die": die, "term": term}[fault])
        Watched.made.clear()
        try:
            tiny.run(script, flags)
        except InputError:
            (Path(path).parent / f"stopped-{distributed.rank()}").touch()
            raise
        except SystemExit as ended:
            assert ended.code == run.STOPPED
        seen = [(o.gradients, [p.detach() for p in o.parameters()]) for o in Watched.made]
        torch.save(seen, Path(flags[flags.index("--out") + 1]) / f"seen-{distributed.rank()}.pt")
    finish()


def torchrun(n, *words, python=PYTHON, options=()):
    command = [*python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n), *options]
    return subprocess.run([*command, "--no-python", *python, *words], capture_output=True, text=True, timeout=60)


def launch(n, jobs, *fault):
    """Runs jobs in n processes that meet as those of torchrun do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n))
    ranks = [shared | dict(RANK=str(i), LOCAL_RANK=str(i)) if n > 1 else {} for i in range(n)]
    words = [*PYTHON, __file__, str(jobs), *fault]
    processes = [subprocess.Popen(words, env=os.environ | rank) for rank in ranks]
    assert [process.wait(120) for process in processes] == [0] * n


if __name__ == "__main__":
    command(main, Config, "jobs", "fault")
