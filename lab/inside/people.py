"""What the live page says of its models: how people like their answers, and what they know of pages."""

import random

from data import town
from lab.evaluation import (
    answerable,
    answers,
    contents_of,
    informative_truths,
    judge_all,
    rm_scores,
    win_rate,
)
from lab.shown import whole_percent
from lab.stages import LIMIT
from lab.workers import at_once
from minirlhf.support.files import read_lines
from minirlhf.support.statistics import interval

COLUMNS = ("", "preferred to SFT's answer", "does what was asked", "right about the town",
           "loss on pages, nats per token", "begins with a capital and ends with a mark", "words")  # fmt: skip


def ask(toy, records, folders, names, seed):
    """The answers of models to records, {name: texts}: those that reproduce.py kept, and new ones of others. And three
    figures of each: "wins", how often people prefer its answers to SFT's; "does", how often it does what was asked;
    "true", how often it is right about the town."""
    rows = read_lines(f"{toy}/samples.jsonl")
    texts = {name: [row[name] for row in rows] for name in names if name in rows[0]}
    others = [name for name in names if name not in texts]
    calls = [(answers, folders[name], records, LIMIT, (seed, *b"live")) for name in others]
    texts |= dict(zip(others, at_once(*calls)))
    liked, questions = {}, contents_of(filter(answerable, records))
    for name, own in texts.items():
        rng = random.Random(f"live {seed}")  # the same labelers for all
        labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
        judgements = judge_all(records, own)
        liked[name] = {
            "wins": win_rate(records, own, texts["sft"], labelers, rng),
            "does": interval([j.follows for j in judgements], items=contents_of(records)),
            "true": interval(informative_truths(records, judgements), items=questions),
        }
    return texts, liked


def table(names, texts, liked, losses):
    """The columns and rows of section 1's table. names: {name: title}."""
    rows = []
    for name, title in names.items():
        own = [text.strip() for text in texts[name]]
        neat = sum(text[:1].isupper() and text.endswith((".", "!", "?")) for text in own) / len(own)
        words = sum(len(text.split()) for text in own) / len(own)
        wins, does, true = (whole_percent(liked[name][column]) for column in ("wins", "does", "true"))
        wins = "" if name == "sft" else wins
        rows.append([title, wins, does, true, f"{losses[name]:.2f}", f"{100 * neat:.0f} %", f"{words:.1f}"])
    return {"columns": COLUMNS, "rows": rows}


def accuracy(measured, reward_model, tokenizer):
    """How often the reward model is right, in words."""
    facts = [fact for fact in town.MYTHS if fact.split == "test"]
    records = [{"prompt": f"{fact.question}\n"} for fact in facts]
    true, false = (rm_scores(reward_model, tokenizer, records, [getattr(fact, name) for fact in facts])
                   for name in ("statement", "myth_statement"))  # fmt: skip
    pairs, agreement = (f"{100 * measured[name]['mean']:.0f} %" for name in ("accuracy", "labeler_agreement"))
    return f"""Of two answers that other people ranked it scores the better one higher in {pairs} of pairs. (Two people
agree on {agreement}.) To {(true > false).sum()} of {len(facts)} questions like these it scores the plain true answer
above the plain false one."""
