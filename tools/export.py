"""Writes a language model as a folder that Hugging Face's transformers can load.

python -m tools.export --checkpoint runs/ppo_ptx --out exported
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from minirlhf.model import GPT
from minirlhf.support import huggingface
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command
from minirlhf.support.errors import require
from minirlhf.support.files import HALF, disk_errors


@dataclass(frozen=True)
class Config:
    checkpoint: str  # of a language model: a run's folder, or one of its .pt files
    out: str  # folder to write

    def __post_init__(self):
        out = Path(self.out)
        require(not out.is_file(), f"--out {out}: a file is in the way; choose another --out")
        require(not out.exists() or not any(out.iterdir()), f"--out {out} is not empty; choose another --out")


def main(config):
    tokenizer = load_tokenizer(config.checkpoint)
    model = load_model(config.checkpoint, GPT, tokenizer)
    out = Path(config.out)
    with disk_errors(f"--out {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=HALF) as scratch:
            half = Path(scratch) / "folder"  # with the usual permissions
            huggingface.write(half, model, tokenizer)
            half.replace(out)  # atomic; replaces an empty folder
    print(f"{config.out}: {sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.n_vocab:,} tokens")


if __name__ == "__main__":
    command(main, Config)
