"""Gives findings their models, which are trained when first needed, kept in a folder, and shared.

The town, tokenizer, rankings and reward model are those of a run of reproduce.py at size toy, in the folder `toy`.
Models of other sizes read the same web, the largest half of it, and answer the same prompts. One reward model serves
all, as the paper's 6B did.
"""

import functools
import math
import random

import numpy as np

from data import town
from data.town.prompts import USERS_OF, draw_record, prompts
from lab import stages
from lab.evaluation import answers, contents_of, judge_all, page_losses
from lab.pipeline import Pipeline
from lab.workers import at_once
from minirlhf.support.files import read_lines, write_lines
from minirlhf.support.records import read
from minirlhf.support.statistics import interval

MINUTES = {"nano": 4, "toy": 7, "medium": 60}  # to train the models of a size, on two cores
SIZES = tuple(MINUTES)  # the last has a hundred times the parameters of the first
TINY = {"sft": dict(epochs=1), "ppo": dict(episodes=32)}  # what --tiny changes of what is trained beside the toy's run
LIMIT = stages.LIMIT
UNKNOWN = {"mean": math.nan, "low": -math.inf, "high": math.inf}  # a figure of nothing


class Lab:
    """out: the folder; tiny, judge_on: as in the Config of __main__.py."""

    def __init__(self, out, seed=0, tiny=False, judge_on="test"):
        self.out, self.seed, self.tiny, self.judge_on = out, seed, tiny, judge_on

    @functools.cached_property
    def toy(self):
        """The folder of the toy size's run."""
        config = stages.Config(out=f"{self.out}/toy", seed=self.seed, tiny=self.tiny, judge_on=self.judge_on)
        stages.run(config)
        return config.out

    def of(self, size):
        """The size whose models are taken for a size."""
        return "toy" if self.tiny and size == SIZES[-1] else size

    def recipe(self, stage, size="toy"):
        """A stage's settings."""
        tiny = TINY.get(stage, {}) if self.tiny else {}
        return stages.recipe_of(size, self.tiny)[stage] | tiny

    def pipeline(self, size="toy"):
        """The trainings of a size, with the toy's records and tokenizer."""
        recipe = {stage: self.recipe(stage, self.of(size)) for stage in stages.RECIPE}
        return Pipeline(self.out, f"{self.toy}/town", recipe, f"{self.toy}/tokenizer", self.seed)

    def train(self, chosen):
        """Runs stages in parallel, {folder's name: stage}, and returns {name: folder}."""
        return self.pipeline().train(chosen)

    def train_one(self, name, stage):
        """Runs one stage and returns its folder."""
        return self.train({name: stage})[name]

    @functools.cache  # noqa: B019  a lab lives as long as its process
    def models(self, size="toy"):
        """{name: folder} of a size's gpt, sft, rl_start, ppo and ppo_ptx. With tiny the toy's stand for the largest."""
        if self.of(size) == "toy":
            return {name: f"{self.toy}/{folder}" for name, folder in stages.MODELS.items() if name != "gpt_prompted"}
        own = {name: f"{self.out}/{size}/{name}" for name in ("gpt", "sft_epochs", "rl_start", "sft", "ppo", "ppo_ptx")}
        pipeline, pages = self.pipeline(size), {}
        if size == SIZES[-1]:  # half of the pages, to stay within two hours
            web = self.records("web", "document")
            pages = {"data": self.write("web-half", web[: len(web) // 2])}
        self.train_one(f"{size}/gpt", pipeline.gpt(**pages))
        sft, rl_start = pipeline.sft(own["gpt"]), pipeline.rl_start(own["gpt"])
        self.train({f"{size}/sft_epochs": sft, f"{size}/rl_start": rl_start})
        self.train_one(f"{size}/sft", pipeline.select(own.pop("sft_epochs"), f"{self.toy}/rm"))
        ppo, ppo_ptx = self.ppo(own["rl_start"], size, ptx_coef=0.0), self.ppo(own["rl_start"], size)
        self.train({f"{size}/ppo": ppo, f"{size}/ppo_ptx": ppo_ptx})
        return own

    def sft(self, base, size="toy", **changes):
        """A stage: SFT of a base model on the town's demonstrations."""
        return self.pipeline(size).sft(base, **changes)

    def rm(self, rankings, size="toy", **changes):
        """A stage: a reward model, from the SFT model of its size, on a file of rankings."""
        sft = f"{self.toy}/sft" if self.of(size) == "toy" else f"{self.out}/{size}/sft_epochs"
        return self.pipeline(size).rm(sft, data=rankings, **changes)

    def ppo(self, start, size="toy", **changes):
        """A stage: PPO-ptx from a policy; ptx_coef=0 is PPO."""
        return self.pipeline(size).ppo(start, **{"reward_model": f"{self.toy}/rm"} | changes)

    def file(self, name):
        return f"{self.toy}/town/{name}.jsonl"

    def write(self, name, records):
        """Writes records for a stage to be trained on, and returns their file."""
        write_lines(f"{self.out}/{name}.jsonl", records)
        return f"{self.out}/{name}.jsonl"

    @functools.cached_property
    def test(self):
        """The prompts that models are judged on."""
        return self.held_out[: self.recipe("evaluate")["prompts"]]

    @functools.cached_property
    def held_out(self):
        """All prompts of their split, on which held-out rankings are made."""
        return read(self.file(f"prompts_{self.judge_on}"), "prompt")

    @functools.cached_property
    def many(self):
        """Four times as many prompts, by the same users and in part of the same contents, for small differences."""
        return prompts(self.judge_on, 4 * len(self.test), self.seed)

    def records(self, name, kind):
        return read(self.file(name), kind)

    @functools.cached_property
    def about(self):
        """{prompt: its record}, of training and held-out prompts."""
        return {record["prompt"]: record for record in self.records("prompts_train", "prompt") + self.held_out}

    def rankings(self, name="rankings"):
        """The town's rankings, each with the record of its prompt."""
        return [self.about[ranking["prompt"]] | ranking for ranking in self.records(name, "ranking")]

    def draw_prompts(self, kinds, n, purpose):
        """n more prompts to judge models on, in equal shares of some kinds."""
        rng, split = self.rng(purpose), self.judge_on
        n = n // 20 if self.tiny else n
        return [draw_record(kinds[i % len(kinds)], rng, split, rng.choice(USERS_OF[split])) for i in range(n)]

    def rng(self, purpose):
        return random.Random(f"{purpose} {self.seed}")

    def answers(self, asked, purpose="findings"):
        """{label: a model's answers} of {label: (its folder, records[, a text before each prompt])}."""
        noise = self.seed, *purpose.encode()
        calls = [(answers, folder, records, LIMIT, noise, *prefix) for folder, records, *prefix in asked.values()]
        return dict(zip(asked, at_once(*calls)))

    def answers_to(self, records, folders, purpose="findings", *prefix):
        """{name: a model's answers to the same records} of {name: folder}."""
        return self.answers({name: (folder, records, *prefix) for name, folder in folders.items()}, purpose)

    @functools.cached_property
    def test_answers(self):
        """{model: its answers to the test prompts}, as reproduce.py sampled them."""
        rows = read_lines(f"{self.toy}/samples.jsonl")
        return {name: [row[name] for row in rows] for name in stages.MODELS}

    def wins(self, records, texts, others, purpose, labelers=town.HELD_OUT_LABELERS):
        """1, 0.5 or 0 for each record: whether a labeler drawn for it prefers texts[i] to others[i]. (N,)"""
        rng = self.rng(f"{purpose} wins")
        return np.array([town.compare(r, a, b, rng.choice(labelers), rng) for r, a, b in zip(records, texts, others)])

    def losses(self, folders):
        """{name: document_losses of held-out pages of the web} of {name: folder}."""
        documents = self.records("web_held_out", "document")
        return dict(zip(folders, at_once(*[(page_losses, folder, documents) for folder in folders.values()])))


def shares(texts, records, measure):
    """{name: 1.0 or 0.0 for each answer (N,)} of {name: answers}. measure: a judgement -> whether it counts."""
    return {name: np.array([measure(j) for j in judge_all(records, own)], float) for name, own in texts.items()}


def follows(texts, records):
    """{name: for each answer whether it follows the instruction (N,)} of {name: answers}."""
    return shares(texts, records, lambda j: j.follows)


def mean(values, records, weights=None, signed=False):
    """A figure: the mean and its interval, resampling the records' contents; with weights, a ratio of sums. signed: the
    values are differences."""
    if not len(records) or (weights is not None and not np.any(weights)):
        return UNKNOWN
    with np.errstate(divide="ignore", invalid="ignore"):  # some resamples of a ratio may have a zero denominator
        figure = interval(values, weights, contents_of(records), signed)
    return UNKNOWN | {name: value for name, value in figure.items() if not math.isnan(value)}


def certain(value):
    """A figure: a value that was counted, without an interval."""
    return {"mean": value, "low": value, "high": value}


def apart(a, b, scale=1):
    """One figure minus `scale` times another, of independent samples: the squares of the intervals' lengths add up."""
    low = math.hypot(a["mean"] - a["low"], scale * (b["high"] - b["mean"]))
    high = math.hypot(a["high"] - a["mean"], scale * (b["mean"] - b["low"]))
    mean = a["mean"] - scale * b["mean"]
    if math.isnan(mean):
        return UNKNOWN
    return {"mean": mean, "low": mean - low, "high": mean + high}


def average(figures):
    """The mean of figures of independent samples, each of the same weight."""
    n, mean = len(figures), sum(f["mean"] for f in figures) / len(figures)
    if math.isnan(mean):
        return UNKNOWN
    low, high = (math.hypot(*(f["mean"] - f[end] for f in figures)) / n for end in ("low", "high"))
    return {"mean": mean, "low": mean - low, "high": mean + high}


def means(values, records, pairs=(), heading=""):
    """Figures "heading: name" of {name: values (N,)} of N records; and "heading: a minus b" of each pair of names."""
    start = f"{heading}: " if heading else ""
    f = {start + name: mean(own, records) for name, own in values.items()}
    return f | {f"{start}{a} minus {b}": mean(values[a] - values[b], records, signed=True) for a, b in pairs}
