"""Sampling responses, and computing the log-probs, values and scores of responses.

In training, responses are sampled at temperature 1 from the whole vocabulary. Their log-probs are
those of the token ids that were sampled, under the distribution that they were sampled from.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from .data import Responses, collate
from .support.accumulation import split_by_tokens
from .support.device import at_least_fp32, precision
from .support.records import Sequence
from .support.sampling import decode


@torch.no_grad()
def sample(model, prompt, noise, eos, temperature=1.0):
    """Samples one response, token by token. This is to be read; `generate` does the same, faster.

    prompt: list of token ids; noise (limit,) float in [0, 1). Returns the response's token ids and
    their log-probs, two lists.
    """
    response, logp = [], []
    for step_noise in noise:
        logits = model(torch.tensor([prompt + response]))[:, -1]  # (1, V): those of the next token
        token, token_logp = draw(logits, step_noise[None], temperature)
        response.append(token.item())
        logp.append(token_logp.item())
        if token == eos:
            break
    return response, logp


def draw(logits, noise, temperature=1.0):
    """Draws a token per row from softmax(logits / temperature): tokens (B,) and log-probs (B,).
    logits (B, V) float; noise (B,) float in [0, 1)."""
    log_probs = (at_least_fp32(logits) / temperature).log_softmax(-1)
    token = sample_token(log_probs, noise)
    return token, log_probs.gather(1, token[:, None])[:, 0]


def sample_token(log_probs, noise):
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise.

    However rows are batched, a row's noise gives the same token (not so in torch.multinomial).
    log_probs (B, V) float32; noise (B,) in [0, 1). Returns tokens (B,) long.
    """
    cumulative = log_probs.exp().cumsum(-1)
    return torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)[:, 0]


def uniforms(seed, n, limit):
    """Sampling noise in [0, 1), float32 (n, limit). An episode's row depends on seed (ints), its
    number and limit alone: it is the same however a batch is split."""
    noise = np.random.default_rng(seed).random((n, limit), dtype=np.float32)
    return torch.from_numpy(noise)


@torch.no_grad()
def generate(model, prompts, noise, eos, pad, temperature=1.0, batch_size=512, decode=decode):
    """Samples a response to each prompt, `batch_size` of them at once.

    prompts: B lists of token ids; noise (B, limit) float in [0, 1), for each step. Prompt and limit
    must fit in the model's context. decode: sampling.decode or decode_by_graph. Returns
    Responses of at most `limit` tokens, and the log-prob of each token when it was sampled, (B, R)
    float, 0 past the end.
    """
    device = next(model.parameters()).device
    noise, decoded, draw_token = noise.to(device), [], partial(draw, temperature=temperature)
    with precision(model):  # entered once, so that autocast casts the weights only once
        for i in range(0, len(prompts), batch_size):
            rows = slice(i, i + batch_size)
            decoded.append(decode(model, prompts[rows], noise[rows], eos, pad, draw_token))
    tokens, logp = map(torch.cat, zip(*decoded))
    lengths = (tokens != pad).sum(1).tolist()
    sequences = [Sequence(p + y[:n], len(p)) for p, y, n in zip(prompts, tokens.tolist(), lengths)]
    return collate(sequences, pad, device), logp[:, : max(lengths)]


def response_logps(model, responses):
    """log pi(y_t | x, y_<t) (B, R), in float32 or better; meaningless past a response's end."""
    logits = at_least_fp32(model(responses.tokens[:, :-1], at=responses.positions))  # (B, R, V)
    loss = F.cross_entropy(logits.flatten(0, 1), responses.targets.flatten(), reduction="none")
    return -loss.view(responses.mask.shape)  # cross_entropy is -log of the target's probability


def response_nats(model, responses):
    """-log pi(y | x) (B,), in nats: how surprising a whole response is."""
    return -(response_logps(model, responses) * responses.mask).sum(1)


def response_values(value_model, responses):
    """V_t (B, R), read before token t is emitted; meaningless past a response's end."""
    return value_model(responses.tokens[:, :-1], at=responses.positions)


def response_scores(reward_model, responses):
    """r(x, y) (B,), read at the last token: end-of-text, unless the response was cut off."""
    return reward_model(responses.tokens, at=responses.lengths[:, None] - 1)[:, 0]


@torch.no_grad()
def in_chunks(function, model, responses, max_tokens=16384):
    """function(model, responses) (B, ...), without gradients, in chunks of max_tokens tokens."""
    size = max(1, max_tokens // responses.tokens.shape[1])
    parts = zip(*(field.split(size) for field in responses))
    return torch.cat([function(model, Responses(*part)) for part in parts])


@torch.no_grad()
def per_sequence(function, model, sequences, pad, max_tokens=16384):
    """function(model, responses) of N Sequences, without gradients or dropout: (N,) float64."""
    device = next(model.eval().parameters()).device
    values = torch.zeros(len(sequences), dtype=torch.float64)
    for part in split_by_tokens([s.length for s in sequences], max_tokens):
        responses = collate([sequences[i] for i in part], pad, device)
        values[part] = function(model, responses).cpu().double()
    return values


def ranking_scores(model, rankings, pad, max_tokens=16384):
    """The reward model's score of each response of each Ranking: a list of lists."""
    sequences = [s for ranking in rankings for s in ranking.sequences]
    scores = iter(per_sequence(response_scores, model, sequences, pad, max_tokens).tolist())
    return [[next(scores) for _ in ranking.sequences] for ranking in rankings]
