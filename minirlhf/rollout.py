"""Sampling responses, and reading the log-probs, values and scores of responses.

In training responses are sampled at temperature 1 from all tokens, and scored with the same probabilities and ids.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .data import Responses, collate
from .losses import at_least_fp32
from .model import Cache
from .support.records import Sequence

# --- sampling --------------------------------------------------------------------------------------------------------


def uniforms(seed, rows, limit):
    """Sampling noise in [0, 1), float32 (len(rows), limit), fixed by seed (ints), the row's number, and the step.

    Each row's noise depends on its number alone, and so do the episodes, however the rows are spread over batches
    and processes.
    """
    noise = np.random.default_rng(seed).random((max(rows) + 1, limit), dtype=np.float32)
    return torch.from_numpy(noise[rows])


def decode(model, prompts, noise, eos, pad, temperature):
    """Sampled tokens (B, limit), padding past the end, and their log-probs (B, limit), 0 there.

    Each step asks for the next token's probabilities, draws by the noise, and appends, until all rows have ended. The
    rest saves time: the cache, and that rows which have ended leave the batch."""
    tokens, left_padding, last, sampled, logp = begin(model, prompts, noise, pad)
    cache = Cache(tokens.shape[1] + noise.shape[1])
    if not left_padding.any():
        left_padding = None
    rows = torch.arange(len(prompts), device=noise.device)  # the rows in the cache
    alive = torch.ones_like(rows, dtype=torch.bool)  # those of them that have not ended
    for t in range(noise.shape[1]):
        # model.forward, not model(...): only the call is compiled, and would be anew for every length
        logits = at_least_fp32(model.forward(tokens, left_padding, cache, at=last)[:, 0])  # (rows, V)
        log_probs = (logits / temperature).log_softmax(-1)
        token = sample_token(log_probs, noise[rows, t])
        sampled[rows[alive], t] = token[alive]
        logp[rows[alive], t] = log_probs.gather(1, token[:, None])[alive, 0]
        alive &= token != eos
        going = alive.nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < 0.7 * len(rows):  # rows that have ended leave together: each leaving copies the cache
            rows, token, alive = rows[going], token[going], alive[going]
            left_padding = None if left_padding is None else left_padding[going]
            cache.keep(going)
        tokens, last = token[:, None], torch.zeros_like(token)[:, None]
    return sampled, logp


@torch.no_grad()
def generate(model, prompts, noise, eos, pad, temperature=1.0, batch_size=512, decode=decode):
    """Samples a response to each prompt, `batch_size` of them side by side, whose keys and values memory must hold.

    prompts: B lists of token ids; noise (B, limit) float in [0, 1): the noise of each step. Prompt and limit must fit
    in the model's context. Returns Responses of at most `limit` tokens, and the log-prob of each token as it was
    sampled, (B, R) float, 0 past the end.
    """
    device = model.transformer.wte.weight.device
    noise, decoded = noise.to(device), []
    with model.autocast():  # once for all tokens: the weights' copies in bfloat16 last until it ends
        for i in range(0, len(prompts), batch_size):
            batch = slice(i, i + batch_size)
            decoded.append(decode(model, prompts[batch], noise[batch], eos, pad, temperature))
    tokens, logp = map(torch.cat, zip(*decoded))
    lengths = (tokens != pad).sum(1).tolist()
    sequences = [Sequence(p + y[:n], len(p)) for p, y, n in zip(prompts, tokens.tolist(), lengths)]
    return collate(sequences, pad, device), logp[:, : max(lengths)]


def begin(model, prompts, noise, pad):
    """What decoding starts with: tokens (B, T), how many of each row are padding (B,), where its last one is (B, 1);
    and what it fills: sampled tokens and their log-probs (B, limit)."""
    (B, limit), device = noise.shape, noise.device
    longest = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    left_padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    last = torch.full((B, 1), longest - 1, device=device)
    sampled = torch.full((B, limit), pad, device=device)
    logp = at_least_fp32(model.transformer.wte.weight.new_zeros(B, limit))
    return tokens, left_padding, last, sampled, logp


def sample_token(log_probs, noise):
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise.

    log_probs (B, V) float32; noise (B,) in [0, 1). Returns tokens (B,) long.
    """
    cumulative = log_probs.exp().cumsum(-1)
    return torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)[:, 0]


# --- reading ---------------------------------------------------------------------------------------------------------


def response_logps(model, responses):
    """log pi(y_t | x, y_<t) (B, R), in float32 or better; meaningless past a response's end."""
    logits = model(responses.tokens[:, :-1], at=responses.positions)  # (B, R, V); nothing comes after the last token
    loss = F.cross_entropy(at_least_fp32(logits).flatten(0, 1), responses.targets.flatten(), reduction="none")
    return -loss.view(responses.mask.shape)  # cross_entropy is -log of the target's probability


def response_values(value_model, responses):
    """V_t (B, R), read before token t is emitted; meaningless past a response's end."""
    return value_model(responses.tokens[:, :-1], at=responses.positions)


def response_scores(reward_model, responses):
    """r(x, y) (B,), read at the last token of prompt + response, end-of-text where there is one."""
    return reward_model(responses.tokens, at=responses.lengths[:, None] - 1)[:, 0]


def in_chunks(function, model, responses, max_tokens=16384):
    """function(model, responses) (B, ...) computed without gradients in chunks of at most max_tokens tokens."""
    size = max(1, max_tokens // responses.tokens.shape[1])
    with torch.no_grad():
        parts = zip(*(x.split(size) for x in responses))
        return torch.cat([function(model, Responses(*part)) for part in parts])
