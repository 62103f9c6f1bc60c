"""Measurements against hand-worked numbers, other ways to count, and the normal interval of a proportion."""

import math

import numpy as np
import pytest
import torch

import tiny
from minirlhf.data import collate
from minirlhf.losses import sft_loss
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import (
    per_sequence,
    ranking_scores,
    response_logps,
    response_nats,
    response_scores,
)
from minirlhf.support import records
from minirlhf.support.records import Ranking, Sequence
from minirlhf.support.statistics import interval
from tools.select_sft import sample_responses
from train_rm import validation_pairs
from train_sft import validation_loss


class LastToken(torch.nn.Module):
    """A reward model whose score is the id of the last token."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, at):
        return tokens.gather(1, at).float()


def ranking(scores, ranks):
    return Ranking([Sequence(np.array([1, 2, score]), 2) for score in scores], ranks)


# --- losses -------------------------------------------------------------------------------------------------


def test_losses_are_torchs_cross_entropy_over_each_sequences_targets(gpt, tokenizer):
    sequences = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    losses = per_sequence(response_nats, gpt, sequences, tokenizer.pad, max_tokens=50)
    for sequence, loss in zip(sequences, losses):
        tokens = torch.tensor(sequence.tokens).long()
        logits, targets = gpt(tokens[None, :-1])[0, sequence.start - 1 :], tokens[sequence.start :]
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_validation_loss_of_a_model_that_knows_nothing_is_the_log_of_the_vocabulary(tokenizer):
    model = tiny.make(GPT, tokenizer.n_vocab)
    torch.nn.init.zeros_(model.transformer.wte.weight)
    sequences = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    assert validation_loss(model, sequences, tokenizer.pad) == pytest.approx(math.log(tokenizer.n_vocab))


def test_the_validation_loss_is_the_sft_loss(gpt, tokenizer):
    sequences = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    responses = collate(sequences, tokenizer.pad)
    expected = sft_loss(response_logps(gpt.eval(), responses), responses.mask).item()
    assert validation_loss(gpt, sequences, tokenizer.pad) == pytest.approx(expected, rel=1e-5)
    assert validation_loss(gpt, sequences, tokenizer.pad, max_tokens=40) == pytest.approx(expected, rel=1e-5)


def test_measuring_leaves_dropout_out(tokenizer):
    model = tiny.make(GPT, tokenizer.n_vocab, dropout=0.5).train()
    sequences = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    assert validation_loss(model, sequences, tokenizer.pad) == validation_loss(model, sequences, tokenizer.pad)


# --- samples ------------------------------------------------------------------------------------------------


def samples(model, tokenizer, prompts, batch):
    found = {}
    for part, responses in sample_responses(model, tokenizer, prompts, 6, (0,), batch):
        for i, tokens, start, end in zip(part, responses.tokens, responses.prompt_lengths, responses.lengths):
            assert tokens[:start].tolist() == prompts[i]
            found[i] = tokens[start:end].tolist()
    return found


def test_samples_are_drawn_without_dropout(gpt, tokenizer):
    dropping = tiny.make(GPT, tokenizer.n_vocab, dropout=0.5).train()
    prompts = [tokenizer.encode("the cat sat"), tokenizer.encode("a")]
    assert samples(dropping, tokenizer, prompts, 2) == samples(gpt, tokenizer, prompts, 2)


def test_every_prompt_is_answered_once_and_the_same_in_batches_of_any_size(gpt, tokenizer):
    prompts = [tokenizer.encode(text) for text in ("the cat sat", "a", "what is two", "no")] * 2
    together = samples(gpt, tokenizer, prompts, batch=256)
    assert sorted(together) == list(range(8))
    assert samples(gpt, tokenizer, prompts, batch=3) == together


# --- the reward model ---------------------------------------------------------------------------------------


def test_scores_come_back_in_order(reward_model, tokenizer):
    texts = ("the cat sat on the mat", "a", "what is two")
    sequences = [Sequence(tokenizer.encode(text), 1) for text in texts]
    scores = per_sequence(response_scores, reward_model, sequences, tokenizer.pad, max_tokens=5)
    for score, sequence in zip(scores, sequences):
        alone = reward_model(torch.tensor([sequence.tokens]))[0, -1].detach().double()
        torch.testing.assert_close(score, alone, rtol=1e-5, atol=1e-6)


def test_each_ranking_gets_the_scores_of_its_responses():
    assert ranking_scores(LastToken(), [ranking([7, 3], [1, 2]), ranking([5], [1])], pad=0) == [[7, 3], [5]]


def test_accuracy_by_hand():
    """Right: 9 > 5, 9 > 2. Wrong: 2 < 5 of the ranks 2 and 3. The tied pair of the second prompt does not
    count, and a pair of equal scores counts one half."""
    rankings = [ranking([9, 2, 5], [1, 2, 3]), ranking([4, 4, 8], [1, 2, 2])]
    assert validation_pairs(LastToken(), rankings, pad=0) == [2.5, 5]


# --- intervals ----------------------------------------------------------------------------------------------


def test_the_interval_of_a_proportion_is_the_binomials_normal_one():
    n, p = 400, 0.7
    found = interval([1.0] * int(n * p) + [0.0] * int(n * (1 - p)), resamples=50_000)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert found["mean"] == pytest.approx(p)
    assert found["low"] == pytest.approx(p - half, abs=0.003)
    assert found["high"] == pytest.approx(p + half, abs=0.003)
    assert found["n"] == n


def test_the_interval_holds_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    found = [interval(rng.random(100) < 0.4, resamples=300, seed=i) for i in range(300)]
    assert sum(f["low"] <= 0.4 <= f["high"] for f in found) / 300 == pytest.approx(0.95, abs=0.04)


def test_values_of_one_item_are_drawn_together():
    """400 answers about 20 facts, all right or all wrong for a fact, are as sure as 20; the mean is the same."""
    facts = [float(i < 14) for i in range(20)]
    values, items = np.repeat(facts, 20), np.repeat([f"fact {i}" for i in range(20)], 20)
    found, alone = interval(values, items=items, resamples=50_000), interval(facts, resamples=50_000)
    assert found["mean"] == pytest.approx(0.7) == alone["mean"]
    assert (found["low"], found["high"]) == pytest.approx((alone["low"], alone["high"]), abs=0.01)
    assert (found["n"], found["items"]) == (400, 20)
    assert found["high"] - found["low"] > 4 * (interval(values)["high"] - interval(values)["low"])


def test_items_of_unlike_sizes_weigh_as_much_as_they_have_values():
    assert interval([1.0, 1.0, 1.0, 0.0], items=["a", "a", "a", "b"])["mean"] == 0.75


def test_with_weights_the_mean_is_a_ratio_of_sums_and_pairs_are_resampled_together():
    """Documents of 1 and of 9 tokens at 2 nats a token each: the ratio is 2 however they are drawn."""
    found = interval([2.0, 18.0] * 20, weights=[1, 9] * 20)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((2, 2, 2))
    assert interval([2.0, 9.0], weights=[1, 9])["mean"] == pytest.approx(1.1)


def test_measuring_a_reward_model_leaves_dropout_out(tokenizer):
    model = tiny.make(RewardModel, tokenizer.n_vocab, dropout=0.5).train()
    sequences = [Sequence(tokenizer.encode(text), 1) for text in ("the cat", "a dog")]
    first, second = (per_sequence(response_scores, model, sequences, tokenizer.pad) for _ in range(2))
    assert torch.equal(first, second)
