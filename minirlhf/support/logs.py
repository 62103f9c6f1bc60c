"""Reads what a run logged."""

import json
from pathlib import Path

import numpy as np

from .errors import require, reraise
from .files import complete_lines, read_json
from .tokenizer import load

LOGS = ("samples.jsonl", "tokens.jsonl", "metrics.jsonl")  # in the order in which a step writes them


def read_metrics(out, name="metrics.jsonl"):
    """The rows of a run's metrics.jsonl or samples.jsonl, as dicts."""
    path = Path(out) / name
    rows = []
    require(path.exists(), f"{path}: no such file; give the folder of a run that has taken a step")
    with reraise(f"{path}: cannot be read; remove it"):
        lines = complete_lines(path)
    for number, line in enumerate(lines, 1):
        with reraise(f"{path}:{number}: not a row of a run's metrics; remove the line, or the file"):
            row = json.loads(line)
            rows += [row] if row["step"] >= 0 else []
    return rows


def column(rows, name):
    """[(step, value)] of the rows that have a value in this column."""
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


class Log:
    """A run's log. kind: gpt, sft, rl_start, rm, ppo, ppo_ptx or other; rows: those of metrics.jsonl; tokens: those of
    tokens.jsonl; flags: of config.json, {} for another project's; vocabulary: the tokens of its tokenizer, a set of
    bytes, or None to take them for the town's; steps: how many the run will have, None if that is not known."""

    def __init__(self, rows, tokens=(), flags=None, kind=None, vocabulary=None):
        self.rows, self.tokens, self.flags, self.vocabulary = rows, list(tokens), flags or {}, vocabulary
        self.kind = kind or kind_of(rows, self.flags)
        self.steps = (rows[-1].get("steps") if rows else None) or steps_of(self.kind, self.flags) or len(rows)

    def __getitem__(self, name):
        """A column's values, a float array; of rows without a value nothing."""
        return np.array([row[name] for row in self.rows if row.get(name) is not None], float)

    def upto(self, count):
        """The log as it was after `count` rows."""
        last = self.rows[:count][-1]["step"] if count else -1
        tokens = [row for row in self.tokens if row["step"] <= last]
        log = Log(self.rows[:count], tokens, self.flags, self.kind, self.vocabulary)
        log.steps = self.steps
        return log

    def parts(self, count=20):
        """The log as it was after each of `count` equal parts, or after each row if there are fewer."""
        n = len(self.rows)
        return [self.upto(rows) for rows in sorted({round(n * part / count) for part in range(1, count + 1)} - {0})]


def read_log(folder):
    """The Log of a run's folder. InputError, with file and line, if it is not one."""
    names = "config.json", "metrics.jsonl", "tokens.jsonl"  # before the first step there is only the first
    config, metrics, tokens = ((Path(folder) / name).is_file() for name in names)
    require(config or metrics, f"{folder}: no metrics.jsonl; give the folder of a run")
    rows = [numbers(row) for row in read_metrics(folder) if len(row) > 1] if metrics else []
    flags = read_json(Path(folder) / "config.json") if config else {}
    tokens = read_metrics(folder, "tokens.jsonl") if tokens else []
    fields = {"prompt", "ids", "tokens", "score", "logp", "ref_logp", "value", "reward"}
    whole = all(fields <= row.keys() for row in tokens)
    require(whole, f"{folder}/tokens.jsonl: a row lacks a field of a token record; remove the file")
    return Log(rows, tokens, flags, vocabulary=vocabulary(folder, flags))


def numbers(row):
    """The numbers of a row."""
    return {name: value for name, value in row.items() if isinstance(value, (int, float))}


def vocabulary(folder, flags):
    """The tokens of a run's tokenizer: of the one in its folder, or, before a model is saved there, beside the model
    that it began with. Empty if none is found."""
    begun = [Path(str(flags[name])) for name in ("policy", "init", "tokenizer") if flags.get(name)]
    for place in (Path(folder), *begun, *(path.parent for path in begun if path.suffix)):
        if (place / "tokenizer.tiktoken").is_file():
            return set(load(place).ranks)
    return set()


def kind_of(rows, flags):
    """Which script wrote a log, by flags that only this script has; by the columns, if there are no flags. "other" is
    none of the four."""
    columns = set().union(*rows)
    ppo = "ppo_ptx" if "ptx_loss" in columns else "ppo"
    if not flags:
        own = columns & {"kl", "score", "clip_fraction", "response_length"}
        return ppo if own else "rm" if "accuracy" in columns else "sft"
    sft = "rl_start" if flags.get("documents") else "sft"
    scripts = {"gae_lambda": ppo, "tokenizer": "gpt", "document_share": sft, "demonstrations": "rm"}
    return next((kind for flag, kind in scripts.items() if flag in flags), "other")


def steps_of(kind, flags):
    """How many steps a run of PPO has; None for others, whose number depends on their data. (New logs say it.)"""
    known = kind.startswith("ppo") and {"episodes", "batch_size"} <= flags.keys()
    return flags["episodes"] // flags["batch_size"] if known else None
