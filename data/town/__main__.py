"""Writes the town's files: JSON lines, one record each.

python -m data.town --out runs/my-town --seed 1
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from minirlhf.support.config import command
from minirlhf.support.files import write_lines
from minirlhf.support.folder import lock_output

from .files import files


@dataclass(frozen=True)
class Config:
    out: str  # folder to write into
    seed: int = 0  # of everything random
    web: int = 25_000  # documents to pretrain on
    web_held_out: int = 1_000  # documents that are in no web of any seed
    demonstration: int = 1_500  # demonstrations on training prompts
    demonstration_validation: int = 200  # demonstrations on validation prompts
    prompt_train: int = 6_000  # prompts for training
    prompt_validation: int = 500  # prompts for validation
    prompt_test: int = 2_000  # prompts for testing
    dialogue: int = 0  # conversations of two turns, and as many open ones to train and to test


def main(config):
    lock_output(config)
    numbers = asdict(config)
    out = Path(numbers.pop("out"))
    for name, records in files(**numbers).items():
        write_lines(out / f"{name}.jsonl", records)
        print(f"{len(records):7d}  {out / name}.jsonl", flush=True)


if __name__ == "__main__":
    command(main, Config)
