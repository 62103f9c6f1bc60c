"""Logs of healthy runs, made by hand, for tests of minirlhf/support/signs.py and of what reads them."""

import numpy as np
import pytest

from minirlhf.support import diagnosis, signs
from minirlhf.support.logs import Log

N = 40  # iterations of a run of PPO here
T = np.linspace(0, 1, N)
EOS = "<|endoftext|>"
FLAGS = dict(kl_coef=0.5, gae_lambda=0.95, episodes=N * 16, batch_size=16, minibatch_size=4, inner_epochs=1,
             ema_decay=0.9, reward_model="rm")  # fmt: skip


def ppo_rows(**changed):
    """Rows of a healthy run. changed: columns, as arrays of N values."""
    t = T
    columns = dict(score=t, kl=2 * t, clip_fraction=0.02 + 0 * t, explained_variance=0.9 * t, entropy=0.4 - 0.1 * t,
                   response_length=10 + t, ended=1 + 0 * t)  # fmt: skip
    columns |= {name: values + 0 * t for name, values in changed.items()}
    return [{"step": i} | {name: float(values[i]) for name, values in columns.items()} for i in range(N)]


SHOWN = 8  # answers of each iteration


def token_rows(**changed):
    """Eight answers of three or four tokens in each iteration, the scores 1 and -1 in turn, whatever the length.
    changed: of every row."""
    rows = []
    for i in range(N * SHOWN):
        n, score = 3 + i // 2 % 2, (-1.0) ** i
        logp = np.array([-1.0, -0.5, -0.1, -0.1])[:n]
        ref_logp = logp.copy()
        if i >= SHOWN:  # the policy starts as the reference; then pi_ref / pi is 1 on average
            ref_logp[0] += np.log(1.2 if i // 4 % 2 else 0.8)
        row = dict(step=i // SHOWN, prompt=f"{i}\n", score=score, ids=[5, 6, 7, 8][:n], tokens=["a"] * (n - 1) + [EOS],
                   logp=list(logp), ref_logp=list(ref_logp), ratio=[1.0] * n, value=[score] * n)  # fmt: skip
        row |= {name: value(i, row) if callable(value) else value for name, value in changed.items()}
        rows.append(row | {"reward": right_reward(row)})
    return rows


def right_reward(row, beta=0.5):
    reward = -beta * (np.array(row["logp"]) - row["ref_logp"])
    reward[-1] += row["score"]
    return list(reward)


def ppo(tokens=None, flags=FLAGS, **changed):
    return Log(ppo_rows(**changed), token_rows(**(tokens or {})), flags)


def losses(loss, n=400, **columns):
    """A log with a loss, and other columns: {step: value} or an array."""
    rows = [{"step": i, "epoch": 1 + 2 * i // n, "loss": float(loss[i])} for i in range(n)]
    for name, values in columns.items():
        for i, value in values.items() if isinstance(values, dict) else enumerate(values):
            rows[i][name] = float(value)
    return rows


FALL = 1 + np.exp(-np.arange(400) / 20)  # to half of it, most of it in the first tenth
NOISE = np.where(np.arange(400) % 2, 0.1, -0.1)
HALVES = {199: 1.1, 399: 1.05}  # validation losses


def sft(loss=FALL, validation_loss=HALVES):
    return Log(losses(loss, validation_loss=validation_loss))


def gpt(loss=FALL, validation_loss=HALVES):
    return Log(sft(loss, validation_loss).rows, flags={"tokenizer": "x"})


def rm(loss=FALL, accuracy=0.7, validation=0.68, grad_norm=1.0):
    columns = dict(accuracy=accuracy + NOISE, grad_norm=grad_norm + 0 * NOISE, validation_accuracy={399: validation})
    return Log(losses(loss, **columns))


HEALTHY = {"ppo": ppo(), "ppo_ptx": ppo(ptx_loss=1.0), "sft": sft(), "gpt": gpt(),
           "rl_start": Log(sft().rows, flags={"documents": ["x"], "document_share": 0.1}), "rm": rm()}  # fmt: skip


@pytest.fixture(autouse=True)
def bands(monkeypatch):
    """The bands that these healthy runs give, with some room."""
    found = {}
    for kind, log in HEALTHY.items():
        n = diagnosis.ITERATIONS if kind.startswith("ppo") else len(log.rows)
        parts = [log.upto(n * part // 10) for part in range(1, 11)]
        for name in diagnosis.banded(kind):
            values = [getattr(signs, name)(part) for part in parts]
            found.setdefault(kind, {})[name] = [
                [None, None] if v is None else [v - 0.1 * abs(v) - 0.01, v + 0.1 * abs(v) + 0.01] for v in values
            ]
    monkeypatch.setattr(diagnosis, "learned", lambda: {"bands": found, "vocabulary": ["ab", "cd", "ef"]})
