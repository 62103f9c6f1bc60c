"""Step 2 of InstructGPT: a reward model from rankings of K responses (Ouyang et al. 2022, section 3.5 and App. C.2).

    python train_rm.py --data rankings.jsonl --init runs/sft --demonstrations demonstrations.jsonl --out runs/rm

The model is the SFT model with a scalar head in place of the unembedding, read at the last token of prompt +
response. All pairs of a prompt are one batch element. Afterwards a bias makes demonstrations score 0 on average.
Departures: gradients are clipped. The paper's 6B model started from GPT-3 fine-tuned on public NLP data, and found an
SFT start as good.
"""

from dataclasses import dataclass

import numpy as np
import torch

from minirlhf import data
from minirlhf.losses import cosine_lr, ranked_above, ranking_loss
from minirlhf.model import RewardModel
from minirlhf.rollout import response_scores
from minirlhf.support import distributed, records
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from minirlhf.support.config import command, parse, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import require
from minirlhf.support.evaluate import ranking_accuracy, sequence_scores
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of rankings
    init: str  # checkpoint to start from: an SFT model, or a GPT
    demonstrations: tuple[str, ...] = ()  # files of demonstrations that shall score 0 on average; empty: no bias is set
    validation: tuple[str, ...] = ()  # files of rankings to measure accuracy on, after training
    epochs: int = 1  # passes over --data (paper: 1; more overfit)
    batch_size: int = 64  # prompts in a step, each with all its responses (paper: 64)
    lr: float = 9e-6  # peak learning rate, falling by a cosine to a tenth (paper: 9e-6)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "epochs", "batch_size", "lr")


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size)
    tokenizer = load_tokenizer(config.init)
    torch.manual_seed(config.seed)  # the head's
    model = place(load_model(config.init, RewardModel, tokenizer, new_head=True), config)
    n_ctx = model.config.n_ctx
    rankings = records.load_rankings(config.data, tokenizer, n_ctx)
    validation = records.load_rankings(config.validation, tokenizer, n_ctx)
    demonstrations = records.load_demonstrations(config.demonstrations, tokenizer, n_ctx)
    ranked = any(len(set(r.ranks)) > 1 for r in rankings)
    require(ranked, f"{config.data[0]}: nothing to learn, all responses tie; give rankings with a better and a worse")
    if start_run(config):
        train(config, model, tokenizer, rankings, validation, demonstrations)
    distributed.finish()


def train(config, model, tokenizer, rankings, validation, demonstrations):
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.95), fused=True)
    run = Run(config, model, optimizer, last_good=config.init)
    learner, rng = distributed.wrap(model), np.random.default_rng(config.seed)
    lengths = [records.longest(r) for r in rankings]
    plan = [batch for _ in range(config.epochs) for batch in data.batches(lengths, config.batch_size, rng)]
    for step, indices in run.steps(plan):
        optimizer.param_groups[0]["lr"] = config.lr * cosine_lr(step, len(plan))
        batch = [rankings[i] for i in indices]
        prompts = sum(len(set(r.ranks)) > 1 for r in batch)  # those with an untied pair
        if prompts == 0:
            continue
        loss, correct, pairs = 0.0, 0, 0
        mine = distributed.shard(batch)
        widths = [len(r.ranks) for r in mine]
        micro_batches = data.micro_batches([records.longest(r) for r in mine], config.max_tokens, widths)
        for rows in distributed.accumulate(micro_batches, learner):
            scores, ranks = score_rankings(learner, [mine[i] for i in rows], tokenizer.pad)
            part_loss = ranking_loss(scores, ranks, total=prompts)
            part_loss.backward()
            better = ranked_above(ranks)
            loss, pairs = loss + part_loss.item(), pairs + better.sum().item()
            correct += (better & (scores[:, :, None] > scores[:, None, :])).sum().item()
        loss, correct, pairs = distributed.all_reduce(loss, correct, pairs)
        run.check(loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        run.log(loss=loss, accuracy=correct / pairs, rankings_per_second=run.rate(len(batch)))

    last = dict(step=len(plan))
    if validation:
        counts = ranking_accuracy(model, distributed.shard(validation), tokenizer.pad, config.max_tokens)
        correct, pairs = distributed.all_reduce(*map(sum, counts))
        last["validation_accuracy"] = correct / pairs if pairs else None
        distributed.say(f"{config.out}: {correct:.0f} of {pairs:.0f} validation pairs are ordered as the labelers did")
    if demonstrations:
        last["bias"] = set_bias(model, demonstrations, tokenizer.pad, config.max_tokens)
    run.log(**last)
    save_model(f"{config.out}/model.pt", model, tokenizer)
    run.finish(loss="ranking loss", accuracy="accuracy on the batch")


def score_rankings(model, rankings, pad):
    """Scores and ranks (P, K) of P rankings, 0 where a prompt has fewer than K responses; one forward per response."""
    device = next(model.parameters()).device
    ranks = torch.zeros(len(rankings), max((len(r.ranks) for r in rankings), default=0), dtype=torch.long)
    for row, ranking in zip(ranks, rankings):
        row[: len(ranking.ranks)] = torch.tensor(ranking.ranks)
    ranks = ranks.to(device)
    flat = response_scores(model, data.collate([s for r in rankings for s in r.sequences], pad, device))
    return torch.zeros(ranks.shape, dtype=flat.dtype, device=device).masked_scatter(ranks > 0, flat), ranks


@torch.no_grad()
def set_bias(model, demonstrations, pad, max_tokens=16384):
    """Shifts the head's bias so that a score of 0 means as good as demonstrations (Sequences); returns the new bias."""
    scores = sequence_scores(model, distributed.shard(demonstrations), pad, max_tokens)
    model.head.bias -= distributed.all_reduce(scores.sum().item())[0] / len(demonstrations)
    return model.head.bias.item()


if __name__ == "__main__":
    command(main)
