"""Step 2 of InstructGPT: a reward model from rankings (Ouyang et al. 2022, sec. 3.5, App. C.2).

    python train_rm.py --data rankings.jsonl --init runs/sft \\
        --demonstrations demonstrations.jsonl --out runs/rm

The model is the SFT model with a scalar head in place of the unembedding, read at the last token of
prompt + response. All pairs of a prompt are one batch element. After training, a bias makes
demonstrations score 0 on average. Deviations: gradients are clipped. The paper's 6B model started
from GPT-3 fine-tuned on public NLP data; the paper found a start from SFT equally good.
"""

from dataclasses import dataclass

import numpy as np
import torch

from minirlhf.data import batches, collate
from minirlhf.losses import cosine_lr, ranking_loss
from minirlhf.model import RewardModel
from minirlhf.rollout import per_sequence, ranking_scores, response_scores
from minirlhf.support import distributed, records
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run
from minirlhf.support.statistics import pair_hits


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of rankings
    init: str  # checkpoint to start from: an SFT model, or a GPT
    demonstrations: tuple[str, ...] = ()  # files of demonstrations that should score 0 on average
    validation: tuple[str, ...] = ()  # files of rankings to measure accuracy on, after training
    epochs: int = 1  # passes over --data (paper: 1; more epochs overfit)
    batch_size: int = 64  # prompts in a step, each with all its responses (paper: 64)
    lr: float = 9e-6  # peak learning rate, cosine decay to a tenth (paper: 9e-6)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr")
        require_positive(self, "epochs", most=10_000)
        require_positive(self, "batch_size", most=1_000_000)


def main(config):
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size")
    tokenizer = load_tokenizer(config.init)
    torch.manual_seed(config.seed)  # for the head
    model = place(load_model(config.init, RewardModel, tokenizer, new_head=True), config)
    n_ctx = model.config.n_ctx
    rankings = records.load_rankings(config.data, tokenizer, n_ctx)
    validation = records.load_rankings(config.validation, tokenizer, n_ctx)
    demonstrations = records.load_demonstrations(config.demonstrations, tokenizer, n_ctx)
    if not any(r.has_pair for r in rankings):
        raise InputError(f"{config.data[0]}: all responses tie; give a better and a worse one")
    if start_run(config):
        train(config, model, tokenizer, rankings, validation, demonstrations)
    distributed.finish()


def train(config, model, tokenizer, rankings, validation=(), demonstrations=()):
    optimizer = adam(model.parameters(), config.lr, config.shard)
    run = Run(config, model, optimizer, last_good=config.init, loss="RM loss", accuracy="accuracy")
    learner, rng = distributed.wrap(model), np.random.default_rng(config.seed)
    lengths, size = rankings.lengths, config.batch_size
    plan = [rows for _ in range(config.epochs) for rows in batches(lengths, size, rng)]
    for step, rows in run.steps(plan):
        scale_lr(optimizer, cosine_lr(step, len(plan)))
        batch = [rankings[row] for row in rows]
        total = sum(r.has_pair for r in batch)  # prompts
        if total == 0:
            continue
        loss, hits = 0.0, []  # of each pair whether the scores order it as the labelers did
        longest, counts = [r.length for r in batch], [len(r.ranks) for r in batch]
        for part in micro_batches(batch, longest, config.max_tokens, learner, rows=counts):
            scores, ranks = score_rankings(learner, part, tokenizer.pad)  # (P, K)
            part_loss = ranking_loss(scores, ranks, total=total)
            part_loss.backward()
            loss += part_loss.item()
            for row, ranking in zip(scores.tolist(), part):
                hits += pair_hits(row, ranking.ranks).values()
        take_step(model, optimizer, config.max_grad_norm)
        loss, correct, pairs = distributed.all_reduce(loss, sum(hits), len(hits))
        run.log(loss=loss, accuracy=correct / pairs, rankings_per_second=run.rate(len(batch)))

    last = dict(step=len(plan))  # a row after the last step
    if validation:
        correct, pairs = validation_pairs(model, validation, tokenizer.pad, config.max_tokens)
        last |= dict(validation_accuracy=correct / pairs if pairs else None, validation_pairs=pairs)
        found = f"{correct:.0f} of {pairs:.0f} validation pairs ordered as the labelers did"
        distributed.print0(f"{config.out}: {found}")
    if demonstrations:
        last["bias"] = set_bias(model, demonstrations, tokenizer.pad, config.max_tokens)
    run.log(**last)
    run.save("model.pt", model, tokenizer)
    run.finish()


def score_rankings(model, rankings, pad):
    """Scores and ranks (P, K) of P Rankings, 0 where a prompt has fewer than K responses."""
    K = max((len(r.ranks) for r in rankings), default=0)
    device = next(model.parameters()).device
    padded = [(r.ranks + [0] * K)[:K] for r in rankings]
    ranks = torch.tensor(padded, dtype=torch.long, device=device).view(len(rankings), K)
    flat = response_scores(model, collate([s for r in rankings for s in r.sequences], pad, device))
    scores = torch.zeros(ranks.shape, dtype=flat.dtype, device=device)
    return scores.masked_scatter(ranks > 0, flat), ranks  # fills the real responses


def validation_pairs(model, rankings, pad, max_tokens=16384):
    """How many untied pairs of responses the model orders as the labelers did (equal scores count
    one half), and how many there are. Each process measures its share."""
    mine = distributed.shard(rankings)
    scores = ranking_scores(model, mine, pad, max_tokens)
    hits = [hit for r, row in zip(mine, scores) for hit in pair_hits(row, r.ranks).values()]
    return distributed.all_reduce(sum(hits), len(hits))


@torch.no_grad()
def set_bias(model, demonstrations, pad, max_tokens=16384):
    """Shifts the head's bias so that demonstrations score 0 on average; returns the new bias."""
    mine = distributed.shard(demonstrations)
    scores = per_sequence(response_scores, model, mine, pad, max_tokens)
    model.head.bias -= distributed.all_reduce(scores.sum().item())[0] / len(demonstrations)
    return model.head.bias.item()


if __name__ == "__main__":
    command(main, Config)
