"""The network is GPT-2: its names, its sizes, its numbers; and padding and caching change nothing."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from minirlhf.model import GPT, PRESETS, GPTConfig, RewardModel
from minirlhf.rollout import response_scores
from minirlhf.support.cuda_graph import FixedCache
from minirlhf.support.forward import Cache, linear

V = 50
TOKENS = torch.randint(0, V, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return tiny.make(GPT, V).double()


@pytest.fixture
def reward():
    return tiny.make(RewardModel, V).double()


def with_torchs_own_layers(model, tokens):
    """Logits by torch.nn.TransformerEncoderLayer with the model's weights."""
    config, weights = model.config, model.state_dict()
    T = tokens.shape[1]
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:T]
    names = {
        "self_attn.in_proj_weight": "attn.c_attn.weight", "self_attn.in_proj_bias": "attn.c_attn.bias",
        "self_attn.out_proj.weight": "attn.c_proj.weight", "self_attn.out_proj.bias": "attn.c_proj.bias",
        "linear1.weight": "mlp.c_fc.weight", "linear1.bias": "mlp.c_fc.bias",
        "linear2.weight": "mlp.c_proj.weight", "linear2.bias": "mlp.c_proj.bias",
        "norm1.weight": "ln_1.weight", "norm1.bias": "ln_1.bias",
        "norm2.weight": "ln_2.weight", "norm2.bias": "ln_2.bias",
    }  # fmt: skip
    for i in range(config.n_layer):
        layer = nn.TransformerEncoderLayer(
            config.n_embd, config.n_head, 4 * config.n_embd, dropout=0.0, batch_first=True, norm_first=True,
            activation=lambda x: F.gelu(x, approximate="tanh"), dtype=torch.float64,
        )  # fmt: skip
        layer.load_state_dict({theirs: weights[f"transformer.h.{i}.{ours}"] for theirs, ours in names.items()})
        x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64))
    x = F.layer_norm(x, x.shape[-1:], weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"])
    return x @ weights["transformer.wte.weight"].T


# --- it is GPT-2 --------------------------------------------------------------------------------------------


def test_parameters_have_gpt2s_names():
    names = [name for name, _ in GPT(GPTConfig(V, 8, n_layer=1, n_head=1, n_embd=4)).named_parameters()]
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    inside = [f"transformer.h.0.{layer}.{kind}" for layer in block for kind in ("weight", "bias")]
    outside = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
    assert sorted(names) == sorted(inside + [f"transformer.{name}" for name in outside])


@pytest.mark.parametrize(("size", "parameters"), [("gpt2", 124_439_808), ("gpt2-xl", 1_557_611_200)])
def test_presets_have_gpt2s_parameter_counts(size, parameters):
    with torch.device("meta"):
        model = GPT(GPTConfig(50257, **PRESETS[size]))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_logits_equal_those_of_torchs_own_transformer_layers(model):
    torch.testing.assert_close(model(TOKENS), with_torchs_own_layers(model, TOKENS))


def test_the_future_changes_no_logit(model):
    changed = TOKENS.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % V
    assert torch.equal(model(changed)[:, :7], model(TOKENS)[:, :7])
    assert not torch.equal(model(changed)[:, 7:], model(TOKENS)[:, 7:])


def test_initial_weights_are_gpt2s():
    torch.manual_seed(0)
    weights = GPT(GPTConfig(300, n_ctx=200, n_layer=2, n_head=2, n_embd=192)).state_dict()
    for name, value in weights.items():
        if name.endswith("bias"):
            assert not value.any()
        elif "ln_" in name:
            assert (value == 1).all()
        else:
            expected = 0.02 / 2 if name.endswith("c_proj.weight") else 0.02  # 2 = sqrt(2 x 2 layers)
            assert value.std().item() == pytest.approx(expected, rel=0.03), name


def test_dropout_is_on_in_training_mode_only():
    model = tiny.make(GPT, V, dropout=0.5)
    assert torch.equal(model(TOKENS), model(TOKENS))
    model.train()
    assert not torch.equal(model(TOKENS), model(TOKENS))


def test_at_reads_the_positions_it_names(model):
    at = torch.tensor([[0, 11], [3, 3], [7, 2]])
    logits = model(TOKENS, at=at)
    for row in range(3):
        for i in range(2):
            torch.testing.assert_close(logits[row, i], model(TOKENS)[row, at[row, i]])


# --- padding ------------------------------------------------------------------------------------------------

LENGTHS = [12, 4, 9]


def test_a_left_padded_row_has_the_logits_it_has_alone(model):
    """Positions and mask follow the padding."""
    padding = torch.tensor([12 - n for n in LENGTHS])
    tokens = torch.full((3, 12), V)
    for row, n in enumerate(LENGTHS):
        tokens[row, 12 - n :] = TOKENS[row, :n]
    logits = model(tokens, left_padding=padding)
    assert logits.isfinite().all()
    for row, n in enumerate(LENGTHS):
        torch.testing.assert_close(logits[row, 12 - n :], model(TOKENS[row : row + 1, :n])[0])


def test_a_right_padded_row_has_the_logits_it_has_alone(model):
    for row, n in enumerate(LENGTHS):
        padded = torch.cat([TOKENS[row : row + 1, :n], torch.full((1, 20), V)], 1)
        torch.testing.assert_close(model(padded)[0, :n], model(TOKENS[row : row + 1, :n])[0])


def score(reward, tokens, lengths):
    """r(x, y) by rollout.response_scores, which reads lengths alone."""
    return response_scores(reward, SimpleNamespace(tokens=tokens, lengths=lengths))


@pytest.mark.parametrize("pad", [V, 10**6])
def test_padding_is_outside_the_vocabulary_and_which_id_it_is_changes_nothing(model, reward, pad):
    tokens, lengths = TOKENS.clone(), torch.tensor(LENGTHS)
    tokens[torch.arange(12) >= lengths[:, None]] = pad
    for row, n in enumerate(LENGTHS):
        torch.testing.assert_close(model(tokens)[row, :n], model(TOKENS)[row, :n])
    torch.testing.assert_close(score(reward, tokens, lengths), score(reward, TOKENS, lengths))


def test_padding_gets_no_gradient(reward):
    tokens = torch.cat([TOKENS[:1, :5] % 10, torch.full((1, 3), V)], 1)
    score(reward, tokens, torch.tensor([5])).backward()
    touched = reward.transformer.wte.weight.grad.abs().sum(1).nonzero()[:, 0]
    assert set(touched.tolist()) == set(tokens[0, :5].tolist())


# --- arithmetic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (8,), (4, 3), (1, 32), (33,)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_few_rows_are_multiplied_like_many(shape, with_bias):
    """By numpy, and the gradients by finite differences."""
    rng = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=rng, dtype=torch.float64, requires_grad=True)
    x, weight, bias = draw(*shape, 5), draw(6, 5), draw(6) if with_bias else None
    expected = x.detach().numpy() @ weight.detach().numpy().T + (bias.detach().numpy() if with_bias else 0)
    torch.testing.assert_close(linear(x, weight, bias).detach(), torch.from_numpy(expected))
    assert torch.autograd.gradcheck(linear, (x, weight, bias))


# --- dropout ------------------------------------------------------------------------------------------------


def test_dropout_is_on_the_embedding_and_on_what_each_block_adds():
    """At a probability of 1, in training: without the blocks' additions the embedding alone is left, without the
    embedding nothing of the tokens."""
    model = tiny.make(GPT, V, dropout=1.0).train().transformer
    model.dropout.p = 0.0
    embedded = model.wte(TOKENS) + model.wpe(torch.arange(12))
    torch.testing.assert_close(model(TOKENS), model.ln_f(embedded))
    model.dropout.p = 1.0
    for block in model.h:
        block.dropout.p = 0.0
    torch.testing.assert_close(model(TOKENS), model(TOKENS.flip(1)))


# --- cache --------------------------------------------------------------------------------------------------


def test_decoding_with_a_cache_gives_the_logits_of_the_full_forward(model):
    cache = Cache(12)
    parts = [model(TOKENS[:, :5], cache=cache)] + [model(TOKENS[:, t : t + 1], cache=cache) for t in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS))


def test_several_tokens_at_once_may_follow_cached_ones(model):
    cache = Cache(12)
    parts = [model(TOKENS[:, a:b], cache=cache) for a, b in ((0, 5), (5, 9), (9, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS))


def test_a_cache_works_with_left_padding_and_when_rows_leave(model):
    padding = torch.tensor([0, 2, 1])
    whole = model(TOKENS, left_padding=padding)
    cache = Cache(12)
    model(TOKENS[:, :6], left_padding=padding, cache=cache)
    stay = torch.tensor([0, 2])
    cache.keep(stay)
    for t in range(6, 12):
        logits = model(TOKENS[stay, t : t + 1], left_padding=padding[stay], cache=cache)
        torch.testing.assert_close(logits[:, 0], whole[stay, t])


def test_a_fixed_cache_gives_the_logits_of_the_full_forward(model):
    """Whatever lay in the memory that is not yet written."""
    padding = torch.tensor([0, 2, 1])
    cache = FixedCache(12)
    model(TOKENS[:, :5], left_padding=padding, cache=cache)
    for x in (*cache.keys, *cache.values):
        x[:, :, 5:] = math.nan
    cache.fix("cpu")
    memory = [x.data_ptr() for x in cache.keys]
    for t in range(5, 12):
        logits = model(TOKENS[:, t : t + 1], left_padding=padding, cache=cache)
        torch.testing.assert_close(logits[:, 0], model(TOKENS, left_padding=padding)[:, t])
        cache.next.add_(1)
    assert [x.data_ptr() for x in cache.keys] == memory


# --- the reward model ---------------------------------------------------------------------------------------


def test_the_score_is_the_head_at_the_last_real_token(reward):
    lengths = torch.tensor(LENGTHS)
    hidden = reward.transformer(TOKENS)
    for found, row, n in zip(score(reward, TOKENS, lengths), hidden, LENGTHS):
        expected = row[n - 1] @ reward.head.weight[0] + reward.head.bias[0]
        torch.testing.assert_close(found, expected)


def test_more_right_padding_changes_no_score(reward):
    lengths = torch.tensor(LENGTHS)
    wider = torch.cat([TOKENS, torch.full((3, 30), V)], 1)
    torch.testing.assert_close(score(reward, wider, lengths), score(reward, TOKENS, lengths))


def test_a_scalar_per_position_or_where_at_says(reward):
    at = torch.tensor([[1, 5], [0, 11], [4, 4]])
    torch.testing.assert_close(reward(TOKENS, at=at), reward(TOKENS).gather(1, at))


@pytest.mark.parametrize("width", [16, 64, 256])
def test_initial_scores_have_a_std_of_about_1_whatever_the_width(width):
    """Over heads drawn anew: the last LayerNorm gives the state that the head reads a norm of sqrt(width)."""
    torch.manual_seed(0)
    scores = []
    for _ in range(300):
        model = RewardModel(GPTConfig(5, n_ctx=4, n_layer=1, n_head=1, n_embd=width))
        scores.append(score(model, torch.tensor([[1, 2]]), torch.tensor([2])).item())
    assert torch.tensor(scores).std().item() == pytest.approx(1, abs=0.15)
