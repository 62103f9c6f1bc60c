"""tokens.jsonl: each token's numbers, as by hand from the networks and the formulas."""

import pytest
import torch

import tiny
import train_ppo
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, response_scores, response_values, uniforms
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.logs import read_metrics

BETA, LAMBDA = 0.3, 0.9
NUMBERS = ("logp", "ref_logp", "reward", "value", "advantage", "whitened", "ratio")


@pytest.fixture
def rows(world, tmp_path):
    """rows(**changes) trains, and gives the rows of tokens.jsonl: (of episodes, of prompts that are watched)."""

    def train(**changes):
        settings = dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), out=str(tmp_path / "ppo"))
        settings |= dict(ptx_coef=0.0, episodes=24, batch_size=8, minibatch_size=4, max_response=6, lr=1e-2,
                         value_lr=1e-2, kl_coef=BETA, gae_lambda=LAMBDA, show=3)  # fmt: skip
        tiny.run(train_ppo, tiny.to_flags(settings | changes))
        found = read_metrics(tmp_path / "ppo", "tokens.jsonl")
        return [r for r in found if "again" not in r], [r for r in found if "again" in r]

    return train


def test_a_rows_numbers_are_those_of_the_networks_and_the_formulas(rows, world):
    """In the first iteration, in which policy, reference and value network are known."""
    (shown, _), tokenizer = rows(), load_tokenizer(world.gpt)
    policy, rm = load_model(world.gpt, GPT), load_model(world.rm, RewardModel)
    assert [row["step"] for row in shown] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    prompts = [tokenizer.encode(row["prompt"]) for row in shown[:3]]
    y, logp = generate(policy, prompts, uniforms((0, 0), 8, 6)[:3], tokenizer.eos, tokenizer.pad)
    with torch.no_grad():
        values, scores = response_values(rm, y), response_scores(rm, y)
    for i, row in enumerate(shown[:3]):
        n = int(y.mask[i].sum())
        assert row["tokens"] == [tokenizer.decode([token]) for token in y.targets[i, :n].tolist()]
        assert all(len(row[name]) == n for name in NUMBERS)
        assert row["logp"] == pytest.approx(logp[i, :n].tolist(), abs=2e-4) == row["ref_logp"]
        assert row["value"] == pytest.approx(values[i, :n].tolist(), abs=2e-4)
        assert row["score"] == pytest.approx(scores[i].item(), abs=2e-4)
        assert row["reward"] == pytest.approx([0] * (n - 1) + [scores[i].item()], abs=2e-4)  # no KL yet
        advantage = 0
        for t in reversed(range(n)):
            following = row["value"][t + 1] if t + 1 < n else 0
            advantage = row["reward"][t] + following - row["value"][t] + LAMBDA * advantage
            assert row["advantage"][t] == pytest.approx(advantage, abs=1e-3)


def test_later_rewards_hold_the_penalty_and_the_score_and_whitened_advantages_are_scaled(rows):
    shown, _ = rows(show=8)
    for row in shown[8:]:
        penalty = [-BETA * (a - b) for a, b in zip(row["logp"], row["ref_logp"])]
        assert row["reward"] == pytest.approx([*penalty[:-1], penalty[-1] + row["score"]], abs=5e-4)
    batch = [row for row in shown if row["step"] == 2]
    raw, white = (torch.tensor([x for row in batch for x in row[name]]) for name in ("advantage", "whitened"))
    assert white.numpy() == pytest.approx(((raw - raw.mean()) / raw.std(correction=0)).numpy(), abs=5e-3)


def test_the_ratio_is_1_in_the_first_minibatch_and_moves_later(rows):
    """Half of an iteration's eight episodes are learned from before the policy has moved. All are learned from."""
    shown, _ = rows(show=8)
    still = [all(x == pytest.approx(1, abs=2e-4) for x in row["ratio"]) for row in shown]
    assert [sum(still[i : i + 8]) for i in (0, 8, 16)] == [4, 4, 4]
    assert all(x > 0 for row in shown for x in row["ratio"])


def test_watched_prompts_come_again_with_the_same_noise_and_change_nothing(rows, world, tmp_path):
    changes = dict(episodes=8 * 21, lr=3e-2)
    shown, again = rows(**changes)
    assert [row["step"] for row in again] == [0, 0, 0, 10, 10, 10, 20, 20, 20]
    assert [row["prompt"] for row in again] == [row["prompt"] for row in again[:3]] * 3
    assert [(a["prompt"], a["tokens"], a["logp"]) for a in again[:3]] == [
        (b["prompt"], b["tokens"], b["logp"]) for b in shown[:3]]  # fmt: skip
    assert [row["tokens"] for row in again[:3]] != [row["tokens"] for row in again[6:]]
    assert all("ratio" not in row and "whitened" not in row and row["value"] for row in again)
    weights = load_model(tmp_path / "ppo", GPT).state_dict()
    shown, again = rows(**changes, show=0, out=str(tmp_path / "none"))
    other = load_model(tmp_path / "none", GPT).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in other.items())
    assert not (tmp_path / "none" / "tokens.jsonl").exists()


def test_a_policy_that_is_asked_again_is_todays(rows):
    _, again = rows(episodes=8 * 11)
    moved = [max(abs(a - b) for a, b in zip(row["logp"], row["ref_logp"])) for row in again]
    assert max(moved[:3]) < 1e-3 < min(moved[3:])
