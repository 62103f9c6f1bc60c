"""Samples many responses at once: the same as rollout.sample, which is easier to read, with a cache and in batches."""

import torch

from .forward import Cache


def decode(model, prompts, noise, eos, pad, draw):
    """Sampled tokens (B, limit), padding past the end, and their log-probs (B, limit), 0 there. prompts: B lists of
    token ids; noise (B, limit). draw(logits (B, V), noise (B,)) gives tokens and log-probs, (B,) each (rollout.draw).
    Rows that have ended leave the batch."""
    tokens, left_padding = left_padded(prompts, pad, noise.device)
    sampled = torch.full_like(noise, pad, dtype=torch.long)
    logp = torch.zeros_like(noise, dtype=next(model.parameters()).dtype)
    cache = Cache(tokens.shape[1] + noise.shape[1])
    left_padding = left_padding if left_padding.any() else None
    rows = torch.arange(len(prompts), device=noise.device)  # the rows in the cache
    alive = torch.ones_like(rows, dtype=torch.bool)  # those of them that have not ended
    for t in range(noise.shape[1]):
        last = torch.full_like(rows, tokens.shape[1] - 1)[:, None]
        # model.forward, not model(...): only the call is compiled, and would be again for every length
        logits = model.forward(tokens, left_padding=left_padding, cache=cache, at=last)[:, 0]  # (rows, V)
        token, token_logp = draw(logits, noise[rows, t])
        sampled[rows[alive], t] = token[alive]
        logp[rows[alive], t] = token_logp[alive]
        alive &= token != eos
        going = alive.nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < 0.7 * len(rows):  # not one by one: each leaving copies the cache
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
