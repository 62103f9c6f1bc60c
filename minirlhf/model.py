"""GPT-2 by hand, and the reward model: the same network with one number as its output.

What happens to a token: an *embedding* of the token and one of its position add up to a vector of
D numbers. Then come the blocks, each with two parts that add to the vector. *Attention* fetches,
from this and earlier positions, a weighted mean of *values*, with large weights where their *keys*
fit this position's *query*. The *MLP* changes each position by itself. At the end the vector's dot
products with all embeddings are the *logits*, one for each token of the vocabulary; softmax turns
them into probabilities of the next token. All positions are computed at once; none sees later ones.

Shapes: B sequences, T tokens, D = n_embd, H heads of size D / H, V vocabulary, R positions read.
Parameter names are GPT-2's. Unlike GPT-3, which the paper used, attention is dense in every layer.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from .support.device import precision
from .support.forward import Linear, linear, plan_forward


@dataclass(frozen=True)
class GPTConfig:
    n_vocab: int  # number of tokens in the vocabulary, V
    n_ctx: int = 1024  # context length: maximum number of tokens
    n_layer: int = 12  # number of blocks
    n_head: int = 12  # attention heads of a block, H; each works on D / H numbers
    n_embd: int = 768  # width: numbers in a token's vector, D
    dropout: float = 0.0  # probability in training, for embeddings and the blocks' outputs


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


def causal_attention(q, k, v):
    """softmax(q k^T / sqrt(D/H)) v, where no query sees a later key; all (B, H, T, D/H)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x, attention):
        B, T, D = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)
        y = attention(q, k, v)  # (B, H, T, D/H)
        return self.c_proj(y.transpose(1, 2).reshape(B, y.shape[2], D))  # (B, T, D)


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

    def forward(self, x, attention=causal_attention):
        x = x + self.dropout(self.attn(self.ln_1(x), attention))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """Tokens (B, T) to hidden states (B, T, D)."""

    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.recompute = False  # compute activations again in backward instead of keeping them
        for name, parameter in self.named_parameters():  # GPT-2's initialisation
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" not in name:
                scale = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, tokens, **shortcuts):
        # position is 0 .. T - 1 and run(block, x) is block(x), unless there are shortcuts
        position, run = plan_forward(self, tokens, causal_attention, **shortcuts)
        tokens = tokens.clamp(max=self.wte.num_embeddings - 1)  # padding's id has no embedding
        x = self.dropout(self.wte(tokens) + self.wpe(position))
        for block in self.h:
            x = run(block, x)
        return self.ln_f(x)


class GPT(nn.Module):
    """The language model. The unembedding is the token embedding, as in GPT-2."""

    kind = "gpt"  # in checkpoints
    Config = GPTConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    def forward(self, tokens, **shortcuts):
        """Logits (B, T, V) of each position's next token. tokens (B, T) long; padding at the right
        needs no mask, since attention is causal. Optional shortcuts: `at` (B, R) long, for logits
        (B, R, V) at those positions only; left_padding and cache, for sampling."""
        with precision(self):  # float32, or bfloat16 (support/device.py)
            return linear(self.transformer(tokens, **shortcuts), self.transformer.wte.weight)


class RewardModel(nn.Module):
    """The GPT with a scalar head: the score at the last token, or the value V before each token."""

    kind = "reward model"
    Config = GPTConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.head = nn.Linear(config.n_embd, 1)
        # Stiennon et al. 2020: states have norm sqrt(D), so initial scores have a std near 1
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(config.n_embd + 1))
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens, at=None):
        """Numbers (B, T), one per token of `tokens` (B, T) long. If positions `at` (B, R) long are
        given: numbers (B, R), those at these positions."""
        with precision(self):
            hidden = self.transformer(tokens, at=at)
        return self.head(hidden).squeeze(-1)  # in float32: scores need all their digits
