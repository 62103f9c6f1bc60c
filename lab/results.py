"""Keeps the results that pages tell of in results/, and fills the pages' tables and figures from there.

    python -m lab.results --keep runs/findings-30 runs/toy-30     copies what two runs measured to results/
    python -m lab.results                                         fills README.md and docs/ from results/

A page marks what is filled in. A table stands between <!-- table NAME --> and <!-- end -->. The numbers of a paragraph
that are decimal or are followed by % (but not the 95 % of intervals) are listed in a comment before it, each by the
path of its figure: `toy | models | ppo_ptx | rm_score %`. At the end, % multiplies by 100, and () takes the two ends of
the interval, too; a line that is a number is one.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support.config import command
from minirlhf.support.curves import optional_picture, save_figure
from minirlhf.support.diagnosis import names_of
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import read_json, write_atomically, write_json

from . import broken
from .doctor import counts
from .findings import pictures
from .findings.claims import RUN_SEEDS, seeds_of
from .findings.measuring import known
from .findings.seeds import combine
from .methods.findings import CLAIMS as METHODS_CLAIMS
from .methods.findings import FINDINGS as METHODS
from .provenance import CLAIMS, ROOT, hash_of_claims
from .report import draw_ladder
from .tables import TABLES

FOLDER = ROOT / "results"
NAMES = ("results", "scaling", "healthy", "exercises", "own_reward", "findings", "methods", "people", "real_run",
         "own_data")  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in NAMES))
DRAWN = {"overoptimization": known()["overoptimization"]} | METHODS  # findings whose pictures are in docs/
# What is kept of a trial of lab.doctor.
TRIAL = ("stage", "seed", "faults", "diseases", "ended", "steps", "rows", "alike", "signs", "ranges")
NO_FIGURE = r"(?<![\w.,])(?<!ection )(?<!arXiv )(?<!ython )"  # what stands before no figure
NUMBER = re.compile(NO_FIGURE + r"[+-]?(?:\d[\d,]*\.\d+(?![\w.]*\d)|(?!95 %)\d+(?= %))")
CODE = re.compile(r"(`[^`\n]+`)")
TABLE = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.S)
FIGURES = re.compile(r"(<!-- figures\n(.*?)\n-->\n)(.*?)(?=\n\n|\Z)", re.S)


@dataclass(frozen=True)
class Config:
    keep: tuple[str, ...] = ()  # folders of finished runs whose results are copied


def main(config):
    for folder in config.keep:
        keep(Path(folder))
    found = load()
    for name in PAGES:
        path = ROOT / name
        write_atomically(path, fill(path.read_text(), found, name).encode())
    if "toy" in found:
        with optional_picture(ROOT / "docs" / "ladder.png"):
            save_figure(draw_ladder(found["toy"]), ROOT / "docs" / "ladder.png")
    for name, finding in DRAWN.items():
        if name in found:
            pictures.write(finding(), found[name], ROOT / "docs" / f"{name}.png")
    if "broken" in found:
        broken.draw(found["broken"], found.get("healthy", []), ROOT / "docs")


def keep(folder):
    """Copies the results of a finished run to results/, if they may confirm a claim."""
    own = {path.stem: read_json(path) for path in folder.glob("*.json")}
    if "results" in own:
        result = own["results"]
        require_believable(result, folder)
        write_json(FOLDER / "reproduce" / f"{result['size']}-{result['seed']}.json", shorter(result))
        return
    for name in ("broken", "folds"):
        if name in own:
            require_believable(own[name], folder)
            write_json(FOLDER / f"{name}.json", shorter(own[name]))
            return
    if "search" in own:  # of lab.methods, on validation content
        require(not own["search"]["made by"]["changed"], f"{folder}: measured with files that differ from their commit")
        write_json(FOLDER / "methods" / f"search-{own['search']['seed']}.json", shorter(own["search"]))
        return
    if parts := [name for name in own if name.split("-")[0] in ("train", "evaluate", "threads")]:  # of lab.doctor
        for name in parts:
            require_believable(own[name], f"{folder}/{name}.json")
            fault = f"{folder}/{name}.json: of an older version of lab.doctor; remove it, and run the command again"
            trials = own[name]["trials"]
            whole = all({*TRIAL} <= {*one} and {*names_of(one["stage"])} <= {*one["signs"]} for one in trials)
            require(whole, fault)
            trials = [{key: one[key] for key in TRIAL} for one in trials]
            write_json(FOLDER / "doctor" / f"{name}.json", shorter(own[name] | {"trials": trials}))
        return
    results = {name: result for name, result in own.items() if name in known() | METHODS}
    require(results, f"{folder}: no results of reproduce.py or of a command of lab/; wait until a run has finished")
    for name, result in results.items():
        require_believable(result, f"{folder}/{name}.json", METHODS_CLAIMS if name in METHODS else CLAIMS)
    kind = "methods" if results.keys() <= METHODS.keys() else "findings"
    path = FOLDER / kind / f"seed-{next(iter(results.values()))['seed']}.json"
    write_json(path, (read_json(path) if path.exists() else {}) | shorter(results))


def require_believable(result, where, claims=CLAIMS):
    why = why_not(result, claims)
    require(why is None, f"{where}: {why}")


def why_not(result, claims=CLAIMS):
    """Why a result cannot confirm a claim of the file `claims`; None if it can."""
    made = result.get("made by", {})
    if made.get("commit", "unknown") == "unknown":
        return "does not say of which commit it is; run it in a clone"
    if made["changed"]:
        return f"measured with files that differ from their commit ({made['changed'][0]}); commit them first"
    if "--judge_on" in made["command"] or "--tiny" in made["command"]:
        return "a trial, with --judge_on or --tiny"
    if made["claims"] != hash_of_claims(claims):
        return "measured with another claims.md"
    return None


def shorter(value):
    """The same with numbers of six digits."""
    if isinstance(value, dict):
        return {key: shorter(own) for key, own in value.items()}
    if isinstance(value, list):
        return [shorter(own) for own in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def load():
    """{source: figures of all its seeds combined}: "toy" for reproduce.py, and each finding's name."""
    runs = [read_json(path) for path in sorted((FOLDER / "reproduce").glob("toy-*.json"))]
    runs = [run for run in runs if run["seed"] in RUN_SEEDS]
    found = {"toy": combine(runs) | {"seeds": len(runs)}} if runs else {}
    found |= {path.stem: read_json(path) for path in FOLDER.glob("*.json")}
    doctor = {part: counts.kept(FOLDER / "doctor", part) for part in ("train", "evaluate", "threads")}
    if all(doctor.values()):
        judged = {part: [*map(counts.judged, doctor[part])] for part in ("evaluate", "threads")}
        found["doctor"] = doctor | judged
    by_seed = [read_json(path) for path in sorted(FOLDER.glob("*/seed-*.json"))]
    for name, finding in (known() | METHODS).items():
        own = [one[name] for one in by_seed if name in one and one[name]["seed"] in seeds_of(finding)]
        if len(own) == len(seeds_of(finding)):  # a verdict waits for all seeds
            runs = [result["figures"] for result in own]
            found[name] = combine(runs) | {"seeds": len(own)}
            if name == "details":  # whose symptoms are compared seed by seed
                found["runs of details"], found["healthy"] = runs, [run["curves"] for run in runs]
    return found


# --- pages -----------------------------------------------------------------------------------------------------------


def fill(page, found, name="page"):
    """A page with its tables and figures as `found` has them."""
    page = TABLE.sub(lambda m: m[1] + TABLES[m[2]](found) + m[4], page)
    return FIGURES.sub(lambda m: m[1] + filled(m[3], m[2].splitlines(), found, name), page)


def filled(text, lines, found, name):
    """A paragraph with each decimal number replaced by what its line stands for, in the form that it has."""
    values = [value for line in lines for value in values_of(line, found, name)]
    numbers = NUMBER.findall(CODE.sub("", text))
    if len(values) != len(numbers):
        raise InputError(f"{name}: {len(numbers)} decimal numbers and {len(values)} figures: {text[:60]!r}...")
    values = iter(values)
    parts = [part if CODE.fullmatch(part) else NUMBER.sub(lambda m: in_form_of(m[0], next(values)), part)
             for part in CODE.split(text)]  # fmt: skip
    return "".join(parts)


def values_of(line, found, name):
    """The numbers that a line stands for."""
    if NUMBER.fullmatch(line.strip()):
        return [line.strip()]
    path, percent, ends = re.fullmatch(r"(.*?)\s*(%?)\s*((?:\(\))?)", line.strip()).groups()
    value = found
    for key in path.split(" | "):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except LookupError:
            raise InputError(f"{name}: no figure {path!r} in results/") from None
    numbers = [value] if isinstance(value, (int, float)) else [value[end] for end in ("mean", "low", "high")]
    return [number * (100 if percent else 1) for number in numbers[: 3 if ends else 1]]


def in_form_of(text, value):
    """A number with as many decimals as another's text, and a sign if that has one."""
    if isinstance(value, str):
        return value
    sign = "+" if text[0] in "+-" else ""
    return f"{value:{sign},.{len(text.partition('.')[2])}f}"


if __name__ == "__main__":
    command(main, Config)
