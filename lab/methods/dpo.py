"""DPO, direct preference optimization (Rafailov et al. 2023): rankings train the policy itself, without a reward model.

python -m lab.methods.dpo --init runs/toy/rl_start --data runs/toy/town/rankings.jsonl --out runs/dpo \\
    --batch_size 16 --lr 2e-4 --beta 1
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf import data
from minirlhf.losses import cosine_lr
from minirlhf.model import GPT
from minirlhf.rollout import response_logps
from minirlhf.support import distributed, records
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run


def dpo_loss(better, worse, ref_better, ref_worse, beta, total=None):
    """The DPO loss of pairs of responses (Rafailov et al. 2023, eq. 7), in nats.

        loss = - mean of log sigmoid(beta * (log pi(y_w|x) / pi_ref(y_w|x) - log pi(y_l|x) / pi_ref(y_l|x)))

    The first four (N,) float: the log-prob of a response, by the policy or by the reference. total: the number of pairs
    of which these N are a part, N unless given.

    >>> better, worse, before = torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([-2.0])
    >>> round(dpo_loss(better, worse, before, before, beta=0.5).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    losses = -F.logsigmoid(beta * (better - ref_better - worse + ref_worse))
    return losses.sum() / (len(losses) if total is None else total)


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of rankings
    init: str  # checkpoint of the SFT model: where the policy starts, and the reference
    epochs: int = 1  # passes over --data
    batch_size: int = 32  # rankings in a step; of each the best and the worst response are a pair
    lr: float = 1e-6  # peak learning rate, falling by a cosine to a tenth
    beta: float = 0.1  # strength of the penalty for leaving the reference

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr", "beta")
        require_positive(self, "epochs", most=10_000)
        require_positive(self, "batch_size", most=1_000_000)


def main(config):
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size")
    tokenizer = load_tokenizer(config.init)
    policy = place(load_model(config.init, GPT, tokenizer), config).eval()
    rankings = records.load_rankings(config.data, tokenizer, policy.config.n_ctx)
    pairs = [pair for pair in map(best_and_worst, rankings) if pair]
    if start_run(config):
        train(config, policy, copy.deepcopy(policy).requires_grad_(False), tokenizer, pairs)
    distributed.finish()


def train(config, policy, reference, tokenizer, pairs):
    optimizer = adam(policy.parameters(), config.lr, config.shard)
    run = Run(config, policy, optimizer, last_good=config.init, loss="DPO loss")
    learner, device = distributed.wrap(policy), next(policy.parameters()).device
    shuffled = [np.random.default_rng((config.seed, epoch)).permutation(len(pairs)) for epoch in range(config.epochs)]
    steps = [rows for order in shuffled for rows in np.array_split(order, max(1, len(order) // config.batch_size))]
    for step, rows in run.steps(steps):
        scale_lr(optimizer, cosine_lr(step, len(steps)))
        batch = [pairs[i] for i in rows]
        longest, loss = [max(s.length for s in pair) for pair in batch], 0.0
        for part in micro_batches(batch, longest, config.max_tokens, learner, rows=[2] * len(batch)):
            responses = data.collate([sequence for pair in part for sequence in pair], tokenizer.pad, device)
            logp = (response_logps(learner, responses) * responses.mask).sum(1)
            with torch.no_grad():
                ref = (response_logps(reference, responses) * responses.mask).sum(1)
            part_loss = dpo_loss(logp[::2], logp[1::2], ref[::2], ref[1::2], config.beta, total=len(batch))
            part_loss.backward()
            loss += part_loss.item()
        take_step(policy, optimizer, config.max_grad_norm)
        (loss,) = distributed.all_reduce(loss)
        run.log(loss=loss)
    run.save("model.pt", policy, tokenizer)
    run.finish()


def best_and_worst(ranking):
    """The best and the worst Sequence of a records.Ranking; None where all tie."""
    ranks = list(ranking.ranks)
    best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
    return (ranking.sequences[best], ranking.sequences[worst]) if best != worst else None


if __name__ == "__main__":
    command(main, Config)
