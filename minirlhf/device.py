"""Where tensors live."""

import torch

from .config import require


def pick_device(name):
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    require(name in ("cpu", "cuda", "mps"), f"--device {name}: choose cpu, cuda, mps or auto")
    require(name != "cuda" or torch.cuda.is_available(), "--device cuda: torch sees no CUDA device here; use cpu")
    require(name != "mps" or torch.backends.mps.is_available(), "--device mps: torch sees no MPS device here; use cpu")
    return name
