"""PPO with one detail changed, such as those that Huang et al. list (2022, "The 37 Implementation Details of PPO";
2024, "The N+ Implementation Details of RLHF with PPO").

python -m lab.methods.details --change no_whitening --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --ptx_coef 0 --kl_coef 0.3 --lr 5e-4 --value_lr 5e-4 --episodes 6400 \\
    --batch_size 128 --minibatch_size 32 --max_response 26 --ema_decay 0.97 --out runs/no_whitening

The flags are train_ppo.py's. A change is a function below. It replaces functions of train_ppo.py, losses.py or
rollout.py while the run lasts, by put(where, name, new), or returns flags. Its docstring says what it changes.
"""

import functools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch

import train_ppo
from minirlhf import losses, rollout
from minirlhf.losses import masked_mean, masked_variance, policy_loss, shaped_rewards, whiten
from minirlhf.model import RewardModel
from minirlhf.rollout import response_logps, response_scores
from minirlhf.support.checkpoint import load_model
from minirlhf.support.config import Text, command, require_choice
from minirlhf.support.device import place

NEVER = 1e9  # a bound that nothing reaches


def nothing(put, config):
    """PPO as it is."""


# --- advantages ------------------------------------------------------------------------------------------------------


def no_whitening(put, config):
    """Advantages are in the units of the score."""
    put(losses, "whiten", lambda x, mask: x * mask)


def whitening_without_shift(put, config):
    """Advantages are divided by their standard deviation, and not shifted."""
    put(losses, "whiten", lambda x, mask: x * mask * torch.rsqrt(masked_variance(x, mask) + 1e-8))


def whitening_by_minibatch(put, config):
    """Advantages are whitened over each minibatch, when it is learned (over each micro-batch, if it has several)."""
    put(losses, "whiten", lambda x, mask: x * mask)
    put(losses, "policy_loss", lambda logp, old, A, mask, *rest: policy_loss(logp, old, whiten(A, mask), mask, *rest))


def lambda_1(put, config):
    """An advantage counts all later rewards in full: without bias, and noisier."""
    return dict(gae_lambda=1.0)


def lambda_0(put, config):
    """An advantage is a single temporal difference: it relies on the value network."""
    return dict(gae_lambda=0.0)


# --- the value network -----------------------------------------------------------------------------------------------


def no_value_clipping(put, config):
    """The value loss is the plain squared error."""
    return dict(value_clip=NEVER)


def value_from_sft(put, config):
    """The value network starts as the policy's start with a new, random head, not as the reward model."""
    put(train_ppo, "load_networks", functools.partial(_with_new_value_network, train_ppo.load_networks, False))


def value_from_sft_with_zero_head(put, config):
    """The same, with a head of zeros: the first values are 0."""
    put(train_ppo, "load_networks", functools.partial(_with_new_value_network, train_ppo.load_networks, True))


def _with_new_value_network(load_networks, zero, config, tokenizer):
    networks = load_networks(config, tokenizer)
    value = load_model(config.policy, RewardModel, tokenizer, new_head=True).eval()
    if zero:
        torch.nn.init.zeros_(value.head.weight)
    return networks._replace(value=place(value, config))


# --- the KL penalty --------------------------------------------------------------------------------------------------
# Of a sampled token, with d = log pi - log pi_ref. The mean of k1 and of k3 over samples is the KL, and that of k2
# nearly; k1 = d has the largest variance, and may be negative (Schulman 2020). As a loss their gradients differ, at the
# policy that has sampled: that of k1 has the mean 0, that of k2 is the KL's, that of k3 is the KL's with the two models
# exchanged.


def k1(d):
    return d


def k2(d):
    return d**2 / 2


def k3(d):
    return torch.exp(-d) - 1 + d


def k2_in_the_reward(put, config):
    """The penalty at a token is beta times half the square of d: 0 or more."""
    put(losses, "shaped_rewards", functools.partial(_reward, k2))


def k3_in_the_reward(put, config):
    """The penalty at a token is beta (exp(-d) - 1 + d): 0 or more."""
    put(losses, "shaped_rewards", functools.partial(_reward, k3))


def k1_in_the_loss(put, config):
    """The penalty is a term of the loss, beside advantages that are whitened. Its gradient has the mean 0."""
    _in_the_loss(put, k1)


def k2_in_the_loss(put, config):
    """The penalty is a term of the loss, beside whitened advantages. Its gradient is the KL's of each token."""
    _in_the_loss(put, k2)


def k3_in_the_loss(put, config):
    """The penalty is a term of the loss, beside whitened advantages, as in GRPO."""
    _in_the_loss(put, k3)


def _reward(estimator, scores, logp, ref_logp, mask, beta):
    only_scores = shaped_rewards(scores, logp, ref_logp, mask, 0.0)
    return only_scores - beta * estimator((logp - ref_logp) * mask) * mask


def _in_the_loss(put, estimator):
    beta, part, select = [], [], train_ppo.Episodes.select

    def without_penalty(scores, logp, ref_logp, mask, coef):
        beta[:] = [coef]
        return shaped_rewards(scores, logp, ref_logp, mask, 0.0)

    def remembered(episodes, rows):  # the part of a minibatch whose loss is computed next
        part[:] = [select(episodes, rows)]
        return part[0]

    def with_penalty(logp, old_logp, advantages, mask, clip, total):
        d = (logp - part[0].ref_logp) * mask
        penalty = masked_mean(estimator(d), mask, total)
        return policy_loss(logp, old_logp, advantages, mask, clip, total) + beta[0] * penalty

    put(losses, "shaped_rewards", without_penalty)
    put(train_ppo.Episodes, "select", remembered)
    put(losses, "policy_loss", with_penalty)


# --- steps -----------------------------------------------------------------------------------------------------------


def four_inner_epochs(put, config):
    """Each batch is learned four times. (The average of the weights is over as many answers.)"""
    return dict(inner_epochs=4, ema_decay=config.ema_decay ** (1 / 4))


def one_minibatch(put, config):
    """Each batch is one step: a quarter of the steps. (The average of the weights is over as many answers.)"""
    fewer = config.batch_size / config.minibatch_size
    return dict(minibatch_size=config.batch_size, ema_decay=config.ema_decay**fewer)


def no_warmup(put, config):
    """The policy's learning rate is at its peak from the first iteration."""
    put(losses, "warmup_lr", lambda iteration, warmup: 1.0)


def no_average(put, config):
    """The last weights are saved, and not their running average."""
    return dict(ema_decay=0.0)


def no_gradient_clipping(put, config):
    """Gradients of any norm are taken as they are."""
    return dict(max_grad_norm=NEVER)


def adam_eps_1e_5(put, config):
    """Adam's epsilon is 1e-5 in place of 1e-8."""

    def adam(parameters, lr, shard=False):
        return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.95), eps=1e-5)

    put(train_ppo, "adam", adam)


def dropout(put, config):
    """Dropout of 0.1 is left on in policy and value network, in sampling and in learning: the ratio is not 1."""
    leave_dropout_on(put, 0.1)


def leave_dropout_on(put, p):
    load_networks = train_ppo.load_networks

    def with_dropout(config, tokenizer):
        networks = load_networks(config, tokenizer)
        for network in (networks.policy, networks.value):
            for module in network.train().modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = p
        return networks

    put(train_ppo, "load_networks", with_dropout)


# --- sampling --------------------------------------------------------------------------------------------------------


def temperature_07(put, config):
    """Answers are sampled at temperature 0.7, and their log-probs are those at temperature 0.7."""
    temperature_07_scored_at_1(put, config)
    put(train_ppo, "response_logps", _logps_at_07)


def temperature_07_scored_at_1(put, config):
    """Answers are sampled at temperature 0.7, and later log-probs, the reference's too, are those at 1: at first the
    ratio is not 1, nor the KL 0."""
    put(rollout, "generate", functools.partial(rollout.generate, temperature=0.7))


def _logps_at_07(model, responses):
    return response_logps(lambda tokens, at: model(tokens, at=at) / 0.7, responses)


def short_limit(put, config):
    """Answers are cut after 12 tokens. A cut one has the score that the reward model gives it."""
    return dict(max_response=12)


def short_limit_with_penalty(put, config):
    """Answers are cut after 12 tokens. A cut one scores -1, whatever the reward model says."""
    return dict(max_response=12, no_end_penalty=1.0)


# --- scores ----------------------------------------------------------------------------------------------------------


def scores_times_10(put, config):
    """The reward model's scores are multiplied by 10; beta, the value's first predictions and clipping are the same."""
    put(train_ppo, "response_scores", lambda model, responses: 10 * response_scores(model, responses))


def scores_times_10_normalized(put, config):
    """Multiplied by 10, and then divided by their standard deviation in the batch."""
    scores_times_10(put, config)

    def normalized(scores, *rest):
        return shaped_rewards(scores / (scores.std() + 1e-8), *rest)

    put(losses, "shaped_rewards", normalized)


def score_at_the_padding(put, config):
    """The score is read at the last column of the batch, which for most answers is padding."""
    put(train_ppo, "response_scores", lambda model, responses: model(responses.tokens)[:, -1])


CHANGES = {function.__name__: function for function in (
    nothing, no_whitening, whitening_without_shift, whitening_by_minibatch, lambda_1, lambda_0,
    no_value_clipping, value_from_sft, value_from_sft_with_zero_head,
    k2_in_the_reward, k3_in_the_reward, k1_in_the_loss, k2_in_the_loss, k3_in_the_loss,
    four_inner_epochs, one_minibatch, no_warmup, no_average, no_gradient_clipping, adam_eps_1e_5, dropout,
    temperature_07, temperature_07_scored_at_1, short_limit, short_limit_with_penalty,
    scores_times_10, scores_times_10_normalized, score_at_the_padding,
)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(train_ppo.Config):
    change: Text = "nothing"  # the name of a change, such as no_whitening; the top of this file says where they are

    def __post_init__(self):
        super().__post_init__()
        require_choice(self, "change", CHANGES)


@contextmanager
def replacing():
    """Context manager: gives put(where, name, new), whose replacements last until its end."""
    with ExitStack() as stack:
        yield lambda where, name, new: stack.enter_context(mock.patch.object(where, name, new))


def main(config, reward=None):
    with replacing() as put:
        flags = CHANGES[config.change](put, config) or {}
        train_ppo.main(replace(config, **flags), reward)


if __name__ == "__main__":
    command(main, Config)
