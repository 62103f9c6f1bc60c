"""Step 0: a new model's shape and start, its optimizers, and a checkpoint that is trained on."""

import math
from types import SimpleNamespace

import pytest
import torch

import pretrain
import tiny
import train_sft
from minirlhf.losses import cosine_lr
from minirlhf.model import GPT, GPTConfig
from minirlhf.support.checkpoint import load_model
from minirlhf.support.logs import read_metrics
from minirlhf.support.run import Run
from tiny import to_flags

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def settings(world, tmp_path):
    return dict(data=(world.documents,), tokenizer=world.gpt, size="nano", n_layer=1, n_ctx=32, batch_size=2,
                out=tmp_path / "gpt")  # fmt: skip


def train(settings, **changes):
    tiny.run(pretrain, to_flags(settings | changes))


# --- a new model --------------------------------------------------------------------------------------------


def test_a_new_model_has_the_size_asked_for_with_one_flag_changed(settings):
    train(settings)
    config = load_model(settings["out"], GPT).config
    assert (config.n_layer, config.n_ctx, config.n_embd) == (1, 32, 48)


@pytest.mark.parametrize(("flags", "std"), [({}, 0.02), ({"embedding_std": 0.4}, 0.4)])
def test_the_embeddings_of_a_new_model_are_as_far_apart_as_asked_for(settings, flags, std):
    train(settings, lr=1e-9, **flags)
    embeddings = load_model(settings["out"], GPT).transformer.wte.weight
    assert embeddings.std().item() == pytest.approx(std, rel=0.02)


def test_initial_loss_of_a_new_model_is_near_the_log_of_the_vocabulary(settings, tokenizer):
    train(settings)
    assert read_metrics(settings["out"])[0]["loss"] == pytest.approx(math.log(tokenizer.n_vocab), rel=0.05)


def test_a_checkpoint_is_trained_on(settings, world):
    own = dict(tokenizer=None, size=None, n_layer=None, n_ctx=None)
    train(settings, init=world.gpt, lr=1e-9, muon_lr=1e-9, **own)
    before, after = (load_model(source, GPT).state_dict() for source in (world.gpt, settings["out"]))
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_every_token_of_a_document_but_its_first_is_learned(settings, monkeypatch):
    counted, logps = [], train_sft.response_logps

    def spy(model, responses):
        counted.append((responses.lengths.sum() - len(responses.mask), responses.mask.sum()))
        return logps(model, responses)

    monkeypatch.setattr(train_sft, "response_logps", spy)
    train(settings)
    assert counted and all(tokens == learned for tokens, learned in counted)


def test_spread_embeddings_are_of_one_size_and_a_shift_of_position_is_a_rotation():
    torch.manual_seed(0)
    transformer = GPT(GPTConfig(300, n_ctx=200, n_layer=1, n_head=2, n_embd=192)).transformer
    pretrain.spread_embeddings(transformer, 0.24)
    positions = transformer.wpe.weight
    assert transformer.wte.weight.std().item() == pytest.approx(0.24, rel=0.02)
    assert positions.square().mean().sqrt().item() == pytest.approx(0.24, rel=0.02)
    products = positions @ positions.T  # of sinusoids, a function of the distance alone
    for distance in (1, 5, 50):
        torch.testing.assert_close(products.diagonal(distance), products[0, distance].expand(200 - distance))


def test_spread_embeddings_are_noise_for_tokens_and_sinusoids_for_positions():
    """Vaswani et al. 2017, section 3.5: sin and cos of position / base^(2i / D), here with base 1000."""
    model = GPT(GPTConfig(5000, n_ctx=32, n_layer=1, n_head=1, n_embd=8)).transformer
    pretrain.spread_embeddings(model, 0.4)
    assert model.wte.weight.std().item() == pytest.approx(0.4, rel=0.02)
    for position in range(32):
        for i in range(4):
            angle = position / 1000 ** (2 * i / 8)
            expected = [0.4 * math.sqrt(2) * f(angle) for f in (math.sin, math.cos)]
            assert model.wpe.weight[position, 2 * i : 2 * i + 2].tolist() == pytest.approx(expected, abs=1e-5)


# --- its optimizers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "peaks"), [("adam", [1e-2]), ("muon", [1e-2, 0.05])])
def test_learning_rates_fall_from_their_peaks_without_warmup_to_a_tenth(settings, monkeypatch, optimizer, peaks):
    """As each optimizer has its own at each of its steps."""
    make, used = pretrain.make_optimizer, [[] for _ in peaks]

    def spy(*args):
        optimizer = make(*args)
        for rates, own in zip(used, getattr(optimizer, "optimizers", [optimizer]), strict=True):
            own.register_step_pre_hook(lambda o, *_, rates=rates: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(pretrain, "make_optimizer", spy)
    own = {"muon_lr": 0.05} if optimizer == "muon" else {}
    train(settings, epochs=4, optimizer=optimizer, lr=1e-2, **own)
    for rates, peak in zip(used, peaks):
        assert len(rates) >= 8
        assert (rates[0], rates[-1]) == pytest.approx((peak, peak / 10))
        assert rates == sorted(rates, reverse=True)
    assert used[0] == pytest.approx([row["lr"] for row in read_metrics(settings["out"])])


def test_adam_alone_has_every_parameter(gpt):
    adam = pretrain.make_optimizer(gpt, pretrain.Config(data=(), out="", optimizer="adam"))
    assert adam.defaults["betas"] == (0.9, 0.95)
    assert {id(p) for p in adam.param_groups[0]["params"]} == {id(p) for p in gpt.parameters()}


def test_with_muon_each_weight_belongs_to_exactly_one_optimizer_and_the_blocks_matrices_to_muon(gpt):
    optimizers = pretrain.make_optimizer(gpt, pretrain.Config(data=(), out="", optimizer="muon")).optimizers
    adams, muons = ({id(p) for group in o.param_groups for p in group["params"]} for o in optimizers)
    blocks = {id(p) for p in gpt.transformer.h.parameters() if p.ndim == 2}
    assert muons == blocks
    assert adams | muons == {id(p) for p in gpt.parameters()} and not adams & muons


# --- schedules and decay ------------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_then_falls_by_the_cosine():
    rates = [pretrain.warm_cosine(3, step, 100) for step in range(100)]
    assert rates[:3] == [pytest.approx(share * cosine_lr(i, 100)) for i, share in enumerate((0.25, 0.5, 0.75))]
    assert rates[3:] == [cosine_lr(step, 100) for step in range(3, 100)]
    assert [pretrain.warm_cosine(0, step, 9) for step in range(9)] == [cosine_lr(step, 9) for step in range(9)]


def test_a_run_takes_its_steps_at_those_rates(settings):
    train(settings, warmup=2, lr=1.0, muon_lr=2.0, epochs=2)
    rows = read_metrics(settings["out"])
    rates = [pretrain.warm_cosine(2, step, len(rows)) for step in range(len(rows))]
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    assert [row["muon_lr"] for row in rows] == pytest.approx([2 * rate for rate in rates])


def test_the_validation_loss_is_measured_inside_an_epoch_too(settings, world, monkeypatch):
    """And an epoch's checkpoint is written at its end alone."""
    saved, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda run, name, *rest: saved.append((name, run.step)) or save(run, name, *rest))
    train(settings, validation=(world.documents,), validate_every=3, epochs=5)
    rows = read_metrics(settings["out"])
    measured = [row["step"] + 1 for row in rows if "validation_loss" in row]
    assert len(rows) == 10 and measured == [2, 3, 4, 6, 8, 9, 10]
    assert saved[:-1] == [(f"epoch-{epoch}.pt", 2 * epoch - 1) for epoch in range(1, 6)]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_takes_its_share_of_matrices_alone(optimizer):
    """Without a gradient nothing else changes them."""
    model = tiny.make(GPT, 50)
    config = SimpleNamespace(optimizer=optimizer, lr=0.1, muon_lr=0.2, shard=False, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    pretrain.make_optimizer(model, config).step()
    for name, p in model.named_parameters():
        rate = 0.2 if optimizer == "muon" and ".h." in name else 0.1
        torch.testing.assert_close(p.detach(), before[name] * (1 - rate * 0.5 if p.ndim > 1 else 1.0))
