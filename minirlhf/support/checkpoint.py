"""Checkpoints: models on disk (model.pt, epoch-1.pt, ...), each with its tokenizer beside it."""

import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from . import huggingface
from . import tokenizer as tokenizers
from .distributed import rank
from .errors import InputError, NotPermitted, require, reraise
from .files import write_atomically


def save_model(path, model, tokenizer):
    """Writes weights, architecture, kind and tokenizer hash to `path`, and the tokenizer beside it."""
    if rank() != 0:
        return
    ranks = Path(path).parent / "tokenizer.tiktoken"
    if not ranks.is_file() or ranks.read_bytes() != tokenizers.ranks_file(tokenizer.ranks):
        tokenizer.save(Path(path).parent)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    fault = "not saved, its weights are not finite; lower the learning rate and use another --out"
    require(all(map(finite, state.values())), f"{path}: {fault}")
    checkpoint = {"kind": model.kind, "config": sizes_of(model.config), "tokenizer": tokenizer.hash, "model": state}
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def checkpoint_path(source):
    """The path of model.pt for a run's folder, or `source` itself for a file or Hugging Face's folder."""
    return Path(source) / "model.pt" if Path(source).is_dir() and not huggingface.holds(source) else Path(source)


def read_checkpoint(source, tokenizer=None):
    """The dict that save_model wrote, or the same from Hugging Face's folder. tokenizer: the one it must belong to."""
    path = checkpoint_path(source)
    if not huggingface.holds(source) and not path.is_file():
        raise no_checkpoint(source)
    checkpoint = huggingface.read(source) if huggingface.holds(source) else read_pt(path)
    if not isinstance(checkpoint, dict) or not {"kind", "config", "tokenizer", "model"} <= checkpoint.keys():
        raise InputError(f"{path}: not a checkpoint of these scripts; train one with train_sft.py or train_rm.py")
    if tokenizer is not None and checkpoint["tokenizer"] != tokenizer.hash:
        advice = "put its own tokenizer.tiktoken beside it, or take models that share one"
        raise InputError(f"{path}: its tokenizer is not the one in use here; {advice}")
    return checkpoint


def no_checkpoint(source):
    """The InputError for a path at which there is no model."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if (folder / "pytorch_model.bin").is_file():
        advice = "save it by transformers with safe_serialization=True, or download its model.safetensors"
        return InputError(f"{folder}/pytorch_model.bin: may hold code, and is not opened; {advice}")
    if Path(source).is_dir() and any(folder.glob("state-*.pt")):
        return InputError(f"{source}: this run has not ended; let it go on with --resume first")
    return InputError(f"{checkpoint_path(source)}: no checkpoint there; give a run's folder or one of its .pt files")


def read_pt(path, check=None):
    """What torch.save wrote to a file, read as data and never as code. Its tensors are mapped into memory, and read
    when they are used. check: whether to verify it first; unless given, rank 0 does."""
    with reraise(f"{path}: truncated, or not a checkpoint; train it again or take another"):
        if rank() == 0 if check is None else check:
            verify(path)
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)


def checksums(path, check=True):
    """The checksums of a file's parts, or None if the file is damaged or no such file. NotPermitted if it can't be
    read. check: whether to verify them."""
    return if_valid(lambda: verify(path) if check else recorded(path))


def if_valid(read):
    """read(), or None if that raises anything but NotPermitted: a file that is damaged."""
    try:
        with reraise("not valid"):
            return read()
    except NotPermitted:
        raise
    except InputError:
        return None


def verify(path):
    """The checksums of the parts of a file that torch.save wrote. Raises if one is wrong; torch.load ignores them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(damaged)
    return recorded(path)


def recorded(path):
    """The checksums that a file states of its parts, without reading these."""
    with zipfile.ZipFile(path) as archive:
        return [(part.filename, part.CRC) for part in archive.infolist()]


def load_model(source, model_class, tokenizer=None, dropout=0.0, new_head=False):
    """The model of a checkpoint. model_class: GPT or RewardModel. With new_head, a RewardModel may be loaded from a
    GPT's checkpoint, with a newly initialised head. InputError if the checkpoint's kind or weights do not fit."""
    checkpoint, path = read_checkpoint(source, tokenizer), checkpoint_path(source)
    sizes, weights, kind = checkpoint["config"], checkpoint["model"], checkpoint["kind"]
    without_head = kind == "gpt" and new_head and model_class.kind == "reward model"
    if kind != model_class.kind and not without_head:
        raise InputError(f"{path}: is a {kind}'s checkpoint, a {model_class.kind}'s is needed")
    misfit = f"no model of the sizes {sizes} has such weights; train it again or take another"
    valid = isinstance(sizes, dict) and sizes.keys() == sizes_of(model_class.Config(1)).keys()
    valid = valid and all(type(size) is int and 0 < size < 2**31 for size in sizes.values())
    valid = valid and sizes["n_embd"] % sizes["n_head"] == 0 and isinstance(weights, dict)
    require(valid, f"{path}: {misfit}")
    config = model_class.Config(**sizes, dropout=dropout)
    with torch.device("meta"):  # at most as many layers as there are weights: a broken file may claim a billion
        expected = model_class(replace(config, n_layer=min(config.n_layer, len(weights)))).state_dict()
    if without_head:
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith("head.")}
    for name in sorted(weights.keys() | expected.keys(), key=str):
        tensor, like = weights.get(name), expected.get(name)
        state = "unexpected" if like is None else "missing" if tensor is None else "misshapen"
        fits = isinstance(tensor, torch.Tensor) and like is not None and tensor.shape == like.shape
        require(fits, f"{path}: {state} tensor {name}: {misfit}")
        require(finite(tensor), f"{path}: values that are not finite in tensor {name}: {misfit}")
    model = model_class(config)
    model.load_state_dict(weights, strict=not without_head)
    return model


def sizes_of(config):
    """The part of a model's config that a checkpoint holds, as a dict: all but the dropout."""
    return {name: value for name, value in asdict(config).items() if name != "dropout"}


def finite(weights):
    """Whether a tensor's values are finite, and below a million: then those of a forward are finite, too."""
    return weights.layout == torch.strided and bool((weights.abs() < 1e6).all())


def load_tokenizer(source):
    """The tokenizer beside a checkpoint (a .pt file, a run's folder, or Hugging Face's)."""
    if huggingface.holds(source):
        return huggingface.read_tokenizer(source)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if not Path(source).exists() or not (folder / "tokenizer.tiktoken").exists():
        beside = f"{folder}/tokenizer.tiktoken: missing; copy it from where the model was trained"
        require(not checkpoint_path(source).is_file(), beside)
        raise no_checkpoint(source)
    return tokenizers.load(folder)
