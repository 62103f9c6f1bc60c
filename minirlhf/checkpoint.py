"""Checkpoints: models that later stages start from, and states that a stopped run goes on from.

model.pt, epoch-1.pt, ...   weights, architecture, kind and tokenizer hash of one model
state-00000050.pt           all that training holds after 50 steps: networks, optimizers. The newest two are kept

Nothing else has to be kept for a run to go on bit by bit: what is random at a step (order, noise, dropout) is drawn
from the seed and the step's number. (On a GPU attention's backward adds in no fixed order, resumed or not.)
"""

import pickle
import zipfile
from pathlib import Path

import torch

from . import huggingface
from . import tokenizer as tokenizers
from .config import InputError, require
from .distributed import barrier, rank, say, world
from .files import claim, write_atomically
from .model import GPT, GPTConfig, RewardModel, config_dict

KINDS = {"gpt": GPT, "reward model": RewardModel}


# --- models ----------------------------------------------------------------------------------------------------------


def save_model(path, model, tokenizer):
    """Writes weights, architecture, kind and tokenizer hash to `path`, and the tokenizer beside it."""
    if rank() != 0:
        return
    if not (Path(path).parent / "tokenizer.tiktoken").exists():
        tokenizer.save(Path(path).parent)
    kind = next(name for name, cls in KINDS.items() if isinstance(model, cls))
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    checkpoint = {"kind": kind, "config": config_dict(model.config), "tokenizer": tokenizer.hash, "model": state}
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def checkpoint_path(source):
    """A run's folder stands for the model.pt in it."""
    return Path(source) / "model.pt" if Path(source).is_dir() else Path(source)


def read_checkpoint(source, tokenizer=None):
    """The dict that save_model wrote, or Hugging Face's folder as one; read as data and never as code. `tokenizer`: the
    one its ids must come from."""
    path = checkpoint_path(source)
    if huggingface.holds(source):
        checkpoint = huggingface.read(source)
    else:
        require(path.exists(), f"{path}: no checkpoint there; give a run's folder or one of its .pt files")
        checkpoint = _read(path)
    whole = isinstance(checkpoint, dict) and {"kind", "config", "tokenizer", "model"} <= checkpoint.keys()
    require(whole, f"{path}: not a checkpoint of these scripts; train one with train_sft.py or train_rm.py")
    same = tokenizer is None or checkpoint["tokenizer"] == tokenizer.hash
    require(same, f"{path}: its tokenizer is not the one in use here; models that work together must share one")
    return checkpoint


def _read(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError):
        raise InputError(f"{path}: truncated, or not a checkpoint; train it again or take another") from None


def load_model(source, kind, tokenizer=None, dropout=0.0, new_head=False):
    """The GPT or RewardModel (`kind`: the class) of a checkpoint.

    With new_head a GPT's checkpoint gives a RewardModel its trunk: how a reward model starts.
    """
    checkpoint = read_checkpoint(source, tokenizer)
    model = kind(GPTConfig(**checkpoint["config"], dropout=dropout))
    if new_head and checkpoint["kind"] == "gpt":
        model.load_state_dict(checkpoint["model"], strict=False)
    else:
        wanted = next(name for name, cls in KINDS.items() if cls is kind)
        right = checkpoint["kind"] == wanted
        require(right, f"{checkpoint_path(source)}: is a {checkpoint['kind']}'s checkpoint, a {wanted}'s is needed")
        model.load_state_dict(checkpoint["model"])
    return model


def load_tokenizer(source):
    """The tokenizer that lies beside a checkpoint (a .pt file, a run's folder, or Hugging Face's)."""
    require(Path(source).exists(), f"{source}: no checkpoint there; give a run's folder or one of its .pt files")
    if huggingface.holds(source):
        return huggingface.read_tokenizer(source)
    return tokenizers.load(source if Path(source).is_dir() else Path(source).parent)


# --- runs ------------------------------------------------------------------------------------------------------------


def start_run(config):
    """Claims the folder config.out. False where that very run is finished already.

    An unfinished one goes on from its newest state with --resume (load_state); one that left no state starts anew.
    """
    out = Path(config.out)
    if rank() == 0:
        claim(config, ignore=("resume",))
    barrier()
    if (out / "model.pt").exists():
        say(f"{out} is finished already; nothing to do")
        return False
    if not getattr(config, "resume", False):
        advice = "add --resume to go on from there, or choose another --out"
        require(not _states(out), f"--out {out}: this very run was stopped after a checkpoint; {advice}")
        if rank() == 0:
            (out / "metrics.jsonl").unlink(missing_ok=True)
    return True


def save_state(out, step, parts):
    """Writes what training holds after `step` steps, {name: a module or optimizer}, and returns the file."""
    path = Path(out) / f"state-{step:08d}.pt"
    if rank() == 0:
        state = {"step": step, "world": world()} | {name: part.state_dict() for name, part in parts.items()}
        write_atomically(path, lambda file: torch.save(state, file))
        for old in _states(out)[:-2]:
            old.unlink()
    return path


def load_state(out, parts, metrics):
    """Puts modules and optimizers {name: part} and the metrics back to the newest state that is whole, and returns how
    many steps lie behind it: 0, and all is as it was, where there is none."""
    step = 0
    for path in reversed(_states(out)):
        if not _intact(path):
            say(f"{path}: truncated or corrupt; trying the one before it")
            continue
        state = _read(path)
        step, ranks = state["step"], state["world"]
        same = ranks == world()
        require(same, f"{path}: made by {ranks} processes, and there are {world()} now; go on with {ranks}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        say(f"{out}: going on after step {step}")
        break
    metrics.rewind(step)
    return step


def drop_states(out):
    """Removes the states of a run that is finished."""
    if rank() == 0:
        for path in _states(out):
            path.unlink()


def _states(out):
    return sorted(Path(out).glob("state-*.pt"))


def _intact(path):
    """torch.save writes zip files, with a checksum of each member that torch.load does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
