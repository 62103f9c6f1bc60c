"""Trains a healthy run of each script beside runs that are broken on purpose: the figures and pictures of the pages
docs/healthy.md, docs/exercises.md and docs/own_reward.md.

    python reproduce.py                         makes the healthy models, in runs/toy
    python -m lab.broken runs/toy               writes runs/broken/broken.json and the pictures, in half an hour

After a stop or a kill, the same command continues. (lab.results draws the pages' pictures, with the band of healthy
runs of other seeds.)
"""

import random
from dataclasses import dataclass

import numpy as np

import train_ppo
from data import town
from minirlhf.support import curves, logs
from minirlhf.support.config import Text, check_fields, command
from minirlhf.support.files import write_json, write_lines
from minirlhf.support.folder import lock_output
from minirlhf.support.records import read
from minirlhf.support.statistics import interval

from . import stages
from .doctor.cases import changed
from .evaluation import answers, contents_of, count_right, judge_all, pairs_right, utilities
from .methods import details
from .pipeline import Pipeline
from .provenance import made_by
from .workers import at_once

PANELS = {  # picture: its columns, and {label: run}; the healthy band is that of the run "recipe"
    "healthy_pretraining": ("loss", {
        "recipe": "gpt", "learning rate x 20": "gpt-hot", "learning rate / 20": "gpt-slow"}),
    "healthy_sft": ("loss validation_loss", {
        "recipe": "sft", "learning rate x 20": "sft-hot", "learning rate / 20": "sft-slow",
        "16 epochs, no dropout": "sft-long"}),
    "healthy_rm": ("loss accuracy", {
        "recipe": "rm", "learning rate x 20": "rm-hot", "ranks shuffled": "rm-chance", "8 epochs": "rm-long"}),
    "healthy_ppo": ("score kl entropy response_length clip_fraction explained_variance", {
        "recipe": "ppo", "beta 0": "beta0", "reward model at chance": "chance", "learning rates x 20": "hot",
        "no whitening": "white"}),
    "own_reward": ("score kl ended explained_variance", {"unscaled": "vowels-1", "tenth": "vowels-10"}),
}  # fmt: skip
COLUMNS = ("loss", "validation_loss", "accuracy", "score", "kl", "entropy", "response_length", "ended", "clip_fraction",
           "explained_variance", "policy_loss", "ptx_loss")  # fmt: skip
LINEAR_BELOW = {"kl": 1, "clip_fraction": 0.02}  # and logarithmic above, where only broken runs are
PART = 100  # steps: longer logs are kept as means of parts of this length


@dataclass(frozen=True)
class Config:
    toy: Text  # folder of a finished run of reproduce.py
    out: Text = "runs/broken"  # output folder
    seed: int = 0  # random seed
    tiny: bool = False  # the folder is one of reproduce.py --tiny

    def __post_init__(self):
        check_fields(self)


def main(config):
    lock_output(config)
    toy, out = config.toy, config.out
    own = Pipeline(out, f"{toy}/town", stages.recipe_of("toy", config.tiny), f"{toy}/tokenizer", config.seed)
    folders = {name: f"{toy}/{name}" for name in ("gpt", "sft", "rl_start", "rm", "ppo", "ppo_ptx")}
    for group in trainings(own, toy):
        folders |= own.train(group)
    for scale in (1, 10):
        folders[f"vowels-{scale}"] = train_on_vowels(config, own, scale)
    result = {name: {"metrics": metrics(folder)} for name, folder in folders.items()}
    policies = [name for name in folders if not name.startswith(("gpt", "rm", "vowels"))]
    for name, figure in follows({name: folders[name] for name in policies}, config).items():
        result[name]["follows"] = figure
    rankings = read(own.file("rankings_held_out"), "ranking")
    models = [name for name in folders if name.startswith("rm")]
    for name, pairs in zip(models, at_once(*[(pairs_right, folders[name], rankings) for name in models])):
        result[name]["held_out"] = interval(*pairs.T, items=contents_of(rankings))
    result["without mistakes"] = {"held_out": without_mistakes(own, rankings)}
    write_json(f"{out}/broken.json", result | {"seed": config.seed, "made by": made_by()})
    draw(result, [], out, 1 if config.tiny else PART)
    print(f"{out}/broken.json has the figures of {len(folders)} runs")


def draw(found, healthy, folder, part=PART):
    """Draws PANELS from the figures of broken.json. healthy: [{stage: metrics}] of runs of the recipe; the band is from
    their lowest value to their highest. part: steps that a value of a loss is a mean of."""
    for picture, (columns, lines) in PANELS.items():
        with curves.optional_picture(f"{folder}/{picture}.png"):
            names, logs = columns.split(), {label: found[run]["metrics"] for label, run in lines.items()}
            panels = {name.replace("_", " "): {label: points(log, name, part) for label, log in logs.items()
                                               if name in log} for name in names}  # fmt: skip
            figure = curves.draw_panels(panels, across=min(3, len(panels)))
            for axis, name in zip(figure.axes, names):
                axis.set_xlabel("epoch" if name.startswith("validation") else "step")
                if name in LINEAR_BELOW:
                    axis.set_yscale("symlog", linthresh=LINEAR_BELOW[name])
                if healthy and "recipe" in lines:
                    own = [points(run[lines["recipe"]], name, part) for run in healthy]
                    steps, values = np.array(own).transpose(2, 1, 0)
                    band = dict(color="tab:gray", alpha=0.3, linewidth=0)
                    axis.fill_between(steps[:, 0], values.min(1), values.max(1), **band)
            curves.save_figure(figure, f"{folder}/{picture}.png")


def points(metrics, name, part):
    """[(step, value)] of a column of metrics(); [(epoch, value)] of a validation column."""
    values = metrics[name]
    if name.startswith("validation"):
        return [*enumerate(values, 1)]
    return [((i + 0.5) * part if name in ("loss", "accuracy") else i, value) for i, value in enumerate(values)]


def trainings(own, toy):
    """Stages in an order in which they can run, as groups {name: stage} that run at the same time."""
    recipe = own.recipe
    validated = dict(validation=own.file("demonstrations_validation"))
    rl_start, rm, no_ptx = f"{toy}/rl_start", f"{toy}/rm", dict(ptx_coef=0.0)

    def faster(stage, factor, *rates):
        return {rate: recipe[stage][rate] * factor for rate in rates}

    shuffled = write_shuffled(own)
    return [
        {"gpt-hot": own.gpt(**faster("gpt", 20, "lr", "muon_lr")),
         "gpt-slow": own.gpt(**faster("gpt", 1 / 20, "lr", "muon_lr"))},
        {"sft-hot": own.sft(f"{toy}/gpt", **validated, **faster("sft", 20, "lr")),
         "sft-slow": own.sft(f"{toy}/gpt", **validated, **faster("sft", 1 / 20, "lr")),
         "sft-long": own.sft(f"{toy}/gpt", **validated, epochs=16, dropout=0.0)},
        {"rm-hot": own.rm(f"{toy}/sft", **faster("rm", 20, "lr")),
         "rm-chance": own.rm(f"{toy}/sft", data=shuffled),
         "rm-long": own.rm(f"{toy}/sft", epochs=8)},
        {"beta0": own.ppo(rl_start, rm, **no_ptx, kl_coef=0.0),
         "chance": own.ppo(rl_start, f"{own.out}/rm-chance", **no_ptx),
         "hot": own.ppo(rl_start, rm, **no_ptx, **faster("ppo", 20, "lr", "value_lr")),
         "white": (details, own.ppo(rl_start, rm, **no_ptx)[1] | {"change": "no_whitening"}),
         "gamma27": own.ppo(rl_start, rm, ptx_coef=train_ppo.Config.ptx_coef)},
    ]  # fmt: skip


def write_shuffled(own):
    """Writes the rankings with each one's ranks shuffled, and returns the file."""
    rng, path = random.Random(0), f"{own.out}/shuffled.jsonl"
    rankings = read(own.file("rankings"), "ranking")
    write_lines(path, changed(rankings, "shuffled", 1, rng))
    return path


def train_on_vowels(config, own, scale):
    """PPO on the number of vowels, divided by `scale`, as docs/own_reward.md does it. Returns its folder."""
    folder = f"{config.out}/vowels-{scale}"
    settings = own.ppo(f"{config.toy}/rl_start", None, ptx_coef=0.0, kl_coef=0.1, ema_decay=0.98)[1]
    settings |= {} if config.tiny else {"episodes": 30 * settings["batch_size"]}
    train_ppo.main(train_ppo.Config(**settings, out=folder, seed=config.seed, resume=True), Vowels(scale))
    return folder


@dataclass
class Vowels:
    scale: float

    def __call__(self, prompts, responses):
        return [sum(letter in "aeiou" for letter in text) / self.scale for text in responses]


def metrics(folder):
    """{column: its values}; of a long log the means of its parts."""
    rows = logs.read_metrics(folder)
    found = {name: [value for _, value in logs.column(rows, name)] for name in COLUMNS}
    return {name: parts(values) for name, values in found.items() if values}


def parts(values):
    if len(values) <= 2 * PART:
        return values
    return [float(np.mean(values[i : i + PART])) for i in range(0, len(values), PART)]


def follows(folders, config):
    """{name: how often a policy follows validation prompts} of {name: folder}."""
    records = town.prompts("validation", 20 if config.tiny else 1000, 5)
    texts = at_once(*[(answers, folder, records, stages.LIMIT, (config.seed,)) for folder in folders.values()])
    return {name: interval([j.follows for j in judge_all(records, own)], items=contents_of(records))
            for name, own in zip(folders, texts)}  # fmt: skip


def without_mistakes(own, rankings):
    """The share of held-out pairs that all labelers' mean utility orders as their labeler did."""
    about = {r["prompt"]: r for name in ("validation", "test") for r in read(own.file(f"prompts_{name}"), "prompt")}
    scores = [utilities([about[r["prompt"]]] * len(r["responses"]), r["responses"]) for r in rankings]
    return interval(*count_right(scores, rankings).T, items=contents_of(rankings))


if __name__ == "__main__":
    command(main, Config, "toy")
