"""One trial: a run with faults, and the signs of its log. Each trial is run in one of several processes."""

import random
import re
from pathlib import Path

from minirlhf.support import diagnosis, logs
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json, write_json, write_lines
from minirlhf.support.records import read

from . import faults
from .bases import VALIDATION
from .cases import changed

SHOWN = ("kl", "score", "clip_fraction", "value_loss", "loss", "validation_accuracy")  # columns whose range is kept


def run_trial(own, stage, given, seed):
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
        except InputError as error:  # a learning rate may be so high that numbers are not finite
            healthy = all(fault.name == "none" for fault, _ in given)
            if healthy or not re.search(r"finite| is -?(nan|inf)", str(error)):
                raise
            ended = str(error)[:200].replace(str(folder), "RUN")
        for path in folder.glob("*.pt"):
            path.unlink()
        (Path(own.out) / "data" / f"{folder.name}.jsonl").unlink(missing_ok=True)
        result = {"folder": str(folder), "stage": stage, "seed": seed}
        result |= {"faults": [[fault.name, how] for fault, how in given]}
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


def signs_of(trial):
    """A trial with its signs at each tenth of its run. If it stopped in the first step, there are none."""
    log = logs.read_log(trial["folder"])
    looks = [diagnosis.look(log.upto(rows)) for rows in diagnosis.cuts(log)]
    values = {name: [rounded(look.values[name]) for look in looks] for name in diagnosis.names_of(log.kind)}
    ranges = {name: [rounded(min(log[name])), rounded(max(log[name]))] for name in SHOWN if len(log[name])}
    known = {"steps": log.steps, "rows": diagnosis.cuts(log), "alike": diagnosis.is_alike(log)}
    return trial | known | {"signs": values, "ranges": ranges}


def rounded(value):
    return None if value is None else float(f"{value:.4g}")
