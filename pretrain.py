"""Step 0, before the paper's three: a GPT learns to continue documents. The loop is train_sft.py's.

    a new model      python pretrain.py --data web.jsonl --tokenizer runs/tokenizer --size toy --out runs/gpt
    GPT-2, further   python pretrain.py --data web.jsonl --init gpt2_folder --out runs/gpt

The paper starts from GPT-3. The optimizer and the start of the embeddings are here to choose, so that a laptop can
train a small model; the learning rate is that of GPT-3's smallest (Brown et al. 2020, table 2.1).
"""

import functools
import math
from dataclasses import dataclass

import torch

import train_sft
from minirlhf.losses import cosine_lr
from minirlhf.model import GPT, PRESETS, GPTConfig
from minirlhf.support import distributed, records
from minirlhf.support import tokenizer as tokenizers
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import Text, command, refuse_unused, require_choice, require_fraction, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.muon import Both, Muon
from minirlhf.support.optim import adam
from minirlhf.support.run import RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    data: tuple[str, ...]  # files of documents
    validation: tuple[str, ...] = ()  # files of documents whose loss is measured after each epoch
    tokenizer: str | None = None  # of a new model: gpt2 (the default), a folder with a tokenizer, or a ranks file
    size: Text | None = None  # of a new model: nano, toy, small, medium, gpt2 (the default), gpt2-medium, ...
    n_ctx: int | None = None  # context length in tokens, instead of the size's
    n_layer: int | None = None  # number of blocks, instead of the size's
    n_head: int | None = None  # attention heads, instead of the size's
    n_embd: int | None = None  # width, instead of the size's
    embedding_std: float | None = None  # of the embeddings at the start [GPT-2's]; 0.4 suits small models
    init: str = ""  # checkpoint to go on from, instead of a new model
    epochs: int = 1  # passes over --data
    batch_size: int = 32  # sequences in a step
    lr: float = 6e-4  # peak learning rate, falling by a cosine to a tenth
    dropout: float = 0.0  # on the embedding and the residual stream
    optimizer: Text = "muon"  # muon for the blocks' matrices and Adam for the rest, or adam for all
    muon_lr: float = 0.02  # peak learning rate of muon's matrices, which need a larger one
    warmup: int = 0  # steps over which learning rates rise to their peaks (GPT-3: 375 million tokens)
    weight_decay: float = 0.0  # of matrices: a step takes the learning rate times this share of them (GPT-3: 0.1)
    validate_every: int | None = None  # steps between measurements of --validation, besides those after each epoch

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr", "muon_lr", "n_head", "embedding_std")
        require_positive(self, "epochs", "n_layer", most=10_000)
        require_positive(self, "batch_size", "n_ctx", "n_embd", most=1_000_000)
        require_positive(self, "validate_every")
        require_fraction(self, "dropout", below_one=True)
        require_choice(self, "size", PRESETS)
        require_choice(self, "optimizer", ("adam", "muon"))
        if self.optimizer != "muon":
            refuse_unused(self, "muon_lr", "--optimizer muon")
        for name in ("tokenizer", "size", "embedding_std"):
            if self.init and (value := getattr(self, name)):
                raise InputError(f"--{name} {value}: --init {self.init} brings its own; leave the flag out")


def main(config):
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size")
    model, tokenizer = start_model(config)
    place(model, config)
    documents = records.load_documents(config.data, tokenizer, model.config.n_ctx)
    validation = records.load_documents(config.validation, tokenizer, model.config.n_ctx)
    if start_run(config):
        steps, optimizer = list(train_sft.plan(documents, config)), make_optimizer(model, config)
        schedule = functools.partial(warm_cosine, config.warmup)
        train_sft.train(config, model, optimizer, tokenizer, documents, steps, validation, schedule)
    distributed.finish()


def warm_cosine(warmup, step, steps):
    """The share of the peak learning rate at a step: a linear rise over `warmup` steps, and the cosine's decay."""
    return min(1.0, (step + 1) / (warmup + 1)) * cosine_lr(step, steps)


def start_model(config):
    """The model to train and its tokenizer: a checkpoint's, or new ones by the flags."""
    sizes = ("n_ctx", "n_layer", "n_head", "n_embd")
    flags = {name: getattr(config, name) for name in sizes if getattr(config, name) is not None}
    if config.init:
        tokenizer = load_tokenizer(config.init)
        model = load_model(config.init, GPT, tokenizer, config.dropout)
        for name, value in flags.items():
            if (own := getattr(model.config, name)) != value:
                given = f"--{name} {value} contradicts --init {config.init}"
                raise InputError(f"{given}, which has {own}; leave the flag out")
        return model, tokenizer
    tokenizer = tokenizers.load(config.tokenizer or "gpt2")
    shape = PRESETS[config.size or "gpt2"] | flags
    if shape["n_embd"] % shape["n_head"]:
        raise InputError(f"--n_embd {shape['n_embd']} cannot be divided into --n_head {shape['n_head']} heads")
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(tokenizer.n_vocab, **shape, dropout=config.dropout))
    if config.embedding_std is not None:
        spread_embeddings(model.transformer, config.embedding_std)
    return model, tokenizer


@torch.no_grad()
def spread_embeddings(transformer, std):
    """Starts tokens at N(0, std) and positions as sinusoids (Vaswani et al. 2017, but base 1000) of the same size.

    GPT-2's 0.02 suits GPT-2's width. In a small model, words that occur in the same places stay distinct only if they
    start well apart, and with sinusoids attention need not learn "the token before" for each position.
    """
    n_ctx, width = transformer.wpe.weight.shape
    frequency = 1000 ** (-torch.arange(0, width, 2) / width)
    angle = torch.arange(n_ctx)[:, None] * frequency  # (n_ctx, D / 2)
    sinusoids = torch.stack((angle.sin(), angle.cos()), 2).flatten(1)[:, :width]
    transformer.wpe.weight.copy_(sinusoids * std * math.sqrt(2))
    torch.nn.init.normal_(transformer.wte.weight, std=std)


def make_optimizer(model, config):
    """Adam for everything, or Muon for the blocks' matrices and Adam for the rest."""
    own = dict(shard=config.shard, weight_decay=config.weight_decay)
    if config.optimizer == "adam":
        return adam(model.parameters(), config.lr, **own)
    blocks = {name: p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name}
    stacked = {name: p for name, p in blocks.items() if name.endswith("c_attn.weight")}
    rest = [p for name, p in model.named_parameters() if name not in blocks]
    matrices = [p for name, p in blocks.items() if name not in stacked]
    muon = Muon(matrices, stacked.values(), config.muon_lr, weight_decay=config.weight_decay)
    return Both(adam(rest, config.lr, **own), muon)


if __name__ == "__main__":
    command(main, Config)
