"""What every training loop needs: the flags that all scripts share, and a run's folder.

config.json         the flags, and hashes of the files they name; .lock names the process that uses the folder
metrics.jsonl       a line per step                        curves.png   the same, drawn
samples.jsonl       of PPO: a few episodes of each iteration (of others, empty)
tokens.jsonl        of PPO: the numbers of each of their tokens
state-00000050.pt   all that training holds after 50 steps: networks and optimizers. The newest two are kept

A resumed run is bit-identical: all that is random at a step (order, noise, dropout) is drawn from the seed and the
step's number, so no other state is needed. (On a GPU, attention's backward is nondeterministic, resumed or not. Another
number of processes may go on with a state; it sums in another order.)"""

import copy
import json
import math
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from . import clock, diagnosis
from .checkpoint import checksums, finite, if_valid, read_pt, save_model
from .config import Text, check_fields, refuse_unused, require_positive
from .curves import draw_curves
from .device import peak_memory
from .distributed import all_reduce, barrier, from_rank_0, of_all_ranks, print0, rank, world_size
from .errors import InputError, require, reraise
from .files import disk_errors, write_atomically, write_lines
from .folder import describe, lock_output
from .logs import LOGS, read_log, read_metrics
from .optim import drop_copies
from .progress import progress

# Flags that change where and how fast a run computes, and not what it learns: a run that goes on may change them.
PLACE = ("resume", "device", "compile", "graph", "recompute", "max_tokens", "rollout_batch_size", "save_every",
         "save_minutes", "shard", "timeout")  # fmt: skip
TOGETHER = ("save_every", "shard")  # of these, those that decide what processes do together
MINUTE = 60  # seconds of work that a state after the last step is worth
STOPPED = 128 + signal.SIGTERM  # the exit status of a run that SIGTERM has ended


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every training script's Config has these flags, too."""

    out: str  # folder for checkpoints, metrics.jsonl, curves.png
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm (ours)
    max_tokens: int = 16384  # tokens in one forward of a process, except in sampling; larger batches are split
    save_every: int = 500  # steps between the states that are saved for --resume
    save_minutes: float | None = None  # minutes between states, too
    resume: bool = False  # continue from the newest state in --out, if there is one
    seed: int = 0  # of all random draws
    device: Text = "auto"  # cpu, cuda, mps, or auto: the fastest there is
    dtype: Text = "auto"  # of matrix products: float32, bfloat16, or auto: bfloat16 on CUDA
    compile: bool = False  # by torch.compile: starts slower, runs faster on a GPU
    recompute: bool = False  # recompute activations in backward: less memory, a third slower
    timeout: float = 30.0  # minutes that a process waits for the others, such as while a state is written
    shard: bool = False  # share out Adam's moments to the processes: less memory, the same steps

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "max_grad_norm", "max_tokens", "save_every", "save_minutes", "timeout")
        if not getattr(self, "documents", True):
            refuse_unused(self, "document_share", "--documents")
        if not getattr(self, "validation", True):
            refuse_unused(self, "validate_every", "--validation")


def start_run(config):
    """Locks the folder config.out. Returns False if the run is finished. One without a state starts anew. InputError on
    all ranks if their flags differ, or the files that these name."""
    if world_size() > 1:
        first, *others = of_all_ranks(describe(config, {*PLACE} - {*TOGETHER}))
        for number, other in enumerate(others, 1):
            for name in first[0]:
                same = first[0][name] == other[0][name] and first[1].get(name) == other[1].get(name)
                fault = f"process {number} has another --{name}, or another file of that name"
                require(same, f"{fault}; start all processes with the same command and files")
    return from_rank_0(lambda: prepare_folder(config))


def prepare_folder(config):
    out, resume = Path(config.out), getattr(config, "resume", False)
    lock_output(config, ignore=PLACE)
    if os.path.lexists(out / "model.pt"):
        require((out / "model.pt").is_file(), f"{out}/model.pt: no file, and in the way of one; remove it")
        if checksums(out / "model.pt"):
            drop_states(out)  # the process may have been killed between saving the model and this
            print(f"{out} is finished already; nothing to do", flush=True)
            return False
        print(f"{out}/model.pt: truncated or corrupt; it is trained again", flush=True)
        resume = True
    if not resume:
        advice = "add --resume to go on from there, or choose another --out"
        require(not state_paths(out), f"--out {out}: this run was stopped and has saved states; {advice}")
    if not state_paths(out):
        for name in LOGS:
            path = out / name
            free = path.is_file() or not os.path.lexists(path)
            require(free, f"{path}: no file to which rows can be added; remove it")
            path.unlink(missing_ok=True)
    return True


class Run:
    """A run in its folder: progress, metrics and states. parts: the modules and optimizers that a state holds; this
    call restores them from the newest state, if any. last_good: named in errors until a checkpoint is saved. curves:
    columns of the metrics that are drawn, {column: title}; progress says the newest of the first two."""

    def __init__(self, config, *parts, last_good="none was saved yet", **curves):
        self.config, self.out, self.parts, self.last_good = config, Path(config.out), parts, last_good
        self.curves, self.newest, self.example, self.planned = curves, {}, "", None
        self.save_seconds = 60 * (config.save_minutes or math.inf)
        self.saved = time.perf_counter()
        self.next_picture, self.ready = self.saved + 30, []
        self.step = self.first = self._load_state()  # steps that are done
        for path in (self.out / name for name in LOGS):  # removes the rows of steps that are about to be repeated
            if rank() == 0 and path.exists():
                require(path.is_file(), f"{path}: not a file that rows can be written to; remove it")
                write_lines(path, [row for row in read_metrics(self.out, path.name) if row["step"] < self.first])

    def steps(self, plan):
        """Yields (step, plan[step]) for all that are left. Saves a state after every `save_every` steps, after every
        `save_minutes`, after the last step if that was more than a minute ago, and at SIGTERM, which ends the run."""
        self.planned = len(plan)
        with terminated() as asked:
            for step, item in progress(plan, str(self.out), self.first, self._note):
                self.step, self.began = step, time.perf_counter()
                clock.begin()
                yield step, item
                now, ready = time.perf_counter(), clock.before_waiting()
                own = [ready * (process == rank()) for process in range(world_size())]
                limit = self.save_seconds if step + 1 < len(plan) else min(MINUTE, self.save_seconds)
                stop, late, *ready = all_reduce(bool(asked), now > self.saved + limit, *own)
                self.ready = ready
                if (step + 1) % self.config.save_every == 0 or stop or late:
                    self._save_state(step + 1)
                if stop:
                    barrier()  # no process ends while the first one still writes
                    print0(f"{self.out}: ended by SIGTERM after step {step + 1}; go on with --resume")
                    raise SystemExit(STOPPED)
                if now > self.next_picture and step + 1 < len(plan):
                    self._draw()

    def _note(self):
        """The newest metrics in a few words, and an example."""
        values = [(name, self.newest[name]) for name in list(self.curves)[:2] if self.newest.get(name) is not None]
        return ", ".join(f"{name} {value:.2f}" for name, value in values), self.example

    def _draw(self):
        """Draws the curves, and sets when to draw them again: in half a minute, or so that it costs at most a hundredth
        of the time."""
        with suppress(ImportError):
            import matplotlib.figure  # noqa: F401  takes a second, once
        began = time.perf_counter()
        draw_curves(self.out, self.curves)
        now = time.perf_counter()
        self.next_picture = now + max(30, 100 * (now - began))

    def warn_if_short(self, decay, steps):
        """Prints a warning if the run is too short for a running average to move away from the initial weights."""
        if (start := decay**steps) > 0.5:
            print0(f"{self.out}: short run: model.pt will be {start:.0%} initial weights; lower --ema_decay")

    def rate(self, count):
        """`count` divided by the seconds since this step began."""
        return count / (time.perf_counter() - self.began)

    def log(self, *samples, tokens=(), **row):
        """Appends `row` to metrics.jsonl, with what each step has (_figures), samples (dicts) to samples.jsonl, tokens
        (dicts), if any, to tokens.jsonl. InputError if a figure is not finite."""
        row |= self._figures()
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise self._not_finite(name, value)
        self.newest |= row
        for sample in samples[:1]:
            both = (json.dumps(sample[name].strip(), ensure_ascii=False) for name in ("prompt", "response"))
            self.example = " -> ".join(both)
        if rank() == 0:
            for name, rows in zip(LOGS, (samples, tokens, [row])):
                if name == "tokens.jsonl" and not tokens:
                    continue
                path, advice = self.out / name, "then go on from the newest state with --resume"
                with disk_errors(path, advice), open(path, "a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"step": self.step} | r, ensure_ascii=False) + "\n" for r in rows)

    def _figures(self):
        """Learning rates, the norms of the newest gradients before they were clipped, seconds by phase, the most memory
        that this process has held, and how many steps the run will have. The second optimizer's begin as its flag does:
        value_lr, value_grad_norm. Of several processes also which was the last to be ready in the step before, and the
        seconds that the first one waited for it."""
        found, flags = {}, [name for name in vars(self.config) if name == "lr" or name.endswith("_lr")]
        for name, optimizer in zip(flags, self.optimizers()):
            found[name] = optimizer.param_groups[0]["lr"]
        optimizers = [part for part in self.parts if hasattr(part, "grad_norm")]  # Muon's is Adam's, too
        for name, optimizer in zip(flags, optimizers):
            found[f"{name.removesuffix('lr')}grad_norm"] = float(optimizer.grad_norm)
        if len(self.ready) > 1:
            slowest = max(range(len(self.ready)), key=self.ready.__getitem__)
            found |= {"slowest_rank": slowest, "others_wait": self.ready[slowest] - min(self.ready)}
        planned = {"steps": self.planned} if self.planned else {}
        return found | clock.seconds() | {"memory_gb": peak_memory() / 1e9} | planned

    def save(self, name, model, tokenizer):
        """Writes a checkpoint into the run's folder."""
        save_model(self.out / name, model, tokenizer)
        self.last_good = self.out / name

    def finish(self):
        """After the last checkpoint: removes the states, draws the curves, and says whether the log looks healthy."""
        whole = rank() > 0 or checksums(self.out / "model.pt")
        require(whole, f"{self.out}/model.pt: cannot be read back; the states are kept, go on with --resume")
        drop_states(self.out)
        draw_curves(self.out, self.curves)
        with suppress(Exception):  # it is said of a log that somebody may have changed, and ends no run
            if rank() == 0:
                if said := diagnosis.line(read_log(self.out)):
                    print(f"{self.out}: {said} (python -m tools.doctor {self.out})", flush=True)

    def _not_finite(self, name, value):
        advice = "lower the learning rate and use another --out"
        if self.step == 0:
            advice += "; so early the initial weights, the data or --dtype may be at fault, too"
        good = f"last good checkpoint: {self.last_good}"
        return InputError(f"step {self.step}: {name} is {value}; {good}; {advice}")

    def _save_state(self, step):
        networks = [part for part in self.parts if isinstance(part, torch.nn.Module)]
        if not all(finite(p.detach()) for network in networks for p in network.parameters()):
            raise self._not_finite("weights", math.nan)
        self.last_good = self.out / f"state-{step:08d}.pt"
        for optimizer in self.optimizers():
            if world_size() > 1 and hasattr(optimizer, "consolidate_state_dict"):  # which is shared out to ranks
                optimizer.consolidate_state_dict(0)
        if rank() == 0:
            state = {"step": step, "world": world_size(), "parts": [part.state_dict() for part in self.parts]}
            write_atomically(self.last_good, lambda file: torch.save(state, file))
            require(checksums(self.last_good), f"{self.last_good}: cannot be read back; the older state is kept")
            for old in [path for path in state_paths(self.out) if path < self.last_good][:-1]:
                old.unlink()
        drop_copies(*self.optimizers())
        self.saved = time.perf_counter()

    def optimizers(self):
        """All optimizers among the parts, also those that are used as one."""
        found = [own for part in self.parts for own in getattr(part, "optimizers", [part])]
        return [own for own in found if not isinstance(own, torch.nn.Module)]

    def _load_state(self):
        """Restores the parts from the newest valid state; returns how many steps it was saved after, 0 without one. All
        ranks read the state that rank 0 has chosen and verified."""
        name, content = from_rank_0(lambda: newest_state(self.out))
        if not name:
            return 0
        path = self.out / name
        same = of_all_ranks(path.is_file() and checksums(path, check=False) == content)
        others = f"process {same.index(False)} does not find it, or another" if not all(same) else ""
        require(all(same), f"{path}: {others}; all processes need the same folder")
        with reraise(f"{path}: not a state of this run; remove it to go on from the one before"):
            step, n = (read_state(path)[key] for key in ("step", "world"))
            for i, part in enumerate(self.parts):
                part.load_state_dict(read_part(path, i, len(self.parts)))
            for optimizer in self.optimizers():
                kept = getattr(optimizer, "optim", optimizer).state.values()
                if len({frozenset(own) for own in kept}) > 1:
                    raise ValueError("Adam and Muon keep the same of each parameter")
            drop_copies(*self.optimizers())
        if n != (own := world_size()):
            print0(f"{path}: made by {n} processes, and there are {own} now: sums are rounded otherwise")
        print0(f"{self.out}: going on after step {step}")
        return step


@contextmanager
def terminated():
    """Context manager: gives a list that is empty until SIGTERM comes, which then does not end the process."""
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def state_paths(out):
    return sorted(path for path in Path(out).glob("state-*.pt") if path.is_file())


def drop_states(out):
    if rank() == 0:
        for path in state_paths(out):
            path.unlink()


def newest_state(out):
    """(name, checksums) of the newest valid state, or (None, None)."""
    for path in reversed(state_paths(out)):
        if (content := checksums(path)) and read_state(path):
            return path.name, content
        print(f"{path}: truncated or corrupt; trying the one before it", flush=True)
    return None, None


def read_state(path):
    """The dict that _save_state wrote, or None if it is none. The file is not verified."""

    def read():
        state = read_pt(path, check=False)
        complete = state.keys() == {"step", "world", "parts"} and path.name == f"state-{state['step']:08d}.pt"
        return state if complete else None

    return if_valid(read)


def read_part(path, i, count):
    """The part i, of `count`, of a state. Nothing else of the state is read or stays in memory."""
    parts = read_state(path)["parts"]
    if len(parts) != count:
        raise ValueError("another number of networks and optimizers")
    return copy.deepcopy(parts[i])
