"""The loop that REINFORCE, RLOO, GRPO, online DPO and expert iteration share. It has no value network.

In an iteration the policy answers each prompt of a batch K times, the reward model scores the answers, and the policy
learns from them. A method is two functions: from the rewards of the K answers to their advantages, and from log-probs
to a loss. (train_ppo.py is the same loop with a value network, and K = 1.)
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf import losses
from minirlhf.data import Responses
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, in_chunks, response_logps, response_scores, uniforms
from minirlhf.support import distributed, records, shown
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import require_fraction, require_multiple, require_positive
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError, require
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run
from train_ppo import Episodes, endless, episode_metrics, function_scores


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Each method's Config has these flags, too."""

    policy: str  # SFT checkpoint (start of RL): initial policy, and the reference
    reward_model: str | None = None  # checkpoint of the reward model
    prompts: tuple[str, ...]  # files of prompts
    samples: int = 4  # K, answers to each prompt of a batch
    episodes: int = 256_000  # answers in all
    batch_size: int = 512  # answers in an iteration
    minibatch_size: int = 512  # answers in an optimizer step; REINFORCE and RLOO are right if it is the batch
    max_response: int = 512  # maximum tokens in an answer
    kl_coef: float = 0.02  # beta, weight of the KL penalty
    lr: float = 8.05e-6  # peak learning rate
    warmup: int = 10  # iterations over which the learning rate rises from a tenth
    ema_decay: float = 0.992  # decay of the averaged weights, saved as model.pt
    rollout_batch_size: int = 128  # answers that a process samples at once; more need more memory
    show: int = 8  # answers of each iteration written to samples.jsonl and tokens.jsonl
    save_every: int = 50  # iterations between saved states; --resume continues from the newest

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr", "warmup", "episodes", "max_response", "samples")
        require_positive(self, "batch_size", "minibatch_size", "rollout_batch_size", most=10**6)
        require_fraction(self, "ema_decay")
        require_multiple(self, "episodes", "batch_size")
        require_multiple(self, "batch_size", "minibatch_size")
        require_multiple(self, "minibatch_size", "samples")

    def compare_answers(self):
        """InputError if a prompt is answered only once, for methods that compare its answers."""
        require(self.samples >= 2, "--samples 1: answers to one prompt are compared; take 2 or more")


class Method(NamedTuple):
    # takes rewards (P, K) float, of K answers to each of P prompts, and the Config; returns advantages and baselines,
    # both (P, K)
    advantages: Callable
    # takes log-probs (B, R) float by the policy, with gradient, of B answers of at most R tokens; the same Episodes
    # (whose logp is that of pi_old), those of a prompt together and in the order of the prompts; the Config; and how
    # many episodes the whole minibatch has, but for those left out. Returns the loss, a mean over episodes
    loss: Callable
    kl_in_reward: bool  # whether a reward is the score minus beta log(pi / pi_ref), or the score alone
    skips: bool = False  # whether answers with an advantage of 0 are left out: they would cost time and teach nothing


class Networks(NamedTuple):
    policy: GPT
    reference: GPT
    reward_model: RewardModel
    ema: GPT


def main(config, method, reward=None):
    """Trains a policy by a Method. reward: a function in place of the reward model, as for train_ppo.main."""
    if reward is None and config.reward_model is None:
        raise InputError("required: --reward_model (--help lists and explains every flag)")
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size", "minibatch_size")
    tokenizer = load_tokenizer(config.policy)
    policy = load_model(config.policy, GPT, tokenizer).eval()
    reward_model = config.reward_model and load_model(config.reward_model, RewardModel, tokenizer).eval()
    frozen = [network and network.requires_grad_(False) for network in (copy.deepcopy(policy), reward_model)]
    networks = policy, *frozen, copy.deepcopy(policy).requires_grad_(False)
    networks = Networks(*(network and place(network, config) for network in networks))
    n_ctx = min(network.config.n_ctx for network in networks if network)
    prompts = records.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if start_run(config):
        train(config, method, networks, tokenizer, prompts, reward)
    distributed.finish()


def train(config, method, networks, tokenizer, prompts, reward=None):
    policy, ema = networks.policy, networks.ema
    optimizer = adam(policy.parameters(), config.lr, config.shard)
    curves = dict(score="RM score", kl="KL to the reference (nats)", loss="loss")
    run = Run(config, policy, ema, optimizer, last_good=config.policy, **curves)
    learner, eos, pad, K = distributed.wrap(policy), tokenizer.eos, tokenizer.pad, config.samples
    iterations, in_batch = config.episodes // config.batch_size, config.batch_size // K
    run.warn_if_short(config.ema_decay, config.episodes // config.minibatch_size)
    order = endless(len(prompts), run.first * in_batch, (config.seed, 0, 1))
    for iteration, _ in run.steps(range(iterations)):
        scale_lr(optimizer, losses.warmup_lr(iteration, config.warmup))

        # 1. The policy answers each prompt of a batch K times, split over processes.
        drawn = [prompts[next(order)] for _ in range(in_batch)]
        batch = [prompt for prompt in drawn for _ in range(K)]  # answers to a prompt are neighbours
        noise = uniforms((config.seed, iteration), len(batch), config.max_response)
        mine = distributed.shard(batch), distributed.shard(noise)
        responses, logp = generate(policy, *mine, eos, pad, batch_size=config.rollout_batch_size)

        # 2. Rewards come from the scores, and advantages from the rewards of the answers to a prompt.
        scores = function_scores(reward, responses, tokenizer) if reward else None
        episodes: Episodes = judge_episodes(networks, responses, logp, config, method, scores)

        # 3. The policy learns from random minibatches of prompts, each with all its answers.
        steps, rng = [], np.random.default_rng((config.seed, iteration, 3))
        for chosen in torch.from_numpy(rng.permutation(in_batch)).split(config.minibatch_size // K):
            steps.append(update(learner, ema, optimizer, episodes, chosen.tolist(), config, method))

        row = dict(loss=float(np.mean(steps))) | episode_metrics(episodes, config, eos)
        if not method.kl_in_reward:
            del row["objective"]  # the paper's equation 2 is not what is maximised
        row |= dict(episodes=(iteration + 1) * config.batch_size, episodes_per_second=run.rate(config.batch_size))
        tokens = shown.token_rows(episodes, config.show, tokenizer)
        run.log(*shown.sample_rows(episodes, config.show, tokenizer), tokens=tokens, **row)

    run.save("policy.pt", policy, tokenizer)
    run.save("model.pt", ema, tokenizer)
    run.finish()


def judge_episodes(networks, responses, logp, config, method, scores=None):
    """The Episodes of some responses, K neighbours to each prompt. Their values are the baselines, their returns the
    rewards. Each process brings the responses that it sampled, and gets the Episodes of the whole batch."""
    if scores is None:
        scores = in_chunks(response_scores, networks.reward_model, responses, config.max_tokens)
    ref_logp = in_chunks(response_logps, networks.reference, responses, config.max_tokens)
    scores, logp, ref_logp = map(distributed.all_gather, (scores, logp, ref_logp))
    responses = Responses(*map(distributed.all_gather, responses))
    mask = responses.mask
    beta = config.kl_coef if method.kl_in_reward else 0.0
    rewards = losses.shaped_rewards(scores, logp, ref_logp, mask, beta)
    total = rewards.sum(1)
    advantages, baselines = method.advantages(total.view(-1, config.samples), config)
    advantages, baselines, returns = (x.reshape(-1, 1) * mask for x in (advantages, baselines, total))  # at each token
    ratios = torch.zeros_like(logp)  # which update() fills in
    return Episodes(responses, scores, logp, ref_logp, rewards, baselines, advantages, returns, ratios)


def update(learner, ema, optimizer, episodes, chosen, config, method):
    """One step of the policy and of its running average, on the answers to some prompts of the batch (their numbers).
    Each process takes its share. Returns the loss."""
    K, lengths, loss = config.samples, episodes.responses.lengths.tolist(), 0.0
    teaches = episodes.advantages.any(1) | (not method.skips)
    groups = [[i for i in range(K * prompt, K * prompt + K) if teaches[i]] for prompt in chosen]
    groups = [group for group in groups if group]
    longest, sizes = [max(lengths[i] for i in group) for group in groups], list(map(len, groups))
    for part in micro_batches(groups, longest, config.max_tokens, learner, rows=sizes):
        if not part:  # all processes take part in the sum of gradients
            (0 * response_logps(learner, episodes.responses.select([0])).sum()).backward()
            continue
        rows = [i for group in part for i in group]
        own = episodes.select(rows)
        logp = response_logps(learner, own.responses)
        part_loss = method.loss(logp, own, config, sum(sizes))
        part_loss.backward()
        loss += part_loss.item()
        episodes.ratios[rows, : logp.shape[1]] = (logp.detach() - own.logp).exp() * own.responses.mask
    take_step(learner, optimizer, config.max_grad_norm)
    losses.ema_update(ema, learner, config.ema_decay)
    return distributed.all_reduce(loss)[0]
