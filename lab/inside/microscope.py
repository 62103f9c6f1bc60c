"""The microscope: one HTML file that shows answers of a run of train_ppo.py token by token, over its iterations.

    python -m lab.inside runs/toy                    PPO beside PPO-ptx, of a run of reproduce.py
    python -m lab.inside runs/mine/ppo               one run; or two, side by side

It reads tokens.jsonl and metrics.jsonl; no weights are needed. If the reward model is there, it also shows its score as
the answer grows.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from minirlhf.model import RewardModel
from minirlhf.rollout import per_sequence, response_scores
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import check_fields, require_ending
from minirlhf.support.errors import InputError, require
from minirlhf.support.files import read_json, write_atomically
from minirlhf.support.logs import read_metrics
from minirlhf.support.records import Sequence

from .page import fill

CHARTS = {
    "score": "reward model's score, mean of the batch",
    "kl": "KL, nats per answer",
    "clip_fraction": "share of tokens beyond the clip range",
    "explained_variance": "explained variance of the returns",
    "entropy": "entropy, nats per token",
}
NEEDED = ("ids", "tokens", "logp", "ref_logp", "reward", "value", "advantage")


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...]  # one or two folders of train_ppo.py, or one of reproduce.py
    out: str = "inside.html"  # file to write

    def __post_init__(self):
        check_fields(self)
        require_ending(self, "out", ".html")
        require(len(self.runs) <= 2, "at most two runs stand side by side; give two")


def main(config):
    folders = [Path(folder) for folder in config.runs]
    if len(folders) == 1 and (folders[0] / "ppo" / "tokens.jsonl").exists():
        folders = [folders[0] / name for name in ("ppo", "ppo_ptx")]
    runs = [run(folder) for folder in folders]
    data = {
        "runs": runs,
        "charts": CHARTS,
        "made": "Made by python -m lab.inside from " + " and ".join(map(str, folders)),
    }
    write_atomically(config.out, fill("inside", data=json.dumps(data)))
    print(f"{config.out}: {sum(len(one['rows']) for one in runs)} answers; open it in a browser")


def run(folder):
    """What the page shows of a run: its settings, the rows of tokens.jsonl, and columns of its metrics."""
    require((folder / "config.json").exists(), f"{folder}: no run of train_ppo.py; give its folder")
    require((folder / "tokens.jsonl").exists(), f"{folder}: no tokens.jsonl; train it again, with --show 1 or more")
    settings = read_json(folder / "config.json")
    rows, metrics = read_metrics(folder, "tokens.jsonl"), read_metrics(folder)
    for number, row in enumerate(rows, 1):
        for name in NEEDED:
            require(name in row, f"{folder}/tokens.jsonl:{number}: no {name}; the run is of another version")
    score_so_far(rows, settings.get("reward_model"), folder)
    columns = {name: [[row["step"], row[name]] for row in metrics if name in row] for name in CHARTS}
    return {"name": str(folder), "beta": settings["kl_coef"], "clip": settings["clip"], "rows": rows,
            "metrics": {name: points for name, points in columns.items() if points}}  # fmt: skip


def score_so_far(rows, reward_model, folder):
    """Adds to the rows of watched prompts the score if the answer ended after each token. Nothing without the model."""
    if not reward_model:
        return
    try:
        tokenizer = load_tokenizer(reward_model)
        model = load_model(reward_model, RewardModel, tokenizer).eval()
    except InputError as error:
        return print(f"{folder}: without the score as an answer grows: {error}")
    watched = [row for row in rows if "again" in row]
    beginnings = [each for row in watched for each in beginnings_of(row, tokenizer)]
    scores = iter(per_sequence(response_scores, model, beginnings, tokenizer.pad).tolist())
    for row in watched:
        row["score_so_far"] = [round(next(scores), 4) for _ in row["ids"]]


def beginnings_of(row, tokenizer):
    """A row's response cut after each token, with end-of-text, as Sequences; the last is the response itself."""
    prompt, ids = tokenizer.encode(row["prompt"]), row["ids"]
    answers = [[*ids[:n], tokenizer.eos] for n in range(1, len(ids))] + [ids]
    return [Sequence(prompt + answer, len(prompt)) for answer in answers]
