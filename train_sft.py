"""Supervised learning of a GPT: one loop for three uses that differ only in their records.

    pretraining      python train_sft.py --data web.jsonl --tokenizer runs/tokenizer --size toy --out runs/gpt ...
    SFT              python train_sft.py --data demonstrations.jsonl --init runs/gpt --out runs/sft
    start of RL      python train_sft.py --data demonstrations.jsonl --documents web.jsonl --epochs 2 --lr 5e-6 \\
                         --init runs/gpt --out runs/rl_start
    on eight GPUs    torchrun --nproc_per_node 8 train_sft.py ...        (the same flags: batches are the whole's)

Every token of a document is learned, and of a demonstration the response's. Defaults are InstructGPT's (Ouyang et
al. 2022, App. C.1). Departures: gradients are clipped; the learning rate is the 1.3B model's whatever the size;
Muon is offered for pretraining, which is not the paper's subject.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from minirlhf import data, distributed
from minirlhf import tokenizer as tokenizers
from minirlhf.checkpoint import drop_states, load_model, load_state, load_tokenizer, save_model, save_state, start_run
from minirlhf.config import parse, require, run
from minirlhf.device import DTYPES, pick_device, place
from minirlhf.evaluate import validation_loss
from minirlhf.files import Metrics
from minirlhf.losses import cosine_lr, sft_loss
from minirlhf.model import GPT, PRESETS, GPTConfig
from minirlhf.progress import draw_curves, progress
from minirlhf.rollout import target_logps


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files of demonstrations, or of documents to pretrain
    out: str  # folder for checkpoints, metrics.jsonl, curves.png
    documents: tuple[str, ...] = ()  # files of documents to mix into demonstrations, as the start of RL needs
    document_share: float = 0.1  # share of a batch that is documents where they are mixed in (paper: 10 %)
    validation: tuple[str, ...] = ()  # files of the same kind as --data whose loss is measured after each epoch
    init: str = ""  # checkpoint to start from; empty: random weights
    tokenizer: str | None = None  # without --init: gpt2 (the default), a folder with a tokenizer, or a ranks file
    size: str | None = None  # without --init: nano, toy, small, gpt2 (the default), gpt2-medium, gpt2-large, gpt2-xl
    n_ctx: int | None = None  # context length in tokens, instead of the size's
    n_layer: int | None = None  # number of blocks, instead of the size's
    n_head: int | None = None  # attention heads, instead of the size's
    n_embd: int | None = None  # width, instead of the size's
    embedding_std: float | None = None  # spread of the embeddings at the start; unless given GPT-2's 0.02 and
    # positions at random. Small models learn to copy from their context much sooner at 0.4
    epochs: int = 16  # passes over --data (paper: 16, and 2 for the start of RL)
    batch_size: int = 32  # sequences in a step (paper: 32)
    lr: float = 9.65e-6  # peak learning rate, falling by a cosine to a tenth (paper: 9.65e-6; start of RL 5e-6)
    dropout: float = 0.2  # on the embedding and the residual stream (paper: 0.2)
    optimizer: str = "adam"  # adam (paper), or muon: torch.optim.Muon for the blocks' matrices, Adam for the rest
    muon_lr: float = 0.02  # peak learning rate of muon's matrices, which need a larger one (ours)
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm (ours)
    max_tokens: int = 16384  # tokens in one forward of a process; larger batches accumulate gradients
    save_every: int = 500  # steps between the states that --resume goes on from
    resume: bool = False  # go on from the newest state in --out, if there is one
    seed: int = 0  # of weights, order and dropout
    device: str = "auto"  # cpu, cuda, mps, or auto: the fastest there is
    dtype: str = "auto"  # of matrix products: float32, bfloat16, or auto: bfloat16 on CUDA
    compile: bool = False  # by torch.compile: starts slower, runs faster on a GPU
    recompute: bool = False  # activations in backward instead of keeping them: less memory, a third slower

    def __post_init__(self):
        require(self.dtype in DTYPES, f"--dtype {self.dtype}: choose {', '.join(DTYPES)}")
        for name in ("epochs", "batch_size", "lr", "muon_lr", "max_grad_norm", "max_tokens", "save_every"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: must be above 0")
        require(0 <= self.dropout < 1, f"--dropout {self.dropout}: must be at least 0 and below 1")
        require(0 < self.document_share < 1, f"--document_share {self.document_share}: must lie between 0 and 1")
        require(self.size in (None, *PRESETS), f"--size {self.size}: choose one of {', '.join(PRESETS)}")
        spread = self.embedding_std is None or self.embedding_std > 0
        require(spread, f"--embedding_std {self.embedding_std}: must be above 0")
        for name in ("tokenizer", "size", "embedding_std"):
            fixed = self.init and getattr(self, name)
            require(not fixed, f"--{name} {getattr(self, name)}: --init {self.init} brings its own; leave the flag out")
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        require(self.optimizer in ("adam", "muon"), f"--optimizer {self.optimizer}: choose adam or muon")


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size)
    model, tokenizer = start_model(config)
    place(model, config)
    sequences, documents = load_sequences(config, tokenizer, model.config.n_ctx)
    mixed = max(1, round(config.batch_size * config.document_share)) if documents else 0  # documents in a batch
    room = mixed < config.batch_size
    require(room, f"--batch_size {config.batch_size}: documents take {mixed} of it; none is left for demonstrations")
    validation = [s for path in config.validation for s in encode(path, tokenizer, model.config.n_ctx)]
    if start_run(config):
        train(config, model, tokenizer, list(plan(sequences, documents, config, mixed)), validation)
    distributed.finish()


def train(config, model, tokenizer, schedule, validation):
    """Takes the steps of `schedule`, (epoch, batch, whether it is the epoch's last) each."""
    optimizers = make_optimizers(model, config)
    parts = {"model": model} | {f"optimizer {i}": optimizer for i, optimizer in enumerate(optimizers)}
    metrics = Metrics(config.out)
    first = load_state(config.out, parts, metrics)
    learner = distributed.wrap(model)
    label = f"{config.out} ({sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters)"
    for step, (epoch, batch, last_of_epoch) in progress(schedule, label, first):
        start = time.perf_counter()
        decay = cosine_lr(step, len(schedule))
        for optimizer, peak in zip(optimizers, (config.lr, config.muon_lr)):
            optimizer.param_groups[0]["lr"] = peak * decay
        torch.manual_seed(distributed.seed_of(config.seed, step))  # dropout's
        loss = 0.0
        model.train()
        mine = distributed.shard(batch)
        cut = data.micro_batches([len(s.tokens) for s in mine], config.max_tokens)
        for part in distributed.accumulate(cut, learner):
            logp, mask = target_logps(learner, [mine[i] for i in part], tokenizer.pad)
            part_loss = sft_loss(logp, mask, total=len(batch))
            part_loss.backward()
            loss += part_loss.item()
        (loss,) = distributed.all_reduce(loss)
        metrics.check(step, loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        row = dict(step=step, epoch=epoch, loss=loss, lr=config.lr * decay)
        row["tokens_per_second"] = sum(len(s.tokens) for s in batch) / (time.perf_counter() - start)
        if last_of_epoch:
            measured = validation_loss(model, validation, tokenizer.pad, config.max_tokens) if validation else None
            row["validation_loss"] = measured
            metrics.good = f"{config.out}/epoch-{epoch}.pt"
            save_model(metrics.good, model, tokenizer)
        metrics.write(**row)
        if (step + 1) % config.save_every == 0:
            metrics.good = save_state(config.out, step + 1, parts)
    draw_curves(config.out, {"loss": "training loss", "validation_loss": "validation loss"}, config.out)
    save_model(f"{config.out}/model.pt", model, tokenizer)
    drop_states(config.out)


def start_model(config):
    """The model to train and its tokenizer: a checkpoint's, or new ones by the flags."""
    flags = {name: getattr(config, name) for name in ("n_ctx", "n_layer", "n_head", "n_embd")}
    flags = {name: value for name, value in flags.items() if value is not None}
    if config.init:
        tokenizer = load_tokenizer(config.init)
        model = load_model(config.init, GPT, tokenizer, config.dropout)
        for name, value in flags.items():
            own = getattr(model.config, name)
            message = f"--{name} {value} contradicts --init {config.init}, which has {own}; leave the flag out"
            require(own == value, message)
        return model, tokenizer
    tokenizer = tokenizers.load(config.tokenizer or "gpt2")
    shape = PRESETS[config.size or "gpt2"] | flags
    for name, value in shape.items():
        require(value > 0, f"--{name} {value}: must be above 0")
    divides = shape["n_embd"] % shape["n_head"] == 0
    require(divides, f"--n_embd {shape['n_embd']} cannot be divided into --n_head {shape['n_head']} heads")
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(tokenizer.n_vocab, **shape, dropout=config.dropout))
    if config.embedding_std is not None:
        model.transformer.spread_embeddings(config.embedding_std)
    return model, tokenizer


def encode(path, tokenizer, n_ctx):
    if data.is_document(path):
        return data.pack(data.read(path, "document"), tokenizer, n_ctx)
    return data.encode_demonstrations(data.read(path, "demonstration"), tokenizer, n_ctx, path)


def load_sequences(config, tokenizer, n_ctx):
    """The sequences of --data, and those of --documents."""
    sequences = [s for path in config.data for s in encode(path, tokenizer, n_ctx)]
    records = [r for path in config.documents for r in data.read(path, "document")]
    documents = data.pack(records, tokenizer, n_ctx) if records else []
    return sequences, documents


def plan(sequences, documents, config, mixed):
    """Yields (epoch, batch, whether it is the epoch's last) for the whole run: batches of like length, each with
    `mixed` documents among them."""
    rng = np.random.default_rng(config.seed)
    lengths, stream = [len(s.tokens) for s in sequences], iter(())
    for epoch in range(1, config.epochs + 1):
        cut = data.batches(lengths, config.batch_size - mixed, rng)
        for i, batch in enumerate(cut):
            extra = []
            while len(extra) < mixed:
                if (row := next(stream, None)) is None:
                    stream = iter(rng.permutation(len(documents)))
                else:
                    extra.append(documents[row])
            yield epoch, [sequences[j] for j in batch] + extra, i == len(cut) - 1


def make_optimizers(model, config):
    """Adam with the paper's betas. With muon, the blocks' matrices go to torch.optim.Muon, and Adam has the rest."""
    adam = dict(lr=config.lr, betas=(0.9, 0.95), fused=True)
    if config.optimizer == "adam":
        return [torch.optim.Adam(model.parameters(), **adam)]
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name}
    rest = [p for name, p in model.named_parameters() if name not in matrices]
    return [torch.optim.Adam(rest, **adam), SplitMuon(matrices, config.muon_lr)]


class SplitMuon(torch.optim.Muon):
    """Muon that makes query, key and value each orthogonal: c_attn stacks three matrices, which have no business with
    one another. (Measured on the town: copying from the prompt is learned about a third sooner.)"""

    def __init__(self, matrices, lr):
        self.thirds = []  # (the whole, its thirds as parameters that share its memory)
        parameters = []
        for name, whole in matrices.items():
            if name.endswith("c_attn.weight"):
                thirds = [torch.nn.Parameter(third) for third in whole.detach().chunk(3)]
                self.thirds.append((whole, thirds))
                parameters += thirds
            else:
                parameters.append(whole)
        super().__init__(parameters, lr=lr, weight_decay=0.0, momentum=0.8, adjust_lr_fn="match_rms_adamw")

    def step(self):
        for whole, thirds in self.thirds:
            for third, gradient in zip(thirds, whole.grad.chunk(3)):
                third.grad = gradient
        super().step()

    def zero_grad(self):
        super().zero_grad()
        for whole, _ in self.thirds:
            whole.grad = None


if __name__ == "__main__":
    run(main)
