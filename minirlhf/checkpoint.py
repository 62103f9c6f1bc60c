"""Checkpoints: models on disk (model.pt, epoch-1.pt, ...), each with its architecture, its kind and its tokenizer's
hash; the tokenizer lies beside them."""

import pickle
from pathlib import Path

import torch

from . import huggingface
from . import tokenizer as tokenizers
from .config import InputError, require
from .distributed import rank
from .files import write_atomically
from .model import GPT, GPTConfig, RewardModel, config_dict

KINDS = {"gpt": GPT, "reward model": RewardModel}


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
    """The dict that save_model wrote, or Hugging Face's folder as one. `tokenizer`: the one its ids must come from."""
    path = checkpoint_path(source)
    if huggingface.holds(source):
        checkpoint = huggingface.read(source)
    else:
        require(path.exists(), f"{path}: no checkpoint there; give a run's folder or one of its .pt files")
        checkpoint = read_pt(path)
    whole = isinstance(checkpoint, dict) and {"kind", "config", "tokenizer", "model"} <= checkpoint.keys()
    require(whole, f"{path}: not a checkpoint of these scripts; train one with train_sft.py or train_rm.py")
    same = tokenizer is None or checkpoint["tokenizer"] == tokenizer.hash
    require(same, f"{path}: its tokenizer is not the one in use here; models that work together must share one")
    return checkpoint


def read_pt(path):
    """What torch.save wrote to a file, read as data and never as code."""
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
