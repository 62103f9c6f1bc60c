"""Puts faults into runs, and sees what minirlhf.support.diagnosis says of them.

    python -m lab.doctor train     makes healthy runs; of two bases also runs with faults, on which the rules were tried
    python -m lab.doctor evaluate  makes runs of other seeds, sizes and data, by which the diagnosis is judged
    python -m lab.doctor threads   makes runs like those that people have asked about in public
    python -m lab.doctor bands     learns the healthy bands from the runs of train that are kept in results/doctor/

The first two take up to three hours each on two cores; --base makes a part of them. After a stop or a kill, the same
command continues. lab.results --keep copies the signs of all runs to results/doctor/. What is said of them is computed
from there, by the rules and bands as they are now. So the order is: train, keep, bands; evaluate, threads, keep, bands.
(The second time, bands.json also gets how often each diagnosis was right, which tools.doctor says.)
"""

import random
from dataclasses import dataclass
from pathlib import Path

from lab.provenance import ROOT, made_by
from lab.workers import at_once
from minirlhf.support import diagnosis
from minirlhf.support.config import Text, command, require_choice
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import write_json
from minirlhf.support.folder import lock_output

from . import counts
from .bands import bands_of, vocabulary_of_town
from .bases import People, Town
from .cases import FAULTS, NEAR, THREADS, Fault, pair, strength
from .trials import run_trial, signs_of

BANDS, KEPT = Path(diagnosis.__file__).parent / "bands.json", ROOT / "results" / "doctor"
HEALTHY = {"gpt": 3, "sft": 4, "rl_start": 2, "rm": 4, "ppo": 6, "ppo_ptx": 5}  # healthy runs for each base
TRIED = ("nano-65", "toy-63")  # of those who train: where the rules were tried on faults
PAIRS = 4  # trials with two faults at once, for each base


@dataclass(frozen=True)
class Config:
    part: Text  # train, evaluate, threads or bands
    base: tuple[str, ...] = ()  # where trials begin, such as nano-60; all of the part, unless given
    out: str = "runs/doctor"  # output folder
    tiny: bool = False  # do a hundredth of the work, to see that it runs; the figures mean nothing

    def __post_init__(self):
        require_choice(self, "part", ("train", "evaluate", "threads", "bands"))


def bases(config):
    """{name: where trials begin} of a part. What evaluates was not used to train."""
    out, common = f"{config.out}/{config.part}", dict(judge_on="validation", stage="rm", tiny=config.tiny)

    def town(name, seed, size="nano", changes=()):
        return Town(out=f"{out}/{name}", seed=seed, size=size, changes=changes, **common)

    if config.part == "train":
        found = {f"nano-{seed}": town(f"nano-{seed}", seed) for seed in (60, 61, 62, 64, 65, 67, 68, *range(78, 83))}
        found |= {f"toy-{seed}": town(f"toy-{seed}", seed, "toy") for seed in (63, 66)}
        for seed in range(90, 98):
            size = "toy" if seed in (92, 96) else "nano"
            found[f"mixed-{seed}"] = town(f"mixed-{seed}", seed, size, amounts(seed))
        return found
    if config.part == "threads":
        return {"nano-76": town("nano-76", 76)}
    small = (("gpt", dict(n_layer=3, n_embd=96, n_head=4)),)
    return {
        "nano-83": town("nano-83", 83), "toy-72": town("toy-72", 72, "toy"),
        "another-size": town("another-size", 73, "toy", small), "mixed-85": town("mixed-85", 85, "nano", amounts(85)),
        "mixed-86": town("mixed-86", 86, "nano", amounts(86)), "people": People(out=f"{out}/people", seed=84),
    }  # fmt: skip


def amounts(seed):
    """Changes of a recipe: how much data there are, drawn at random between a quarter and all of what is usual. There
    are 4,000 prompts at least: with rankings of 2,892, a nano reward model was near chance, which is not healthy."""
    rng = random.Random(f"amounts {seed}")
    web, demonstrations, prompts = (round(most / 4 ** rng.random()) for most in (80_000, 8_000, 9_000))
    prompts = max(4000, prompts)
    return (("town", dict(web=web, demonstration=demonstrations, prompt_train=prompts)),
            ("rankings", dict(prompts=prompts)))  # fmt: skip


def main(config):
    if config.part == "bands":
        return learn()
    if config.part != "train" and not BANDS.exists():
        raise InputError("no bands.json yet: train first, keep the results, and learn the bands")
    known = bases(config)
    for name in config.base:
        require(name in known, f"--base {name}: none of this part; choose from {', '.join(known)}")
    for name in config.base or known:
        known[name].check()
    lock_output(config, ignore=("part", "base"))
    for name in config.base or known:
        path = Path(config.out) / f"{config.part}-{name}.json"
        if path.exists() or ((KEPT / path.name).exists() and not config.tiny):
            print(f"{path}: is there already, or kept in {KEPT}", flush=True)
            continue
        own = known[name].prepare()
        found = at_once(*[(run_trial, own, *case) for case in cases_of(own, name, config)])
        found = at_once(*[(signs_of, one) for one in found])
        write_json(path, {"base": name, "trials": found, "made by": made_by()})
        print(f"{path}: {len(found)} runs", flush=True)


def learn():
    """Writes bands.json: the healthy bands, and how often what is said of the trials was right, if there are any yet.
    Says how often each run of train is judged rightly by the bands of the other bases."""
    train = counts.kept(KEPT, "train")
    require(train, f"{KEPT}: no results of train; make them, and keep them")
    bands = bands_of(train)
    others = [counts.judged(one, bands) for one in counts.kept(KEPT, "evaluate")]
    found = {"bands": bands, "vocabulary": vocabulary_of_town()}
    if others:
        found |= {"trials": counts.precision(others), "analogies": counts.analogies(others, bands)}
    write_json(BANDS, found)
    print(f"{BANDS}: of {sum(not one['diseases'] for one in train)} healthy runs")
    for one in counts.without_its_base(train):
        if not counts.is_right(one) or (one["at_any_time"] and not one["diseases"]):
            given = ", ".join(f"{name} {how:.3g}" for name, how in one["faults"])
            ever = ", ".join(one["at_any_time"])
            print(f"{one['base']} {one['stage']}, {given}: {one['said'] or counts.HEALTHY} (at any time: {ever})")


def cases_of(own, name, config):
    """(stage, [(Fault, strength)], seed) of each trial of a base."""
    rng, found = random.Random(f"doctor {name}"), []
    if config.part == "threads":
        asked = [(one.stage, [(Fault(fault, how, how, ""), how) for fault, how in one.faults]) for one in THREADS]
        return [(*case, 1000 * own.seed + number) for number, case in enumerate(asked)]
    for stage, known in FAULTS.items():
        healthy, *sick = known
        if config.part == "train" and name not in TRIED:
            sick = []
        for fault in [healthy] * (1 if config.tiny else HEALTHY[stage]) + sick:
            found.append((stage, [(fault, strength(fault, rng))]))
    if config.part == "evaluate":
        for _ in range(1 if config.tiny else PAIRS):
            found.append(("ppo", [(fault, strength(fault, rng)) for fault in pair(rng)]))
        found += [(stage, [(fault, strength(fault, rng))]) for stage, fault in NEAR]
    return [(*case, 1000 * own.seed + number) for number, case in enumerate(found)]


if __name__ == "__main__":
    command(main, Config, "part")
