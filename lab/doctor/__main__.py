"""Puts faults into runs, and sees what minirlhf.support.diagnosis says of them.

    python -m lab.doctor train     makes runs, half of them with a fault, and learns the healthy bands from the others
    python -m lab.doctor judge     makes runs of other seeds, sizes, towns and data, and counts how often it is right
    python -m lab.doctor threads   makes runs like those that people have asked about in public

The first two take up to three hours each on two cores. After a stop or a kill, the same command continues.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from lab.provenance import made_by
from lab.workers import at_once
from minirlhf.support import diagnosis, signs
from minirlhf.support.config import Text, command, require_choice
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import read_json, write_json, write_lines
from minirlhf.support.folder import lock_output
from minirlhf.support.records import read

from . import counts, faults
from .bases import VALIDATION, People, Town
from .cases import FAULTS, THREADS, Fault, changed, pair, strength

BANDS = Path(diagnosis.__file__).parent / "bands.json"
HEALTHY = {"gpt": 4, "sft": 6, "rl_start": 3, "rm": 6, "ppo": 8, "ppo_ptx": 6}  # healthy runs for each base
PAIRS = 4  # trials with two faults at once, for each base
MARGIN = 0.25  # a band is as wide as all healthy runs, and a quarter of that wider on each side
NO_LOG = "nothing: it ended before a row was logged"
LEAST = 0.01  # at least so much wider, as a share of the value or, where all are about 0, in its unit


@dataclass(frozen=True)
class Config:
    part: Text  # train, judge or threads
    out: str = "runs/doctor"  # output folder
    tiny: bool = False  # do a hundredth of the work, to see that it runs; the figures mean nothing

    def __post_init__(self):
        require_choice(self, "part", ("train", "judge", "threads"))


def bases(config):
    """{name: where trials begin} of a part. What judges was not used to train."""
    out, common = f"{config.out}/{config.part}", dict(judge_on="validation", stage="rm", tiny=config.tiny)

    def town(name, seed, size="nano", changes=()):
        return Town(out=f"{out}/{name}", seed=seed, size=size, changes=changes, **common)

    if config.part == "train":
        found = {f"nano-{seed}": town(f"nano-{seed}", seed) for seed in (60, 61, 62)}
        return found | {"toy-63": town("toy-63", 63, "toy")}
    if config.part == "threads":
        return {"nano-76": town("nano-76", 76)}
    small = (("gpt", dict(n_layer=3, n_embd=96, n_head=4)),)
    poor = (("town", dict(web=30_000, demonstration=2_000, prompt_train=4_000)), ("rankings", dict(prompts=4_000)))
    return {
        "nano-70": town("nano-70", 70), "nano-71": town("nano-71", 71), "toy-72": town("toy-72", 72, "toy"),
        "another size": town("size-73", 73, "toy", small), "another town": town("town-74", 74, "nano", poor),
        "people": People(out=f"{out}/people", seed=75),
    }  # fmt: skip


def main(config):
    lock_output(config, ignore=("part",))
    if config.part != "train" and not BANDS.exists():
        raise InputError("no bands.json yet: train first (python -m lab.doctor train)")
    patients = []
    for name, base in bases(config).items():
        own = base.prepare()
        calls = [(trial, own, *case) for case in cases_of(own, name, config)]
        patients += [{"base": name} | found for found in at_once(*calls)]
    if config.part == "train":
        write_json(BANDS, {"bands": bands_of([Path(one["folder"]) for one in patients if not one["diseases"]])})
    found = at_once(*[(say, one) for one in patients])
    write_json(f"{config.out}/{config.part}.json", {"patients": found, "made by": made_by()})
    if config.part == "threads":
        for thread, one in zip(THREADS, found):
            print(f"{thread.link}: {one['said'] or counts.HEALTHY}")
        return
    print(f"{config.out}/{config.part}.json: right in {sum(map(counts.is_right, found))} of {len(found)} runs")
    if config.part == "judge":
        write_json(BANDS, read_json(BANDS) | {"trials": counts.trials(found)})


def cases_of(own, name, config):
    """(stage, [(Fault, strength)], seed) of each trial of a base."""
    rng, found = random.Random(f"doctor {name}"), []
    if config.part == "threads":
        asked = [(one.stage, [(Fault(fault, how, how, ""), how) for fault, how in one.faults]) for one in THREADS]
        return [(*case, 1000 * own.seed + number) for number, case in enumerate(asked)]
    for stage, known in FAULTS.items():
        healthy, *sick = known
        for fault in [healthy] * (1 if config.tiny else HEALTHY[stage]) + sick:
            found.append((stage, [(fault, strength(fault, rng))]))
    if config.part == "judge":
        for _ in range(1 if config.tiny else PAIRS):
            found.append(("ppo", [(fault, strength(fault, rng)) for fault in pair(rng)]))
    return [(*case, 1000 * own.seed + number) for number, case in enumerate(found)]


def trial(own, stage, given, seed):
    """Trains with faults, and keeps the log. Returns what is known of the run."""
    script, name = stage.removesuffix("_ptx"), "-".join(f"{fault.name}-{how:.3g}" for fault, how in given)
    folder = Path(own.out) / "trials" / f"{stage}-{name}-{seed}"
    if not (folder / "trial.json").exists():
        settings = settings_of(own, stage) | {"out": str(folder), "seed": seed, "resume": True, "save_every": 10_000}
        of_data = [(fault.name, how) for fault, how in given if fault.name not in faults.FAULTS]
        for fault, how in of_data:
            settings |= spoilt(own, script, fault, how, folder)
        own_faults = [(fault.name, how) for fault, how in given if fault.name in faults.FAULTS]
        ended = "finished"
        try:
            faults.train(script, settings, own_faults)
        except InputError as error:
            require("last good checkpoint" in str(error), str(error))  # a figure is not finite
            ended = str(error)
        for path in folder.glob("*.pt"):
            path.unlink()
        (Path(own.out) / "data" / f"{folder.name}.jsonl").unlink(missing_ok=True)
        result = {"folder": str(folder), "stage": stage, "faults": [[fault.name, how] for fault, how in given]}
        result |= {"diseases": [fault.disease for fault, _ in given if fault.disease], "ended": ended}
        write_json(folder / "trial.json", result)
    return read_json(folder / "trial.json")


def settings_of(own, stage):
    """The flags of a healthy run."""
    out = own.out
    if stage.startswith("ppo"):
        changes = dict(ptx_coef=0.0) if stage == "ppo" else {}
        return own.ppo(f"{out}/rl_start", f"{out}/rm", **changes)[1]
    validation = {"validation": own.file(VALIDATION[stage])}
    if stage == "gpt":
        return own.gpt(data=own.file("web_part"), **validation)[1]
    if stage in ("sft", "rl_start"):
        return getattr(own, stage)(f"{out}/gpt", **validation)[1]
    return own.rm(f"{out}/sft", data=own.file("rankings_training"), **validation)[1]


def spoilt(own, script, fault, how, folder):
    """The flag of a file with a fault."""
    if script == "ppo":  # a reward model that learned from such rankings
        return {"reward_model": f"{own.out}/rm-{fault}"}
    names = {"gpt": "web_part", "sft": "demonstrations", "rm": "rankings_training"}
    rows = read(own.file(names[script]), {"gpt": "document", "sft": "demonstration", "rm": "ranking"}[script])
    path = Path(own.out) / "data" / f"{folder.name}.jsonl"
    write_lines(path, changed(rows, fault, how, random.Random(str(folder))))
    return {"data": str(path)}


def bands_of(folders):
    """{kind: {sign: [[low, high] at each tenth]}} of healthy runs."""
    values = {}
    for folder in folders:
        log = signs.read_log(folder)
        for so_far in log.parts():
            for name in (name for name in diagnosis.names_of(log.kind) if name not in diagnosis.EXACT):
                own = values.setdefault(log.kind, {}).setdefault(name, [[] for _ in range(10)])
                own[so_far.tenth - 1].append(getattr(signs, name)(so_far))
    return {kind: {name: [widened(own) for own in tenths] for name, tenths in known.items()}
            for kind, known in values.items()}  # fmt: skip


def widened(values):
    """[low, high] of values (None: there was none), with a margin; [None, None] if there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return [None, None]
    low, high = min(values), max(values)
    if low > 0:  # what is positive by nature varies by factors
        factor = max((high / low) ** MARGIN, 1 + LEAST)
        return [low / factor, high * factor]
    margin = max(MARGIN * (high - low), LEAST)
    return [low - margin, high + margin]


def say(patient):
    """What the diagnosis of a trial is, after which share of the run it was known, and what was said at any time."""
    if not (Path(patient["folder"]) / "metrics.jsonl").exists():  # not finite in the first step: the script says so
        return patient | {"said": NO_LOG, "others": [], "knew": 1.0, "ever": [NO_LOG], "values": {}, "rows": 0}
    log = signs.read_log(patient["folder"])
    found = diagnosis.diagnose(log)
    said = found.disease.name if found.disease else ""
    seen = [own.name if own else "" for own in (diagnosis.diagnose(part, quick=True).disease for part in log.parts())]
    knew = next(i for i in range(1, len(seen) + 1) if all(own == said for own in seen[i - 1 :])) / len(seen)
    values = {name: getattr(signs, name)(log) for name in diagnosis.names_of(log.kind)}
    about = {"others": [disease.name for disease in found.others], "ever": sorted({*seen} - {""})}
    return patient | {"said": said, "knew": knew, "values": values, "rows": len(log.rows)} | about


if __name__ == "__main__":
    command(main, Config, "part")
