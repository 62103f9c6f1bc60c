"""GPT-2 by hand, and the reward model: the same network with one number as its output.

The way of a token: its *embedding* and its position's add up to a vector of D numbers. Then come the blocks, each with
two parts that add to the vector. *Attention* fetches from the positions before it: a weighted mean of their *values*,
with large weights where their *keys* fit this position's *query*. The *MLP* changes each position by itself. At the end
the vector's products with all embeddings are the *logits*, one for each token of the vocabulary; softmax makes them the
probabilities of the next token. All positions are computed at once, and none sees a later one.

Shapes: B sequences, T tokens, D = n_embd, H heads of size D / H, V vocabulary, R positions read.
Parameter names are GPT-2's own. Differences from GPT-3, which the paper used: dense attention in every layer.
"""

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class GPTConfig:
    n_vocab: int  # tokens there are, V
    n_ctx: int = 1024  # tokens of a text at the most
    n_layer: int = 12  # blocks
    n_head: int = 12  # attentions beside each other in a block, on a part of the vector each
    n_embd: int = 768  # numbers of a token's vector, D
    dropout: float = 0.0  # share of the embedding, and of what each block adds, that training sets to 0 at random


PRESETS = {
    "nano": dict(n_ctx=128, n_layer=2, n_head=3, n_embd=48),
    "toy": dict(n_ctx=128, n_layer=2, n_head=4, n_embd=128),
    "small": dict(n_ctx=128, n_layer=4, n_head=4, n_embd=128),
    "medium": dict(n_ctx=128, n_layer=6, n_head=6, n_embd=384),
    "gpt2": dict(n_ctx=1024, n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": dict(n_ctx=1024, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": dict(n_ctx=1024, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": dict(n_ctx=1024, n_layer=48, n_head=25, n_embd=1600),
}


class Cache:
    """Keys and values of the tokens seen so far, so that the next token costs one position, not the whole text."""

    def __init__(self, room):
        self.keys, self.values = [], []  # of each block, (B, H, room, D / H)
        self.room, self.length = room, 0  # tokens there is room for, and those there are

    def positions(self, T, device):
        """Those of T new tokens, and those of all keys that these look at."""
        return tuple(torch.arange(start, self.length + T, device=device) for start in (self.length, 0))

    def append(self, layer, k, v):
        """Adds the new tokens' keys and values; returns those of all tokens so far."""
        if layer == len(self.keys):
            B, H, _, size = k.shape
            self.keys.append(k.new_empty(B, H, self.room, size))
            self.values.append(v.new_empty(B, H, self.room, size))
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def keep(self, rows):
        """Keeps the sequences `rows` (long tensor) and forgets the others."""
        self.keys, self.values = [k[rows] for k in self.keys], [v[rows] for v in self.values]


def read(x, at):
    """x (B, T, D) at positions `at` (B, R): (B, R, D); all of x where `at` is None."""
    return x if at is None else x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


def linear(x, weight, bias=None):
    """x W^T + b. A CPU takes a few rows, as in sampling, the other way round: W x^T reads each weight once, and gpt2's
    next tokens come 1.4 times as fast."""
    rows = x.shape[:-1].numel()
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not 8 <= rows <= 32:
        return F.linear(x, weight, bias)
    columns = x.reshape(rows, -1).t()
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x, mask, cache, layer, at):
        B, T, D = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D/H)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        causal = True if mask is None and T > 1 else False  # a bool, where torch.compile would see a formula of T
        # softmax(q k^T / sqrt(D/H)) v, where no query looks at a later key
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)  # (B, H, T, D/H)
        return self.c_proj(read(y.transpose(1, 2).reshape(B, T, D), at))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, cache, layer, at):
        x = read(x, at) + self.dropout(self.attn(self.ln_1(x), mask, cache, layer, at))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """Tokens (B, T) to hidden states (B, T, D), or (B, R, D) at positions `at` (B, R)."""

    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.recompute = False  # what the blocks computed, in backward, instead of keeping it
        for name, parameter in self.named_parameters():  # GPT-2's initialisation
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" not in name:
                scale = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, tokens, left_padding=None, cache=None, at=None):
        T, mask = tokens.shape[1], None
        position, key = (cache or Cache(T)).positions(T, tokens.device)  # (T,), (keys,)
        if left_padding is not None:
            real = key >= left_padding[:, None, None]  # (B, 1, keys)
            own = key == position[:, None]  # a padded query sees itself: a softmax over nothing would be NaN
            mask = ((key <= position[:, None]) & real | own)[:, None]  # (B, 1, T, keys)
            position = (position - left_padding[:, None]).clamp(min=0)  # (B, T)
        elif len(key) > T > 1:
            mask = key <= position[:, None]  # (T, keys); is_causal would align the first query with the first key
        # Padding is an id outside the vocabulary. It takes any row of wte: nothing reads a padded position.
        x = self.dropout(self.wte(tokens.clamp(max=self.wte.num_embeddings - 1)) + self.wpe(position))
        for layer, block in enumerate(self.h):
            # Only attention looks at other positions, so after the last one those that nobody reads are left out.
            inputs = (x, mask, cache, layer, at if block is self.h[-1] else None)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        if cache is not None:
            cache.length += T
        return self.ln_f(x)


class GPT(nn.Module):
    """The language model. The unembedding is the token embedding, as in GPT-2."""

    autocast = nullcontext  # makes a context of the precision that place() in device.py chose

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    def forward(self, tokens, left_padding=None, cache=None, at=None):
        """Logits (B, T, V) of each position's next token; with `at` (B, R) long, only at those positions: (B, R, V).

        tokens (B, T) long. Right padding needs nothing, since attention is causal. left_padding (B,) long: how many
        tokens at the left of each row are padding. cache: a Cache; then `tokens` are those after the cached ones.
        """
        with self.autocast():
            return linear(self.transformer(tokens, left_padding, cache, at), self.transformer.wte.weight)


class RewardModel(nn.Module):
    """The GPT with a scalar head; read at the last token it is r(x, y), read before each token it is the value V."""

    autocast = nullcontext

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.head = nn.Linear(config.n_embd, 1)
        # Stiennon et al. 2020: the final LayerNorm gives states of norm sqrt(D), so initial scores have a std near 1.
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(config.n_embd + 1))
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens, at=None):
        """Scalars (B, T), one per position of tokens (B, T) long; with `at` (B, R) long, only there: (B, R)."""
        with self.autocast():
            hidden = self.transformer(tokens, at=at)
        return self.head(hidden).squeeze(-1)  # in float32: one column is cheap, and scores need their digits


def config_dict(config):
    return {k: v for k, v in asdict(config).items() if k != "dropout"}
