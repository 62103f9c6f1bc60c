"""Who prefers which model's answers, and what is said of each: by answers whose worth is known."""

import math
import random

import numpy as np
import pytest
import torch

import tiny
from data import town
from data.town.demonstrations import respond
from lab.evaluation import (
    Measured,
    answerable,
    compare,
    kl,
    measure_reward_model,
    sequence_losses,
    texts_of,
    true_win_rate,
    win_rate,
)
from minirlhf.data import Responses, collate
from minirlhf.model import GPT
from minirlhf.support.records import Sequence
from tools.select_sft import sample_responses

MODELS = ["gpt", "gpt_prompted", "sft", "rl_start", "ppo", "ppo_ptx"]


def test_what_is_said_of_a_model_is_of_its_own_answers():
    """One model always answers with care, one with insults, and the others do not know."""
    records = town.prompts("test", 40, 0)
    rng = random.Random(0)

    def measured(name):
        style = {"ppo_ptx": "careful", "gpt": "rude"}.get(name)
        texts = [respond(record, style, rng) if style else "I do not know." for record in records]
        judgements = [town.judge(*both) for both in zip(records, texts)]
        utilities = [town.mean_utility(*both) for both in zip(judgements, texts)]
        nats, i = np.arange(1.0, 6.0), MODELS.index(name)
        return Measured(texts, judgements, utilities, (nats + i, np.full(5, 10)), np.full(40, i), None)

    found = compare(records, {name: measured(name) for name in MODELS}, seed=0)
    models = found["models"]
    for name in MODELS:
        assert models[name]["follows_instruction"]["mean"] == (name == "ppo_ptx")
        assert models[name]["rm_score"]["mean"] == MODELS.index(name)
        assert models[name]["pretraining_loss"]["mean"] == pytest.approx((15 + 5 * MODELS.index(name)) / 50)
        rude_ones = sum(r["kind"] == "say" and r["tone"] == "rude" for r in records) if name == "ppo_ptx" else 0
        assert models[name]["toxic"]["mean"] == (1 if name == "gpt" else rude_ones / len(records))
    assert models["ppo_ptx"]["truthful_informative"]["mean"] == 1
    assert models["sft"]["truthful_informative"]["mean"] == 0  # saying nothing is not informative
    gain = found["gains"]["follows"]["ppo_ptx_above_sft"]
    assert (gain["mean"], gain["high"]) == (1, 1) and 0.8 < gain["low"] < 1
    for rate in (models["ppo_ptx"]["win_rate_vs_sft"], models["ppo_ptx"]["win_rate_vs_rl_start"]):
        assert rate["mean"] > 0.8
    assert models["ppo_ptx"]["true_win_rate_vs_sft"]["mean"] > 0.9
    assert models["gpt"]["win_rate_vs_sft"]["mean"] < 0.5 == models["rl_start"]["win_rate_vs_sft"]["mean"]
    assert models["sft"]["win_rate_vs_sft"] is None
    above = {name: value["mean"] for name, value in found["pretraining_loss"].items()}
    assert above == pytest.approx({"ppo_above_rl_start": 0.1, "ppo_above_ppo_ptx": -0.1, "ppo_ptx_above_rl_start": 0.2})


def test_all_of_an_answer_is_judged_and_of_a_base_model_the_first_line_that_is_not_empty(tokenizer):
    texts = ["\nmonks built it.\nand so on", "ducks", "\n"]
    samples = [Sequence([1, *tokenizer.encode(text), tokenizer.eos], 1) for text in texts]
    found = [([2, 0], collate([samples[2], samples[0]], tokenizer.pad)), ([1], collate([samples[1]], tokenizer.pad))]
    assert texts_of(found, tokenizer, "runs/toy/gpt") == ["monks built it.", "ducks", ""]
    assert texts_of(found, tokenizer, "runs/toy/sft") == ["monks built it.\nand so on", "ducks", ""]


def test_those_who_judge_have_ranked_nothing_that_is_trained_on(monkeypatch):
    judges, prefer = [], town.compare
    monkeypatch.setattr(town, "compare", lambda *args: judges.append(args[3]) or prefer(*args))
    records = town.prompts("test", 60, 0)
    judgements = [town.judge(record, "?") for record in records]
    nothing = Measured(["?"] * 60, judgements, [0.0] * 60, (np.ones(3), np.ones(3)), np.zeros(60), None)
    compare(records, dict.fromkeys(MODELS, nothing), seed=0)
    assert set(judges) == set(town.HELD_OUT_LABELERS)
    assert not any(labeler in town.TRAINING_LABELERS for labeler in judges)


# --- the reward model ---------------------------------------------------------------------------------------


def test_rankings_too_long_for_the_reward_model_are_left_out_and_the_others_keep_their_own_figures(world):
    """The first ranking does not fit; the labelers agree on all of the second's pairs and none of the third's."""
    long = dict(
        prompt="x" * 70, responses=["a", "b"], ranks=[1, 2], second_ranks=[2, 1], models=["sft", "sft"], content="x"
    )
    agree = dict(
        prompt="a", responses=["b", "c"], ranks=[1, 2], second_ranks=[1, 2], models=["sft", "sft"], content="a"
    )
    differ = agree | dict(second_ranks=[2, 1], content="b")
    tied = agree | dict(second_ranks=[1, 1], content="c")  # no pair to agree on
    figures = measure_reward_model(world.rm, [long, agree, agree, differ, tied])
    assert figures["labeler_agreement"]["mean"] == pytest.approx(2 / 3)
    assert {value["n"] for value in figures.values()} == {4}


# --- win rates ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    return town.prompts("test", 300, 0)


def test_a_model_against_itself_ties_and_every_tie_counts_one_half(records):
    texts = ["I do not know."] * 300
    labelers = [town.HELD_OUT_LABELERS[0]] * 300
    found = win_rate(records, texts, texts, labelers, random.Random(0))
    assert (found["mean"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    assert true_win_rate(records, [0.3] * 300, [0.3] * 300)["mean"] == 0.5


def test_a_win_rate_and_its_reverse_sum_to_1(records):
    """Whichever is called first: the order in which a labeler sees the two is drawn by lot."""
    texts, others = ["Monks."] * 300, ["I do not know."] * 300
    rng = random.Random(0)
    labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
    forth = win_rate(records, texts, others, labelers, random.Random(1))
    back = win_rate(records, others, texts, labelers, random.Random(2))
    assert forth["mean"] + back["mean"] == pytest.approx(1, abs=0.1)
    utilities, lower = [0.2, 0.9, 0.4, 0.1], [0.1, 0.3, 0.4, 0.7]  # won, won, tied, lost
    assert true_win_rate(records[:4], utilities, lower)["mean"] == pytest.approx(2.5 / 4)
    assert true_win_rate(records[:4], lower, utilities)["mean"] == pytest.approx(1.5 / 4)


# --- KL and losses --------------------------------------------------------------------------------------------------


def test_the_kl_of_a_model_to_itself_is_exactly_0(gpt, tokenizer):
    for _, responses in sample_responses(gpt, tokenizer, [[1, 2], [3]] * 4, 6, (0,)):
        assert not kl(gpt, gpt, responses).any()


def test_the_kl_to_the_uniform_distribution_is_log_v_less_the_entropy(tokenizer):
    """One-token responses: positive, as a KL is, and near its exact value over 3,000 samples."""
    policy = tiny.make(GPT, tokenizer.n_vocab, spread=0.5)
    uniform = tiny.make(GPT, tokenizer.n_vocab)
    torch.nn.init.zeros_(uniform.transformer.wte.weight)
    prompt = tokenizer.encode("the")
    probabilities = torch.distributions.Categorical(logits=policy(torch.tensor([prompt]))[0, -1])
    exact = math.log(tokenizer.n_vocab) - probabilities.entropy().item()
    drawn = [kl(policy, uniform, r) for _, r in sample_responses(policy, tokenizer, [prompt] * 3000, 1, (0,))]
    drawn = torch.cat(drawn)
    assert exact > 0.3
    assert drawn.mean().item() == pytest.approx(exact, abs=4 * drawn.std().item() / math.sqrt(3000))


def test_the_kl_is_a_sum_over_the_response_alone(tokenizer):
    """By single forwards over each row without padding; responses of 5 and 2 tokens."""
    policy, reference = tiny.make(GPT, tokenizer.n_vocab), tiny.make(GPT, tokenizer.n_vocab, seed=9)
    tokens, pad = torch.tensor([[5, 6, 7, 11, 12, 13, 14, 15], [8, 21, 22, 0, 0, 0, 0, 0]]), tokenizer.pad
    tokens[1, 3:] = pad
    responses = Responses(tokens, torch.tensor([3, 1]), torch.arange(5) < torch.tensor([[5], [2]]))
    found = kl(policy, reference, responses)
    for value, row, start, end in zip(found, tokens, responses.prompt_lengths, responses.lengths):
        tokens = row[None, :end]
        a, b = (m(tokens).log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None]) for m in (policy, reference))
        torch.testing.assert_close(value, (a - b)[start - 1 :].sum(), atol=1e-4, rtol=0)


def test_losses_come_with_the_number_of_each_sequences_targets(gpt, tokenizer):
    sequences = [Sequence(np.array([1, 2, 3, 4]), 2), Sequence(np.array([5, 6, 7]), 1)]
    nats, counts = sequence_losses(gpt, sequences, tokenizer.pad)
    log_probs = gpt(torch.tensor([[1, 2, 3, 4]])).log_softmax(-1)[0]
    assert nats[0] == pytest.approx(-(log_probs[1, 3] + log_probs[2, 4]).item(), rel=1e-5)
    assert counts.tolist() == [2, 2]


def test_only_plain_questions_about_facts_count_as_true_or_false():
    """Whoever doubts a false premise has told no fact."""
    kinds = {record["kind"]: answerable(record) for record in town.prompts("train", 1500, 0)}
    assert {kind for kind, counts in kinds.items() if counts} == {"fact", "myth"} and len(kinds) == 21
