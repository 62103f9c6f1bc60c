"""A reward function in place of the reward model: by train_ppo.main, and by the installed library alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import train_ppo
from minirlhf.model import GPT, RewardModel
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics

pytestmark = pytest.mark.usefixtures("no_pictures")
ROOT = Path(__file__).parents[2]


def letters(prompts, responses):
    return [text.count("e") / 5 for text in responses]


@pytest.fixture
def config(world, tmp_path):
    def make(**changes):
        settings = dict(policy=world.gpt, prompts=(world.prompts,), out=str(tmp_path / "ppo"), ptx_coef=0.0)
        settings |= dict(episodes=16, batch_size=8, minibatch_size=4, max_response=6, lr=1e-3, value_lr=1e-3)
        return train_ppo.Config(**settings | changes)

    return make


def test_the_function_gets_each_prompt_with_its_response_and_its_numbers_are_the_scores(config):
    seen = []

    def reward(prompts, responses):
        seen.extend(zip(prompts, responses))
        return [len(text) / 10 for text in responses]

    own = config(show=8)
    train_ppo.main(own, reward)
    rows = read_metrics(own.out, "samples.jsonl")
    assert [(row["prompt"], row["response"]) for row in rows] == seen[8:] and len(seen) == 24
    assert seen[:8] == seen[8:16]  # the prompts that are answered again and again, for tokens.jsonl
    assert {prompt for prompt, _ in seen} == {record["prompt"] for record in tiny.PROMPTS}
    assert [row["score"] for row in rows] == pytest.approx([len(row["response"]) / 10 for row in rows])


def test_without_a_reward_model_the_value_network_is_the_policy_with_a_new_head(config, world):
    networks = train_ppo.load_networks(config(), load_tokenizer(world.gpt))
    assert networks.reward_model is None
    policy, value = load_model(world.gpt, GPT).state_dict(), networks.value.state_dict()
    assert all(torch.equal(value[name], tensor) for name, tensor in policy.items())
    assert value["head.weight"].std() > 0 and value["head.bias"] == 0


def test_with_a_reward_model_the_value_network_starts_as_its_copy_and_the_function_decides(config, world):
    own = config(reward_model=world.rm)
    networks = train_ppo.load_networks(own, load_tokenizer(world.gpt))
    expected = load_model(world.rm, RewardModel).state_dict()
    assert all(torch.equal(networks.value.state_dict()[name], tensor) for name, tensor in expected.items())
    train_ppo.main(own, lambda prompts, responses: [0.25] * len(responses))
    assert [row["score"] for row in read_metrics(own.out)] == [0.25, 0.25]


def test_what_it_counts_rises(config):
    own = config(episodes=1024, batch_size=64, minibatch_size=16, lr=3e-2, value_lr=1e-2, warmup=1, kl_coef=0.0)
    train_ppo.main(own, letters)
    scores = [row["score"] for row in read_metrics(own.out)]
    assert np.mean(scores[-2:]) > np.mean(scores[:2]) + 0.1


@pytest.mark.parametrize("returned", [[1.0], [[1.0]] * 8, [float("nan")] * 8, 1.0])
def test_scores_that_are_not_one_finite_number_for_each_response_are_refused(config, returned):
    with pytest.raises(InputError, match="reward: returned .*; return a list of 8 finite numbers"):
        train_ppo.main(config(), lambda prompts, responses: returned)


def test_without_function_and_reward_model_the_flag_is_asked_for(config):
    with pytest.raises(InputError, match="required: --reward_model"):
        train_ppo.main(config())


def test_a_language_model_is_not_taken_for_a_reward_model(config, world):
    with pytest.raises(InputError, match="is a gpt's checkpoint, a reward model's is needed"):
        train_ppo.main(config(reward_model=world.gpt))
