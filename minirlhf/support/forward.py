"""Computes the same forward in less time or memory. The network itself is in model.py; read that first.

- Sampling keeps the keys and values of the tokens so far in a Cache, and pads prompts at the left.
- If only some positions are asked for, the last block computes only these.
- Recomputation keeps only a block's input, and computes the rest again in backward.
- On a CPU a product of few rows is computed as W x^T."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def plan_forward(transformer, tokens, attention, left_padding=None, cache=None, at=None):
    """Returns (position, run): the positions (T,) or (B, T) of tokens (B, T), and run(block, x), which computes
    block(x) with these shortcuts. attention(q, k, v): what blocks use without cache and padding. left_padding (B,)
    long: padding tokens at the left of each row. cache: a Cache; then `tokens` are those after the cached ones. at
    (B, R) long: the positions to compute in the last block."""
    T = tokens.shape[1]
    position = torch.arange(T, device=tokens.device)
    if left_padding is not None or cache is not None:
        position, attention = padded_attention(cache or Cache(T), T, left_padding, tokens.device)

    def run(block, x):
        places = at if block is transformer.h[-1] else None
        if transformer.recompute and torch.is_grad_enabled():
            return checkpoint(block_at, block, x, attention, places, use_reentrant=False)
        return block_at(block, x, attention, places)

    return position, run


def block_at(block, x, attention, at):
    """block(x) (B, T, D), or (B, R, D) at positions `at` (B, R): after attention no position reads another."""
    if at is None:
        return block(x, attention)

    def attention_at(q, k, v):
        y = attention(q, k, v)  # (B, H, T, D / H)
        return y.gather(2, at[:, None, :, None].expand(-1, y.shape[1], -1, y.shape[3]))

    x_at = x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
    x = x_at + block.dropout(block.attn(block.ln_1(x), attention_at))
    return x + block.dropout(block.mlp(block.ln_2(x)))


def padded_attention(cache, T, left_padding, device):
    """(position, attention) for T new tokens after those in a cache. left_padding (B,) long, or None. Blocks call
    the attention in order, once each; a call appends the block's keys and values to the cache."""
    position, key = cache.positions(T, device)  # (T,), (keys,)
    mask = None
    if left_padding is not None:
        real = key >= left_padding[:, None, None]  # (B, 1, keys)
        own = key == position[:, None]  # a padded query sees itself: a softmax over nothing would be NaN
        mask = (((key <= position[:, None]) & real) | own)[:, None]  # (B, 1, T, keys)
        position = (position - left_padding[:, None]).clamp(min=0)  # (B, T)
    elif len(key) > T > 1:
        mask = key <= position[:, None]  # (T, keys); is_causal would align the first query with the first key
    layers = itertools.count()

    def attention(q, k, v):
        k, v = cache.append(next(layers), k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and T > 1)

    return position, attention


class Cache:
    """Keys and values of the tokens seen so far: the next token costs one position instead of all of the text."""

    def __init__(self, room):
        self.keys, self.values = [], []  # of each block, (B, H, room, D / H)
        self.room, self.length = room, 0  # capacity, and length so far, in tokens

    def positions(self, T, device):
        """The positions of T new tokens, and those of all keys that they attend to. Adds T to the length."""
        start, self.length = self.length, self.length + T
        return torch.arange(start, self.length, device=device), torch.arange(self.length, device=device)

    def append(self, layer, k, v):
        """Adds the new tokens' keys and values; returns those of all tokens so far."""
        if layer == len(self.keys):
            B, H, _, size = k.shape
            self.keys.append(k.new_empty(B, H, self.room, size))
            self.values.append(v.new_empty(B, H, self.room, size))
        new = slice(self.length - k.shape[2], self.length)
        self.keys[layer][:, :, new] = k
        self.values[layer][:, :, new] = v
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def keep(self, rows):
        """Keeps the sequences `rows` (long tensor) and forgets the others."""
        self.keys, self.values = [k[rows] for k in self.keys], [v[rows] for v in self.values]


def linear(x, weight, bias=None):
    """F.linear, x W^T + b. For few rows a CPU computes W x^T, which is faster: GPT-2 samples 1.4 times as fast."""
    rows = x.shape[:-1].numel()
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not 8 <= rows <= 32:
        return F.linear(x, weight, bias)
    columns = x.reshape(rows, -1).t()
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear, by the function above."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)
