"""Where findings get their models: trained when first asked for, kept in a folder, and shared.

The town, the tokenizer, the rankings and the reward model are those of reproduce.py's run at the toy size, the whole
of which stands in the folder `toy`. Other sizes read the same web and answer the same prompts: one reward model serves
all, as the paper's 6B did.
"""

import functools
import json
import math
import random
from pathlib import Path

import numpy as np

import pretrain
import reproduce
import train_ppo
import train_rm
import train_sft
from data import town
from data.town.prompts import USERS_OF, draw_record, prompts
from lab.evaluation import answers, contents_of
from lab.workers import at_once
from minirlhf.model import GPT, RewardModel
from minirlhf.support.checkpoint import load_model, read_checkpoint
from minirlhf.support.config import to_flags
from minirlhf.support.errors import InputError
from minirlhf.support.evaluate import interval
from minirlhf.support.files import write_lines
from minirlhf.support.records import read
from tools import select_sft

MINUTES = {"nano": 3, "toy": 6, "medium": 48}  # to train the models of a size, on two cores
SIZES = tuple(MINUTES)  # the last has a hundred times the parameters of the first
TINY_SIZES = ("nano", "toy")
CHANGES = {"medium": {"gpt": dict(epochs=2)}}  # of reproduce.py's recipes: here the web has a third of the pages
LIMIT = reproduce.LIMIT


class Lab:
    """out: the folder; tiny: everything a hundredth as large, to see that it runs; judge_on: test, or validation to try
    a recipe: whose prompts models are judged on."""

    def __init__(self, out, seed=0, tiny=False, judge_on="test"):
        self.out, self.seed, self.tiny, self.judge_on = out, seed, tiny, judge_on
        self.sizes = TINY_SIZES if tiny else SIZES

    # --- models

    @functools.cached_property
    def toy(self):
        """The folder of reproduce.py's run."""
        flags = {"out": f"{self.out}/toy", "seed": self.seed, "tiny": self.tiny, "judge_on": self.judge_on}
        reproduce.main(to_flags(flags))
        return f"{self.out}/toy"

    def recipe(self, stage, size="toy"):
        """A stage's settings, as flags of its script."""
        return reproduce.recipe_of(size, self.tiny)[stage] | CHANGES.get(size, {}).get(stage, {})

    def train(self, stages):
        """Runs scripts side by side, {folder's name: (script, flags)}, and returns {name: folder}. What is finished is
        kept; if its settings were others, the script refuses it by name."""
        folders = {name: f"{self.out}/{name}" for name in stages}
        calls = []
        for name, (script, flags) in stages.items():
            mend(folders[name])
            own = {"out": folders[name], "seed": self.seed}
            calls.append((script.main, to_flags(own | flags | ({} if script is select_sft else {"resume": True}))))
        at_once(*calls)
        return folders

    @functools.cache  # noqa: B019  a lab lives as long as its process
    def models(self, size="toy"):
        """{name: folder} of a size's gpt, sft, rl_start, ppo and ppo_ptx."""
        toy = self.toy
        if size == "toy":
            return {name: f"{toy}/{folder}" for name, folder in reproduce.MODELS.items() if name != "gpt_prompted"}
        gpt = dict(size=size, tokenizer=f"{toy}/tokenizer", data=(self.file("web"),))
        gpt |= dict(validation=(self.file("web_held_out"),)) | self.recipe("gpt", size)
        self.train({f"{size}/gpt": (pretrain, gpt)})
        own = {name: f"{self.out}/{size}/{name}" for name in ("gpt", "sft_epochs", "rl_start", "sft", "ppo", "ppo_ptx")}
        sft, rl_start = self.sft(own["gpt"], size), self.rl_start(own["gpt"], size)
        self.train({f"{size}/sft_epochs": sft, f"{size}/rl_start": rl_start})
        select = dict(sft=own.pop("sft_epochs"), reward_model=f"{toy}/rm", max_response=LIMIT)
        self.train({f"{size}/sft": (select_sft, select | dict(prompts=(self.file("prompts_selection"),)))})
        ppo, ppo_ptx = self.ppo(own["rl_start"], size, ptx_coef=0.0), self.ppo(own["rl_start"], size)
        self.train({f"{size}/ppo": ppo, f"{size}/ppo_ptx": ppo_ptx})
        return own

    def sft(self, base, size="toy", **changes):
        """A stage: SFT of a base model on the town's demonstrations."""
        flags = dict(init=base, data=(self.file("demonstrations"),)) | self.recipe("sft", size)
        return train_sft, flags | changes

    def rl_start(self, base, size="toy"):
        return self.sft(base, size, documents=(self.file("web"),))

    def rm(self, rankings, size="toy", **changes):
        """A stage: a reward model, from the SFT model of its size, on a file of rankings."""
        sft = f"{self.toy}/sft" if size == "toy" else f"{self.out}/{size}/sft_epochs"
        flags = dict(init=sft, data=(rankings,), demonstrations=(self.file("demonstrations"),))
        return train_rm, flags | self.recipe("rm", size) | changes

    def ppo(self, start, size="toy", **changes):
        """A stage: PPO-ptx from a policy; ptx_coef=0 is PPO."""
        flags = dict(policy=start, reward_model=f"{self.toy}/rm", prompts=(self.file("prompts_train"),))
        flags |= dict(documents=(self.file("web"),)) | self.recipe("ppo", size) | self.recipe("ppo_ptx", size)
        return train_ppo, flags | changes

    # --- records

    def file(self, name):
        return f"{self.toy}/town/{name}.jsonl"

    def write(self, name, records):
        """Writes records that a stage is to be trained on, and returns their file."""
        write_lines(f"{self.out}/{name}.jsonl", records)
        return f"{self.out}/{name}.jsonl"

    @functools.cached_property
    def test(self):
        """The prompts that models are judged on."""
        return read(self.file(f"prompts_{self.judge_on}"), "prompt")

    @functools.cached_property
    def many(self):
        """Four times as many, of the same users and partly about the same things, to tell what differs little."""
        return prompts(self.judge_on, 4 * len(self.test), self.seed)

    def records(self, name, kind):
        return read(self.file(name), kind)

    @functools.cached_property
    def about(self):
        """{prompt: its record}, of training and test prompts."""
        return {record["prompt"]: record for record in self.records("prompts_train", "prompt") + self.test}

    def rankings(self, name="rankings"):
        """The town's rankings, each with the record of its prompt."""
        return [self.about[ranking["prompt"]] | ranking for ranking in self.records(name, "ranking")]

    def ask(self, kinds, n, purpose):
        """n more prompts of some kinds to judge models on, in equal shares."""
        rng, split = self.rng(purpose), self.judge_on
        n = n // 20 if self.tiny else n
        return [draw_record(kinds[i % len(kinds)], rng, split, rng.choice(USERS_OF[split])) for i in range(n)]

    def rng(self, purpose):
        return random.Random(f"{purpose} {self.seed}")

    # --- answers

    def answers(self, asked, purpose="findings"):
        """{label: a model's answers} of {label: (its folder, records[, a text before each prompt])}, side by side."""
        noise = self.seed, *purpose.encode()
        calls = [(answers, folder, records, LIMIT, noise, *prefix) for folder, records, *prefix in asked.values()]
        return dict(zip(asked, at_once(*calls)))

    @functools.cached_property
    def test_answers(self):
        """{model: its answers to the test prompts}, those that reproduce.py sampled."""
        rows = [json.loads(line) for line in (Path(self.toy) / "samples.jsonl").read_text().splitlines()]
        return {name: [row[name] for row in rows] for name in reproduce.MODELS}

    def wins(self, records, texts, others, purpose, labelers=town.HELD_OUT_LABELERS):
        """For each record 1, 0.5 or 0: whether a labeler, one drawn for each, prefers texts[i] to others[i]."""
        rng = self.rng(f"{purpose} wins")
        return np.array([town.compare(r, a, b, rng.choice(labelers), rng) for r, a, b in zip(records, texts, others)])


def mend(folder):
    """Names a kept model that cannot be read, and takes it away, so that it is trained again."""
    path = Path(folder) / "model.pt"
    if path.exists():
        try:
            kind = {"gpt": GPT, "reward model": RewardModel}[read_checkpoint(path)["kind"]]
            load_model(path, kind)
        except InputError as error:
            print(f"{error}; it is trained again", flush=True)
            path.unlink()


def judged(records, texts):
    return [town.judge(record, text) for record, text in zip(records, texts)]


def utilities(records, texts):
    """The true utility of each text: that of the whole pool of labelers, without noise."""
    return np.array([town.mean_utility(*both) for both in zip(judged(records, texts), texts)])


def mean(values, records, weights=None):
    """A figure: the mean and its interval, resampling what the records are about; with weights, a ratio of sums."""
    anything = {"mean": math.nan, "low": -math.inf, "high": math.inf}  # what it might be if nothing was measured
    if not len(records) or (weights is not None and not np.any(weights)):
        return anything
    with np.errstate(divide="ignore", invalid="ignore"):  # of a ratio, some resamples may have nothing below the line
        figure = interval(values, weights, contents_of(records))
    return anything | {name: value for name, value in figure.items() if not math.isnan(value)}
