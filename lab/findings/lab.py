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

from data import town
from data.town.prompts import USERS_OF, draw_record, prompts
from lab import stages
from lab.evaluation import answers, contents_of
from lab.pipeline import Pipeline
from lab.workers import at_once
from minirlhf.support.files import write_lines
from minirlhf.support.records import read
from minirlhf.support.statistics import interval

MINUTES = {"nano": 3, "toy": 6, "medium": 48}  # to train the models of a size, on two cores
SIZES = tuple(MINUTES)  # the last has a hundred times the parameters of the first
TINY_SIZES = ("nano", "toy")
CHANGES = {"medium": {"gpt": dict(epochs=2)}}  # of reproduce.py's recipes: here the web has a third of the pages
LIMIT = stages.LIMIT


class Lab:
    """out: the folder; tiny: everything a hundredth as large, to see that it runs; judge_on: test, or validation to try
    a recipe: whose prompts models are judged on."""

    def __init__(self, out, seed=0, tiny=False, judge_on="test"):
        self.out, self.seed, self.tiny, self.judge_on = out, seed, tiny, judge_on
        self.sizes = TINY_SIZES if tiny else SIZES

    # --- models

    @functools.cached_property
    def toy(self):
        """The folder of the toy size's run."""
        config = stages.Config(out=f"{self.out}/toy", seed=self.seed, tiny=self.tiny, judge_on=self.judge_on)
        stages.run(config)
        return config.out

    def recipe(self, stage, size="toy"):
        """A stage's settings."""
        return stages.recipe_of(size, self.tiny)[stage] | CHANGES.get(size, {}).get(stage, {})

    def pipeline(self, size="toy"):
        """The trainings of a size: all read the toy's records, and its tokenizer is theirs."""
        recipe = {stage: self.recipe(stage, size) for stage in stages.RECIPE}
        return Pipeline(self.out, f"{self.toy}/town", recipe, f"{self.toy}/tokenizer", self.seed)

    def train(self, chosen):
        """Runs stages side by side, {folder's name: stage}, and returns {name: folder}."""
        return self.pipeline().train(chosen)

    @functools.cache  # noqa: B019  a lab lives as long as its process
    def models(self, size="toy"):
        """{name: folder} of a size's gpt, sft, rl_start, ppo and ppo_ptx."""
        if size == "toy":
            return {name: f"{self.toy}/{folder}" for name, folder in stages.MODELS.items() if name != "gpt_prompted"}
        own = {name: f"{self.out}/{size}/{name}" for name in ("gpt", "sft_epochs", "rl_start", "sft", "ppo", "ppo_ptx")}
        pipeline = self.pipeline(size)
        self.train({f"{size}/gpt": pipeline.gpt()})
        sft, rl_start = pipeline.sft(own["gpt"]), pipeline.rl_start(own["gpt"])
        self.train({f"{size}/sft_epochs": sft, f"{size}/rl_start": rl_start})
        self.train({f"{size}/sft": pipeline.select(own.pop("sft_epochs"), f"{self.toy}/rm")})
        ppo, ppo_ptx = self.ppo(own["rl_start"], size, ptx_coef=0.0), self.ppo(own["rl_start"], size)
        self.train({f"{size}/ppo": ppo, f"{size}/ppo_ptx": ppo_ptx})
        return own

    def sft(self, base, size="toy", **changes):
        """A stage: SFT of a base model on the town's demonstrations."""
        return self.pipeline(size).sft(base, **changes)

    def rl_start(self, base, size="toy", **changes):
        return self.pipeline(size).rl_start(base, **changes)

    def rm(self, rankings, size="toy", **changes):
        """A stage: a reward model, from the SFT model of its size, on a file of rankings."""
        sft = f"{self.toy}/sft" if size == "toy" else f"{self.out}/{size}/sft_epochs"
        return self.pipeline(size).rm(sft, data=rankings, **changes)

    def ppo(self, start, size="toy", **changes):
        """A stage: PPO-ptx from a policy; ptx_coef=0 is PPO."""
        return self.pipeline(size).ppo(start, **{"reward_model": f"{self.toy}/rm"} | changes)

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
        return {name: [row[name] for row in rows] for name in stages.MODELS}

    def wins(self, records, texts, others, purpose, labelers=town.HELD_OUT_LABELERS):
        """For each record 1, 0.5 or 0: whether a labeler, one drawn for each, prefers texts[i] to others[i]."""
        rng = self.rng(f"{purpose} wins")
        return np.array([town.compare(r, a, b, rng.choice(labelers), rng) for r, a, b in zip(records, texts, others)])


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
