"""What trials say of the diagnosis: how often it finds what is there, how often it calls a healthy run ill, how early
it does. trials: dicts as trials.signs_of returns them, to which judged() adds."""

from collections import Counter, defaultdict
from statistics import median

from minirlhf.support import diagnosis
from minirlhf.support.files import read_json

from .bands import bands_of
from .cases import FAULTS

KINDS = {"gpt": "pretraining", "sft": "SFT", "rl_start": "SFT", "rm": "reward model", "ppo": "PPO", "ppo_ptx": "PPO"}
HEALTHY, STOPPED = "healthy", "the script stopped with an error"


def kept(folder, part):
    """The trials of a part that are kept in a folder, base by base. (From those of train only bands are learned: signs
    that have none may be missing there.)"""
    found = [read_json(path) for path in sorted(folder.glob(f"{part}-*.json"))]
    return [{"base": one["base"]} | trial for one in found for trial in one["trials"]]


def judged(trial, bands=None):
    """A trial, and what diagnosis.py says of it as it is now, by the bands of bands.json unless others are given:
    "said", the disease that is named at its end, "" if none is; "at_any_time", all that were named at some tenth;
    "detected", from which share of the run on the same was said until its end."""
    kind, steps, signs = trial["stage"], trial["steps"], trial["signs"]
    looks = [diagnosis.Look(kind, diagnosis.place_of(kind, rows, steps), {name: own[i] for name, own in signs.items()},
                            trial["alike"]) for i, rows in enumerate(trial["rows"])]  # fmt: skip
    found = [diagnosis.diagnose(looks[max(0, i - 1) : i + 1], bands) for i in range(len(looks))]
    seen = [own.disease.name if own.disease else "" for own in found]
    if trial["ended"] != "finished":
        seen.append(STOPPED)
    first = next((i for i in reversed(range(len(seen) - 1)) if seen[i] != seen[-1]), -1) + 1
    detected = trial["rows"][min(first, len(looks) - 1)] / steps if looks else 0.0
    return trial | {"said": seen[-1], "at_any_time": sorted({*seen} - {"", STOPPED}), "detected": detected}


def without_its_base(trials):
    """Trials, each judged by the bands of all other bases."""
    for base in dict.fromkeys(one["base"] for one in trials):
        bands = bands_of([one for one in trials if one["base"] != base])
        yield from (judged(one, bands) for one in trials if one["base"] == base)


def label(stage, name, how):
    """A fault's name in words; where two faults of such runs have it, with the direction."""
    known = {fault for own in (stage, stage.removesuffix("_ptx")) for fault in FAULTS[own] if fault.name == name}
    middle = 0 if any(fault.low < 0 for fault in known) else 1
    return name.replace("_", " ") + (f" {'high' if how > middle else 'low'}" if len(known) > 1 else "")


def is_right(trial):
    """Whether what was said is a disease that the run has, or that it is healthy if it has none."""
    return trial["said"] in (trial["diseases"] or [""])


def precision(trials):
    """{kind of run: {disease: [in how many runs it was rightly said, in how many it was said]}}, of those whose texts
    are the town's. PPO-ptx is PPO."""
    found = defaultdict(dict)
    for one in sorted(trials, key=lambda one: one["said"]):
        if one["alike"] and one["said"] not in ("", STOPPED):
            own = found[one["stage"].removesuffix("_ptx")]
            right, said = own.get(one["said"], (0, 0))
            own[one["said"]] = [right + is_right(one), said + 1]
    return dict(found)


def analogies(trials, bands=None):
    """[how many are called ill by the town's bands, how many there are] of healthy runs with other texts."""
    found = [judged(one | {"alike": True}, bands) for one in trials if not one["alike"] and not one["diseases"]]
    return [sum(not is_right(one) for one in found), len(found)]


def of_diseases(trials):
    """{(kind of run, disease): count, with "faults": the labels of what was put in} of runs with one fault, or none:
    healthy."""
    groups = defaultdict(list)
    for one in trials:
        if len(one["faults"]) < 2:
            groups[KINDS[one["stage"]], (one["diseases"] or [HEALTHY])[0]].append(one)
    return {name: count(own) | {"faults": sorted({label(one["stage"], *one["faults"][0]) for one in own})}
            for name, own in groups.items()}  # fmt: skip


def of_bases(trials):
    """{base: {"healthy", "sick", "two": count}}."""
    names = ("healthy", "sick", "two")
    return {base: {name: count([one for one in trials if one["base"] == base and len(one["diseases"]) == n])
                   for n, name in enumerate(names)}
            for base in dict.fromkeys(one["base"] for one in trials)}  # fmt: skip


def count(trials):
    """{"runs", "right", "instead": [(what was said instead, how often)], "detected": the median share of a run after
    which it said so until the end, of those where it is right; None if it never is, "no_alarm": in how many no disease
    was named at any time}."""
    wrong = Counter(one["said"] or HEALTHY for one in trials if not is_right(one))
    detected = [one["detected"] for one in trials if is_right(one)]
    quiet = sum(not one["at_any_time"] for one in trials)
    return {"runs": len(trials), "right": len(detected), "instead": wrong.most_common(),
            "detected": median(detected) if detected else None, "no_alarm": quiet}  # fmt: skip
