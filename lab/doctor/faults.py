"""Faults that are put into runs on purpose, each with a strength, to see whether tools.doctor finds them.

A fault is a function below. It changes flags, by returning them, or replaces functions of the training script while the
run lasts, by put(where, name, new). Its docstring says what it changes. Some faults are in the data (cases.changed).
"""

import functools
from collections import deque
from dataclasses import replace

import torch

import pretrain
import train_ppo
import train_rm
import train_sft
from lab.methods import details
from minirlhf import losses, rollout
from minirlhf.losses import masked_mean, policy_loss, shaped_rewards
from minirlhf.rollout import in_chunks, response_logps, response_scores


def none(put, config, strength):
    """A healthy run."""


# --- learning rates --------------------------------------------------------------------------------------------------


def learning_rate(put, config, strength):
    """The learning rate (of Muon, too) is multiplied."""
    rates = [name for name in ("lr", "muon_lr") if hasattr(config, name)]
    return {name: getattr(config, name) * strength for name in rates}


def near_learning_rate(put, config, strength):
    """A run that should be healthy: all learning rates are multiplied by a little."""
    both = both_learning_rates if hasattr(config, "value_lr") else learning_rate
    return both(put, config, strength)


def value_learning_rate(put, config, strength):
    """The value network's learning rate is multiplied."""
    return dict(value_lr=config.value_lr * strength)


def both_learning_rates(put, config, strength):
    """The learning rates of policy and value network are multiplied."""
    return dict(lr=config.lr * strength, value_lr=config.value_lr * strength)


# --- the objective ---------------------------------------------------------------------------------------------------


def beta(put, config, strength):
    """Beta is multiplied."""
    return dict(kl_coef=config.kl_coef * strength)


def near_beta(put, config, strength):
    """A run that should be healthy: beta is multiplied by a little."""
    return beta(put, config, strength)


def gamma(put, config, strength):
    """The weight of documents is multiplied."""
    return dict(ptx_coef=config.ptx_coef * strength)


def kl_sign(put, config, strength):
    """The KL is a bonus, not a price."""

    def reversed_price(scores, logp, ref_logp, mask, coef):
        return shaped_rewards(scores, logp, ref_logp, mask, -strength * coef)

    put(losses, "shaped_rewards", reversed_price)


def kl_clamped(put, config, strength):
    """A token that has become less probable costs nothing, where it should earn a bonus. strength is ignored."""
    put(losses, "shaped_rewards", functools.partial(details._reward, lambda d: d.clamp(min=0)))


def less_entropy(put, config, strength):
    """The loss has a term that lowers the entropy: the gradient of E[log pi] is E[log pi * grad log pi]."""

    def with_term(logp, old_logp, advantages, mask, clip, total):
        surplus = (logp.detach() - masked_mean(logp.detach(), mask)) * logp
        loss = policy_loss(logp, old_logp, advantages, mask, clip, total)
        return loss - strength * masked_mean(surplus, mask, total)

    put(losses, "policy_loss", with_term)


# --- scores ----------------------------------------------------------------------------------------------------------


def scaled(put, config, strength):
    """The reward model's scores are multiplied."""
    put(train_ppo, "response_scores", lambda model, responses: strength * response_scores(model, responses))


def reversed_scores(put, config, strength):
    """The reward model's scores have the other sign."""
    put(train_ppo, "response_scores", lambda model, responses: -strength * response_scores(model, responses))


def likes_length(put, config, strength):
    """Each token adds to the score (or takes from it, if strength is negative)."""

    def score(model, responses):
        return response_scores(model, responses) + strength * responses.response_lengths

    put(train_ppo, "response_scores", score)


def at_padding(put, config, strength):
    """The score is read at the last column of the batch, which for most answers is padding."""
    details.score_at_the_padding(put, config)


# --- sampling and learning -------------------------------------------------------------------------------------------


def temperature(put, config, strength):
    """Answers are sampled at another temperature; learning computes their log-probs at temperature 1."""
    put(rollout, "generate", functools.partial(rollout.generate, temperature=strength))


def another_policy(put, config, strength):
    """Answers are sampled at another temperature; all of their log-probs are computed afterwards, at temperature 1."""
    generate = rollout.generate

    def again(model, *args, **kwargs):
        responses, _ = generate(model, *args, temperature=strength, **kwargs)
        return responses, in_chunks(response_logps, model, responses, config.max_tokens)

    put(rollout, "generate", again)


def dropout(put, config, strength):
    """Dropout is left on, in sampling and in learning."""
    details.leave_dropout_on(put, strength)


def stale(put, config, strength):
    """The policy learns from answers that it gave some iterations before."""
    judge, queue = train_ppo.judge_episodes, deque()

    def late(*args, **kwargs):
        episodes = judge(*args, **kwargs)
        if len(episodes.scores) < config.batch_size:  # prompts that are watched, and not learned from
            return episodes
        queue.append(episodes)
        return queue.popleft() if len(queue) > strength else queue[0]

    put(train_ppo, "judge_episodes", late)


def padding_counts(put, config, strength):
    """Padding is end-of-text, and the mask is True there, too, as far as the batch is wide."""
    generate = rollout.generate

    def unmasked(model, prompts, noise, eos, pad, **options):
        responses, logp = generate(model, prompts, noise, eos, pad, **options)
        room = responses.tokens.shape[1] - responses.prompt_lengths
        mask = torch.arange(responses.mask.shape[1]) < room[:, None]
        return responses._replace(tokens=responses.tokens.where(responses.tokens != pad, eos), mask=mask), logp

    put(rollout, "generate", unmasked)


def short(put, config, strength):
    """The average of the weights moves too slowly for so few steps."""
    return dict(ema_decay=strength)


# --- data ------------------------------------------------------------------------------------------------------------


def epochs(put, config, strength):
    """Many epochs, and no dropout."""
    return dict(epochs=int(strength)) | (dict(dropout=0.0) if hasattr(config, "dropout") else {})


SCRIPTS = {"gpt": pretrain, "sft": train_sft, "rl_start": train_sft, "rm": train_rm, "ppo": train_ppo}
FAULTS = {function.__name__: function for function in (
    none, near_learning_rate, near_beta, learning_rate, value_learning_rate, both_learning_rates, beta, gamma, kl_sign,
    kl_clamped, less_entropy, scaled, reversed_scores, likes_length, at_padding, temperature, another_policy, dropout,
    stale, padding_counts, short, epochs,
)}  # fmt: skip


def train(stage, settings, faults):
    """Runs a training script with faults, a list of (name, strength). settings: the fields of its Config."""
    module = SCRIPTS[stage]
    config = module.Config(**settings)
    with details.replacing() as put:
        for name, strength in faults:
            config = replace(config, **FAULTS[name](put, config, strength) or {})
        module.main(config)
