"""Sampling by CUDA graphs (train_ppo.py --graph): the same samples as rollout.sample, which is easier to read.

The CPU launches a small model's kernels more slowly than the GPU runs them. Here a step is recorded once and launched
as one, so no shape and no address may change from step to step."""

import torch

from .clock import spent
from .forward import Cache
from .sampling import left_padded


@spent("sampling")
def decode_by_graph(model, prompts, noise, eos, pad, draw):
    """Like sampling.decode, but rows that have ended stay in the batch. Stops after a 16th step if all have ended."""
    tokens, left_padding = left_padded(prompts, pad, noise.device)
    sampled = torch.full_like(noise, pad, dtype=torch.long)
    logp = torch.zeros_like(noise, dtype=next(model.parameters()).dtype)
    cache = FixedCache(tokens.shape[1] + noise.shape[1])
    last = torch.full_like(left_padding, tokens.shape[1] - 1)[:, None]
    token, first, t = torch.empty_like(last), torch.zeros_like(last), torch.zeros_like(last[0])
    alive = torch.ones_like(left_padding, dtype=torch.bool)

    def step(tokens, at):
        logits = model.forward(tokens, left_padding=left_padding, cache=cache, at=at)[:, 0]
        drawn, drawn_logp = draw(logits, noise.index_select(1, t)[:, 0])
        token.copy_(drawn.masked_fill(~alive, pad)[:, None])
        sampled.index_copy_(1, t, token)
        logp.index_copy_(1, t, (drawn_logp * alive)[:, None])
        alive.logical_and_(drawn != eos)
        t.add_(1)

    step(tokens, last)
    cache.fix(noise.device)

    def next_step():
        step(token, first)
        cache.next.add_(1)

    for i in range(1, noise.shape[1]):
        if i == 3:  # the first steps have initialised the libraries
            next_step = record(next_step)
        next_step()
        if i % 16 == 0 and not alive.any():
            break
    return sampled, logp


def record(function):
    """Records a function without arguments as a CUDA graph; returns a function that runs the same kernels again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class FixedCache(Cache):
    """A Cache that stays at its address. Once fixed, tokens come one at a time, attention covers all of the room, and a
    mask hides what is yet to come. Needs left_padding."""

    next = None  # once fixed: where the next token goes, (1,) long

    def fix(self, device):
        for x in (*self.keys, *self.values):
            x[:, :, self.length :] = 0  # a NaN would spread even if masked
        self.next = torch.tensor([self.length], device=device)

    def positions(self, T, device):
        if self.next is None:
            return super().positions(T, device)
        return self.next, torch.arange(self.room, device=device)

    def append(self, layer, k, v):
        if self.next is None:
            return super().append(layer, k, v)
        self.keys[layer].index_copy_(2, self.next, k)
        self.values[layer].index_copy_(2, self.next, v)
        return self.keys[layer], self.values[layer]
