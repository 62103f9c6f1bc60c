"""Step 1 of InstructGPT: supervised fine-tuning on demonstrations (Ouyang et al. 2022, App. C.1).

    SFT              python train_sft.py --data demonstrations.jsonl --init runs/gpt --out runs/sft
    start of RL      python train_sft.py --data demonstrations.jsonl --documents web.jsonl \\
                         --epochs 2 --lr 5e-6 --init runs/gpt --out runs/rl_start
    on eight GPUs    torchrun --nproc_per_node 8 train_sft.py ...   (the same flags)

The loss is over a response's tokens; a prompt's tokens are only context. The model from which step
3 starts ("start of RL") is also trained on documents, with the loss over all tokens but the first.
Defaults are the paper's. Deviations: gradients are clipped, and the learning rate is that of the
1.3B model whatever the size.
"""

from dataclasses import dataclass

import numpy as np
import torch

from minirlhf.data import batches, collate
from minirlhf.losses import cosine_lr, sft_loss
from minirlhf.model import GPT
from minirlhf.rollout import per_sequence, response_logps, response_nats
from minirlhf.support import distributed, records
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command, require_fraction, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of demonstrations
    init: str  # checkpoint to start from: a pretrained GPT
    documents: tuple[str, ...] = ()  # files of pretraining documents to mix in, for the start of RL
    document_share: float = 0.1  # share of documents in a batch, if any are given (paper: 10 %)
    validation: tuple[str, ...] = ()  # files of demonstrations to measure the loss on, each epoch
    validate_every: int | None = None  # steps between measurements within an epoch
    epochs: int = 16  # passes over --data (paper: 16, and 2 for the start of RL)
    batch_size: int = 32  # sequences in a step (paper: 32)
    lr: float = 9.65e-6  # peak, cosine decay to a tenth (paper: 9.65e-6; start of RL 5e-6)
    dropout: float = 0.2  # probability, for embeddings and the blocks' outputs (paper: 0.2)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr", "document_share", "validate_every")
        require_positive(self, "epochs", most=10_000)
        require_positive(self, "batch_size", most=1_000_000)
        require_fraction(self, "dropout", "document_share", below_one=True)
        if self.documents and not 0 < self.documents_in_batch < self.batch_size:
            share = f"--document_share {self.document_share} of --batch_size {self.batch_size}"
            raise InputError(f"{share} leaves no place for demonstrations; take a smaller share")

    @property
    def documents_in_batch(self):
        return max(1, round(self.batch_size * self.document_share)) if self.documents else 0


def main(config):
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size")
    tokenizer = load_tokenizer(config.init)
    model = place(load_model(config.init, GPT, tokenizer, config.dropout), config)
    n_ctx = model.config.n_ctx
    demonstrations = records.load_demonstrations(config.data, tokenizer, n_ctx)
    documents = records.load_documents(config.documents, tokenizer, n_ctx)
    validation = records.load_demonstrations(config.validation, tokenizer, n_ctx)
    if start_run(config):
        steps = list(plan(demonstrations, config, documents, config.documents_in_batch))
        optimizer = adam(model.parameters(), config.lr, config.shard)
        sequences = records.Joined((demonstrations, documents))
        train(config, model, optimizer, tokenizer, sequences, steps, validation)
    distributed.finish()


def train(config, model, optimizer, tokenizer, sequences, steps, validation=(), lr=cosine_lr):
    """Takes a plan's steps, in micro-batches whose gradients add up to the batch's."""
    run = Run(config, model, optimizer, loss="training loss", validation_loss="validation loss")
    learner, device = distributed.wrap(model), next(model.parameters()).device
    lengths = sequences.lengths
    for step, (epoch, rows, last_of_epoch) in run.steps(steps):
        scale_lr(optimizer, lr(step, len(steps)))
        torch.manual_seed(distributed.seed_of(config.seed, step))  # for dropout
        model.train()
        loss = 0.0
        for part in micro_batches(rows, lengths[rows], config.max_tokens, learner):
            responses = collate([sequences[row] for row in part], tokenizer.pad, device)
            logp = response_logps(learner, responses)
            part_loss = sft_loss(logp, responses.mask, total=len(rows))
            part_loss.backward()
            loss += part_loss.item()
        take_step(model, optimizer, config.max_grad_norm)

        (loss,) = distributed.all_reduce(loss)
        row = dict(epoch=epoch, loss=loss, tokens_per_second=run.rate(int(lengths[rows].sum())))
        if last_of_epoch or (config.validate_every and (step + 1) % config.validate_every == 0):
            measured = validation_loss(model, validation, tokenizer.pad, config.max_tokens)
            row |= dict(validation_loss=measured)
        run.log(**row)
        if last_of_epoch:
            run.save(f"epoch-{epoch}.pt", model, tokenizer)
    run.save("model.pt", model, tokenizer)
    run.finish()


def validation_loss(model, sequences, pad, max_tokens=16384):
    """The SFT loss of Sequences in nats, without dropout. Each process measures its share."""
    if not sequences:
        return None
    mine = distributed.shard(sequences)
    nats = per_sequence(response_nats, model, mine, pad, max_tokens).numpy()
    means = nats / np.array([s.length - s.start for s in mine])
    return distributed.all_reduce(means.sum())[0] / len(sequences)


def plan(sequences, config, documents=(), documents_in_batch=0):
    """Yields (epoch, rows, whether it is the epoch's last) for the whole run. A batch's rows are of
    Sequences of similar length, and of some documents, whose numbers follow the Sequences'."""
    rng, lengths = np.random.default_rng(config.seed), sequences.lengths
    document_order = endless(len(documents), rng)
    for epoch in range(1, config.epochs + 1):
        epoch_batches = batches(lengths, config.batch_size - documents_in_batch, rng)
        for i, rows in enumerate(epoch_batches, 1):
            mixed_in = [len(lengths) + next(document_order) for _ in range(documents_in_batch)]
            yield epoch, np.array([*rows, *mixed_in]), i == len(epoch_batches)


def endless(n, rng):
    """Yields 0 .. n - 1 in random order, then again in a new order, endlessly."""
    while True:
        yield from rng.permutation(n)


if __name__ == "__main__":
    command(main, Config)
