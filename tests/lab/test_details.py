"""Each changed detail of PPO changes what its name says, and nothing stays changed."""

import copy
import inspect
import math
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

import tiny
import train_ppo
from lab.methods import details
from minirlhf import losses, rollout
from minirlhf.data import collate
from minirlhf.model import GPT, RewardModel
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics
from minirlhf.support.records import Sequence
from tiny import to_flags

CONFIG = SimpleNamespace(batch_size=128, minibatch_size=32, ema_decay=0.81)
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.fixture
def change():
    """Makes a change until the test ends, and returns its flags."""
    with ExitStack() as stack:

        def make(function):
            put = lambda where, name, new: stack.enter_context(mock.patch.object(where, name, new))  # noqa: E731
            return function(put, CONFIG)

        yield make


# --- advantages ------------------------------------------------------------------------------------------------------


def test_without_whitening_advantages_are_what_they_were(change):
    x = tiny.numbers(2, 3)
    change(details.no_whitening)
    assert losses.whiten(x, MASK).equal(x * MASK)


def test_whitening_without_shift_only_divides(change):
    x = tiny.numbers(2, 3) + 5
    change(details.whitening_without_shift)
    real = x[MASK]
    torch.testing.assert_close(losses.whiten(x, MASK)[MASK], real / real.std(correction=0))


def test_by_minibatch_the_loss_whitens_what_it_is_given(change):
    A, logp, old = tiny.numbers(2, 3) + 5, tiny.numbers(2, 3, seed=1) / 9, tiny.numbers(2, 3, seed=2) / 9
    wanted = losses.policy_loss(logp, old, losses.whiten(A, MASK), MASK, 0.2, 4)
    change(details.whitening_by_minibatch)
    assert losses.whiten(A, MASK).equal(A * MASK)
    torch.testing.assert_close(losses.policy_loss(logp, old, A, MASK, 0.2, 4), wanted)


# --- the value network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "zero"), [(details.value_from_sft, False), (details.value_from_sft_with_zero_head, True)]
)
def test_the_value_network_is_the_policy_with_a_new_head(made, zero, change, world, tokenizer):
    change(made)
    config = train_ppo.Config(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), ptx_coef=0.0, out="o")
    networks = train_ppo.load_networks(config, tokenizer)
    own, policy = networks.value.state_dict(), networks.policy.state_dict()
    assert all(own[name].equal(value) for name, value in policy.items())
    assert (own["head.weight"] == 0).all() == zero
    assert not own["head.weight"].equal(networks.reward_model.state_dict()["head.weight"])


# --- the KL penalty --------------------------------------------------------------------------------------------------


def test_the_mean_of_each_estimator_is_the_kl_but_for_terms_of_higher_order():
    """k1 and k3 exactly; k2 for models that are near each other (Schulman 2020)."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    p, q = logits.log_softmax(0), (logits + torch.tensor([0.02, -0.01, 0.03])).log_softmax(0)
    kl = (p.exp() * (p - q)).sum().item()
    means = [(p.exp() * k(p - q)).sum().item() for k in (details.k1, details.k2, details.k3)]
    assert means == [pytest.approx(kl), pytest.approx(kl, rel=0.02), pytest.approx(kl)]
    assert min(k(p - q).min().item() for k in (details.k2, details.k3)) >= 0 > details.k1(p - q).min()


@pytest.mark.parametrize(
    ("made", "k"), [(details.k2_in_the_reward, details.k2), (details.k3_in_the_reward, details.k3)]
)
def test_the_penalty_of_the_reward_is_another_estimator(made, k, change):
    scores, logp, ref = tiny.numbers(2), tiny.numbers(2, 3), tiny.numbers(2, 3, seed=1)
    change(made)
    found = losses.shaped_rewards(scores, logp, ref, MASK, 0.5)
    for i, n in enumerate((3, 1)):
        for t in range(3):
            wanted = (scores[i] if t == n - 1 else 0) - 0.5 * k(logp[i, t] - ref[i, t]) if t < n else 0
            assert found[i, t] == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize(
    ("made", "gradient"),
    [(details.k1_in_the_loss, lambda d: 1.0), (details.k2_in_the_loss, lambda d: d),
     (details.k3_in_the_loss, lambda d: 1 - math.exp(-d))],
)  # fmt: skip
def test_the_penalty_of_the_loss_adds_its_own_gradient(made, gradient, change):
    change(made)
    zeros, scores = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    assert losses.shaped_rewards(scores, tiny.numbers(2, 3), zeros, MASK, 0.5).tolist() == [[0, 0, 1], [2, 0, 0]]
    logp = tiny.numbers(2, 3).requires_grad_()
    responses = collate([Sequence([1, 2, 3, 4], 1), Sequence([1, 2], 1)], 0)
    episodes = train_ppo.Episodes(responses, scores, logp.detach(), *[zeros] * 6)._replace(
        ref_logp=tiny.numbers(2, 3, seed=1)
    )
    part = episodes.select([0, 1])
    losses.policy_loss(logp, part.logp, zeros, MASK, 0.2, 4).backward()
    d = (logp - part.ref_logp).detach()
    for i, t in MASK.nonzero().tolist():
        assert logp.grad[i, t].item() == pytest.approx(0.5 * gradient(d[i, t].item()) / 4, abs=1e-6)


# --- steps, sampling, scores -----------------------------------------------------------------------------------------


def test_dropout_is_on_in_policy_and_value_network_alone(change, world, tokenizer):
    change(details.dropout)
    config = train_ppo.Config(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), ptx_coef=0.0, out="o")
    networks = train_ppo.load_networks(config, tokenizer)
    tokens = torch.tensor([[1, 2, 3]])
    differs = {name: not network(tokens).equal(network(tokens)) for name, network in networks._asdict().items()}
    assert differs == dict(policy=True, reference=False, reward_model=False, value=True, ema=False)
    shares = {m.p for m in networks.policy.modules() if isinstance(m, torch.nn.Dropout)}
    assert shares == {0.1}


def test_without_warmup_the_learning_rate_is_whole_at_once(change):
    change(details.no_warmup)
    assert [losses.warmup_lr(i, 10) for i in range(3)] == [1.0] * 3


def test_adams_epsilon_is_larger(change):
    change(details.adam_eps_1e_5)
    own = train_ppo.adam([torch.nn.Parameter(torch.zeros(1))], 0.1).param_groups[0]
    assert (own["eps"], own["lr"], own["betas"]) == (1e-5, 0.1, (0.9, 0.95))


@pytest.mark.parametrize(
    ("made", "same"), [(details.temperature_07, True), (details.temperature_07_scored_at_1, False)]
)
def test_answers_are_sampled_at_07_and_scored_so_or_not(made, same, change, gpt, tokenizer):
    change(made)
    prompts, noise = [tokenizer.encode("name a dog\n")] * 40, rollout.uniforms(0, 40, 6)
    responses, logp = rollout.generate(gpt, prompts, noise, tokenizer.eos, tokenizer.pad)
    mask = responses.mask
    with torch.no_grad():
        scored = train_ppo.response_logps(gpt, responses)
        logits = gpt(responses.tokens[:, :-1], at=responses.positions) / 0.7
    at_07 = logits.log_softmax(-1).gather(2, responses.targets[:, :, None])[:, :, 0]
    torch.testing.assert_close(logp[mask], at_07[mask], atol=1e-4, rtol=1e-4)
    assert torch.allclose(scored[mask], at_07[mask], atol=1e-4) == same


def test_scores_are_multiplied_and_normalized(change, reward_model):
    responses = collate([Sequence([1, 2, 3, 4], 1), Sequence([1, 2], 1), Sequence([5, 6, 7], 2)], 0)
    before = rollout.response_scores(reward_model, responses)
    change(details.scores_times_10_normalized)
    times = train_ppo.response_scores(reward_model, responses)
    torch.testing.assert_close(times, 10 * before)
    mask = torch.ones(3, 1, dtype=torch.bool)
    found = losses.shaped_rewards(times, torch.zeros(3, 1), torch.zeros(3, 1), mask, 0.3)
    torch.testing.assert_close(found[:, 0], before / before.std(), atol=1e-4, rtol=1e-4)


def test_a_score_at_the_padding_is_read_in_the_last_column(change, reward_model):
    responses = collate([Sequence([1, 2, 3, 4], 1), Sequence([1, 2], 1)], 0)
    right = rollout.response_scores(reward_model, responses)
    change(details.score_at_the_padding)
    found, last = train_ppo.response_scores(reward_model, responses), reward_model(responses.tokens)[1, 3]
    assert found.tolist() == pytest.approx([right[0].item(), last.item()], rel=1e-5)
    assert abs(last - right[1]) > 1e-3


FLAGS = dict(
    lambda_1=dict(gae_lambda=1.0), lambda_0=dict(gae_lambda=0.0), no_value_clipping=dict(value_clip=1e9),
    four_inner_epochs=dict(inner_epochs=4, ema_decay=0.81**0.25), no_average=dict(ema_decay=0.0),
    one_minibatch=dict(minibatch_size=128, ema_decay=0.81**4), no_gradient_clipping=dict(max_grad_norm=1e9),
    short_limit=dict(max_response=12),
    short_limit_with_penalty=dict(max_response=12, no_end_penalty=1.0),
)  # fmt: skip


def test_other_changes_are_flags(change):
    flags = {name: change(function) for name, function in details.CHANGES.items()}
    assert {name: own for name, own in flags.items() if own} == FLAGS


def test_every_function_that_is_a_change_is_listed_and_says_what_it_changes():
    functions = dict(inspect.getmembers(details, inspect.isfunction)).values()
    takes = [f for f in functions if list(inspect.signature(f).parameters) == ["put", "config"]]
    assert {f.__name__ for f in takes} == set(details.CHANGES) and all(f.__doc__ for f in takes)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(world, tmp_path, no_pictures):
    return dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], episodes=16, batch_size=8,
                ptx_coef=0.0, minibatch_size=4, lr=1e-3, value_lr=1e-3, warmup=2, ema_decay=0.9, max_response=8,
                out=str(tmp_path / "run"))  # fmt: skip


def test_nothing_is_ppo(settings, tmp_path):
    tiny.run(details, to_flags(settings))
    other = settings | {"out": str(tmp_path / "other")}
    tiny.run(train_ppo, to_flags(other))
    assert (tmp_path / "run" / "model.pt").read_bytes() == (tmp_path / "other" / "model.pt").read_bytes()


@pytest.mark.parametrize("name", [name for name in details.CHANGES if name != "nothing"])
def test_a_change_changes_the_run_and_leaves_nothing_behind(name, settings, tmp_path):
    before = [copy.copy(vars(module)) for module in (losses, rollout, train_ppo)]
    tiny.run(details, to_flags(settings | {"change": name}))
    other = settings | {"out": str(tmp_path / "other")}
    tiny.run(train_ppo, to_flags(other))
    one, two = (read_metrics(folder) for folder in (settings["out"], other["out"]))
    weights = [(folder / "model.pt").read_bytes() for folder in (tmp_path / "run", tmp_path / "other")]
    rare = (
        "no_gradient_clipping",
        "no_value_clipping",
        "short_limit",
        "short_limit_with_penalty",
    )  # bind in longer runs
    assert (weights[0] != weights[1]) or name in rare
    assert len(one) == len(two) and np.isfinite([row["score"] for row in one]).all()
    after = [vars(module) for module in (losses, rollout, train_ppo)]
    assert all(old[key] is new[key] for old, new in zip(before, after) for key in old if callable(old[key]))


def test_a_reward_of_ones_own_is_passed_on(settings, monkeypatch):
    seen = []
    monkeypatch.setattr(train_ppo, "main", lambda config, reward: seen.append(reward))
    details.main(details.Config(**settings | dict(prompts=("p",))), len)
    assert seen == [len]


def test_an_unknown_change_is_named(settings):
    with pytest.raises(InputError, match="--change"):
        tiny.run(details, to_flags(settings | {"change": "none"}))


@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_the_networks_have_dropout_to_turn_on(kind, tokenizer):
    assert any(isinstance(module, torch.nn.Dropout) for module in tiny.make(kind, tokenizer.n_vocab).modules())
