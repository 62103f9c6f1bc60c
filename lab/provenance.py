"""What a result must say of itself to be believed: the code, the claims, the machine and the command that made it."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from .workers import cores

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "lab" / "findings" / "claims.md"


def made_by(claims=CLAIMS):
    """{"commit", "changed" (files that differ from it), "claims" (the hash of that file), "machine", "command"}."""
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed": _git("diff", "--name-only", "HEAD").split(),
        "claims": hash_of_claims(claims),
        "machine": f"{_processor()}, {cores()} cores, torch {torch.__version__}, {_accelerator()}",
        "command": " ".join(["python", *sys.orig_argv[1:]]),
    }


def hash_of_claims(path=CLAIMS):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "none"


def _git(*words):
    """What git says of this project; nothing where it is no repository."""
    try:
        command = ("git", "-C", str(ROOT), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor():
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _accelerator():
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
