"""Step 3 of InstructGPT: PPO against the reward model, and PPO-ptx (Ouyang et al. 2022, section 3.5, App. C.3, C.4).

    python train_ppo.py --policy runs/rl_start --reward_model runs/rm --prompts prompts.jsonl \\
        --documents web.jsonl --out runs/ppo_ptx        (--ptx_coef 0 and no documents: plain PPO)
    torchrun --nproc_per_node 8 train_ppo.py ...        (the same flags: batch sizes are global)

A prompt x comes, the policy pi answers once, y, and the reward model scores the answer, r(x, y). The objective (eq. 2):

    E_{(x, y) ~ pi} [ r(x, y) - beta log(pi(y|x) / pi_ref(y|x)) ]  +  gamma E_{x ~ documents} [ log pi(x) ]

E is the mean over prompts and answers; beta is --kl_coef; gamma, the weight of the documents, is --ptx_coef. PPO acts
per token. The state is the prompt and the answer so far, the action is the next token. An episode ends with end-of-text
or at --max_response tokens; the value after its end is 0. The reward is the KL penalty at each token plus the score at
the last one; the discount is 1. There is no entropy bonus, beta is fixed, and neither rewards nor values are
normalised.

There are four networks and an average: the policy; the reference, which is the policy's frozen start; the frozen reward
model; the value network, which starts as a copy of the reward model; and the policy's running average, saved as
model.pt. Ours, since the paper does not say: lambda, whitened advantages, the clipped value loss, clipped gradients,
losses as means per token, and which of the learning rates that the paper tried is the default.
"""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf.data import Responses, collate
from minirlhf.losses import (
    ema_update,
    gae,
    masked_mean,
    policy_loss,
    ptx_loss,
    shaped_rewards,
    value_loss,
    warmup_lr,
    whiten,
)
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, in_chunks, response_logps, response_scores, response_values, uniforms
from minirlhf.support import distributed, records, sampling
from minirlhf.support.accumulation import pieces
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command, require_fraction, require_multiple, require_positive
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    policy: str  # checkpoint that RL starts from, and the KL's reference: SFT with pretraining data mixed in
    reward_model: str | None = None  # checkpoint of the reward model; the value network starts as its copy
    prompts: tuple[str, ...]  # files of prompts
    documents: tuple[str, ...] = ()  # files of pretraining documents, for PPO-ptx
    ptx_coef: float = 27.8  # gamma, weight of the pretraining loss (paper: 27.8); 0 is plain PPO
    documents_per_episode: float = 8.0  # pretraining sequences per episode (paper: 8)
    document_tokens: int | None = None  # length of a pretraining sequence; the context's unless given (paper: 2048)
    episodes: int = 256_000  # prompts answered in all (paper: 256k)
    batch_size: int = 512  # episodes in an iteration (paper: 512)
    minibatch_size: int = 64  # episodes in an optimizer step (paper: 64)
    inner_epochs: int = 1  # passes over the episodes of an iteration (paper: 1)
    max_response: int = 512  # tokens of a response at the most (paper: 1k of a context of 2k)
    kl_coef: float = 0.02  # beta, weight of the per-token KL penalty (paper: 0.02)
    lr: float = 8.05e-6  # policy's peak, constant after the warmup (paper: swept; above it PPO without ptx diverged)
    value_lr: float = 9e-6  # value network's, constant (paper: 9e-6)
    warmup: int = 10  # iterations from a tenth of the policy's learning rate to all of it (paper: 10)
    clip: float = 0.2  # the ratio's clip range (paper: 0.2)
    value_clip: float = 0.2  # the value's clip range (ours)
    discount: float = 1.0  # of later rewards (paper: 1)
    gae_lambda: float = 0.95  # GAE's lambda (ours)
    ema_decay: float = 0.992  # of the averaged weights, which are what is saved as model.pt (paper: 0.992)
    rollout_batch_size: int = 128  # episodes that a process samples at once; keys and values of more need more memory
    show: int = 8  # episodes of an iteration that samples.jsonl shows: prompt, response, RM score, KL
    save_every: int = 50  # iterations between the states that --resume goes on from
    graph: bool = False  # replay each sampling step as one CUDA graph, so that the GPU does not wait for launches

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "episodes", "max_response", "document_tokens")
        require_positive(self, "lr", "value_lr", "warmup", "clip", "value_clip")
        require_positive(self, "batch_size", "minibatch_size", "rollout_batch_size", most=1_000_000)
        require_positive(self, "inner_epochs", most=10_000)
        require_fraction(self, "discount", "gae_lambda", "ema_decay")
        require_multiple(self, "episodes", "batch_size")
        require_multiple(self, "batch_size", "minibatch_size")
        if self.ptx_coef and not self.documents:
            raise InputError(f"--ptx_coef {self.ptx_coef} needs --documents to learn from; --ptx_coef 0 is plain PPO")
        exact = self.minibatch_size * self.documents_per_episode
        if self.ptx_coef and not (0.5 < exact <= 1e6 and math.isclose(exact, round(exact), abs_tol=1e-6)):
            given = f"--documents_per_episode {self.documents_per_episode}: {exact:g} a minibatch"
            raise InputError(f"{given} of {self.minibatch_size}; must be a whole number from 1 to 1,000,000")

    @property
    def documents_per_step(self):
        return round(self.minibatch_size * self.documents_per_episode) if self.ptx_coef else 0


class Networks(NamedTuple):
    policy: GPT
    reference: GPT
    reward_model: RewardModel
    value: RewardModel
    ema: GPT


class Episodes(NamedTuple):
    """What an iteration learns from. An episode is a prompt, the response to it token by token, and a score at its end.
    B episodes, R response tokens at most; (B, R) unless noted."""

    responses: Responses  # tokens (B, T): prompt and response; prompt_lengths (B,); mask (B, R): what is response
    scores: torch.Tensor  # (B,) the reward model's
    logp: torch.Tensor  # of each token, by the policy that sampled it
    ref_logp: torch.Tensor  # of the same token, by the reference
    values: torch.Tensor  # the value network's estimate, before each token, of all rewards to come
    advantages: torch.Tensor  # whitened
    returns: torch.Tensor  # targets of the value network: values + advantages before whitening

    def select(self, rows):
        """Some episodes (list of ints, or long tensor), cut to the longest of them."""
        responses = self.responses.select(rows)
        R = responses.mask.shape[1]
        per_token = (self.logp, self.ref_logp, self.values, self.advantages, self.returns)
        return Episodes(responses, self.scores[rows], *(x[rows, :R] for x in per_token))


def main(config, reward=None):
    """Runs step 3. reward: a function of your own in place of the reward model's scores (docs/own_reward.md): it takes
    two lists of B texts, the prompts and the responses, and returns B numbers. Without --reward_model the value network
    starts as the policy with a new head.
    """
    if reward is None and config.reward_model is None:
        raise InputError("required: --reward_model (--help lists and explains every flag)")
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size, minibatch_size=config.minibatch_size)
    if config.graph and pick_device(config.device) != "cuda":
        raise InputError("--graph replays CUDA graphs, and this is no CUDA device; leave the flag out")
    tokenizer = load_tokenizer(config.policy)
    networks = load_networks(config, tokenizer)
    prompts, documents = load_data(config, tokenizer, networks)
    if start_run(config):
        train(config, networks, tokenizer, prompts, documents, reward)
    distributed.finish()


def train(config, networks, tokenizer, prompts, documents, reward=None):
    optimizers = policy_optimizer, _ = make_optimizers(networks, config)
    run = Run(config, networks.policy, networks.value, networks.ema, *optimizers, last_good=config.policy)
    learners = networks._replace(policy=distributed.wrap(networks.policy), value=distributed.wrap(networks.value))
    iterations = config.episodes // config.batch_size
    steps = config.inner_epochs * config.batch_size // config.minibatch_size  # optimizer steps in an iteration
    warn_of_a_short_run(config, iterations * steps)
    prompt_order = endless(len(prompts), run.first * config.batch_size, (config.seed, 0, 1))
    document_order = endless(len(documents), run.first * steps * config.documents_per_step, (config.seed, 0, 2))

    for iteration, _ in run.steps(range(iterations)):
        scale_lr(policy_optimizer, warmup_lr(iteration, config.warmup))

        # 1. The policy answers a batch of prompts, each process its share. rollout.draw draws the tokens.
        batch = [prompts[next(prompt_order)] for _ in range(config.batch_size)]
        noise = uniforms((config.seed, iteration), range(config.batch_size), config.max_response)
        responses, logp = generate(
            networks.policy, distributed.shard(batch), distributed.shard(noise), tokenizer.eos, tokenizer.pad,
            batch_size=config.rollout_batch_size, decode=decode_by_graph if config.graph else sampling.decode,
        )  # fmt: skip

        # 2. Rewards are made of the reward model's scores and the reference's log-probs, advantages of rewards and the
        #    value network's estimates. They are whitened over the whole batch, so each process gets all episodes.
        own = reward and own_scores(reward, responses, tokenizer)
        episodes: Episodes = judge_episodes(networks, responses, logp, config, own)

        # 3. The policy and the value network learn from the episodes in random minibatches, and in PPO-ptx the policy
        #    from documents.
        figures, rng = [], np.random.default_rng((config.seed, iteration, 3))
        for _ in range(config.inner_epochs):
            for minibatch in torch.from_numpy(rng.permutation(config.batch_size)).split(config.minibatch_size):
                extra = [documents[next(document_order)] for _ in range(config.documents_per_step)]
                figures.append(update(learners, optimizers, episodes, minibatch, extra, tokenizer.pad, config))

        row = {name: float(np.mean([step[name] for step in figures])) for name in figures[0]}
        row |= statistics(episodes, config, tokenizer.eos) | {"episodes": (iteration + 1) * config.batch_size}
        run.log(*shown(episodes, config.show, tokenizer), **row, episodes_per_second=run.rate(config.batch_size))

    run.save("policy.pt", networks.policy, tokenizer)
    run.save("value.pt", networks.value, tokenizer)
    run.save("model.pt", networks.ema, tokenizer)
    curves = {"score": "RM score", "kl": "KL to the reference (nats)", "value_loss": "value loss"}
    run.finish(**curves | ({"ptx_loss": "pretraining loss"} if config.ptx_coef else {}))


def judge_episodes(networks, responses, logp, config, scores=None):
    """The Episodes of some responses: scores, KL-shaped rewards, advantages, returns. Each process brings the responses
    and log-probs that it sampled, and gets the Episodes of the whole batch. scores (B,): the reward model's unless
    given."""
    if scores is None:
        scores = in_chunks(response_scores, networks.reward_model, responses, config.max_tokens)
    ref_logp = in_chunks(response_logps, networks.reference, responses, config.max_tokens)
    values = in_chunks(response_values, networks.value, responses, config.max_tokens)
    scores, logp, ref_logp, values = map(distributed.all_gather, (scores, logp, ref_logp, values))
    responses = Responses(*map(distributed.all_gather, responses))
    rewards = shaped_rewards(scores, logp, ref_logp, responses.mask, config.kl_coef)
    advantages, returns = gae(rewards, values, responses.mask, config.discount, config.gae_lambda)
    advantages = whiten(advantages, responses.mask)
    return Episodes(responses, scores, logp, ref_logp, values, advantages, returns)


def own_scores(reward, responses, tokenizer):
    """The scores (B,) that a reward function gives to the texts of responses."""
    scores = reward(responses.prompts(tokenizer), responses.texts(tokenizer))
    scores = torch.as_tensor(scores, dtype=torch.get_default_dtype(), device=responses.tokens.device)
    if scores.shape != responses.prompt_lengths.shape or not scores.isfinite().all():
        needed = f"a list of {len(responses.prompt_lengths)} finite numbers, one for each response"
        raise InputError(f"reward: returned {tuple(scores.shape)} scores, or some that are not finite; return {needed}")
    return scores


def update(learners, optimizers, episodes, minibatch, documents, pad, config):
    """One step of the policy and of the value network, and of the policy's running average.

    minibatch (M,) long: which episodes; documents: list of Sequences, empty for plain PPO. Each process takes its share
    of both; policy and value network may be wrapped by DDP. Returns the figures to log.
    """
    figures = ppo_gradients(learners, episodes, minibatch.tolist(), config, unfinished=bool(documents))
    if documents:
        figures |= ptx_gradients(learners, documents, pad, config)
    for network, optimizer in zip((learners.policy, learners.value), optimizers):
        take_step(network, optimizer, config.max_grad_norm)
    ema_update(learners.ema, learners.policy, config.ema_decay)
    return dict(zip(figures, distributed.all_reduce(*figures.values())))


def ppo_gradients(learners, episodes, minibatch, config, unfinished=False):
    """Adds PPO's gradients of a minibatch (list of ints) to the policy's and the value network's. unfinished: whether
    the policy's go on with documents. Returns this process's part of the figures to log."""
    figures = dict(policy_loss=0.0, value_loss=0.0, clip_fraction=0.0)
    lengths = episodes.responses.lengths[minibatch].tolist()
    total = episodes.responses.mask[minibatch].sum()  # tokens
    later = [learners.policy] if unfinished else []
    for rows in pieces(minibatch, lengths, config.max_tokens, learners.policy, learners.value, unfinished=later):
        part = episodes.select(rows)  # logp and values are those of when it was sampled: the old ones
        mask = part.responses.mask
        logp = response_logps(learners.policy, part.responses)
        loss = policy_loss(logp, part.logp, part.advantages, mask, config.clip, total)
        loss.backward()
        values = response_values(learners.value, part.responses)
        error = value_loss(values, part.values, part.returns, mask, config.value_clip, total)
        error.backward()
        figures["policy_loss"] += loss.item()
        figures["value_loss"] += error.item()
        outside = ((logp - part.logp).exp() - 1).abs() > config.clip
        figures["clip_fraction"] += masked_mean(outside, mask, total).item()
    return figures


def ptx_gradients(learners, documents, pad, config):
    """Adds the documents' gradients to the policy's. Returns this process's part of the figure to log, nats per
    token."""
    nats, device = 0.0, next(learners.policy.parameters()).device
    total = sum(s.length - s.start for s in documents)  # tokens
    for part in pieces(documents, [s.length for s in documents], config.max_tokens, learners.policy):
        responses = collate(part, pad, device)
        loss = ptx_loss(response_logps(learners.policy, responses), responses.mask, config.ptx_coef, total)
        loss.backward()
        nats += loss.item() / config.ptx_coef
    return dict(ptx_loss=nats)


def statistics(episodes, config, eos):
    """Figures of a batch of episodes to log: means over episodes, or over tokens."""
    mask, targets = episodes.responses.mask, episodes.responses.targets
    kl = ((episodes.logp - episodes.ref_logp) * mask).sum(1).mean()  # nats per response

    def variance(x):
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    unexplained = variance(episodes.returns - episodes.values) / variance(episodes.returns).clamp(min=1e-8)
    row = {
        "score": episodes.scores.mean(),
        "kl": kl,
        "objective": episodes.scores.mean() - config.kl_coef * kl,
        "entropy": masked_mean(-episodes.logp, mask),  # nats per token, estimated on the samples
        "response_length": mask.sum(1).float().mean(),
        "ended": ((targets == eos) & mask).any(1).float().mean(),  # share of responses that end before the limit
        "explained_variance": 1 - unexplained,  # of the returns, by the value network
    }
    return {name: value.item() for name, value in row.items()}


def shown(episodes, count, tokenizer):
    """The first `count` episodes as rows for samples.jsonl: what a rising score rewards is best seen in the answers."""
    responses, names = episodes.responses, ("prompt", "response", "score", "kl")
    kl = ((episodes.logp - episodes.ref_logp) * responses.mask).sum(1)  # nats per response
    columns = responses.prompts(tokenizer), responses.texts(tokenizer), episodes.scores.tolist(), kl.tolist()
    return [dict(zip(names, row)) for row in itertools.islice(zip(*columns), count)]


def warn_of_a_short_run(config, steps):
    """The running average forgets its start slowly: a short run may end before it has."""
    start = config.ema_decay**steps
    if start > 0.5:
        advice = f"a short run, {start:.0%} of its average will be the start; lower --ema_decay"
        distributed.print0(f"{config.out}: {advice}")


def load_networks(config, tokenizer):
    """All five, in evaluation mode throughout: dropout would change the ratio at random, where nothing was learned."""
    policy = load_model(config.policy, GPT, tokenizer).eval()
    reference, ema = (copy.deepcopy(policy).requires_grad_(False) for _ in range(2))
    torch.manual_seed(config.seed)  # for a new head
    start, new_head = (config.reward_model, False) if config.reward_model else (config.policy, True)
    value = load_model(start, RewardModel, tokenizer, new_head=new_head).eval()
    reward_model = None if new_head else copy.deepcopy(value).requires_grad_(False)
    networks = policy, reference, reward_model, value, ema
    return Networks(*(network and place(network, config) for network in networks))


def load_data(config, tokenizer, networks):
    """Prompts as token lists, documents as Sequences."""
    n_ctx = min(networks.policy.config.n_ctx, networks.value.config.n_ctx)
    prompts = records.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if config.ptx_coef == 0:
        return prompts, []
    context = networks.policy.config.n_ctx
    length = config.document_tokens or context
    if length > context:
        raise InputError(f"--document_tokens {length}: must lie between 1 and the context, {context}")
    return prompts, records.load_documents(config.documents, tokenizer, length)


def make_optimizers(networks, config):
    """Adam for the policy and for the value network."""
    return adam(networks.policy.parameters(), config.lr), adam(networks.value.parameters(), config.value_lr)


def endless(n, start, seed):
    """0 .. n - 1 in random order, again and again, each once before any comes twice; without the first `start`."""
    for cycle in itertools.count(start // n):
        yield from np.random.default_rng((*seed, cycle)).permutation(n)[start % n :]
        start = 0


if __name__ == "__main__":
    command(main, Config)
