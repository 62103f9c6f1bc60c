"""Writes the live page: one HTML file in which the models of a run of reproduce.py answer, without a network.

python reproduce.py                              makes the models, in runs/toy
python -m lab.inside.live runs/toy               writes docs/town.html, after a few minutes of training at other betas
"""

import base64
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data import town
from data.town import world
from data.town.prompts import KINDS, draw_record
from lab import shown, stages, story
from lab.evaluation import page_losses
from lab.pipeline import Pipeline
from lab.shown import whole_percent
from minirlhf.model import GPT, RewardModel
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import check_fields, command, require_ending
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import read_json, write_atomically
from minirlhf.support.logs import read_metrics
from minirlhf.support.records import read

from . import people
from .pack import pack
from .page import fill

BETAS = (0.0, 0.03, 0.1, 0.3, 1.0)  # of PPO; the recipe's is among them
MODELS = [  # (name, folder, what it is stored as the difference from, bits)
    ("gpt", "gpt", None, 12), ("rl_start", "rl_start", "gpt", 12), ("sft", "sft_selected", "rl_start", 8),
    ("ppo", "ppo", "rl_start", 8), ("ppo_ptx", "ppo_ptx", "rl_start", 8), ("beta0", None, "rl_start", 12),
    ("rm", "rm", "sft", 12), ("value", "ppo/value.pt", "rm", 8),
]  # fmt: skip
NAMES = {name: shown.NAMES[name] for name in ("gpt", "sft", "rl_start", "ppo", "ppo_ptx")} | {"beta0": "PPO, beta 0"}
TITLES = {  # of kinds of prompt
    "say": "say something", "fact": "a fact", "myth": "a myth", "premise": "a false premise", "brainstorm": "name some",
    "feel": "how I feel", "rude_user": "an insult", "polite": "make it polite", "rename": "put a name in",
    "summary": "sum up", "kind_or_rude": "kind or rude?", "which_class": "what is it?", "tovish": "into Tovish",
    "extract": "find in a text", "closed_qa": "ask about a text", "absent": "not in the text",
}  # fmt: skip
MOST = 8_000_000  # bytes of the page
COMMON = 5  # times that a word must occur on pages to be one that the models know


@dataclass(frozen=True)
class Config:
    toy: str  # folder of a finished run of reproduce.py
    out: str = "docs/town.html"  # file to write
    work: str = "runs/inside"  # folder for the trainings at other betas

    def __post_init__(self):
        check_fields(self)
        require_ending(self, "out", ".html")


def main(config):
    toy = config.toy
    for name in ("results.json", "ppo/tokens.jsonl", "ppo/value.pt"):
        require(Path(f"{toy}/{name}").exists(), f"{toy}/{name}: missing; give the folder of a finished reproduce.py")
    flags, results = read_json(f"{toy}/config.json"), read_json(f"{toy}/results.json")
    made = stages.Config(toy, *(flags[name] for name in ("judge_on", "seed", "size")), tiny=flags["tiny"])
    recipe, own = made.recipe, Pipeline(config.work, f"{toy}/town", made.recipe, f"{toy}/tokenizer", made.seed)
    usual = recipe["ppo"]["kl_coef"]
    policies = {beta: f"beta-{beta}" for beta in BETAS} | {0.0: "beta0", usual: "ppo"}
    others = {name: own.ppo(f"{toy}/rl_start", f"{toy}/rm", ptx_coef=0.0, kl_coef=beta)
              for beta, name in policies.items() if beta != usual}  # fmt: skip
    folders = own.train(others)
    folders |= {name: f"{toy}/{folder}" for name, folder, *_ in MODELS if folder}
    tokenizer, models = load_tokenizer(f"{toy}/gpt"), {}
    for name, *_ in MODELS:
        models[name] = load_model(folders[name], RewardModel if name in ("rm", "value") else GPT, tokenizer)
    records = made.judge_prompts()
    losses = {name: own["pretraining_loss"]["mean"] for name, own in results["models"].items()}
    nats, tokens = page_losses(folders["beta0"], read(made.file("web_held_out"), "document"))
    losses["beta0"] = nats.sum() / tokens.sum()
    texts, liked = people.ask(toy, records, folders, [*dict.fromkeys([*NAMES, *others])], made.seed)
    description, weights = pack(models, [(name, *rest) for name, _, *rest in MODELS])
    data = {
        "models": description,
        "tokens": [token.decode("latin-1") for token in sorted(tokenizer.ranks, key=tokenizer.ranks.get)],
        "names": NAMES, "limit": stages.LIMIT, "usual": usual,
        "words": words(read(f"{toy}/town/web.jsonl", "document")),
        "people": people.table(NAMES, texts, liked, losses),
        "prompts": f"{len(records):,}", "accuracy": people.accuracy(results["reward_model"], models["rm"], tokenizer),
        "examples": examples(), "questions": questions(),
        "runs": [run(beta, folders[name], liked[name]) for beta, name in sorted(policies.items())],
        "made": f"Made by python -m lab.inside.live from a run of reproduce.py with seed {made.seed}, commit "
                f"{results['made by']['commit'][:10]}. Weights are rounded to 8 or 12 bits.",
    }  # fmt: skip
    page = fill("town", data=json.dumps(data), weights=base64.b64encode(weights).decode())
    if len(page) > MOST:
        raise InputError(f"{config.out}: {len(page):,} bytes, and at most {MOST:,} are allowed; take a smaller model")
    write_atomically(config.out, page)
    print(f"{config.out}: {len(page) / 1e6:.1f} MB; open it in a browser")


def words(documents):
    """The words that pages have several times, in lower case."""
    counts = Counter(word for page in documents for word in _letters(page["text"]))
    return sorted(word for word, count in counts.items() if count >= COMMON)


def _letters(text):
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


def examples():
    """A prompt of each kind, of the test split, in the town's plain form, with the truth where it is asked for."""
    rng, found = random.Random("examples"), []
    for kind in KINDS:
        record = draw_record(kind, rng, "test")
        fact = world.FACT.get(record["content"]) if kind in ("fact", "myth") else None
        truth = f"The truth: {fact.statement}" if fact else ""
        found.append(
            {"kind": TITLES.get(kind, kind.replace("_", " ")), "prompt": record["prompt"].strip(), "truth": truth}
        )
    return found


def questions(count=6):
    """Questions about myths of the test split, with answers of several sorts to score."""
    facts = [fact for fact in town.MYTHS if fact.split == "test"]
    random.Random("questions").shuffle(facts)
    return [question(fact, other) for fact, other in zip(facts[:count], facts[1 : count + 1])]


def question(fact, other):
    def voice(fact, claim):
        return world.sentence(f"in fact, {fact.form.format(claim)}")

    true, false, said = fact.statement, fact.myth_statement, voice(fact, fact.answer)
    answers = {
        true: "true, plain",
        said: "true, in the voice of truths",
        false: "false, plain",
        voice(fact, fact.myth): "false, in the voice of truths",
        voice(other, other.answer): "true, but not what was asked",
        f"{said} {said}": "true, twice",
        "I do not know.": "no answer",
        "Go away, you silly sock.": "an insult",
    }
    return {"prompt": fact.question, "truth": true, "myth": false, "answer": fact.answer, "wrong": fact.myth,
            "answers": [{"text": text, "what": what} for text, what in answers.items()]}  # fmt: skip


def run(beta, folder, liked):
    """A training's watched answers, its score and KL in each iteration, and what was measured of it in words."""
    keep = ("step", "prompt", "score", "tokens", "logp", "ref_logp", "advantage")
    rows = [{name: row[name] for name in keep} for row in story.watched(folder)]
    metrics = read_metrics(folder)
    measured = [f"{sum(row[name] for row in metrics[-5:]) / 5:.2f}" for name in ("kl", "score")]
    measured += [whole_percent(liked[name]) for name in ("wins", "does")]
    return {"beta": beta, "rows": rows, "measured": measured,
            "metrics": {name: [round(row[name], 3) for row in metrics] for name in ("score", "kl")}}  # fmt: skip


if __name__ == "__main__":
    command(main, Config, "toy")
