"""The stages of reproduce.py: the whole paper on the town, each stage by the script that a person would run.

RECIPE holds all changes to the scripts' defaults, and SIZES the changes to it for other sizes (docs/deviations.md).
Recipes are chosen with --judge_on validation. No training reads the contents of test prompts.
"""

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

from data import town
from minirlhf.support.checkpoint import checksums
from minirlhf.support.config import Text, require_choice
from minirlhf.support.errors import InputError, reraise
from minirlhf.support.files import read_json, write_json, write_lines
from minirlhf.support.folder import lock_output
from minirlhf.support.records import read
from minirlhf.support.tokenizer import load
from tools import train_tokenizer

from . import report
from .evaluation import answers, compare, measure, measure_memorization, measure_reward_model
from .inside import microscope
from .pipeline import Pipeline
from .provenance import made_by
from .workers import at_once

LIMIT = 26  # tokens of a response
RECIPE = {
    "town": dict(web=80_000, web_held_out=600, demonstration=8_000, demonstration_validation=200, prompt_train=9_000,
                 prompt_validation=4_000, prompt_test=4_000),
    "tokenizer": dict(vocab_size=1024),
    "gpt": dict(n_ctx=120, epochs=1, batch_size=24, lr=7e-3, muon_lr=0.012, embedding_std=0.4, save_every=100),
    "sft": dict(epochs=3, batch_size=32, lr=6e-4, dropout=0.1, save_every=100),
    "rl_start": dict(epochs=2),  # and otherwise as sft
    "rankings": dict(prompts=9_000, held_out=4_000),
    "select": dict(prompts=300),
    "rm": dict(batch_size=8, lr=5e-4, save_every=100),
    "evaluate": dict(prompts=2_000),
    "ppo": dict(episodes=50 * 128, batch_size=128, minibatch_size=32, documents_per_episode=0.5, document_tokens=64,
                lr=5e-4, value_lr=5e-4, kl_coef=0.3, ptx_coef=0.1, ema_decay=0.97, max_response=LIMIT, save_every=10),
}  # fmt: skip
SIZES = {
    "nano": {"gpt": dict(batch_size=8, lr=7e-3, muon_lr=0.01), "sft": dict(epochs=4, lr=2e-3),
             "rm": dict(lr=2e-3), "ppo": dict(lr=2e-3, value_lr=2e-3)},
    "toy": {},
    "small": {"town": dict(prompt_train=18_000), "gpt": dict(epochs=3, lr=3.5e-3, muon_lr=0.01),
              "rankings": dict(prompts=18_000), "ppo": dict(episodes=100 * 128, kl_coef=0.2, ema_decay=0.985)},
    "medium": {"gpt": dict(lr=1e-3, muon_lr=0.005, embedding_std=0.25),
               "sft": dict(lr=3e-4), "rm": dict(lr=2e-4), "ppo": dict(lr=2e-4, value_lr=2e-4, kl_coef=0.2)},
}  # fmt: skip
# seconds of a toy run's stages on two idle cores, to tell how long is left
USUAL = dict(town=8, gpt=188, sft=44, rankings=29, rm=40, select=2, ppo=56, evaluate=21, report=1)
TINY = {
    "town": dict(web=400, web_held_out=40, demonstration=80, demonstration_validation=20, prompt_train=100,
                 prompt_validation=48, prompt_test=48),
    "rankings": dict(prompts=24, held_out=12),
    "select": dict(prompts=20),
    "evaluate": dict(prompts=40),
    "gpt": dict(n_layer=1, n_ctx=128, epochs=2),
    "sft": dict(save_every=1),
    "ppo": dict(episodes=64, batch_size=32, minibatch_size=16, ema_decay=0.5),
}  # fmt: skip


def recipe_of(size, tiny=False):
    """{stage: its settings} for models of a size."""
    changes = SIZES[size], TINY if tiny else {}
    recipe = {name: own | changes[0].get(name, {}) | changes[1].get(name, {}) for name, own in RECIPE.items()}
    return recipe | {"gpt": {"size": size} | recipe["gpt"]}


@dataclass(frozen=True)
class Config:
    out: str | None = None  # output folder; default runs/SIZE, or runs/tiny with --tiny
    judge_on: Text = "test"  # prompts that models are judged on: test, or validation to try a recipe
    seed: int = 0  # random seed
    size: Text = "toy"  # nano (0.1 million parameters), toy (0.5; 7 minutes), small (0.9; 30 min), medium (11; an hour)
    stage: Text = "report"  # last stage to run: town, gpt, sft, rankings, rm, select, ppo, evaluate or report
    tiny: bool = False  # do a hundredth of the work, to see that it runs; the figures mean nothing

    def __post_init__(self):
        require_choice(self, "judge_on", ("test", "validation"))
        require_choice(self, "size", SIZES)
        require_choice(self, "stage", STAGES)
        if not self.out:
            object.__setattr__(self, "out", f"runs/{'tiny' if self.tiny else self.size}")

    @property
    def recipe(self):
        """{stage: its settings}."""
        return recipe_of(self.size, self.tiny)

    @property
    def pipeline(self):
        return Pipeline(self.out, f"{self.out}/town", self.recipe, f"{self.out}/tokenizer", self.seed)

    def file(self, name):
        return self.pipeline.file(name)

    def judge_prompts(self):
        """The records of the prompts that models are judged on."""
        return self.held_out_prompts()[: self.recipe["evaluate"]["prompts"]]

    def held_out_prompts(self):
        return read(self.file(f"prompts_{self.judge_on}"), "prompt")

    def noise(self, purpose):
        """The seed of the sampling noise for one purpose."""
        return self.seed, *purpose.encode()


def run(config):
    """Runs all stages up to config.stage that are not finished in config.out."""
    lock_output(config, ignore=("stage",))
    finished = Path(config.out) / "stages.json"
    seconds = read_json(finished) if finished.exists() else {}
    if not all(isinstance(s, (int, float)) for s in seconds.values()):
        raise InputError(f"{finished}: not the seconds of stages; remove it, and finished stages are found again")
    for number, (name, (what, function, *files)) in enumerate(STAGES.items(), 1):
        gone = [file for file in files if not whole(Path(config.out) / file)]
        if name in seconds and not gone:
            print(f"-- {name}: kept ({seconds[name]:.0f} s)", flush=True)
        else:
            if name in seconds:
                print(f"-- {name}: again, since {config.out}/{gone[0]} is missing or truncated", flush=True)
            left = f", about {minutes_left(seconds)} min left" if config.size == "toy" and not config.tiny else ""
            print(f"-- {number} of {len(STAGES)}{left}: {name}, {what}", flush=True)
            start = time.perf_counter()
            if function:
                function(config)
            else:
                config.pipeline.train(trainings(config)[name])
            seconds[name] = round(time.perf_counter() - start, 2)
            write_json(finished, seconds)
        if name == config.stage:
            break


def minutes_left(seconds):
    """Minutes that the stages without an entry in `seconds` will take, at the speed of the others."""
    ahead, done = (sum(s for name, s in USUAL.items() if (name in seconds) == past) for past in (False, True))
    return math.ceil(ahead * (sum(seconds.values()) / done if done else 1) / 60)


def whole(path):
    """Whether a stage's file is there and complete."""
    if path.suffix == ".pt":
        return path.is_file() and checksums(path) is not None
    try:
        if path.suffix == ".json" and not read_json(path):
            return False
        if path.suffix == ".tiktoken":
            load(path.parent)
    except InputError:
        return False
    content = path.read_bytes() if path.is_file() else b""
    return content.endswith(b"\n") or (len(content) > 0 and path.suffix != ".jsonl")


def trainings(config):
    """{stage: {folder's name: a training}} of the stages that only train."""
    own, out = config.pipeline, config.out
    rl_start, rm = f"{out}/rl_start", f"{out}/rm"
    return {
        "gpt": {"gpt": own.gpt()},
        "sft": {"sft": own.sft(f"{out}/gpt", validation=config.file("demonstrations_validation")),
                "rl_start": own.rl_start(f"{out}/gpt")},
        "rm": {"rm": own.rm(f"{out}/sft")},
        "select": {"sft_selected": own.select(f"{out}/sft", rm)},
        "ppo": {"ppo": own.ppo(rl_start, rm, ptx_coef=0.0), "ppo_ptx": own.ppo(rl_start, rm)},
    }  # fmt: skip


def make_town(config):
    """Writes the town's files, and trains a tokenizer on them."""
    recipe = config.recipe
    files = town.files(config.seed, **recipe["town"])
    for name, records in files.items():
        write_lines(config.file(name), records)
    write_lines(config.file("prompts_selection"), files["prompts_validation"][: recipe["select"]["prompts"]])
    corpus = (config.file("web"), config.file("demonstrations"))
    train_tokenizer.main(train_tokenizer.Config(data=corpus, out=f"{config.out}/tokenizer", **recipe["tokenizer"]))
    tokenizer = load(f"{config.out}/tokenizer")
    longest = max(len(tokenizer.encode(town.few_shot() + record["prompt"])) for record in config.held_out_prompts())
    n_ctx = recipe["gpt"]["n_ctx"]
    if longest + LIMIT > n_ctx:
        raise InputError(f"RECIPE: a prompt has {longest} tokens, an answer {LIMIT}; gpt's n_ctx {n_ctx} is too short")


def make_rankings(config):
    """Writes rankings of K answers to a prompt, one by the base model and the others by the last SFT epoch. Of training
    questions about facts people rank two written answers, too, which differ in truth alone."""
    train = read(config.file("prompts_train"), "prompt")[: config.recipe["rankings"]["prompts"]]
    records = train + config.held_out_prompts()[: config.recipe["rankings"]["held_out"]]
    rng = random.Random(f"rankings {config.seed}")
    counts = rng.choices(range(4, 10), (8, 4, 2, 1, 1, 1), k=len(records))  # K
    calls = [(answers, f"{config.out}/gpt", records, LIMIT, config.noise("rankings gpt"))]
    for j in range(1, max(counts)):
        asked = [r for r, k in zip(records, counts) if k > j]
        calls.append((answers, f"{config.out}/sft", asked, LIMIT, config.noise(f"rankings sft {j}")))
    by_gpt, *by_sft = map(iter, at_once(*calls))
    lines = {"rankings": [], "rankings_held_out": []}
    for i, (record, k) in enumerate(zip(records, counts)):
        both = [(next(texts), "sft") for texts in by_sft[: k - 1]] + [(next(by_gpt), "gpt")]
        name, labelers = "rankings_held_out", town.HELD_OUT_LABELERS
        if i < len(train):  # rankings must not teach what the test asks
            name, labelers = "rankings", town.TRAINING_LABELERS
            both = [(text, model) for text, model in both if not town.states_test_fact(text)]
            if record["kind"] in ("fact", "myth"):
                both = [(text, "written") for text in town.true_and_false(record)] + both[:7]
        model_of = dict(reversed(both))  # equal answers are ranked once
        if len(model_of) >= 2:
            responses, models = zip(*model_of.items())
            one, other = rng.sample(labelers, 2)
            line = town.rank(record, responses, one, rng) | {"models": models, "content": record["content"]}
            if i >= len(train):  # to measure how often two labelers agree
                line["second_ranks"] = town.rank(record, responses, other, rng)["ranks"]
            lines[name].append(line)
    for name in lines:
        write_lines(config.file(name), lines[name])


MODELS = {"gpt": "gpt", "gpt_prompted": "gpt", "sft": "sft_selected", "rl_start": "rl_start", "ppo": "ppo",
          "ppo_ptx": "ppo_ptx"}  # fmt: skip


def evaluate(config):
    """Writes evaluation.json, the figures of every model, and samples.jsonl, their answers."""
    records, documents = config.judge_prompts(), read(config.file("web_held_out"), "document")
    calls = []
    for name, folder in MODELS.items():
        prefix = town.few_shot() if name == "gpt_prompted" else ""
        what = f"{config.out}/{folder}", f"{config.out}/rm", records, [] if prefix else documents, LIMIT
        reference = f"{config.out}/rl_start" if name in ("ppo", "ppo_ptx") else None
        calls.append((measure, *what, config.noise(f"evaluate {name}"), prefix, reference))
    measured = dict(zip(MODELS, at_once(*calls)))
    measured["gpt_prompted"] = measured["gpt_prompted"]._replace(losses=measured["gpt"].losses)  # of the same model
    rankings = read(config.file("rankings_held_out"), "ranking")
    results = {"size": config.size, "seed": config.seed} | compare(records, measured, config.seed)
    results["reward_model"] = measure_reward_model(f"{config.out}/rm", rankings)
    results["memory"] = measure_memorization(records, read(config.file("demonstrations"), "demonstration"), config.seed)
    write_json(f"{config.out}/evaluation.json", results)
    rows = [{"prompt": r["prompt"], "use_case": r["use_case"]} | {m: measured[m].texts[i] for m in MODELS}
            | {"follows": {m: measured[m].judgements[i].follows for m in MODELS},
               "rm_score": {m: round(float(measured[m].rm_scores[i]), 3) for m in MODELS}}
            for i, r in enumerate(records)]  # fmt: skip
    write_lines(f"{config.out}/samples.jsonl", rows)


def make_report(config):
    """Writes results.json and report.html."""
    seconds = read_json(f"{config.out}/stages.json")
    results = read_json(f"{config.out}/evaluation.json")
    results |= {"seconds": seconds | {"total": round(sum(seconds.values()), 1)}, "made by": made_by()}
    with reraise(f"{config.out}/evaluation.json: of another version; remove it, and run the command again"):
        report.write(config.out, results)
    write_json(f"{config.out}/results.json", results)
    try:
        microscope.main(microscope.Config(runs=(config.out,), out=f"{config.out}/inside.html"))
    except InputError as error:  # PPO of an earlier version
        print(f"no {config.out}/inside.html: {error}", flush=True)


STAGES = {  # stage: what it does; its function, or None for trainings; files without which it runs again
    "town": ("the web, prompts, demonstrations; and a tokenizer for them", make_town,
             "town/web.jsonl", "town/prompts_selection.jsonl", "tokenizer/tokenizer.tiktoken"),
    "gpt": ("pretraining on the web", None, "gpt/model.pt"),
    "sft": ("step 1, supervised fine-tuning; and the RL start, with a tenth of pretraining documents mixed in", None,
            "sft/model.pt", "rl_start/model.pt"),
    "rankings": ("labelers rank K answers to a prompt, one by the base model and the others by the last SFT epoch",
                 make_rankings, "town/rankings.jsonl"),
    "rm": ("step 2, the reward model", None, "rm/model.pt"),
    "select": ("the SFT epoch that the reward model scores highest", None, "sft_selected/model.pt"),
    "ppo": ("step 3, PPO and PPO-ptx, which differ in the coefficient", None, "ppo/model.pt", "ppo_ptx/model.pt"),
    "evaluate": ("every model on test prompts: judged by held-out labelers, and measured", evaluate, "evaluation.json"),
    "report": ("a table, results.json, report.html and inside.html", make_report, "results.json", "report.html"),
}  # fmt: skip
