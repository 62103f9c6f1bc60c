"""Says whether a training run is healthy, and if not, what it has and what to change first.

    python -m tools.doctor runs/mine/ppo                       reads the run's log
    python -m tools.doctor runs/mine/ppo --watch               reads it again every half minute while the run goes on
    python -m tools.doctor runs/mine/ppo --out doctor.html     writes a page, with the curves in question
    python -m tools.doctor trainer_state.json                  a log of TRL, verl or OpenRLHF: JSON, JSON lines or CSV

It compares with healthy runs of small models that read the town's texts. A run that reads other texts, and another
project's, is judged by what must be so in any run; for the rest it says what such a run of the town would have.
docs/healthy.md says how often it is right.
"""

import csv
import html
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path

from minirlhf.support import diagnosis, logs, signs
from minirlhf.support.config import check_fields, command, require_ending, require_positive
from minirlhf.support.diagnosis import diagnose, history, looks, since
from minirlhf.support.errors import InputError, require, reraise
from minirlhf.support.files import write_atomically

COMMON = Path(__file__).parent / "web" / "common.html"
KINDS = {"gpt": "pretraining", "sft": "SFT", "rl_start": "SFT with documents", "rm": "reward model", "ppo": "PPO",
         "ppo_ptx": "PPO-ptx", "other": "of none of the four scripts"}  # fmt: skip
# Other projects' columns, by ours. "1 -": one minus theirs. The first of several that is there is taken. A KL is of a
# whole answer; where a project logs a token's, as GRPO's loss has it, there is none here.
COLUMNS = {
    "score": ("objective/scores", "ppo/mean_scores", "env/reward_mean", "critic/score/mean", "reward"),
    "kl": ("objective/kl",),
    "entropy": ("policy/entropy_avg", "actor/entropy", "actor/entropy_loss", "entropy"),
    "clip_fraction": ("policy/clipfrac_avg", "ppo/policy/clipfrac", "actor/pg_clipfrac", "clip_ratio/region_mean",
                      "ppo_clip_ratio"),
    "explained_variance": ("ppo/val/var_explained", "critic/vf_explained_var"),
    "response_length": ("tokens/responses_len_mean", "val/sequence_lengths", "response_length/mean",
                        "completions/mean_length", "response_length"),
    "ended": ("1 - completions/clipped_ratio", "1 - response_length/clip_ratio"),
    "ptx_loss": ("ptx_loss",),
    "validation_loss": ("eval_loss",),
    "accuracy": ("accuracy", "acc_mean"),
    "validation_accuracy": ("eval_accuracy",),
    "loss": ("loss",),
    "grad_norm": ("grad_norm",),
}  # fmt: skip
FEW = 5  # trials, of which fewer say nothing of how sure a diagnosis is


@dataclass(frozen=True)
class Config:
    run: str  # folder of a run, or another project's log file
    watch: bool = False  # look again every half minute, until the run has finished
    every: float = 30.0  # seconds between two looks
    out: str | None = None  # page to write, .html

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "every")
        if self.out:
            require_ending(self, "out", ".html")


def main(config):
    own = Path(config.run).is_dir()
    require(own or Path(config.run).is_file(), f"{config.run}: no such folder or file; give a run's folder, or a log")
    require(own or not config.watch, "--watch: another project's log does not say when it ends; leave the flag out")
    while True:
        log, columns = (logs.read_log(config.run), None) if own else read_foreign(config.run)
        if config.watch and not log.rows:
            time.sleep(config.every)
            continue
        require(log.rows, f"{config.run}: no step is logged yet; look again later, or give another project's log file")
        text, pictured = report(config.run, log, columns)
        print(text, flush=True)
        if config.out:
            write_atomically(config.out, page(log, pictured, text).encode())
        if not config.watch or len(log.rows) >= log.steps or (Path(config.run) / "model.pt").exists():
            return
        time.sleep(config.every)


# --- what it says ----------------------------------------------------------------------------------------------------


def report(name, log, columns=None):
    """What is found in a log, in a few lines; and the Signs of which it speaks. columns: of another project's log, as
    read_foreign returns them."""
    seen = looks(log)
    found = diagnose(seen)
    town = found if seen[-1].alike else diagnose([one._replace(alike=True) for one in seen])
    pictured = [*found.evidence, *found.also]
    lines = [f"{name}: {KINDS[log.kind]}, {len(log.rows)} steps" + ("" if columns is None else ", another project's")]
    if columns:
        lines += ["read: " + ", ".join(f"{theirs} as {own}" for own, theirs in columns.items())]
    if log.kind.startswith("ppo") and len(log.rows) > diagnosis.ITERATIONS:
        lines += [f"(curves are compared with iteration {diagnosis.ITERATIONS} of healthy runs, which is their last)"]
    if found.disease:
        lines += [f"it has: {found.disease.name}{how_sure(log, found.disease)}", *evidence(log, found, seen[-1].alike)]
    else:
        lines += [diagnosis.healthy(seen)]
    lines += besides(log, found, seen[-1].alike)
    if town.disease and town.disease is not found.disease:  # only if texts are unlike the town's
        lines += [f"by analogy with runs of the town's texts: {town.disease.name}{how_sure_by_analogy()}"]
        lines += [*evidence(log, town, True), *besides(log, town, True)]
        pictured = [*town.evidence, *town.also]  # those of found are among them
    if town.unseen:
        lines += [f"could not be looked at (the log is too short, or lacks what they need): {', '.join(town.unseen)}"]
    return "\n".join(lines), pictured


def evidence(log, found, alike):
    """Why a Diagnosis is made, and what to change first: lines."""
    return [*(f"  {sentence(log, sign, alike)}" for sign in found.evidence), f"first: {found.disease.advice}"]


def besides(log, found, alike):
    """What else a Diagnosis has found: lines."""
    names = ", ".join(disease.name for disease in found.others)
    lines = [f"it may also have (or this follows): {names}"] if names else []
    too = "too" if found.disease else "which alone is no disease"
    return [*lines, *(f"outside the healthy band, {too}: {sentence(log, sign, alike)}" for sign in found.also)]


def sentence(log, sign, alike):
    """A Sign of a log in words."""
    what = " ".join(getattr(signs, sign.name).__doc__.split())
    bound = f"at most {write(sign.high)}" if sign.side == "high" else f"at least {write(sign.low)}"
    step = since(history(log, sign.name, alike))
    return f"{sign.name} {write(sign.value)}, seen by step {step}; healthy is {bound}. {what}"


def write(value):
    return f"{value:.3g}"


def how_sure(log, disease):
    """How often the diagnosis was right in trials of this kind of run."""
    right, said = diagnosis.trials(log.kind).get(disease.name, (0, 0))
    if said < FEW:
        few = f": only {said} trials were said to have it, rightly {right}" if said else ""
        return f" (how often this is right is not known{few})"
    return f" (right in {right} of the {said} trials with the town's texts that were said to have it; most had a fault)"


def how_sure_by_analogy():
    """How often healthy runs of other texts were called ill by analogy."""
    ill, healthy = diagnosis.learned().get("analogies", (0, 0))
    return f" (in trials with other texts, {ill} of {healthy} healthy runs were called ill so)" if healthy else ""


# --- other projects' logs ---------------------------------------------------------------------------------------------


def read_foreign(path):
    """The Log of another project's file; and {our name: its column}."""
    planned = None  # steps, of which a row may tell several
    with reraise(f"{path}: no log of a kind that is known; give JSON lines, CSV, or a trainer_state.json"):
        text = Path(path).read_text(encoding="utf-8")
        if path.endswith(".csv"):
            given = [{name: number(value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
        elif text.lstrip().startswith("{") and "log_history" in text:
            state = json.loads(text)
            given, planned = state["log_history"], int(state.get("max_steps") or 0)
        elif text.lstrip().startswith("["):
            given = json.loads(text)
        else:
            given = [json.loads(line) for line in text.splitlines() if line.strip()]
        given = [row | row["data"] if isinstance(row.get("data"), dict) else row for row in given]  # as verl's are
        given = [{str(name).removeprefix("train/"): value for name, value in row.items()} for row in given]
        steps = [int(row.get("step", row.get("global_step", i)) or 0) for i, row in enumerate(given)]
        known = [ours(row) for row in given]
    rows = [{"step": step} | {name: value for name, (_, value) in own.items()}
            for step, own in zip(steps, known) if own]  # fmt: skip
    all_columns = set().union(*given)
    require(rows, f"{path}: none of the known columns; it has {', '.join(sorted(all_columns))[:200]}")
    kind = "other" if "rewards/chosen" in all_columns else None  # that is DPO's
    log = logs.Log(rows, kind=kind, vocabulary=set())
    log.steps = round(len(rows) * planned / rows[-1]["step"]) if planned and rows[-1]["step"] else None
    return log, {name: column for own in known for name, (column, _) in own.items()}


def ours(row):
    """{our name: (its column, value)} of a row of another project."""
    found = {}
    for name, theirs in COLUMNS.items():
        for column in theirs:
            value = row.get(column.removeprefix("1 - "))
            if isinstance(value, (int, float)):
                found[name] = column, 1 - value if column.startswith("1 - ") else value
                break
    return found


def number(text):
    """A cell of a CSV file as a number; None if it is empty, or none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


# --- the page --------------------------------------------------------------------------------------------------------


def page(log, outside, text):
    """A report as an HTML page, with a curve for each Sign that is outside, before the healthy band."""
    lines = html.escape(text).split("\n")
    pictures = "".join(picture(log, sign) for sign in outside)
    style = COMMON.read_text(encoding="utf-8").partition("<script>")[0]
    return (f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{lines[0]}</title>\n{style}'
            f"<h1>{lines[0]}</h1>\n" + "".join(f"<p>{line}</p>\n" for line in lines[1:]) + pictures)  # fmt: skip


def picture(log, sign):
    """A sign as it went through the run, as an SVG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('pictures need matplotlib; pip install "minirlhf[plots]"') from None
    figure = Figure(figsize=(5, 2.4), layout="constrained")
    axis, (steps, found) = figure.subplots(), zip(*history(log, sign.name))
    _, values, lows, highs = zip(*found)
    draw_band(axis, steps, lows, highs, values)
    axis.plot(steps, values, linewidth=1.5)
    axis.set(title=sign.name.replace("_", " "), xlabel="step")
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    return f'<div class="card">{file.getvalue().partition("?>")[2].partition(">")[2]}</div>\n'


def draw_band(axis, steps, lows, highs, values):
    """Shades where healthy runs are: to the edge of the picture where one bound is missing, nothing where both are."""
    known = [value for value in (*values, *lows, *highs) if value is not None]
    room = 0.05 * (max(known) - min(known) or 1)
    rows = [row for row in zip(steps, lows, highs) if row[1:] != (None, None)]
    steps, lows, highs = zip(*rows) if rows else ((), (), ())
    lows = [min(known) - room if value is None else value for value in lows]
    highs = [max(known) + room if value is None else value for value in highs]
    axis.fill_between(steps, lows, highs, color="tab:green", alpha=0.15, linewidth=0)


if __name__ == "__main__":
    command(main, Config, "run")
