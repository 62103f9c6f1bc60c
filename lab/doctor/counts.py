"""What trials say of the diagnosis: how often it finds what is there, how often it calls a healthy run ill, how early
it knows. patients: dicts as __main__.say returns them."""

from collections import Counter, defaultdict
from statistics import median

from minirlhf.support.files import read_json

from .cases import FAULTS

KINDS = {"gpt": "pretraining", "sft": "SFT", "rl_start": "SFT", "rm": "reward model", "ppo": "PPO", "ppo_ptx": "PPO"}
HEALTHY = "healthy"


def kept(folder, part):
    """The patients of a part that are kept in a folder, base by base."""
    found = [read_json(path) for path in sorted(folder.glob(f"{part}-*.json"))]
    return [{"base": one["base"]} | patient for one in found for patient in one["patients"]]


def label(stage, name, how):
    """A fault's name; where two faults of a stage have it, with the direction."""
    strengths = [fault.low for fault in FAULTS[stage] if fault.name == name]
    middle = 0 if min(strengths) < 0 else 1
    return name if len(strengths) == 1 else f"{name}, {'high' if how > middle else 'low'}"


def is_right(patient):
    """Whether what was said is a disease that the run has, or that it is healthy if it has none."""
    return patient["said"] in (patient["diseases"] or [""])


def trials(patients):
    """{kind of run: {disease: (in how many runs it was rightly said, in how many it was said)}}. PPO-ptx is PPO."""
    found = defaultdict(dict)
    for one in sorted(patients, key=lambda one: one["said"]):
        if one["said"]:
            own = found[one["stage"].removesuffix("_ptx")]
            right, said = own.get(one["said"], (0, 0))
            own[one["said"]] = right + is_right(one), said + 1
    return dict(found)


def of_faults(patients):
    """{(kind of run, fault, disease): count} of runs with one fault, or none: healthy."""
    groups = defaultdict(list)
    for one in patients:
        if len(one["faults"]) < 2:
            ((name, _),) = one["faults"]
            groups[KINDS[one["stage"]], name, (one["diseases"] or [HEALTHY])[0]].append(one)
    return {name: count(own) for name, own in groups.items()}


def of_bases(patients):
    """{base: {"healthy", "sick", "two": count}}."""
    names = ("healthy", "sick", "two")
    return {base: {name: count([one for one in patients if one["base"] == base and len(one["diseases"]) == n])
                   for n, name in enumerate(names)}
            for base in dict.fromkeys(one["base"] for one in patients)}  # fmt: skip


def count(patients):
    """{"runs", "right", "instead": [(what was said instead, how often)], "knew": the median share of a run after which
    it said so until the end, of those where it is right; None if it never is, "never": in how many no disease was named
    at any time}."""
    wrong = Counter(one["said"] or HEALTHY for one in patients if not is_right(one))
    knew = [one["knew"] for one in patients if is_right(one)]
    return {"runs": len(patients), "right": len(knew), "instead": wrong.most_common(),
            "knew": median(knew) if knew else None, "never": sum(not one["ever"] for one in patients)}  # fmt: skip
