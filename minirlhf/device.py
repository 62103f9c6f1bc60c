"""Where tensors live, and in what precision a forward is computed."""

from functools import partial

import torch

from .config import require

DTYPES = ("auto", "float32", "bfloat16")


def pick_device(name):
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    require(name in ("cpu", "cuda", "mps"), f"--device {name}: choose cpu, cuda, mps or auto")
    require(name != "cuda" or torch.cuda.is_available(), "--device cuda: torch sees no CUDA device here; use cpu")
    require(name != "mps" or torch.backends.mps.is_available(), "--device mps: torch sees no MPS device here; use cpu")
    return name


def place(model, config):
    """Moves a model to config.device, to compute in config.dtype, compiled and recomputing as config says; returns it.

    bfloat16 is autocast: weights, sums, losses and optimizers stay in float32, matrix products do not.
    """
    require(config.dtype in DTYPES, f"--dtype {config.dtype}: choose {', '.join(DTYPES)}")
    device = pick_device(config.device)
    model.to(device)
    if config.dtype == "bfloat16" or (config.dtype == "auto" and device == "cuda"):
        model.transformer.centre_embeddings()
        model.autocast = partial(torch.autocast, device, torch.bfloat16)
    model.transformer.recompute = getattr(config, "recompute", False)
    if getattr(config, "compile", False):
        model.compile(dynamic=True)
    return model
