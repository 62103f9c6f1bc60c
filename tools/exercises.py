"""Copies the project without the body of one function, for you to write again; its tests check your solution.

    python -m tools.exercises                 lists the exercises
    python -m tools.exercises gae             makes runs/exercises/gae, and prints which file to open and what to run

The solution is the function in the project itself.
"""

import ast
import shutil
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support.config import command
from minirlhf.support.errors import InputError

ROOT = Path(__file__).parents[1]
NAMES = (  # of functions to write again, the easier ones first
    "cosine_lr", "warmup_lr", "sft_loss", "ema_update", "ptx_loss", "whiten", "shaped_rewards", "sample_token",
    "ranked_above", "ranking_loss", "policy_loss", "value_loss", "gae", "set_bias",
    "rloo.advantages", "grpo.advantages", "dpo_loss", "grpo_loss",
)  # fmt: skip
METHODS = {"rloo.advantages": "rloo", "grpo.advantages": "grpo", "dpo_loss": "dpo", "grpo_loss": "grpo"}
ELSEWHERE = {"sample_token": "minirlhf/rollout.py", "set_bias": "train_rm.py"}
ELSEWHERE |= {name: f"lab/methods/{file}.py" for name, file in METHODS.items()}
EXERCISES = {name: ELSEWHERE.get(name, "minirlhf/losses.py") for name in NAMES}
YOURS = 'raise NotImplementedError("yours to write")'
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "__pycache__", "*.egg-info")


def tests(name):
    """The tests of an exercise: those of its file."""
    return "tests/lab/test_methods.py" if name in METHODS else f"tests/core/test_{Path(EXERCISES[name]).name}"


def function_of(name):
    """rloo.advantages -> advantages."""
    return name.rpartition(".")[2]


def with_body(source, name, body):
    """The source with another body for the function; signature and docstring stay. {} in the body is its arguments."""
    (function,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == function_of(name))
    first, last = function.body[1].lineno, function.end_lineno  # body[0] is the docstring
    lines = source.splitlines(keepends=True)
    arguments = ", ".join(argument.arg for argument in function.args.args)
    return "".join([*lines[: first - 1], f"    {body.format(arguments)}\n", *lines[last:]])


def make(name, folder):
    """Copies the project, without that function's body. The file's other exercises' solutions move to solved.py."""
    half = folder.with_name(f"{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)  # of a copy that was stopped
    shutil.copytree(ROOT, half, ignore=LEFT_OUT)
    file = half / EXERCISES[name]
    source = file.read_text(encoding="utf-8")
    others = [other for other in EXERCISES if EXERCISES[other] == EXERCISES[name] and other != name]
    if others:
        file.with_name("solved.py").write_text(source, encoding="utf-8")
    for other in others:
        source = with_body(source, other, f"from .solved import {function_of(other)} as solved; return solved({{}})")
    file.write_text(with_body(source, name, YOURS), encoding="utf-8")
    half.rename(folder)


@dataclass(frozen=True)
class Config:
    name: str | None = None  # of the function to write again; without it all exercises are listed

    def __post_init__(self):
        if self.name and self.name not in EXERCISES:
            raise InputError(f"{self.name}: not an exercise; choose one of {', '.join(EXERCISES)}")


def main(config):
    if (name := config.name) is None:
        print("\n".join(f"{name:<16}{file}" for name, file in EXERCISES.items()))
        return
    folder = ROOT / "runs" / "exercises" / name
    if folder.exists():
        print(f"{folder} exists already; continue in it, or remove it to start again")
    else:
        make(name, folder)
    file = folder / EXERCISES[name]
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    line = next(number for number, text in lines if text.startswith(f"def {function_of(name)}("))
    print(f"open  {file}, line {line}\nrun   (cd {folder} && python -m pytest -x {tests(name)})")
    print("the tests are red until your function is right, then green")


if __name__ == "__main__":
    command(main, Config, "name")
