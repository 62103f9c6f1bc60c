"""Every formula against numbers worked out by hand, brute force, identities and torch's own functions."""

import doctest
import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from minirlhf import data, losses
from minirlhf.losses import (
    cosine_lr,
    ema_update,
    gae,
    masked_mean,
    policy_loss,
    ptx_loss,
    ranked_above,
    ranking_loss,
    sft_loss,
    shaped_rewards,
    value_loss,
    warmup_lr,
    whiten,
)

LENGTHS = torch.tensor([5, 3, 1, 4])
MASK = torch.arange(5) < LENGTHS[:, None]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("module", [losses, data])
def test_the_examples_in_docstrings_are_right(module):
    found = doctest.testmod(module)
    assert found.attempted >= 5 and not found.failed


# Arguments of each formula, B = 4, R = 5 or P = 4, K = 5: (its name, shapes by argument, what else it needs).
DOORS = [
    ("sft_loss", dict(logp="BR", mask="BR"), ()),
    ("ranking_loss", dict(scores="BR", ranks="BR"), ()),
    ("shaped_rewards", dict(scores="B", logp="BR", ref_logp="BR", mask="BR"), (0.1,)),
    ("gae", dict(rewards="BR", values="BR", mask="BR"), ()),
    ("whiten", dict(x="BR", mask="BR"), ()),
    ("policy_loss", dict(logp="BR", old_logp="BR", advantages="BR", mask="BR"), ()),
    ("value_loss", dict(values="BR", old_values="BR", returns="BR", mask="BR"), ()),
    ("ptx_loss", dict(logp="BR", mask="BR"), (0.2,)),
]


@pytest.mark.parametrize(("name", "letters", "rest"), DOORS)
def test_a_shape_that_broadcasting_would_take_is_refused_at_the_door(name, letters, rest):
    formula, sizes = getattr(losses, name), {"B": 4, "R": 5}
    kinds = {"mask": torch.bool, "ranks": torch.long}
    whole = {k: torch.ones([sizes[x] for x in v], dtype=kinds.get(k)) for k, v in letters.items()}
    formula(*whole.values(), *rest)
    for argument, value in whole.items():
        for wrong in (value[..., None], value[:1], value[0]):
            with pytest.raises(ValueError, match=f"{name}: "):
                formula(*(whole | {argument: wrong}).values(), *rest)


def test_masked_mean_leaves_padding_out():
    assert masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])) == 2


# --- supervised fine-tuning ---------------------------------------------------------------------------------


def test_sft_loss_is_a_mean_of_sequence_means():
    logp = torch.tensor([[-1.0, -2.0, -77.0], [-77.0, -77.0, -4.0]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert sft_loss(logp, mask).item() == pytest.approx((1.5 + 4) / 2)


def test_sft_loss_of_micro_batches_adds_up():
    logp = noise(4, 5)
    parts = sum(sft_loss(logp[i : i + 1], MASK[i : i + 1], total=4) for i in range(4))
    torch.testing.assert_close(parts, sft_loss(logp, MASK))


def test_sft_learning_rate_is_torchs_cosine_down_to_a_tenth():
    steps = 11
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - 1, eta_min=0.1)
    for step in range(steps):
        assert cosine_lr(step, steps) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_sft_learning_rate_starts_at_its_peak_without_warmup_and_ends_at_a_tenth():
    assert cosine_lr(0, 100) == 1
    assert cosine_lr(99, 100) == pytest.approx(0.1)


# --- reward model -------------------------------------------------------------------------------------------


def brute_force_ranking_loss(scores, ranks):
    prompts = []
    for row, rank in zip(scores.tolist(), ranks):
        pairs = [
            math.log1p(math.exp(row[loser] - row[winner]))
            for winner, loser in itertools.permutations(range(len(rank)), 2)
            if rank[winner] < rank[loser]
        ]
        if pairs:
            prompts.append(sum(pairs) / len(pairs))
    return sum(prompts) / len(prompts)


def test_ranking_loss_equals_brute_force_with_ties_and_unequal_k():
    scores = 2 * noise(4, 5)
    ranks = [[1, 2, 3, 4, 5], [2, 1, 2, 9], [1, 1, 1, 1, 1], [3, 1]]
    padded = torch.tensor([row + [0] * (5 - len(row)) for row in ranks])
    assert ranking_loss(scores, padded).item() == pytest.approx(brute_force_ranking_loss(scores, ranks))


@pytest.mark.parametrize("K", [2, 4, 9])
def test_ranking_loss_of_equal_scores_is_log_2_whatever_k(K):
    """The mean over pairs divides by their number once: twice would be 6 times too small at K = 4."""
    assert ranking_loss(torch.zeros(3, K), torch.arange(1, K + 1).repeat(3, 1)).item() == pytest.approx(math.log(2))


def test_ranking_loss_of_a_gap_of_minus_120_is_120():
    assert ranking_loss(torch.tensor([[0.0, 120.0]]), torch.tensor([[1, 2]])).item() == pytest.approx(120)


def test_a_prompt_whose_responses_all_tie_adds_nothing_and_no_nan():
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 1]]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [[0, 0]]


def test_a_tied_prompt_does_not_dilute_the_mean():
    scores = torch.tensor([[1.0, -1.0], [3.0, 5.0]])
    alone = ranking_loss(scores[:1], torch.tensor([[1, 2]]))
    torch.testing.assert_close(ranking_loss(scores, torch.tensor([[1, 2], [1, 1]])), alone)


def test_every_prompt_weighs_the_same_however_many_pairs_it_has():
    few, many = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    ranks = torch.tensor([[1, 2, 0], [1, 2, 3]])
    both = ranking_loss(torch.cat([few, many]), ranks)
    torch.testing.assert_close(both, (ranking_loss(few, ranks[:1]) + ranking_loss(many, ranks[1:])) / 2)


def test_ranking_loss_ignores_a_constant_added_to_the_scores():
    scores, ranks = noise(2, 4), torch.tensor([[1, 2, 3, 4], [4, 1, 1, 2]])
    torch.testing.assert_close(ranking_loss(scores + 7, ranks), ranking_loss(scores, ranks))


def test_ranking_loss_of_micro_batches_adds_up():
    scores, ranks = noise(3, 3), torch.tensor([[1, 2, 3], [1, 1, 1], [2, 1, 0]])
    parts = sum(ranking_loss(scores[i : i + 1], ranks[i : i + 1], total=2) for i in range(3))
    torch.testing.assert_close(parts, ranking_loss(scores, ranks))


def test_rank_1_is_above_rank_2_and_a_missing_response_is_above_nothing():
    assert ranked_above(torch.tensor([[2, 1, 0]]))[0].tolist() == [
        [False, False, False],
        [True, False, False],
        [False, False, False],
    ]


# --- the reward that PPO sees -------------------------------------------------------------------------------


def test_shaped_rewards_by_hand():
    """beta = 0.1: each token pays 0.1 (log pi - log pi_ref); the last real one also earns the score."""
    logp = torch.tensor([[-1.0, -2.0, -1.0], [-3.0, 9.0, 9.0]])
    ref_logp = torch.tensor([[-2.0, -1.0, -1.0], [-1.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards = shaped_rewards(torch.tensor([10.0, 20.0]), logp, ref_logp, mask, beta=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.1, 10.0], [20.2, 0.0, 0.0]]))


def test_the_kl_penalty_is_signed_a_token_less_likely_than_in_the_reference_earns_a_bonus():
    bonus = shaped_rewards(torch.zeros(1), torch.tensor([[-3.0]]), torch.tensor([[-1.0]]), torch.ones(1, 1) > 0, 0.5)
    assert bonus.item() == 1


def test_the_sum_of_kl_penalties_is_an_unbiased_estimate_of_the_kl_between_sequences():
    """Averaged over every sequence (3 tokens at most, token 0 ends), each weighted by its probability, it is
    the KL, which the chain rule gives from torch's KL of each next-token distribution."""
    V, limit = 3, 3
    prefixes = [p for n in range(limit) for p in itertools.product(range(1, V), repeat=n)]  # not ended yet
    pi = {p: Categorical(logits=2 * noise(V, seed=hash(p) % 1000)) for p in prefixes}
    ref = {p: Categorical(logits=2 * noise(V, seed=hash(p) % 1000 + 5000)) for p in prefixes}

    def token_logp(model, sequence):
        return torch.stack([model[sequence[:t]].log_prob(torch.tensor(sequence[t])) for t in range(len(sequence))])

    reach = {p: token_logp(pi, p).sum().exp() if p else 1.0 for p in prefixes}
    exact = sum(reach[p] * kl_divergence(pi[p], ref[p]) for p in prefixes)
    ended = [(*p, 0) for p in prefixes] + list(itertools.product(range(1, V), repeat=limit))
    logp, ref_logp, mask = torch.zeros(3, len(ended), limit, dtype=torch.float64)
    for i, sequence in enumerate(ended):
        logp[i, : len(sequence)], ref_logp[i, : len(sequence)] = (
            token_logp(pi, sequence),
            token_logp(ref, sequence),
        )
        mask[i, : len(sequence)] = 1
    probability = logp.sum(1).exp()
    assert probability.sum().item() == pytest.approx(1)
    penalties = -shaped_rewards(torch.zeros(len(ended)).double(), logp, ref_logp, mask > 0, beta=1.0)
    torch.testing.assert_close((probability * penalties.sum(1)).sum(), exact)


# --- advantages ---------------------------------------------------------------------------------------------


def reward_to_go(rewards):
    return (rewards * MASK).flip(1).cumsum(1).flip(1)


def test_with_discount_and_lambda_1_the_advantage_is_the_reward_to_go_minus_the_value():
    rewards, values = noise(4, 5), noise(4, 5, seed=1)
    advantages, returns = gae(rewards, values, MASK, discount=1.0, lam=1.0)
    torch.testing.assert_close(advantages, (reward_to_go(rewards) - values) * MASK)
    torch.testing.assert_close(returns, reward_to_go(rewards) * MASK)


def test_a_perfect_critic_leaves_no_advantage_whether_the_response_ended_or_was_cut_off():
    """The value past the last token is 0 in row 0, which fills the width, as in the others."""
    rewards = noise(4, 5)
    advantages, _ = gae(rewards, reward_to_go(rewards), MASK, discount=1.0, lam=0.7)
    torch.testing.assert_close(advantages, torch.zeros(4, 5).double())


@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.95), (0.9, 0.0), (0.5, 1.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(discount, lam):
    """Schulman et al. 2016, eq. 16: A_t = sum_l (discount lambda)^l delta_{t+l}, summed one by one."""
    rewards, values = noise(4, 5), noise(4, 5, seed=1)
    advantages, returns = gae(rewards, values, MASK, discount, lam)
    for row, length in enumerate(LENGTHS.tolist()):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        for t in range(length):
            expected = sum((discount * lam) ** (k - t) * (r[k] + discount * v[k + 1] - v[k]) for k in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected)
            assert returns[row, t].item() == pytest.approx(expected + v[t])


def test_gae_by_hand():
    """Rewards 0, 0, 1, values 1/2 and lambda 1/2: deltas 0, 0, 1/2, so advantages 1/8, 1/4, 1/2."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5)
    advantages, returns = gae(rewards, values, torch.ones(1, 3) > 0, discount=1.0, lam=0.5)
    assert advantages.tolist() == [[0.125, 0.25, 0.5]]
    assert returns.tolist() == [[0.625, 0.75, 1.0]]


def test_padded_values_and_rewards_of_100_change_no_advantage():
    rewards, values = noise(4, 5), noise(4, 5, seed=1)
    clean = gae(rewards, values, MASK)
    dirty = gae(rewards.masked_fill(~MASK, 100), values.masked_fill(~MASK, 100), MASK)
    torch.testing.assert_close(dirty, clean)
    assert not clean[0][~MASK].any()
    assert not clean[1][~MASK].any()


def test_scaling_rewards_and_values_scales_advantages():
    rewards, values = noise(4, 5), noise(4, 5, seed=1)
    for scaled, plain in zip(gae(3 * rewards, 3 * values, MASK), gae(rewards, values, MASK)):
        torch.testing.assert_close(scaled, 3 * plain)


def test_whitened_advantages_have_mean_0_and_std_1_over_the_tokens_of_the_whole_batch():
    white = whiten(5 + 3 * noise(4, 5), MASK)[MASK]
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_is_one_shift_and_scale_for_all_rows():
    """A row that is better throughout stays so: were each row whitened by itself, both would be equal."""
    white = whiten(torch.tensor([[1.0, 2.0], [11.0, 12.0]]), torch.ones(2, 2) > 0)
    assert (white[1] > 0).all()
    assert (white[0] < 0).all()
    torch.testing.assert_close(white[1] - white[0], (white[1, 0] - white[0, 0]).expand(2))


def test_whitening_neither_reads_nor_writes_padding():
    x = noise(4, 5)
    white = whiten(x, MASK)
    torch.testing.assert_close(whiten(x.masked_fill(~MASK, 100), MASK), white)
    assert not white[~MASK].any()


# --- PPO's losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.1, 1, 1.1, 1.1),  # within the range: the plain product, and its slope in log pi
        (1.1, -1, -1.1, -1.1),
        (1.5, 1, 1.2, 0),  # good and already more likely: no more to gain
        (0.5, -1, -0.8, 0),  # bad and already less likely
        (1.5, -1, -1.5, -1.5),  # bad and yet more likely: not clipped, it has to come back
        (0.5, 1, 0.5, 0.5),
    ],
)
def test_the_policys_clip_binds_on_the_pessimistic_side_only(ratio, advantage, objective, slope):
    logp = torch.tensor([[math.log(ratio) - 2]], requires_grad=True)
    loss = policy_loss(logp, torch.tensor([[-2.0]]), torch.tensor([[float(advantage)]]), torch.ones(1, 1) > 0, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-objective)
    assert logp.grad.item() == pytest.approx(-slope)


def test_the_policy_loss_at_ratio_1_is_minus_the_mean_advantage_over_tokens():
    advantages = noise(4, 5)
    loss = policy_loss(noise(4, 5, seed=1), noise(4, 5, seed=1), advantages, MASK)
    torch.testing.assert_close(loss, -advantages[MASK].mean())


def test_padding_changes_neither_loss_nor_gradient_even_where_its_ratio_overflows():
    logp, old, advantages = noise(4, 5).requires_grad_(), noise(4, 5, seed=1), noise(4, 5, seed=2) * MASK
    (clean,) = torch.autograd.grad(policy_loss(logp, old, advantages, MASK), logp)
    dirty_loss = policy_loss(logp, old.masked_fill(~MASK, -1000), advantages, MASK)
    (dirty,) = torch.autograd.grad(dirty_loss, logp)
    torch.testing.assert_close(dirty, clean)
    assert not clean[~MASK].any()


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (0.1, 0.5 * 0.9**2),  # moved less than the clip: the plain error
        (1.0, 0.5 * 0.8**2),  # moved to the return, 0.2 of it counts: the error of 0.2
        (-1.0, 0.5 * 2.0**2),  # moved away: the plain error is the larger
    ],
)
def test_value_loss_by_hand(value, loss):
    """The old value is 0, the return 1, the clip 0.2."""
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert value_loss(torch.tensor([[value]]), zero, one, one > 0, 0.2).item() == pytest.approx(loss)


def test_the_clipped_value_loss_is_never_below_the_plain_squared_error():
    values, old, returns = (3 * noise(500, 1, seed=s) for s in range(3))
    one = torch.ones(1, 1) > 0
    for v, o, r in zip(values, old, returns):
        loss = value_loss(v[None], o[None], r[None], one, 0.2)
        assert loss >= 0.5 * torch.nn.functional.mse_loss(v, r) - 1e-12


def test_losses_of_micro_batches_add_up_to_the_batchs_though_responses_differ_in_length():
    logp, old, advantages = (noise(4, 5, seed=s) for s in range(3))
    total = MASK.sum()
    for loss in (policy_loss, value_loss):
        parts = sum(loss(*(x[i : i + 1] for x in (logp, old, advantages, MASK)), total=total) for i in range(4))
        torch.testing.assert_close(parts, loss(logp, old, advantages, MASK))
    parts = sum(ptx_loss(logp[i : i + 1], MASK[i : i + 1], 27.8, total=total) for i in range(4))
    torch.testing.assert_close(parts, ptx_loss(logp, MASK, 27.8))


def test_the_pretraining_loss_is_the_coefficient_times_the_mean_over_tokens():
    logp = torch.tensor([[-1.0, -2.0, -3.0], [-6.0, -50.0, -50.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert ptx_loss(logp, mask, coef=10).item() == pytest.approx(10 * (1 + 2 + 3 + 6) / 4)


def test_the_policys_learning_rate_climbs_from_a_tenth_over_ten_iterations_and_stays():
    factors = [warmup_lr(i) for i in range(13)]
    assert factors == pytest.approx([0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1, 1, 1])


def test_the_average_keeps_0_992_of_itself_per_step():
    """Its distance to weights that stand still shrinks by that factor each time."""
    average, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    start, frozen = average.weight.clone(), model.weight.clone()
    for _ in range(5):
        ema_update(average, model)
    torch.testing.assert_close(average.weight - frozen, 0.992**5 * (start - frozen))
    assert torch.equal(model.weight, frozen)
