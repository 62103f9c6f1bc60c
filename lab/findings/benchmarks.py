"""Four public benchmarks of the town, of kinds that the web is full of: what pretraining taught, and RL may forget.

They replace the paper's SQuAD, DROP, HellaSwag and translation from French. Each item is the beginning of a web page,
after one or two solved items. No model was trained on the same passages, lists or sentences; stories have no split, so
a model may have read one. Pages of the same four forms are on the web, so PPO-ptx reads them during RL, too.
"""

import random

import numpy as np
import torch

from data.town import web, world
from data.town.demonstrations import listed, some, tale
from data.town.grammar import plain
from data.town.judge import judge
from data.town.prompts import draw_record
from lab.evaluation import load, sequence_losses
from minirlhf.model import GPT
from minirlhf.rollout import generate
from minirlhf.support.records import Sequence

LIMIT = 20  # tokens of an answer


def reading(rng, split):
    """(the page's beginning, the right answers, what it is about) of a question about a passage."""
    record = draw_record("closed_qa", rng, split)
    who, thing = rng.choice(world.NAMES), rng.choice(world.THINGS)
    (answer,) = record["answers"]
    right = {plain(answer), plain(record["form"].format(answer))}
    return web.exam(record["passage"], who, thing, record["question"], rng), right, record["content"]


def lists(rng, split):
    """(the page's beginning, the record, what it is about) of a list of a number of things, after two solved ones."""
    page = ""
    for part in ("train", "train", split):
        record = draw_record("brainstorm", rng, part)
        category, count, exclude = record["category"], record["count"], record["exclude"]
        page += web.heading(category, count, exclude)
        if part == "train":
            page += f" {listed(category, some(category, count, exclude, rng))}. "
    return page, record, record["content"]


def translation(rng, split):
    """(the page's beginning, the right answers, what it is about) of a sentence to translate, after a solved one."""
    shown, asked = draw_record("tovish", rng, "train"), draw_record("tovish", rng, split)
    first = f"{world.sentence(shown['english'])} In Tovish: {world.sentence(world.translate(shown['english']))}"
    page = f"{first} {world.sentence(asked['english'])} In Tovish:"
    return page, {plain(world.translate(asked["english"]))}, asked["content"]


def completion(rng):
    """(a story's first sentence, four second ones of which the first belongs to it, what it is about)."""
    stories, pairs = [], rng.sample([(who, thing) for who in world.ANIMALS for thing in world.THINGS], 4)
    for who, thing in pairs:
        first, second, *_ = tale(who, thing, rng, length=3).split(". ")
        stories.append((first + ".", f" {second}."))
    return stories[0][0], [second for _, second in stories], " ".join(pairs[0])


def accuracy(folder, n, seed, split="test"):
    """{benchmark: (1.0 or 0.0 for each of n items of a split, what each is about)} of a model's greedy answers."""
    model, tokenizer = load(folder, GPT)
    hits = {}
    for make in (reading, lists, translation):
        items = [make(random.Random(f"{make.__name__} {seed} {i}"), split) for i in range(n)]
        texts = [text.split(".")[0] for text in complete(model, tokenizer, [page for page, *_ in items])]
        if make is lists:
            right = [judge(record, world.sentence(text.strip() or "-")).satisfies_constraints
                     for text, (_, record, _) in zip(texts, items)]  # fmt: skip
        else:
            right = [plain(text) in answers for text, (_, answers, _) in zip(texts, items)]
        hits[make.__name__] = np.array(right, float), [content for *_, content in items]
    items = [completion(random.Random(f"completion {seed} {i}")) for i in range(n)]
    sequences = []
    for first, seconds, _ in items:
        start = [tokenizer.eos, *tokenizer.encode(first)]
        sequences += [Sequence(np.array(start + tokenizer.encode(second)), len(start)) for second in seconds]
    losses, counts = sequence_losses(model, sequences, tokenizer.pad)
    right = (losses / counts).reshape(n, 4).argmin(1) == 0
    hits["completion"] = right.astype(float), [content for *_, content in items]
    return hits


def complete(model, tokenizer, pages):
    """The greedy continuation of each page."""
    rows = [[tokenizer.eos, *tokenizer.encode(page)] for page in pages]
    order, texts = sorted(range(len(rows)), key=lambda i: len(rows[i])), [""] * len(rows)
    for start in range(0, len(rows), 256):
        part = order[start : start + 256]
        noise = torch.full((len(part), LIMIT), 0.5)
        sampled, _ = generate(model, [rows[i] for i in part], noise, tokenizer.eos, tokenizer.pad, temperature=1e-3)
        for i, text in zip(part, sampled.texts(tokenizer)):
            texts[i] = text
    return texts
