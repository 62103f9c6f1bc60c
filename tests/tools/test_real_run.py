"""The commands of docs/real_run.md run as they stand there, but for sizes, in two processes of a CPU."""

import gzip
import json
import re
import shlex
from glob import glob
from pathlib import Path

import pytest

import ranks
import tiny
from data import town
from minirlhf.support.logs import read_metrics
from tools import encode, select_sft

PAGE = (Path(__file__).parents[2] / "docs" / "real_run.md").read_text()
SMALLER = {"--limit": {"1024": 64, "896": 56}, "--size": {"gpt2": "nano"}, "--batch_size": {"512": 8},
           "--max_response": {"128": 8}, "--validate_every": {"1000": 3}}  # fmt: skip
MORE = {"pretrain": ["--n_ctx", "64"], "train_ppo": ["--episodes", "16", "--batch_size", "8", "--minibatch_size", "4"]}


def commands(start):
    """The words of the page's commands that hold `start`, after it."""
    text = re.sub(r"\\\n\s*", "", "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)))
    return [shlex.split(line.partition(start)[2]) for line in text.splitlines() if start in line]


def small(words, tokenizer):
    """The words of a command with small sizes, this tokenizer, and files in place of patterns."""
    found, flag = [], ""
    for word in words:
        flag = word if word.startswith("--") else flag
        found += map(str, sorted(glob(word)) if "*" in word else [SMALLER.get(flag, {}).get(word, word)])
        if flag == "--tokenizer" and word == "gpt2":
            found[-1] = str(tokenizer)
    return [word for word in found if word not in ("--compile", "--graph")]


@pytest.fixture
def data(tmp_path, monkeypatch, tokenizer):
    """OpenWebText and HH-RLHF as they are published, but small."""
    monkeypatch.chdir(tmp_path)
    tokenizer.save("tokenizer")
    for folder in ("openwebtext", "hh/harmless-base", "hh/helpful-base"):
        Path(folder).mkdir(parents=True)
    for i, name in enumerate(("train-1", "train-2", "held-out")):
        tiny.write_lines(f"openwebtext/{name}.jsonl", [{"text": page["text"]} for page in town.documents(40, i)])
    talk = "\n\nHuman: where is the {}?\n\nAssistant: {}"
    pairs = [{"chosen": talk.format(what, "on the hill."), "rejected": talk.format(what, "no.")}
             for what in ("cat", "dog", "kite", "log")]  # fmt: skip
    for path in ("harmless-base/train", "helpful-base/train", "harmless-base/test"):
        with gzip.open(f"hh/{path}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in pairs)


def test_all_commands_run(data, no_pictures):
    for words in commands("python -m tools.encode "):
        tiny.run(encode, [*small(words, "tokenizer"), "--processes", 1])
    jobs = [[Path(script).stem, small(flags, "tokenizer")] for script, *flags in commands("--nproc_per_node 8 ")
            if script.endswith(".py")]  # fmt: skip
    assert [script for script, _ in jobs] == ["pretrain", "train_sft", "train_rm", "train_ppo", "train_sft"]
    Path("jobs.json").write_text(json.dumps([[script, flags + MORE.get(script, [])] for script, flags in jobs]))
    ranks.launch(2, Path("jobs.json").absolute())
    for words in commands("python -m tools.select_sft "):
        tiny.run(select_sft, small(words, "tokenizer"))
    for run in ("gpt", "rl_start", "rm", "ppo_ptx", "sft_best"):
        assert Path(f"runs/{run}/model.pt").exists()
    columns = set().union(*(row for run in ("gpt", "rl_start", "rm", "ppo_ptx") for row in read_metrics(f"runs/{run}")))
    watched = re.search(r"^## What to watch\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)[1]
    named = {
        name for row in re.findall(r"^\| (`.+?) \|", watched, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert len(named) > 8 and named <= columns


def test_the_command_for_four_machines_is_that_for_one():
    (one,) = [words[1:] for words in commands("--nproc_per_node 8 ") if words[0] == "pretrain.py"]
    others = commands("pretrain.py ")
    assert len(others) == 3 and all(words == one for words in others)
