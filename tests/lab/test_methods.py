"""Methods without a value network: their gradients against a bandit whose answers can all be listed, their losses
against numbers worked out by hand."""

import copy
import doctest
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from lab.methods import dpo, expert_iteration, grpo, online, online_dpo, reinforce, rloo
from minirlhf.model import GPT
from minirlhf.rollout import generate, uniforms

ONLINE = (reinforce, rloo, grpo, online_dpo, expert_iteration)


pytestmark = pytest.mark.usefixtures("float64")


# --- all answers of a bandit -----------------------------------------------------------------------------------------
# A policy over three answers: "0", where 0 is the end; "1 0"; and "1 1", which is cut off. Its weights are the logits
# of the first token and of the second.

ANSWERS = ((0,), (1, 0), (1, 1))
MASK = torch.tensor([[True, False], [True, True], [True, True]])
SCORES = torch.tensor([0.3, 2.0, -1.0])


@pytest.fixture
def weights():
    return torch.tensor([[0.2, -0.4], [0.7, 0.1]], requires_grad=True)


def log_probs(weights):
    """(3, 2): of each token of each answer, 0 past the end."""
    first, second = weights.log_softmax(-1)
    return torch.stack([torch.stack([first[0], 0 * second[0]]), torch.stack([first[1], second[0]]),
                        torch.stack([first[1], second[1]])])  # fmt: skip


REFERENCE = log_probs(torch.tensor([[0.5, 0.1], [-0.3, 0.4]]))


def gradient_of_eq_2(weights, beta):
    """Of E[score - beta KL], by differentiating the sum over all answers."""
    logp = log_probs(weights).sum(1)
    objective = (logp.exp() * (SCORES - beta * (logp - REFERENCE.sum(1)))).sum()
    return torch.autograd.grad(objective, weights)[0]


def expected_gradient(method, weights, P, K, config, kl_in_reward):
    """Minus the mean gradient of a method's loss, over all batches of K answers to each of P prompts."""
    mean, every = 0.0, log_probs(weights)
    for drawn in itertools.product(range(3), repeat=P * K):
        rows = list(drawn)
        logp, ref, mask = every[rows], REFERENCE[rows], MASK[rows]
        old = logp.detach()
        rewards = SCORES[rows] - config.kl_coef * kl_in_reward * (old - ref).sum(1)
        advantages, _ = method.advantages(rewards.view(P, K), config)
        episodes = SimpleNamespace(responses=SimpleNamespace(mask=mask), logp=old, ref_logp=ref,
                                   advantages=advantages.reshape(-1, 1) * mask)  # fmt: skip
        mean += old.sum().exp() * method.loss(logp, episodes, config, len(rows))
    return -torch.autograd.grad(mean, weights)[0]


@pytest.mark.parametrize(
    ("method", "P", "K"), [(reinforce, 2, 1), (reinforce, 3, 1), (rloo, 1, 2), (rloo, 1, 4), (rloo, 2, 2)]
)
def test_the_gradient_is_unbiased(method, P, K, weights):
    config = SimpleNamespace(kl_coef=0.4)
    found = expected_gradient(method, weights, P, K, config, kl_in_reward=True)
    torch.testing.assert_close(found, gradient_of_eq_2(weights, 0.4))


@pytest.mark.parametrize("K", [2, 3])
def test_grpos_gradient_without_the_division_is_smaller_by_one_in_k_and_weighs_tokens_of_long_answers_less(K, weights):
    config = SimpleNamespace(kl_coef=0.0, clip=0.2, divide=False)
    found = expected_gradient(grpo, weights, 1, K, config, kl_in_reward=False)
    logp = log_probs(weights)
    p = logp.sum(1).exp().detach()
    per_answer = (logp / MASK.sum(1, keepdim=True)).sum(1)
    theory = torch.autograd.grad((p * (SCORES - (p * SCORES).sum()) * per_answer).sum(), weights)[0] * (K - 1) / K
    torch.testing.assert_close(found, theory)


def test_grpos_advantages_of_two_answers_say_which_is_better_and_not_by_how_much(weights):
    config = SimpleNamespace(kl_coef=0.0, clip=0.2, divide=True)
    advantages, baselines = grpo.advantages(torch.tensor([[1.0, 3.0], [0.0, -100.0], [5.0, 5.0]]), config)
    half = math.sqrt(0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-half, half], [half, -half], [0, 0]]), atol=1e-4, rtol=0)
    assert baselines.tolist() == [[2.0, 2.0], [-50.0, -50.0], [5.0, 5.0]]


def test_the_mean_of_k3_is_the_kl_and_that_of_its_gradient_the_reversed_kls():
    """One token: the mean over what the policy samples."""
    logits, ref = torch.tensor([0.3, -0.2, 0.9], requires_grad=True), torch.tensor([0.1, 0.6, -0.4]).log_softmax(0)
    logp, mask = logits.log_softmax(0), torch.ones(3, 1, dtype=torch.bool)
    p = logp.detach().exp()
    mean = (p * grpo.k3(logp[:, None], ref[:, None], mask)[:, 0]).sum()
    assert mean.item() == pytest.approx((p * (logp - ref)).sum().item())
    found = torch.autograd.grad(mean, logits, retain_graph=True)[0]
    reversed_kl = (ref.exp() * (ref - logp)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(reversed_kl, logits)[0])


# --- losses by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [dpo, expert_iteration, grpo, online_dpo, reinforce, rloo])
def test_the_examples_of_the_docstrings_are_right(method):
    torch.set_default_dtype(torch.float32)
    assert doctest.testmod(method).failed == 0


def test_reinforces_baseline_is_the_mean_of_all_other_answers_of_the_batch():
    rewards = torch.tensor([[1.0, 2.0], [6.0, 7.0]])
    assert reinforce.advantages(rewards)[1].tolist() == [[5, 14 / 3], [10 / 3, 3]]


def test_reinforce_loss_by_hand():
    logp, advantages = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]]), torch.tensor([[0.5, 0.5], [-2.0, -2.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert reinforce.reinforce_loss(logp, advantages, mask).item() == pytest.approx(-(0.5 * -3 + -2 * -3) / 2)
    assert reinforce.reinforce_loss(logp, advantages, mask, total=4).item() == pytest.approx(-4.5 / 4)


def test_grpo_loss_by_hand():
    ratios, ref_ratios = [[1.5, 0.5, 1.1], [0.5, 1.5, 7.0]], [[2.0, 1.0, 0.5], [1.0, 3.0, 9.0]]
    advantages, lengths, beta = [1.0, -2.0], [3, 2], 0.1
    expected = 0.0
    for row in range(2):
        for t in range(lengths[row]):
            r, A = ratios[row][t], advantages[row]
            gain = min(r * A, min(max(r, 0.8), 1.2) * A)
            x = ref_ratios[row][t]
            expected += (gain - beta * (x - math.log(x) - 1)) / lengths[row]
    logp, old = torch.tensor(ratios).log(), torch.zeros(2, 3)
    ref, mask = logp + torch.tensor(ref_ratios).log(), torch.tensor([[True] * 3, [True, True, False]])
    A = torch.tensor(advantages)[:, None].expand(2, 3)
    assert grpo.grpo_loss(logp, old, ref, A, mask, 0.2, beta).item() == pytest.approx(-expected / 2)
    assert grpo.grpo_loss(logp, old, ref, A, mask, 0.2, beta, total=6).item() == pytest.approx(-expected / 6)


def test_grpos_flags_reach_its_loss():
    """One token, whose ratio is clipped at 1.3."""
    one = torch.ones(1, 1)
    episodes = SimpleNamespace(responses=SimpleNamespace(mask=one.bool()), logp=0 * one, ref_logp=-one, advantages=one)
    x = math.exp(-1) / 1.5
    wanted = -(1.3 - 0.5 * (x - math.log(x) - 1)) / 4
    found = grpo.loss(torch.log(1.5 * one), episodes, SimpleNamespace(clip=0.3, kl_coef=0.5), 4)
    assert found.item() == pytest.approx(wanted)


def test_dpo_loss_is_the_papers_formula():
    better, worse = torch.tensor([-1.0, -5.0]), torch.tensor([-2.0, -4.0])
    ref_better, ref_worse = torch.tensor([-3.0, -5.5]), torch.tensor([-2.5, -1.0])
    expected = 0.0
    for pi_w, pi_l, ref_w, ref_l in ((-1.0, -2.0, -3.0, -2.5), (-5.0, -4.0, -5.5, -1.0)):
        margin = 0.3 * ((pi_w - ref_w) - (pi_l - ref_l))
        expected += -math.log(1 / (1 + math.exp(-margin))) / 2
    assert dpo.dpo_loss(better, worse, ref_better, ref_worse, 0.3).item() == pytest.approx(expected, rel=1e-6)
    assert dpo.dpo_loss(better, worse, better, worse, 0.3).item() == pytest.approx(math.log(2))


def test_online_dpos_pair_is_the_best_and_the_worst_answer():
    rewards = torch.tensor([[0.5, 2.0, 1.0], [3.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    signs, _ = online_dpo.advantages(rewards)
    assert signs.tolist() == [[-1, 1, 0], [1, -1, 0], [0, 0, 0]]
    logp, ref = torch.tensor([[-1.0, -1.0], [-2.0, -9.0], [-4.0, -9.0], [-1.0, -2.0]]), torch.full((4, 2), -1.5)
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    episodes = SimpleNamespace(responses=SimpleNamespace(mask=mask), ref_logp=ref,
                               advantages=torch.tensor([[-1.0], [1.0], [1.0], [-1.0]]))  # fmt: skip
    margins = [(-2 + 1.5) - (-2 + 3), (-4 + 1.5) - (-3 + 3)]  # the better answer is the second, then the first
    expected = sum(math.log(1 + math.exp(-0.7 * margin)) for margin in margins) / 2
    found = online_dpo.loss(logp, episodes, SimpleNamespace(kl_coef=0.7), total=4)
    assert found.item() == pytest.approx(expected)


def test_expert_iteration_learns_the_best_answer_alone():
    best, _ = expert_iteration.advantages(torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 0.0]]))
    assert best.tolist() == [[0, 1, 0], [1, 0, 0]]
    episodes = SimpleNamespace(responses=SimpleNamespace(mask=torch.tensor([[True, True], [True, False]])))
    logp = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]])
    assert expert_iteration.loss(logp, episodes, None, total=2).item() == pytest.approx((1.5 + 4) / 2)


# --- the bandit, solved ----------------------------------------------------------------------------------------------

ARMS, BETA = [0.0, 0.3, -0.4, 0.5, 0.1, -0.2], 0.5


def tilted(start):
    """The best policy for E[r] - beta KL: pi_ref exp(r / beta) / Z."""
    best = [p * math.exp(r / BETA) for p, r in zip(start, ARMS)]
    return [p / sum(best) for p in best]


def solve(method, K, iterations=240, B=64, **flags):
    """The policy's probabilities before and after."""
    V = len(ARMS)
    policy = tiny.make(GPT, V, spread=0.3, n_layer=1, n_embd=16)
    reference, ema = copy.deepcopy(policy), copy.deepcopy(policy)
    networks = online.Networks(policy, reference, tiny.Table(ARMS), ema)
    config = method.Config(policy="", prompts=(), out="", samples=K, batch_size=B, minibatch_size=B, episodes=B,
                           max_response=1, kl_coef=BETA, ema_decay=0.98, **flags)  # fmt: skip
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3, betas=(0.9, 0.95))
    made = {"kl_in_reward": method is not grpo}
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - i / iterations)
        responses, logp = generate(policy, [[0]] * B, uniforms((0, i), B, 1), eos=-1, pad=V)
        own = online.Method(method.advantages, method.loss, **made)
        episodes = online.judge_episodes(networks, responses, logp, config, own)
        for chosen in torch.from_numpy(np.random.default_rng(i).permutation(B // K)).split(B // K):
            online.update(policy, ema, optimizer, episodes, chosen.tolist(), config, own)
    return [model(torch.tensor([[0]]))[0, 0].softmax(0).tolist() for model in (reference, ema)]


@pytest.mark.parametrize(("method", "K"), [(reinforce, 1), (rloo, 4)])
def test_on_a_bandit_the_policy_becomes_the_reference_tilted_by_the_reward(method, K):
    start, end = solve(method, K)
    assert max(abs(p - q) for p, q in zip(start, tilted(start))) > 0.1  # there was some way to go
    assert end == pytest.approx(tilted(start), abs=0.025)


def test_dpos_optimum_on_the_bandit_is_ppos():
    """With as many comparisons as one likes, each preferred with probability sigmoid(r_i - r_j)."""
    start = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.05, 0.2])
    logits = start.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14)
    pairs = list(itertools.permutations(range(6), 2))

    def loss():
        optimizer.zero_grad()
        logp, ref = logits.log_softmax(0), start.log()
        total = 0.0
        for i, j in pairs:
            one = dpo.dpo_loss(logp[i : i + 1], logp[j : j + 1], ref[i : i + 1], ref[j : j + 1], BETA)
            total = total + one / (1 + math.exp(ARMS[j] - ARMS[i]))
        total.backward()
        return total

    optimizer.step(loss)
    assert logits.softmax(0).tolist() == pytest.approx(tilted(start.tolist()), abs=1e-5)
