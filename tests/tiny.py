"""Models, a tokenizer and data small enough that a test takes milliseconds."""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.support.checkpoint import save_model
from minirlhf.support.config import parse
from minirlhf.support.tokenizer import Tokenizer, train_bpe

TEXTS = [
    "the cat sat on the mat and the dog sat on the log",
    "what is two plus three? two plus three is five.",
    "name a thing that is red. the red kite is on the hill.",
]
DEMONSTRATIONS = [
    {"prompt": "name a dog\n", "response": "the dog is red."},
    {"prompt": "what is two plus three?\n", "response": "five."},
    {"prompt": "where is the cat?\n", "response": "on the mat"},
    {"prompt": "where is the kite?\n", "response": "the kite is on the hill."},
]
DOCUMENTS = [{"text": text} for text in TEXTS]
PROMPTS = [{"prompt": record["prompt"]} for record in DEMONSTRATIONS]
RANKINGS = [
    {"prompt": "name a dog\n", "responses": ["the dog.", "a cat", "dog", ""], "ranks": [1, 3, 2, 4]},
    {
        "prompt": "what is two plus three?\n",
        "responses": ["five.", "two", "red", "three"],
        "ranks": [1, 2, 3, 2],
    },
    {"prompt": "where is the cat?\n", "responses": ["on the mat", "on the log"], "ranks": [1, 2]},
    {"prompt": "where is the kite?\n", "responses": ["the hill", "no", "the mat"], "ranks": [1, 2, 2]},
]


def make_tokenizer(texts=TEXTS, vocab_size=290):
    return Tokenizer(train_bpe(texts, vocab_size))


def make(kind, n_vocab, seed=0, spread=0.25, **shape):
    """A GPT or RewardModel in evaluation mode, moved off its initial values, so that no parameter is idle."""
    torch.manual_seed(seed)
    model = kind(GPTConfig(n_vocab, **dict(n_ctx=64, n_layer=2, n_head=2, n_embd=16) | shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model.eval()


def write_lines(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@dataclass
class World:
    """Files and checkpoints that the scripts can start from, as paths."""

    folder: Path
    demonstrations: str
    documents: str
    prompts: str
    rankings: str
    gpt: str
    rm: str


def make_world(folder, tokenizer):
    (folder / "gpt").mkdir()
    (folder / "rm").mkdir()
    save_model(folder / "gpt" / "model.pt", make(GPT, tokenizer.n_vocab, seed=1), tokenizer)
    save_model(folder / "rm" / "model.pt", make(RewardModel, tokenizer.n_vocab, seed=2), tokenizer)
    return World(
        folder,
        write_lines(folder / "demonstrations.jsonl", DEMONSTRATIONS),
        write_lines(folder / "documents.jsonl", DOCUMENTS),
        write_lines(folder / "prompts.jsonl", PROMPTS),
        write_lines(folder / "rankings.jsonl", RANKINGS),
        str(folder / "gpt"),
        str(folder / "rm"),
    )


def make_sft_run(folder, tokenizer):
    """What train_sft.py leaves after one epoch."""
    for name in ("epoch-1.pt", "model.pt"):
        save_model(folder / name, make(GPT, tokenizer.n_vocab), tokenizer)


class Intruder:
    """A pickle that makes a file when it is loaded as code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- scripts ---------------------------------------------------------------------------------------------------------

POSITIONAL = {"chat": ["models"], "tools.bench": ["work", "shape"], "tools.bench_data": ["what"],
              "tools.exercises": ["name"],
              "tools.curves": ["runs"], "tools.run_page": ["page"], "lab.findings.__main__": ["names"]}  # fmt: skip


def run(script, words):
    """Runs a script on a command line, as `command` does, but for what that does about errors."""
    return script.main(parse(script.Config, [str(word) for word in words], *POSITIONAL.get(script.__name__, ())))


def to_flags(settings):
    """A dict of settings as command-line words: {"lr": 1e-3, "data": ("a", "b"), "resume": True} and so on. None is
    left out."""
    words = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (tuple, list)):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def copy_of_the_project(folder):
    """A copy of what is installed: building a wheel leaves files beside its source."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "minirlhf"):
        source = Path(__file__).parents[1] / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


# --- processes -------------------------------------------------------------------------------------------------------


def beats(path):
    """A program that lets a file grow for as long as it runs."""
    return f"import time\nwhile True: open({str(path)!r}, 'a').write('x'); time.sleep(0.01)"


def kill_when_it_beats(process, path):
    """Kills the process that started such programs, once one of them runs."""
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()


def stopped_beating(path):
    time.sleep(1.5)
    size = path.stat().st_size
    time.sleep(0.5)
    return path.stat().st_size == size


def same_weights(a, b):
    """Whether the weights of two modules are equal bit by bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def snapshot(folder):
    """{path: bytes} of all files in a folder."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Table(torch.nn.Module):
    """A reward model whose score depends on the last token alone."""

    def __init__(self, rewards):
        super().__init__()
        self.rewards = torch.nn.Parameter(torch.tensor(rewards), requires_grad=False)

    def forward(self, tokens, at):
        return self.rewards[tokens.gather(1, at)]
