"""The device of a model, and the precision in which its forward is computed."""

import os
import sys
from contextlib import nullcontext

import torch

from .errors import require


def pick_device(name):
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    require(name in ("cpu", "cuda", "mps"), f"--device {name}: choose cpu, cuda, mps or auto")
    require(name != "cuda" or torch.cuda.is_available(), "--device cuda: torch sees no CUDA device here; use cpu")
    require(name != "mps" or torch.backends.mps.is_available(), "--device mps: torch sees no MPS device here; use cpu")
    return name


def place(model, config):
    """Moves a model to config.device, to compute in config.dtype, compiled and recomputing as config says; returns it.
    bfloat16 is autocast: matrix products are computed in it; weights, sums, losses and optimizers stay in float32."""
    require(config.dtype in ("auto", "float32", "bfloat16"), f"--dtype {config.dtype}: choose auto, float32, bfloat16")
    device = pick_device(config.device)
    model.to(device)
    if config.dtype == "bfloat16" or (config.dtype == "auto" and device == "cuda"):
        centre_embeddings(model.transformer)
        model.autocast = device, torch.bfloat16
    model.transformer.recompute = getattr(config, "recompute", False)
    if getattr(config, "compile", False):
        model.compile(dynamic=True)
    return model


def cores():
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory():
    """The most bytes that this process has held so far: of the GPU, or else of the machine."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if peak := memory_of("self"):
        return peak
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def precision(model):
    """Context manager: computes matrix products in the precision that place() chose for a model."""
    autocast = getattr(model, "autocast", None)
    return torch.autocast(*autocast) if autocast else nullcontext()


def memory_of(process):
    """The most bytes that a process, by its number, has held; 0 if it is none, or where the system does not say (only
    Linux does). What getrusage says also counts the process that has started it."""
    try:
        with open(f"/proc/{process}/status") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


@torch.no_grad()
def centre_embeddings(transformer):
    """Subtracts the mean token embedding from the tokens' embeddings and adds it to the positions'. The sums do not
    change. All logits of a position change by the same number, so probabilities do not change, and the logits' mean
    becomes 0. GPT-2's logits are about -30 to -100, where bfloat16's precision is 0.25 or worse."""
    mean = transformer.wte.weight.mean(0)
    transformer.wte.weight -= mean
    transformer.wpe.weight += mean


def at_least_fp32(x):
    """x in float32 if it is bfloat16, whose 8 bits are too few for a sum over a vocabulary."""
    return x.float() if x.dtype == torch.bfloat16 else x
