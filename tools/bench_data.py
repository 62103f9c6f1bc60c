"""Benchmarks of what comes before the first step: encoding data, starting, going on.

    python -m tools.bench_data encode --mb 100            tools.encode: MB per second, by one process and one per core
    python -m tools.bench_data corpus --mb 1000           pretrain.py's first step: from this much text, and from 1 MB
    python -m tools.bench_data pairs --pairs 1000000      train_rm.py's first step: from a file, and from a folder
    python -m tools.bench_data steps --mb 20              pretrain.py's later steps: from text, and from a folder
    python -m tools.bench_data resume --size gpt2         train_ppo.py's memory, at the start and when it goes on

Texts are the town's, over and over. What is compared runs alternately, each time in a process of its own. Prints a JSON
line for each: seconds from the start of the command to its first row of metrics.jsonl, and the most memory it held
until then (GB; mapped files count as far as they have been read). For `steps` two trainings take turns of a second,
and the line has the median seconds of a step of each.
"""

import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from data import town
from minirlhf.model import GPT, PRESETS, GPTConfig, RewardModel
from minirlhf.support.checkpoint import save_model
from minirlhf.support.config import Text, check_fields, command, require_choice, require_positive
from minirlhf.support.device import cores, memory_of
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import write_lines
from minirlhf.support.logs import read_metrics
from minirlhf.support.run import state_paths
from tools.encode import tokenizer_of

LIMIT = 128  # tokens of a ranking at most
TURNS = 40  # of each training, in `steps`


@dataclass(frozen=True)
class Config:
    what: Text  # encode, corpus, pairs, steps or resume
    tokenizer: str = "gpt2"  # gpt2, a folder with a tokenizer, or a ranks file
    mb: int = 100  # of text, for encode, corpus and steps
    pairs: int = 100_000  # for pairs
    size: Text = "gpt2"  # of the models, for resume
    rounds: int = 3  # how often each is run
    out: str = "runs/bench_data"  # folder for data and runs, which is removed at the end

    def __post_init__(self):
        check_fields(self)
        require_choice(self, "what", WORK)
        require_choice(self, "size", PRESETS)
        require_positive(self, "mb", "pairs", "rounds", most=10**8)


def main(config):
    require(not Path(config.out).exists(), f"--out {config.out}: is there already; name a new folder, it is removed")
    Path(config.out).mkdir(parents=True)
    try:
        ways = WORK[config.what](config, Path(config.out))
        for turn in range(config.rounds):
            for name, measure in ways.items():
                print(json.dumps({"what": config.what, "way": name, "round": turn} | measure()), flush=True)
    finally:
        shutil.rmtree(config.out)


# --- what is measured: each function returns {way: a function that measures it once} ---------------------------------


def encode(config, out):
    corpus, size = documents(out, config.mb)

    def measure(processes):
        words = ["tools.encode", "--data", corpus, "--tokenizer", config.tokenizer, "--processes", processes]
        seconds, memory = to_the_end([*words, "--out", fresh(out / "tokens")], out)
        return {"seconds": seconds, "mb_per_second": size / seconds, "gb": memory}

    return {f"{n} processes": lambda n=n: measure(n) for n in sorted({1, cores()})}


def corpus(config, out):
    ways = {}
    for mb in (1, config.mb):
        for name, words in pretraining(config, out, mb, "--max_tokens", 512).items():
            ways[f"{mb} MB, {name}"] = lambda words=words: first_row(words, out)
    return ways


def steps(config, out):
    ways = pretraining(config, out, config.mb, "--batch_size", 4)  # a step takes a fraction of a turn

    def measure():
        processes = []
        with ExitStack() as stack:
            for name, words in ways.items():
                folder = fresh(out / name)
                processes.append(stack.enter_context(started([*words, "--out", folder], out)))
                wait_for(lambda folder=folder: has_row(folder), processes[-1], words, out)
                processes[-1].send_signal(signal.SIGSTOP)
            for process in processes * TURNS:
                process.send_signal(signal.SIGCONT)
                time.sleep(1)
                process.send_signal(signal.SIGSTOP)
                require(process.poll() is None, f"steps: --mb {config.mb} of text is too little; a training has ended")
        later = {name: [row["seconds"] for row in read_metrics(out / name)[1:]] for name in ways}
        require(all(later.values()), f"steps: a step takes more than {TURNS} s, and cannot be timed so")
        found = {name: statistics.median(seconds) for name, seconds in later.items()}
        return found | {"ratio": found["encoded"] / found["text"]}

    return {"a step": measure}


def pairs(config, out):
    records = town.demonstrations(town.prompts("train", 2000, 0), 0)
    given = ({"prompt": a["prompt"], "chosen": a["response"], "rejected": b["response"] + f" {i}"}
             for i, (a, b) in enumerate(zip(itertools.cycle(records), itertools.cycle(records[1:]))))  # fmt: skip
    path, gpt, tokenizer = str(out / "pairs.jsonl"), str(out / "gpt"), tokenizer_of(config.tokenizer)
    write_lines(path, itertools.islice(given, config.pairs))
    save_model(f"{gpt}/model.pt", GPT(GPTConfig(tokenizer.n_vocab, **PRESETS["nano"] | {"n_ctx": LIMIT})), tokenizer)
    words = ["tools.encode", "--data", path, "--kind", "ranking", "--limit", LIMIT, "--tokenizer", config.tokenizer]
    seconds, _ = to_the_end([*words, "--out", f"{path}.tokens"], out)
    print(json.dumps({"what": "pairs", "way": "encoding, once", "seconds": seconds}), flush=True)
    return {way: lambda data=data: first_row(["train_rm", "--data", data, "--init", gpt], out)
            for way, data in (("text", path), ("encoded", f"{path}.tokens"))}  # fmt: skip


def resume(config, out):
    tokenizer = tokenizer_of(config.tokenizer)
    shape = GPTConfig(tokenizer.n_vocab, **PRESETS[config.size])
    for kind, name in ((GPT, "policy"), (RewardModel, "rm")):
        torch.manual_seed(0)
        save_model(out / name / "model.pt", model := kind(shape), tokenizer)
    count = sum(p.numel() for p in model.parameters())
    write_lines(out / "prompts.jsonl", [{"prompt": "a\n"}])
    words = ["train_ppo", "--policy", out / "policy", "--reward_model", out / "rm", "--ptx_coef", 0, "--prompts",
             out / "prompts.jsonl", "--episodes", 40, "--batch_size", 2, "--minibatch_size", 2, "--max_response", 4,
             "--save_every", 1]  # fmt: skip
    formula = {"formula_gb": 44 * count / 1e9, "python_gb": imported()}

    def begin():
        return first_row(words, out, wait=lambda folder: len(state_paths(folder)) > 0) | formula

    def go_on():
        (out / "run" / "metrics.jsonl").unlink()
        return first_row([*words, "--resume"], out, keep=True) | formula

    return {"start": begin, "going on": go_on}


WORK = {"encode": encode, "corpus": corpus, "pairs": pairs, "steps": steps, "resume": resume}


# --- data and processes ----------------------------------------------------------------------------------------------


def documents(out, mb):
    """(a file of so many MB of documents, as JSON lines; the MB of their texts)."""
    pages = [" ".join(page["text"] for page in town.documents(600, 0)[i::60]) for i in range(60)]
    path, size = str(out / f"{mb}-mb.jsonl"), 0

    def given():
        nonlocal size
        for i in itertools.count():
            text = f"{i} {pages[i % 60]}"
            size += len(text)
            yield {"text": text}
            if size >= 1e6 * mb:
                return

    write_lines(path, given())
    return path, size / 1e6


def pretraining(config, out, mb, *flags):
    """{text, encoded: the words of a pretraining on so many MB}."""
    path, _ = documents(out, mb)
    encoded, tokenizer = f"{path}.tokens", config.tokenizer
    to_the_end(["tools.encode", "--data", path, "--tokenizer", tokenizer, "--out", encoded], out)
    return {name: ["pretrain", "--data", data, "--tokenizer", tokenizer, "--size", "nano", *flags]
            for name, data in (("text", path), ("encoded", encoded))}  # fmt: skip


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def started(words, out):
    """Context manager: a command of this project as a process, whose output goes to a file. It is killed at the end."""
    module, *flags = map(str, words)
    with open(out / "errors", "w") as errors:
        process = subprocess.Popen([sys.executable, "-m", module, *flags], stdout=errors, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(out):
    """The end of what the newest process has written."""
    return (out / "errors").read_text()[-500:]


def to_the_end(words, out):
    """(seconds of a command, the GB of its largest process)."""
    began, most = time.perf_counter(), 0
    with started(words, out) as process:
        while process.poll() is None:
            most = max(most, *map(memory_of, family(process.pid)))
            time.sleep(0.05)
    if process.returncode:
        raise InputError(f"{words[0]}: {said(out)}")
    return time.perf_counter() - began, most / 1e9


def family(process):
    """The numbers of a process and of those that it has started."""
    with suppress(OSError):
        with open(f"/proc/{process}/task/{process}/children") as file:
            return [process, *itertools.chain(*map(family, file.read().split()))]
    return [process]


def first_row(words, out, keep=False, wait=lambda folder: True):
    """Seconds from the start of a training to its first row, and the memory that this row names. Then it is ended, once
    `wait` of its folder is true. keep: its folder was there."""
    folder = out / "run" if keep else fresh(out / "run")
    began = time.perf_counter()
    with started([*words, "--out", folder], out) as process:
        wait_for(lambda: has_row(folder), process, words, out)
        seconds = time.perf_counter() - began
        wait_for(lambda: wait(folder), process, words, out)
    return {"seconds": seconds, "gb": read_metrics(folder)[0]["memory_gb"]}


def has_row(folder):
    path = folder / "metrics.jsonl"
    return path.exists() and path.read_text().endswith("\n")


def wait_for(condition, process, words, out):
    while not condition():
        time.sleep(0.02)
        if process.poll() is not None and not condition():
            raise InputError(f"{words[0]}: ended too early: {said(out)}")


def imported():
    """The GB that Python and PyTorch hold before any data or model."""
    program = "import train_ppo; from minirlhf.support.device import peak_memory; print(peak_memory() / 1e9)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    command(main, Config, "what")
