"""Samples the same responses as rollout.sample (read that first), but in batches and with a cache."""

import torch

from .clock import spent
from .forward import Cache


@spent("sampling")
def decode(model, prompts, noise, eos, pad, draw):
    """Sampled tokens, padding past the end, and log-probs, 0 past the end; (B, limit) each. prompts: B lists of
    token ids; noise (B, limit). draw(logits (B, V), noise (B,)) gives tokens and log-probs, (B,) each (rollout.draw).
    Rows that have ended leave the batch in groups."""
    tokens, left_padding = left_padded(prompts, pad, noise.device)
    sampled = torch.full_like(noise, pad, dtype=torch.long)
    logp = torch.zeros_like(noise, dtype=next(model.parameters()).dtype)
    cache = Cache(tokens.shape[1] + noise.shape[1])
    left_padding = left_padding if left_padding.any() else None
    rows = torch.arange(len(prompts), device=noise.device)  # the rows in the cache
    alive = torch.ones_like(rows, dtype=torch.bool)  # those of them that have not ended
    for t in range(noise.shape[1]):
        last = torch.full_like(rows, tokens.shape[1] - 1)[:, None]
        # model(...) would be compiled again for every length; model.forward is never compiled
        logits = model.forward(tokens, left_padding=left_padding, cache=cache, at=last)[:, 0]  # (rows, V)
        token, token_logp = draw(logits, noise[rows, t])
        sampled[rows[alive], t] = token[alive]
        logp[rows[alive], t] = token_logp[alive]
        alive &= token != eos
        going = alive.nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < 0.7 * len(rows):  # rarely: removing rows copies the cache
            rows, token, alive = rows[going], token[going], alive[going]
            left_padding = None if left_padding is None else left_padding[going]
            cache.keep(going)
        tokens = token[:, None]
    return sampled, logp


def left_padded(prompts, pad, device):
    """Prompts (lists of token ids) as tensors: tokens (B, T) with padding at the left, and its length (B,)."""
    longest = max(map(len, prompts))
    left_padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    return tokens, left_padding
