"""A policy that always says "the previous token + 1" shows every index; distributions show the sampling."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from minirlhf.data import Responses, collate
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import (
    generate,
    in_chunks,
    response_logps,
    response_scores,
    response_values,
    sample,
    sample_token,
    uniforms,
)
from minirlhf.support import cuda_graph
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.records import Sequence

V, EOS, PAD = 20, 19, 20
PROMPTS = [[3, 4, 5, 6], [1, 2], [10, 11, 12], [7]]


class PreviousTokenPlusOne(nn.Module):
    """All probability on the successor of the last token."""

    config = SimpleNamespace(n_layer=1, n_head=1, n_embd=1)

    def __init__(self):
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(V, 1)})

    def forward(self, tokens, left_padding=None, cache=None, at=None):
        logits = 1e4 * nn.functional.one_hot((tokens + 1) % V, V).float()
        return logits if at is None else logits.gather(1, at[..., None].expand(-1, -1, V))


class Constant(PreviousTokenPlusOne):
    """The same distribution after any token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, tokens, left_padding=None, cache=None, at=None):
        return self.logits.expand(len(tokens), tokens.shape[1] if at is None else at.shape[1], -1)


@pytest.fixture
def model():
    return tiny.make(GPT, V)


@pytest.fixture
def sampled(model):
    """Responses of unequal lengths, some ended and some cut off, and their log-probs as they were sampled."""
    prompts = PROMPTS * 8
    responses, logp = generate(model, prompts, uniforms((0,), len(prompts), 12), EOS, PAD)
    assert 1 <= responses.response_lengths.min() < responses.response_lengths.max() == 12
    return responses, logp


@pytest.fixture
def responses(sampled):
    return sampled[0]


def rows_of(responses):
    """(prompt, response) of each row, as lists of ids."""
    spans = zip(responses.tokens.tolist(), responses.prompt_lengths.tolist(), responses.lengths.tolist())
    return [(row[:start], row[start:end]) for row, start, end in spans]


# --- sampling -----------------------------------------------------------------------------------------------


def test_responses_continue_each_prompt_whatever_its_length():
    responses, _ = generate(PreviousTokenPlusOne(), PROMPTS, torch.rand(4, 5), EOS, PAD)
    expected = [[7, 8, 9, 10, 11], [3, 4, 5, 6, 7], [13, 14, 15, 16, 17], [8, 9, 10, 11, 12]]
    assert rows_of(responses) == list(zip(PROMPTS, expected))


def test_a_response_ends_with_end_of_text_which_is_part_of_it_or_at_the_limit():
    prompts = [[17], [3, 15], [18], [2]]
    responses, _ = generate(PreviousTokenPlusOne(), prompts, torch.rand(4, 5), EOS, PAD)
    assert [response for _, response in rows_of(responses)] == [
        [18, 19],
        [16, 17, 18, 19],
        [19],
        [3, 4, 5, 6, 7],
    ]
    assert responses.response_lengths.tolist() == [2, 4, 1, 5]


def test_a_rollout_ends_when_its_last_response_does():
    responses, logp = generate(PreviousTokenPlusOne(), [[17], [16]], torch.rand(2, 15), EOS, PAD)
    assert logp.shape == responses.mask.shape == (2, 3)
    assert responses.tokens.tolist() == [[17, 18, 19, PAD], [16, 17, 18, 19]]


def test_nothing_comes_after_end_of_text(responses):
    for (_, response), row, length in zip(rows_of(responses), responses.tokens, responses.lengths):
        assert EOS not in response[:-1]
        assert (row[length:] == PAD).all()


def test_the_mask_is_true_on_response_tokens_end_of_text_included():
    responses, _ = generate(PreviousTokenPlusOne(), [[17], [3, 15], [18], [2]], torch.rand(4, 5), EOS, PAD)
    assert responses.mask.tolist() == [[t < n for t in range(5)] for n in (2, 4, 1, 5)]
    assert responses.targets[responses.mask].tolist() == [18, 19, 16, 17, 18, 19, 19, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("noise", "token"), [(0.0, 0), (0.099, 0), (0.101, 1), (0.299, 1), (0.301, 3), (0.9999, 3)])
def test_the_noise_picks_the_token_in_whose_share_it_falls(noise, token):
    """Shares 0.1, 0.2, 0, 0.7."""
    logits = torch.tensor([[0.1, 0.2, 0.0, 0.7]]).log()
    assert sample_token(logits, torch.tensor([noise])).item() == token


def test_a_token_of_probability_0_is_never_drawn_not_even_by_noise_0():
    assert sample_token(torch.tensor([[0.0, 0.4, 0.6]]).log(), torch.tensor([0.0])).item() == 1


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_are_tokens_too(noise):
    """All of a large vocabulary is in reach and nothing beyond it, though rounding leaves the sum below 1."""
    log_probs = torch.zeros(1, 50_257).log_softmax(1)
    assert sample_token(log_probs, torch.tensor([noise])).item() == pytest.approx(50_257 * noise, abs=100)


def test_the_largest_noise_draws_the_last_token_that_has_a_share():
    """However the shares were rounded: a product with it stays below their sum."""
    logits = 4 * torch.randn(2000, 33, generator=torch.Generator().manual_seed(0))
    logits[:, 30:] = -math.inf
    drawn = sample_token(logits.log_softmax(1), torch.full((2000,), 1 - 2**-24))
    assert drawn.max().item() <= 29


def test_tokens_are_drawn_with_the_models_probabilities():
    """Temperature 1 and the whole vocabulary: Pearson's chi-squared over 20,000 draws. With 19 degrees of
    freedom it exceeds 50 once in 7,000 times."""
    logits = 1.5 * torch.randn(V, generator=torch.Generator().manual_seed(0))
    noise = uniforms((1,), 4000, 5)
    responses, _ = generate(Constant(logits), [[0]] * 4000, noise, eos=-1, pad=PAD)
    counts = np.bincount(responses.targets.flatten().numpy(), minlength=V)
    expected = 20_000 * logits.double().softmax(0).numpy()
    assert ((counts - expected) ** 2 / expected).sum() < 50


def test_the_temperature_divides_the_logits():
    logits = torch.randn(V, generator=torch.Generator().manual_seed(0))
    responses, logp = generate(Constant(logits), [[0]] * 50, uniforms((1,), 50, 1), -1, PAD, temperature=0.5)
    torch.testing.assert_close(logp, (2 * logits).log_softmax(0)[responses.targets])


def test_the_noise_is_uniform_and_new_for_each_row_step_and_seed():
    noise = uniforms((0, 1), 200, 50)
    assert noise.mean().item() == pytest.approx(0.5, abs=0.01)
    assert noise.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert len(noise.unique()) > 9_900
    assert (noise != uniforms((0, 2), 200, 50)).any(1).all()


def test_a_rows_noise_depends_on_its_number_alone():
    assert torch.equal(uniforms((3,), 4, 7), uniforms((3,), 10, 7)[:4])


def test_episodes_are_the_same_however_rows_are_spread_over_batches(model, sampled):
    responses, logp = sampled
    prompts = PROMPTS * 8
    noise = uniforms((0,), len(prompts), 12)
    apart = []
    for rows in ([0], [1, 2, 3, 4, 5], list(range(6, 32))):
        apart += rows_of(generate(model, [prompts[i] for i in rows], noise[rows], EOS, PAD)[0])
    assert apart == rows_of(responses)
    at_most_five, logp_of_five = generate(model, prompts, noise, EOS, PAD, batch_size=5)
    assert rows_of(at_most_five) == rows_of(responses)
    torch.testing.assert_close(logp_of_five, logp, atol=1e-5, rtol=0)


def test_the_plain_sampler_and_the_fast_one_draw_the_same_responses(model, sampled):
    """One row at a time without cache or padding, and 32 rows side by side with both."""
    responses, logp = sampled
    noise = uniforms((0,), 32, 12)
    for i, (prompt, response) in enumerate(rows_of(responses)):
        alone, alone_logp = sample(model, prompt, noise[i], EOS)
        assert alone == response
        torch.testing.assert_close(logp[i, : len(response)], torch.tensor(alone_logp), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_both_samplers_divide_the_logits_by_the_temperature(model, temperature):
    noise = uniforms((1,), 4, 8)
    responses, _ = generate(model, PROMPTS, noise, EOS, PAD, temperature=temperature)
    expected = [sample(model, prompt, noise[i], EOS, temperature)[0] for i, prompt in enumerate(PROMPTS)]
    assert [response for _, response in rows_of(responses)] == expected


def test_steps_that_are_all_alike_draw_the_same_episodes(model, sampled, monkeypatch):
    """As a CUDA graph would replay them; here nothing is recorded."""
    replayed = []
    monkeypatch.setattr(cuda_graph, "record", lambda step: lambda: replayed.append(1) or step())
    prompts = PROMPTS * 8
    noise = uniforms((0,), len(prompts), 12)
    found, logp = generate(model, prompts, noise, EOS, PAD, decode=decode_by_graph)
    assert len(replayed) == 9  # 12 steps less the prompt's own and two that are not
    assert rows_of(found) == rows_of(sampled[0])
    torch.testing.assert_close(logp, sampled[1], atol=1e-5, rtol=0)
    noise = torch.rand(2, 90)
    short, _ = generate(PreviousTokenPlusOne(), [[17], [3, 15]], noise, EOS, PAD, decode=decode_by_graph)
    assert rows_of(short) == [([17], [18, 19]), ([3, 15], [16, 17, 18, 19])]
    assert len(replayed) == 9 + 14  # whether all have ended is looked up after each 16th step


# --- what was sampled is what is scored ---------------------------------------------------------------------


def test_log_probs_of_sampling_are_those_of_a_full_forward_over_each_row_alone(model, sampled):
    """The same ids, left-padded and cached there, alone and whole here."""
    responses, logp = sampled
    for i, (prompt, response) in enumerate(rows_of(responses)):
        logits = model(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        alone = torch.distributions.Categorical(logits=logits).log_prob(torch.tensor(response))
        torch.testing.assert_close(logp[i, : len(response)], alone, atol=1e-5, rtol=0)


def test_the_ratio_is_1_before_the_first_update(model, sampled):
    responses, logp = sampled
    ratio = (response_logps(model, responses) - logp).exp()[responses.mask]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_log_probs_past_the_end_are_0(sampled):
    responses, logp = sampled
    assert not logp[~responses.mask].any()


def test_values_are_read_one_position_before_their_token(responses):
    """V_t is the value of prompt + y_<t: token t itself cannot change it."""
    value_model = tiny.make(RewardModel, V, seed=3)
    values = response_values(value_model, responses)
    for i, (prompt, response) in enumerate(rows_of(responses)):
        for t in range(len(response)):
            before = value_model(torch.tensor([prompt + response[:t]]))[0, -1]
            torch.testing.assert_close(values[i, t], before, atol=1e-5, rtol=0)


def test_the_score_is_read_at_the_last_token_end_of_text_where_there_is_one(responses):
    reward_model = tiny.make(RewardModel, V, seed=3)
    for score, (prompt, response) in zip(response_scores(reward_model, responses), rows_of(responses)):
        torch.testing.assert_close(score, reward_model(torch.tensor([prompt + response]))[0, -1], atol=1e-5, rtol=0)


def test_a_selection_is_the_rows_chosen_cut_to_the_longest(model, responses):
    rows = responses.lengths.argsort()[[2, 0, 1]]  # short ones
    assert responses.response_lengths[rows].max() < responses.mask.shape[1]
    chosen = responses.select(rows)
    assert rows_of(chosen) == [rows_of(responses)[i] for i in rows]
    assert chosen.tokens.shape[1] == responses.lengths[rows].max()
    assert chosen.mask.shape[1] == responses.response_lengths[rows].max()
    whole = response_logps(model, responses)[rows, : chosen.mask.shape[1]]
    torch.testing.assert_close(response_logps(model, chosen)[chosen.mask], whole[chosen.mask])


@pytest.mark.parametrize("function", [response_logps, response_scores])
def test_chunks_are_small_and_change_nothing(model, responses, function):
    network = model if function is response_logps else tiny.make(RewardModel, V)
    sizes = []

    def counted(network, part):
        sizes.append(part.tokens.numel())
        return function(network, part)

    chunked = in_chunks(counted, network, responses, max_tokens=60)
    torch.testing.assert_close(chunked, function(network, responses))
    assert not chunked.requires_grad
    assert len(sizes) > 1 and max(sizes) <= 60


def test_texts_are_the_responses_without_end_of_text(tokenizer):
    ids = [tokenizer.encode("the "), tokenizer.encode("cat sat")]
    n = len(ids[1])
    rows = [[*ids[0], *ids[1], tokenizer.eos], [*ids[0], *ids[1], tokenizer.pad]]
    mask = torch.arange(n + 1) < torch.tensor([[n + 1], [n]])
    responses = Responses(torch.tensor(rows), torch.tensor([len(ids[0])] * 2), mask)
    assert responses.texts(tokenizer) == ["cat sat", "cat sat"]


# --- supervised targets -------------------------------------------------------------------------------------


def test_targets_are_the_tokens_from_start_on_each_predicted_from_those_before(model):
    sequences = [Sequence(np.array([4, 5, 6, 7, EOS]), 2), Sequence(np.array([1, 2, 3]), 1)]
    targets = collate(sequences, PAD)
    logp = response_logps(model, targets)
    assert targets.mask.tolist() == [[True, True, True], [True, True, False]]
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence.tokens)
        for t in range(sequence.start, len(tokens)):
            alone = model(tokens[None, :t])[0, -1].log_softmax(0)[tokens[t]]
            torch.testing.assert_close(logp[row, t - sequence.start], alone, atol=1e-5, rtol=0)
