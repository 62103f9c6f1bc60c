"""One trial: a run with faults, and what the doctor says of it. Each trial is run in one of several processes."""

import random
from pathlib import Path

from minirlhf.support import diagnosis, signs
from minirlhf.support.files import read_json, write_json, write_lines
from minirlhf.support.records import read

from . import counts, faults
from .bases import VALIDATION
from .cases import changed

NO_LOG = "nothing: it ended before a row was logged"


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
        except Exception as error:  # a fault may do anything to a run
            ended = f"{type(error).__name__}: {str(error)[:200]}".replace(str(folder), "RUN")
        for path in folder.glob("*.pt"):
            path.unlink()
        (Path(own.out) / "data" / f"{folder.name}.jsonl").unlink(missing_ok=True)
        result = {"folder": str(folder), "stage": stage, "seed": seed}
        result |= {"faults": [[counts.label(stage, fault.name, how), how] for fault, how in given]}
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


def diagnose_trial(trial):
    """What the signs of a trial were at each tenth of its log, what the diagnosis is, after which share of the run it
    was known, and what was said at any time."""
    if not (Path(trial["folder"]) / "metrics.jsonl").exists():  # not finite in the first step: the script says so
        nothing = {"said": NO_LOG, "others": [], "at_any_time": [NO_LOG], "tenths": [], "signs": {}}
        return trial | nothing | {"detected": 1.0}
    log = signs.read_log(trial["folder"])
    found = diagnosis.diagnose(log)
    said = found.disease.name if found.disease else ""
    seen = [own.name if own else "" for own in (diagnosis.diagnose(part, quick=True).disease for part in log.parts())]
    detected = next(i for i in range(1, len(seen) + 1) if all(own == said for own in seen[i - 1 :])) / len(seen)
    parts = log.parts(10)
    values = {name: [rounded(getattr(signs, name)(part)) for part in parts] for name in diagnosis.names_of(log.kind)}
    about = {"others": [disease.name for disease in found.others], "at_any_time": sorted({*seen} - {""})}
    about |= {"tenths": [part.tenth for part in parts], "signs": values}
    return trial | {"said": said, "detected": detected * len(log.rows) / log.steps} | about


def rounded(value):
    return None if value is None else float(f"{value:.4g}")
