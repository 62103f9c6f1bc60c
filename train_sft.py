"""Step 1 of InstructGPT: supervised fine-tuning of a GPT on demonstrations (Ouyang et al. 2022, App. C.1).

    SFT              python train_sft.py --data demonstrations.jsonl --init runs/gpt --out runs/sft
    start of RL      python train_sft.py --data demonstrations.jsonl --documents web.jsonl --epochs 2 --lr 5e-6 \\
                         --init runs/gpt --out runs/rl_start
    on eight GPUs    torchrun --nproc_per_node 8 train_sft.py ...        (the same flags: batches are the whole's)

A response's tokens are learned, a prompt's are only read; of a document, which the start of RL mixes in, every token is
learned. Defaults are the paper's. Departures: gradients are clipped, and the learning rate is the 1.3B model's whatever
the size.
"""

from dataclasses import dataclass

import numpy as np
import torch

from minirlhf import data
from minirlhf.losses import cosine_lr, sft_loss
from minirlhf.model import GPT
from minirlhf.rollout import response_logps
from minirlhf.support import distributed, records
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from minirlhf.support.config import command, parse, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import require
from minirlhf.support.evaluate import validation_loss
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of demonstrations
    init: str  # checkpoint to start from: a pretrained GPT
    documents: tuple[str, ...] = ()  # files of pretraining documents to mix in, as the start of RL needs
    document_share: float = 0.1  # share of a batch that is documents where they are mixed in (paper: 10 %)
    validation: tuple[str, ...] = ()  # files of demonstrations whose loss is measured after each epoch
    epochs: int = 16  # passes over --data (paper: 16, and 2 for the start of RL)
    batch_size: int = 32  # sequences in a step (paper: 32)
    lr: float = 9.65e-6  # peak learning rate, falling by a cosine to a tenth (paper: 9.65e-6; start of RL 5e-6)
    dropout: float = 0.2  # share of the embedding, and of what each block adds, that is set to 0 at random (paper: 0.2)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "epochs", "batch_size", "lr")
        require(0 <= self.dropout < 1, f"--dropout {self.dropout}: must be at least 0 and below 1")
        require(0 < self.document_share < 1, f"--document_share {self.document_share}: must lie between 0 and 1")


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size)
    tokenizer = load_tokenizer(config.init)
    model = place(load_model(config.init, GPT, tokenizer, config.dropout), config)
    n_ctx = model.config.n_ctx
    demonstrations = records.load_demonstrations(config.data, tokenizer, n_ctx)
    documents = records.load_documents(config.documents, tokenizer, n_ctx)
    validation = records.load_demonstrations(config.validation, tokenizer, n_ctx)
    mixed = max(1, round(config.batch_size * config.document_share)) if documents else 0  # documents in a batch
    room = mixed < config.batch_size
    require(room, f"--batch_size {config.batch_size}: documents take {mixed} of it; none is left for demonstrations")
    if start_run(config):
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.95), fused=True)
        train(config, model, [optimizer], tokenizer, list(plan(demonstrations, config, documents, mixed)), validation)
    distributed.finish()


def train(config, model, optimizers, tokenizer, steps, validation):
    """Takes the steps of a plan. Each optimizer's learning rate falls from its own peak. A step is shared out to
    processes, and cut into micro-batches to bound memory. In one process `wrap`, `shard`, `all_reduce` do nothing."""
    run = Run(config, model, *optimizers)
    learner, device = distributed.wrap(model), next(model.parameters()).device
    for step, (epoch, batch, last_of_epoch) in run.steps(steps):
        decay = cosine_lr(step, len(steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * decay
        torch.manual_seed(distributed.seed_of(config.seed, step))  # dropout's
        model.train()
        loss = 0.0
        mine = distributed.shard(batch)
        micro_batches = data.micro_batches([len(s.tokens) for s in mine], config.max_tokens)
        for rows in distributed.accumulate(micro_batches, learner):
            responses = data.collate([mine[i] for i in rows], tokenizer.pad, device)
            part_loss = sft_loss(response_logps(learner, responses), responses.mask, total=len(batch))
            part_loss.backward()
            loss += part_loss.item()
        (loss,) = distributed.all_reduce(loss)
        run.check(loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        rate = run.rate(sum(len(s.tokens) for s in batch))
        row = dict(epoch=epoch, loss=loss, lr=config.lr * decay, tokens_per_second=rate)
        if last_of_epoch:
            measured = validation_loss(model, validation, tokenizer.pad, config.max_tokens) if validation else None
            row["validation_loss"] = measured
            save_model(f"{config.out}/epoch-{epoch}.pt", model, tokenizer)
            run.last_good = f"{config.out}/epoch-{epoch}.pt"
        run.log(**row)
    save_model(f"{config.out}/model.pt", model, tokenizer)
    run.finish(loss="training loss", validation_loss="validation loss")


def plan(sequences, config, documents=(), mixed=0):
    """Yields (epoch, batch, whether it is the epoch's last) for the whole run: batches of like length, each with
    `mixed` documents among them."""
    rng = np.random.default_rng(config.seed)
    lengths, stream = [len(s.tokens) for s in sequences], iter(())
    for epoch in range(1, config.epochs + 1):
        batches = data.batches(lengths, config.batch_size - mixed, rng)
        for i, batch in enumerate(batches):
            extra = []
            while len(extra) < mixed:
                if (row := next(stream, None)) is None:
                    stream = iter(rng.permutation(len(documents)))
                else:
                    extra.append(documents[row])
            yield epoch, [sequences[j] for j in batch] + extra, i == len(batches) - 1


if __name__ == "__main__":
    command(main)
