"""Step 2 of InstructGPT: a reward model from rankings of K responses (Ouyang et al. 2022, section 3.5 and App. C.2).

    python train_rm.py --data rankings.jsonl --init runs/sft --demonstrations demonstrations.jsonl --out runs/rm

The model is the SFT model with a scalar head in place of the unembedding, read at the last token of prompt +
response. All pairs of a prompt are one batch element. Afterwards a bias makes demonstrations score 0 on average.
Departures: gradients are clipped. The paper's 6B model started from GPT-3 fine-tuned on public NLP data, and found an
SFT start as good.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from minirlhf import data, distributed
from minirlhf.checkpoint import drop_states, load_model, load_state, load_tokenizer, save_model, save_state, start_run
from minirlhf.config import parse, require, run
from minirlhf.device import DTYPES, pick_device, place
from minirlhf.evaluate import ranking_accuracy, sequence_scores
from minirlhf.files import Metrics
from minirlhf.losses import cosine_lr, ranked_above, ranking_loss
from minirlhf.model import RewardModel
from minirlhf.progress import draw_curves, progress


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files of rankings
    init: str  # checkpoint to start from: an SFT model, or a GPT
    out: str  # folder for checkpoints, metrics.jsonl, curves.png
    demonstrations: tuple[str, ...] = ()  # files of demonstrations that shall score 0 on average; empty: no bias is set
    validation: tuple[str, ...] = ()  # files of rankings to measure accuracy on, after training
    epochs: int = 1  # passes over --data (paper: 1; more overfit)
    batch_size: int = 64  # prompts in a step, each with all its responses (paper: 64)
    lr: float = 9e-6  # peak learning rate, falling by a cosine to a tenth (paper: 9e-6)
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm (ours)
    max_tokens: int = 16384  # tokens in one forward of a process; larger batches accumulate gradients
    save_every: int = 500  # steps between the states that --resume goes on from
    resume: bool = False  # go on from the newest state in --out, if there is one
    seed: int = 0  # of the head's weights and the order
    device: str = "auto"  # cpu, cuda, mps, or auto: the fastest there is
    dtype: str = "auto"  # of matrix products: float32, bfloat16, or auto: bfloat16 on CUDA
    compile: bool = False  # by torch.compile: starts slower, runs faster on a GPU
    recompute: bool = False  # activations in backward instead of keeping them: less memory, a third slower

    def __post_init__(self):
        require(self.dtype in DTYPES, f"--dtype {self.dtype}: choose {', '.join(DTYPES)}")
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        for name in ("epochs", "batch_size", "lr", "max_grad_norm", "max_tokens", "save_every"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: must be above 0")


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size)
    tokenizer = load_tokenizer(config.init)
    torch.manual_seed(config.seed)
    model = place(load_model(config.init, RewardModel, tokenizer, new_head=True), config)
    rankings = load_rankings(config.data, tokenizer, model.config.n_ctx)
    validation = load_rankings(config.validation, tokenizer, model.config.n_ctx)
    demonstrations = [
        sequence.tokens
        for path in config.demonstrations
        for sequence in data.encode_demonstrations(
            data.read(path, "demonstration"), tokenizer, model.config.n_ctx, path
        )
    ]
    if start_run(config):
        train(config, model, tokenizer, rankings, validation, demonstrations)
    distributed.finish()


def train(config, model, tokenizer, rankings, validation, demonstrations):
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.95), fused=True)
    parts, metrics = {"model": model, "optimizer": optimizer}, Metrics(config.out, good=config.init)
    first = load_state(config.out, parts, metrics)
    learner, rng = distributed.wrap(model), np.random.default_rng(config.seed)
    lengths = [data.longest(r) for r in rankings]
    plan = [batch for _ in range(config.epochs) for batch in data.batches(lengths, config.batch_size, rng)]
    for step, batch in progress(plan, config.out, first):
        start = time.perf_counter()
        optimizer.param_groups[0]["lr"] = config.lr * cosine_lr(step, len(plan))
        loss, correct, pairs = 0.0, 0, 0
        batch = [rankings[i] for i in batch]
        prompts = sum(len(set(r.ranks)) > 1 for r in batch)  # those with an untied pair
        if prompts == 0:
            continue
        mine = distributed.shard(batch)
        cut = data.micro_batches([data.longest(r) for r in mine], config.max_tokens, [len(r.ranks) for r in mine])
        for part in distributed.accumulate(cut, learner):
            scores, ranks = score_rankings(learner, [mine[i] for i in part], tokenizer.pad)
            part_loss = ranking_loss(scores, ranks, total=prompts)
            part_loss.backward()
            better = ranked_above(ranks)
            loss, pairs = loss + part_loss.item(), pairs + better.sum().item()
            correct += (better & (scores[:, :, None] > scores[:, None, :])).sum().item()
        loss, correct, pairs = distributed.all_reduce(loss, correct, pairs)
        metrics.check(step, loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        metrics.write(step=step, loss=loss, accuracy=correct / pairs, rankings_per_second=len(batch) / seconds)
        if (step + 1) % config.save_every == 0:
            metrics.good = save_state(config.out, step + 1, parts)

    last = dict(step=len(plan))
    if validation:
        counts = ranking_accuracy(model, distributed.shard(validation), tokenizer.pad, config.max_tokens)
        correct, pairs = distributed.all_reduce(*map(sum, counts))
        last["validation_accuracy"] = correct / pairs if pairs else None
        distributed.say(f"{config.out}: {correct:.0f} of {pairs:.0f} validation pairs are ordered as the labelers did")
    if demonstrations:
        last["bias"] = set_bias(model, demonstrations, tokenizer.pad, config.max_tokens)
    metrics.write(**last)
    draw_curves(config.out, {"loss": "ranking loss", "accuracy": "accuracy on the batch"}, config.out)
    save_model(f"{config.out}/model.pt", model, tokenizer)
    drop_states(config.out)


def load_rankings(paths, tokenizer, n_ctx):
    return [r for path in paths for r in data.encode_rankings(data.read(path, "ranking"), tokenizer, n_ctx, path)]


def score_rankings(model, rankings, pad):
    """Scores and ranks (P, K) of P rankings, 0 where a prompt has fewer than K responses; one forward per response."""
    device = next(model.parameters()).device
    flat, lengths = data.collate([s.tokens for r in rankings for s in r.sequences], pad)
    ranks = torch.zeros(len(rankings), max((len(r.ranks) for r in rankings), default=0), dtype=torch.long)
    for row, ranking in zip(ranks, rankings):
        row[: len(ranking.ranks)] = torch.tensor(ranking.ranks)
    scored = RewardModel.score(model, flat.to(device), lengths.to(device))  # model may be DDP's, which has no score()
    scores = torch.zeros(ranks.shape, dtype=scored.dtype, device=device)
    return scores.masked_scatter((ranks > 0).to(device), scored), ranks.to(device)


@torch.no_grad()
def set_bias(model, demonstrations, pad, max_tokens=16384):
    """Shifts the head's bias so that demonstrations (token sequences) score 0 on average; returns the new bias."""
    scored = sequence_scores(model, distributed.shard(demonstrations), pad, max_tokens)
    model.head.bias -= distributed.all_reduce(scored.sum().item())[0] / len(demonstrations)
    return model.head.bias.item()


if __name__ == "__main__":
    run(main)
