"""What a run leaves on disk: its config, metrics and checkpoints. Whole or not at all, and never somebody else's.

config.json  the flags     metrics.jsonl  a line per logged step     *.pt  checkpoints     curves.png  the metrics
"""

import json
import os
import pickle
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from .config import InputError, require
from .model import GPT, GPTConfig, RewardModel, config_dict

KINDS = {"gpt": GPT, "reward model": RewardModel}


def write_atomically(path, content):
    """Writes bytes to a temporary file beside `path` and renames it: a reader finds the old file or the whole new."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); what was there is untouched") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_json(path, value):
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path, records):
    """JSON lines, one record each."""
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        raise InputError(f"{path}: missing or not JSON; remove its folder and run again") from None


def claim(config, ignore=()):
    """Makes the folder config.out that of the run which the dataclass `config` describes, and keeps it so.

    Refuses a folder that holds another run, or files that are no run's. Fields in `ignore` may differ.
    """
    out = Path(config.out)
    settings = {k: v for k, v in json.loads(json.dumps(asdict(config))).items() if k not in ignore}
    require(not any(parent.is_file() for parent in (out, *out.parents)), f"--out {out}: a file is in the way")
    if (out / "config.json").exists():
        other = read_json(out / "config.json")
        differing = sorted(k for k in settings.keys() | other.keys() if settings.get(k) != other.get(k))
        flags = ", ".join(f"--{k} was {other.get(k)}, now {settings.get(k)}" for k in differing)
        require(not differing, f"--out {out} holds another run ({flags}); choose another --out")
    elif out.exists():
        require(not any(out.iterdir()), f"--out {out} is not empty and no run's; choose another --out")
    write_json(out / "config.json", settings)


def start_run(config):
    """Claims config.out. False where that very run is finished already; an unfinished one starts from its beginning."""
    claim(config)
    if (Path(config.out) / "model.pt").exists():
        print(f"{config.out} is finished already; nothing to do", flush=True)
        return False
    (Path(config.out) / "metrics.jsonl").unlink(missing_ok=True)
    return True


def save_model(path, model, tokenizer):
    """Writes weights, architecture, kind and tokenizer hash to `path`, and the tokenizer beside it."""
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
    """The dict that save_model wrote, read as data and never as code. `tokenizer`: the one its ids must come from."""
    path = checkpoint_path(source)
    require(path.exists(), f"{path}: no checkpoint there; give a run's folder or one of its .pt files")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError):
        raise InputError(f"{path}: truncated, or not a checkpoint; train it again or take another") from None
    whole = isinstance(checkpoint, dict) and {"kind", "config", "tokenizer", "model"} <= checkpoint.keys()
    require(whole, f"{path}: not a checkpoint of these scripts; train one with train_sft.py or train_rm.py")
    same = tokenizer is None or checkpoint["tokenizer"] == tokenizer.hash
    require(same, f"{path}: its tokenizer is not the one in use here; models that work together must share one")
    return checkpoint


def load_model(source, kind, tokenizer=None, dropout=0.0):
    """The GPT or RewardModel (`kind`: the class) of a checkpoint.

    A GPT's checkpoint given for a RewardModel gives its trunk with a fresh head: how a reward model starts.
    """
    checkpoint = read_checkpoint(source, tokenizer)
    model = kind(GPTConfig(**checkpoint["config"], dropout=dropout))
    if kind is RewardModel and checkpoint["kind"] == "gpt":
        model.load_state_dict(checkpoint["model"], strict=False)
    else:
        wanted = next(name for name, cls in KINDS.items() if cls is kind)
        right = checkpoint["kind"] == wanted
        require(right, f"{checkpoint_path(source)}: is a {checkpoint['kind']}'s checkpoint, a {wanted}'s is needed")
        model.load_state_dict(checkpoint["model"])
    return model


class Metrics:
    """metrics.jsonl: a line per logged step. A number that is not finite stops the run, with the step named."""

    def __init__(self, out, good="none was saved yet"):
        self.path, self.good = Path(out) / "metrics.jsonl", good

    def check(self, step, **losses):
        for name, value in losses.items():
            if value != value or abs(value) == float("inf"):
                advice = "lower the learning rate and use another --out"
                raise InputError(f"step {step}: {name} is {value}; last good checkpoint: {self.good}; {advice}")

    def write(self, **row):
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(out):
    """The rows of a run's metrics.jsonl, as dicts."""
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
