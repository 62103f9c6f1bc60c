"""Step 2: all pairs of a prompt in one batch, a forward per response, and demonstrations at 0."""

import itertools
import math

import numpy as np
import pytest
import torch

import tiny
import train_rm
from minirlhf.losses import ranking_loss
from minirlhf.model import RewardModel
from minirlhf.rollout import ranking_scores
from minirlhf.support import records
from minirlhf.support.checkpoint import load_model
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics
from tiny import to_flags

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def settings(world, tmp_path):
    return dict(data=(world.rankings,), init=world.gpt, out=tmp_path / "rm", batch_size=2, lr=1e-3)


@pytest.fixture
def rankings(tokenizer):
    return records.encode_rankings(tiny.RANKINGS, tokenizer, 64)


def train(settings, **changes):
    tiny.run(train_rm, to_flags(settings | changes))


def test_each_response_is_scored_once_in_its_prompts_row(reward_model, rankings, tokenizer):
    scores, ranks = train_rm.score_rankings(reward_model, rankings, tokenizer.pad)
    assert ranks.tolist() == [[1, 3, 2, 4], [1, 2, 3, 2], [1, 2, 0, 0], [1, 2, 2, 0]]
    for row, ranking in zip(scores, rankings):
        for score, sequence in zip(row, ranking.sequences):
            alone = reward_model(torch.tensor(sequence.tokens[None]).long())[0, -1]
            torch.testing.assert_close(score, alone, atol=1e-5, rtol=0)


def test_the_loss_of_a_batch_is_the_brute_force_over_its_pairs(reward_model, rankings, tokenizer):
    """From a forward per response to a loop over pairs in Python."""
    prompts = []
    for ranking in rankings:
        r = [reward_model(torch.tensor(s.tokens[None]).long())[0, -1].item() for s in ranking.sequences]
        pairs = [
            math.log1p(math.exp(r[loser] - r[winner]))
            for winner, loser in itertools.permutations(range(len(r)), 2)
            if ranking.ranks[winner] < ranking.ranks[loser]
        ]
        prompts.append(sum(pairs) / len(pairs))
    loss = ranking_loss(*train_rm.score_rankings(reward_model, rankings, tokenizer.pad))
    assert loss.item() == pytest.approx(sum(prompts) / len(prompts), rel=1e-5)


def test_a_step_takes_one_forward_per_response_and_keeps_a_prompts_pairs_together(settings, rankings, monkeypatch):
    """K forwards for the C(K, 2) pairs; over the default single epoch each response passes exactly once."""
    rows, whole, score = [], [], train_rm.score_rankings

    def spy(model, part, pad):
        scores, ranks = score(model, part, pad)
        rows.append(sum(len(r.sequences) for r in part))
        whole.extend(sorted(r.ranks) for r in part)
        return scores, ranks

    forwards, forward = [], RewardModel.forward
    monkeypatch.setattr(train_rm, "score_rankings", spy)
    monkeypatch.setattr(RewardModel, "forward", lambda self, t, at: forwards.append(len(t)) or forward(self, t, at))
    train(settings)
    assert sum(forwards) == sum(rows) == 4 + 4 + 2 + 3
    assert sorted(whole) == sorted(sorted(r.ranks) for r in rankings)


def test_one_epoch_of_64_prompts_a_step_is_the_default():
    config = train_rm.Config(data=(), init="", out="")
    assert (config.epochs, config.batch_size, config.lr) == (1, 64, 9e-6)


def test_the_learning_rate_falls_to_a_tenth(settings, monkeypatch):
    used, clip = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda o: used.append(o.param_groups[0]["lr"]) or clip(o))
    train(settings, epochs=3)
    assert (used[0], used[-1]) == pytest.approx((1e-3, 1e-4))
    assert used == sorted(used, reverse=True)


def test_adam_has_the_papers_betas_and_gets_clipped_gradients(settings, monkeypatch):
    seen = []

    def keep(optimizer):
        gradients = [p.grad.norm() for p in optimizer.param_groups[0]["params"]]
        seen.append((optimizer.defaults["betas"], torch.stack(gradients).norm().item()))

    monkeypatch.setattr(torch.optim.Adam, "step", keep)
    train(settings, batch_size=4, max_grad_norm=0.01)
    assert seen == [((0.9, 0.95), pytest.approx(0.01, rel=1e-3))]


def test_micro_batches_give_the_gradient_of_the_whole_batch(reward_model, rankings, tokenizer, settings, monkeypatch):
    """In float64, and with a prompt whose responses all tie."""
    gradients = []

    def keep(optimizer):
        gradients.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]])

    tied = {"prompt": "name a dog\n", "responses": ["a", "b b b"], "ranks": [1, 1]}
    path = tiny.write_lines(settings["out"].parent / "r.jsonl", [*tiny.RANKINGS, tied])
    monkeypatch.setattr(torch.optim.Adam, "step", keep)
    monkeypatch.setattr(train_rm, "load_model", lambda *args, **how: reward_model.double())
    usual = dict(batch_size=5, max_grad_norm=1e9)
    for name, flags in (("whole", dict(data=(path,))), ("split", dict(data=(path,), max_tokens=1)), ("untied", {})):
        train(settings | usual | flags, out=settings["out"].parent / name)
    whole, split, untied = gradients
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(untied, whole)  # a prompt whose responses all tie does not count


def brute_force_accuracy(model, rankings):
    """(pairs ordered as ranked, pairs), by a loop over pairs."""
    right = []
    for ranking in rankings:
        r = [model(torch.tensor(s.tokens[None]).long())[0, -1].item() for s in ranking.sequences]
        pairs = itertools.permutations(range(len(r)), 2)
        right += [r[a] > r[b] for a, b in pairs if ranking.ranks[a] < ranking.ranks[b]]
    return sum(right), len(right)


def test_accuracies_are_shares_of_pairs(settings, rankings, reward_model, world, monkeypatch):
    """A batch's by the weights before its step, the validation's by those after the last."""
    monkeypatch.setattr(train_rm, "load_model", lambda *args, **how: reward_model)
    right, pairs = brute_force_accuracy(reward_model, rankings)
    train(settings, batch_size=4, validation=(world.rankings,), lr=1e-2)
    first, last = read_metrics(settings["out"])
    assert first["accuracy"] == pytest.approx(right / pairs) and right / pairs not in (0, 0.5, 1)
    right, pairs = brute_force_accuracy(reward_model, rankings)
    assert last["validation_accuracy"] == pytest.approx(right / pairs)


def test_equal_scores_count_one_half(settings, reward_model, monkeypatch):
    with torch.no_grad():
        reward_model.head.weight.zero_()
    monkeypatch.setattr(train_rm, "load_model", lambda *args, **how: reward_model)
    train(settings, batch_size=4)
    assert read_metrics(settings["out"])[0]["accuracy"] == 0.5


def test_the_same_seed_gives_the_same_model_and_another_gives_another_head_and_order(settings, tmp_path, monkeypatch):
    """Whatever the process drew before; on one ranking a step, in each of two epochs."""
    heads, orders, score = {}, {}, train_rm.score_rankings
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):

        def spy(model, part, pad, name=name):
            heads.setdefault(name, model.head.weight.detach().clone())
            orders.setdefault(name, []).append(sum(len(s.tokens) for r in part for s in r.sequences))
            return score(model, part, pad)

        torch.rand(7)
        monkeypatch.setattr(train_rm, "score_rankings", spy)
        train(settings, out=tmp_path / name, seed=seed, batch_size=1, epochs=2)
    models = {name: load_model(tmp_path / name, RewardModel).state_dict() for name in "abc"}
    assert all(torch.equal(models["a"][key], models["b"][key]) for key in models["a"])
    assert torch.equal(heads["a"], heads["b"]) and not torch.equal(heads["a"], heads["c"])
    assert orders["a"] == orders["b"] != orders["c"]
    assert sorted(orders["a"]) == sorted(orders["c"]) == sorted(orders["a"][:4] * 2)
    assert orders["a"][:4] != orders["a"][4:]


def test_a_forward_has_at_most_so_many_tokens(settings, monkeypatch):
    sizes, collate = [], train_rm.collate

    def spy(*args):
        responses = collate(*args)
        sizes.append(responses.tokens.numel())
        return responses

    monkeypatch.setattr(train_rm, "collate", spy)
    train(settings, batch_size=4, max_tokens=150)
    assert len(sizes) > 1 and max(sizes) <= 150


def test_it_learns_that_one_word_is_better_than_another(settings, tokenizer, tmp_path):
    """On prompts that it has not seen."""

    def records(words):
        pairs = (
            {"responses": ["red kite", "log mat"], "ranks": [1, 2]},
            {"responses": ["mat log", "kite"], "ranks": [2, 1]},
        )
        return [{"prompt": f"name {word}\n"} | pair for word in words for pair in pairs]

    path = tiny.write_lines(tmp_path / "train.jsonl", records("abcdefgh"))
    held_out = tiny.write_lines(tmp_path / "test.jsonl", records("vwxyz"))
    train(settings, data=(path,), validation=(held_out,), epochs=8, batch_size=4, lr=1e-2)
    rows = read_metrics(settings["out"])
    assert rows[-1]["validation_accuracy"] == 1
    assert rows[-2]["loss"] < 0.2 < rows[0]["loss"]


def test_after_the_bias_demonstrations_score_0_on_average_and_no_ranking_has_changed(reward_model, rankings, tokenizer):
    demonstrations = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    before = ranking_scores(reward_model, rankings, tokenizer.pad)
    loss = ranking_loss(*train_rm.score_rankings(reward_model, rankings, tokenizer.pad))
    bias = train_rm.set_bias(reward_model, demonstrations, tokenizer.pad)
    alone = [reward_model(torch.tensor(s.tokens[None]).long())[0, -1].item() for s in demonstrations]
    assert np.mean(alone) == pytest.approx(0, abs=1e-5)
    assert bias == reward_model.head.bias.item()
    after = ranking_scores(reward_model, rankings, tokenizer.pad)
    shifts = [b - a for rows in zip(before, after) for a, b in zip(*rows)]
    assert shifts == pytest.approx([shifts[0]] * len(shifts), abs=1e-5)
    same = ranking_loss(*train_rm.score_rankings(reward_model, rankings, tokenizer.pad))
    torch.testing.assert_close(same, loss)


def test_a_run_leaves_a_model_that_scores_demonstrations_0(settings, world, tokenizer):
    train(settings, demonstrations=(world.demonstrations,))
    model = load_model(settings["out"], RewardModel).eval()
    sequences = records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64)
    scores = [model(torch.tensor(s.tokens[None]).long())[0, -1].item() for s in sequences]
    assert np.mean(scores) == pytest.approx(0, abs=1e-5)


def test_without_demonstrations_no_bias_is_set(settings):
    train(settings)
    assert "bias" not in read_metrics(settings["out"])[-1]


def test_validation_rankings_that_are_all_ties_break_nothing(settings, tmp_path):
    ties = tiny.write_lines(tmp_path / "ties.jsonl", [{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 1]}])
    train(settings, validation=(ties,))
    assert (settings["out"] / "model.pt").exists()


def test_a_loss_that_is_nan_stops_the_run_and_names_step_and_last_good_checkpoint(settings, monkeypatch):
    loss = train_rm.ranking_loss
    monkeypatch.setattr(train_rm, "ranking_loss", lambda *args, **kwargs: loss(*args, **kwargs) * float("nan"))
    with pytest.raises(InputError, match=f"step 0: loss is nan; last good checkpoint: {settings['init']};.*so early"):
        train(settings)
    assert not (settings["out"] / "model.pt").exists()
