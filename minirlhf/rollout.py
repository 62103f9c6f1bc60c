"""Sampling responses, and reading the log-probs and values of what was sampled.

What is sampled is what is scored: temperature 1, the whole vocabulary, the same ids in and out.
"""

from typing import NamedTuple

import numpy as np
import torch

from .data import collate
from .losses import at_least_fp32, token_logps
from .model import Cache


class Rollout(NamedTuple):
    """B prompts with a response each; R is the longest response's length."""

    tokens: torch.Tensor  # (B, T) long: prompt, response, right padding
    prompt_lengths: torch.Tensor  # (B,) long
    response_lengths: torch.Tensor  # (B,) long; a response ends with end-of-text or at the limit
    logp: torch.Tensor  # (B, R) float: log-prob of each response token, as sampled; 0 past the end

    @property
    def lengths(self):
        return self.prompt_lengths + self.response_lengths

    @property
    def mask(self):
        """(B, R) bool: True on response tokens."""
        return torch.arange(self.logp.shape[1], device=self.logp.device) < self.response_lengths[:, None]

    @property
    def positions(self):
        """(B, R) long: where response token t's own prediction and value are read, one position before it."""
        steps = torch.arange(self.logp.shape[1], device=self.logp.device)
        return (self.prompt_lengths[:, None] - 1 + steps).clamp(max=self.tokens.shape[1] - 2)

    @property
    def responses(self):
        """(B, R) long: response tokens; 0 past the end."""
        return self.tokens.gather(1, self.positions + 1) * self.mask

    def select(self, rows):
        """The rollout of some rows (long tensor), cut to the longest of them."""
        lengths, responses = self.lengths[rows], self.response_lengths[rows]
        tokens, logp = self.tokens[rows, : lengths.max()], self.logp[rows, : responses.max()]
        return Rollout(tokens, self.prompt_lengths[rows], responses, logp)

    def texts(self, tokenizer):
        """The responses as text, without end-of-text."""
        spans = zip(self.tokens.tolist(), self.prompt_lengths.tolist(), self.lengths.tolist())
        return [tokenizer.decode([t for t in row[start:end] if t != tokenizer.eos]) for row, start, end in spans]


def uniforms(seed, rows, limit):
    """Sampling noise in [0, 1), float32 (len(rows), limit), fixed by seed (ints), the row's number, and the step.

    Each row's noise depends on its number alone, and so do the episodes, however the rows are spread over batches
    and processes.
    """
    noise = np.random.default_rng(seed).random((max(rows) + 1, limit), dtype=np.float32)
    return torch.from_numpy(noise[rows])


@torch.no_grad()
def generate(model, prompts, noise, eos, pad, temperature=1.0, rows=512, graph=False):
    """Samples a response to each prompt, at most `rows` at once, whose keys and values memory must hold.

    prompts: B lists of token ids; noise (B, limit) float in [0, 1): the noise of each step; graph: replay steps as one
    CUDA graph. Returns a Rollout whose responses are at most `limit` tokens. Prompt and limit must fit in the model's
    context.
    """
    device = model.transformer.wte.weight.device
    noise, answer = noise.to(device), _answer_by_graph if graph else _answer
    starts = range(0, len(prompts), rows)
    with model.autocast():  # once for all tokens: the weights' copies in bfloat16 last until it ends
        answers = [answer(model, prompts[i : i + rows], noise[i : i + rows], eos, pad, temperature) for i in starts]
    responses, logp = map(torch.cat, zip(*answers))
    response_lengths = (responses != pad).sum(1)
    sequences = [p + r[:n] for p, r, n in zip(prompts, responses.tolist(), response_lengths.tolist())]
    tokens, lengths = (x.to(device) for x in collate(sequences, pad))
    return Rollout(tokens, lengths - response_lengths, response_lengths, logp[:, : int(response_lengths.max())])


def _answer(model, prompts, noise, eos, pad, temperature):
    """Sampled tokens (B, limit), padding past the end, and their log-probs (B, limit), 0 there. With a KV cache; rows
    that have ended leave the batch."""
    tokens, left_padding, last, responses, logp, cache = _begin(model, prompts, noise, pad)
    if not left_padding.any():
        left_padding = None
    rows = torch.arange(len(prompts), device=noise.device)  # the rows in the cache
    alive = torch.ones_like(rows, dtype=torch.bool)  # those of them that have not ended
    for t in range(noise.shape[1]):
        # forward: torch.compile would compile anew for every length
        logits = at_least_fp32(model.forward(tokens, left_padding, cache, at=last)[:, 0]) / temperature  # (rows, V)
        token, token_logp = sample(logits, noise[rows, t])
        responses[rows[alive], t], logp[rows[alive], t] = token[alive], token_logp[alive]
        alive &= token != eos
        going = alive.nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < 0.7 * len(rows):  # rows that have ended leave together: each leaving copies the cache
            rows, token, alive = rows[going], token[going], alive[going]
            left_padding = None if left_padding is None else left_padding[going]
            cache.keep(going)
        tokens, last = token[:, None], torch.zeros_like(token)[:, None]
    return responses, logp


def _begin(model, prompts, noise, pad):
    """What sampling starts with: tokens (B, P), how many of each row are padding (B,), where its last one is (B, 1);
    and what it fills: responses and log-probs (B, limit), and a cache with room for all."""
    (B, limit), device = noise.shape, noise.device
    lengths = [len(prompt) for prompt in prompts]
    P = max(lengths)
    tokens = torch.tensor([[pad] * (P - len(prompt)) + prompt for prompt in prompts], device=device)
    left_padding = P - torch.tensor(lengths, device=device)
    last = torch.full((B, 1), P - 1, device=device)
    responses = torch.full((B, limit), pad, device=device)
    logp = at_least_fp32(model.transformer.wte.weight.new_zeros(B, limit))
    return tokens, left_padding, last, responses, logp, Cache(P + limit)


def _answer_by_graph(model, prompts, noise, eos, pad, temperature):
    """What _answer returns, by steps that are all alike: launching a small model's kernels one by one takes the CPU
    longer than the GPU needs for them, so a step is recorded and launched as one. Rows that have ended go along."""
    tokens, left_padding, last, responses, logp, cache = _begin(model, prompts, noise, pad)
    token, first, t = torch.empty_like(last), torch.zeros_like(last), torch.zeros_like(last[0])
    alive = torch.ones_like(left_padding, dtype=torch.bool)

    def step(tokens, at):
        logits = at_least_fp32(model.forward(tokens, left_padding, cache, at=at)[:, 0]) / temperature
        drawn, drawn_logp = sample(logits, noise.index_select(1, t)[:, 0])
        token.copy_(drawn.masked_fill(~alive, pad)[:, None])
        responses.index_copy_(1, t, token)
        logp.index_copy_(1, t, (drawn_logp * alive)[:, None])
        alive.logical_and_(drawn != eos)
        t.add_(1)

    step(tokens, last)
    cache.fix(noise.device)

    def next_step():
        step(token, first)
        cache.next.add_(1)

    for i in range(1, noise.shape[1]):
        if i == 3:  # two steps as they are have made the libraries ready
            next_step = record(next_step)
        next_step()
        if i % 16 == 0 and not alive.any():
            break
    return responses, logp


def record(function):
    """A function without arguments as a CUDA graph: what is returned runs the same kernels on the same memory."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def sample(logits, noise):
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise.

    logits (B, V) float32; noise (B,) in [0, 1). Returns tokens (B,) long and their log-probs (B,) float.
    """
    logp = logits.log_softmax(-1)
    cumulative = logp.exp().cumsum(-1)
    token = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)
    return token[:, 0], logp.gather(1, token)[:, 0]


def response_logits(model, rollout):
    """The policy's logits (B, R, V) at each response token."""
    return model(rollout.tokens[:, :-1], at=rollout.positions)  # nothing comes after the last token


def response_logps(model, rollout):
    """log pi(y_t | x, y_<t) (B, R); meaningless past a response's end."""
    return token_logps(response_logits(model, rollout), rollout.responses)


def response_values(value_model, rollout):
    """V_t (B, R), read before token t is emitted; meaningless past a response's end."""
    return value_model(rollout.tokens[:, :-1], at=rollout.positions)


def in_chunks(function, model, rollout, max_tokens=16384):
    """function(model, rollout) (B, ...) computed without gradients in chunks of at most max_tokens tokens."""
    size = max(1, max_tokens // rollout.tokens.shape[1])
    with torch.no_grad():
        rows = torch.arange(len(rollout.tokens), device=rollout.tokens.device)
        return torch.cat([function(model, _cut(rollout, part)) for part in rows.split(size)])


def _cut(rollout, rows):
    """Some rows, columns as they are, so that results can be laid side by side."""
    return Rollout(*(x[rows] for x in rollout))


def scores(reward_model, rollout):
    """r(x, y) (B,), read at the last token of prompt + response, end-of-text where there is one."""
    return reward_model.score(rollout.tokens, rollout.lengths)


def target_logps(model, sequences, pad):
    """Log-probs (B, R) of the targets of Sequences, and the mask (B, R): a demonstration is a response too."""
    tokens, lengths = collate([s.tokens for s in sequences], pad)
    starts = torch.tensor([s.start for s in sequences], dtype=torch.long)
    longest = max((len(s.tokens) - s.start for s in sequences), default=0)
    logp = torch.zeros(len(sequences), longest)  # yet to be known
    device = next(model.parameters()).device
    targets = Rollout(*(x.to(device) for x in (tokens, starts, lengths - starts, logp)))
    return response_logps(model, targets), targets.mask
