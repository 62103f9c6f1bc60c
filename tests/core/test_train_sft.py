"""Step 1: which tokens are learned, how fast, what is mixed in, and what a run leaves behind."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
import train_sft
from minirlhf.data import collate
from minirlhf.losses import sft_loss
from minirlhf.model import GPT
from minirlhf.rollout import response_logps
from minirlhf.support import records
from minirlhf.support.checkpoint import load_model
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics
from minirlhf.support.records import Sequence
from tiny import to_flags

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def settings(world, tmp_path):
    return dict(data=(world.demonstrations,), init=world.gpt, out=tmp_path / "sft", epochs=3, batch_size=2,
                lr=1e-2, dropout=0.1)  # fmt: skip


def train(settings, **changes):
    tiny.run(train_sft, to_flags(settings | changes))


def weights(path):
    return load_model(path, GPT).state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# --- which tokens are learned -------------------------------------------------------------------------------


class PositionTable(torch.nn.Module):
    """Logits that depend on the position alone: a changed token is a changed label and nothing else."""

    def __init__(self, length, n_vocab):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(length, n_vocab, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens, at):
        return self.table[at]


def loss_of(tokens, start, model):
    return loss_of_all([Sequence(np.array(tokens), start)], model, pad=30)


def loss_of_all(sequences, model, pad):
    responses = collate(sequences, pad)
    return sft_loss(response_logps(model, responses), responses.mask)


@pytest.mark.parametrize(("position", "changes"), [(0, False), (1, False), (2, False), (3, True), (4, True), (5, True)])
def test_the_label_of_a_prompt_token_changes_no_loss_and_that_of_a_response_token_does(position, changes):
    """Positions 0 to 2 are the prompt, 5 is end-of-text."""
    model, tokens = PositionTable(8, 30), [3, 4, 5, 6, 7, 29]
    other = [*tokens]
    other[position] = 11
    assert (loss_of(other, 3, model) != loss_of(tokens, 3, model)).item() == changes


def test_after_training_a_model_ends_where_its_demonstrations_do(settings, tokenizer):
    """End-of-text is learned like any other token of the response."""
    train(settings, epochs=15, lr=5e-2, dropout=0.0)
    model = load_model(settings["out"], GPT).eval()
    for sequence in records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64):
        before_the_end = torch.tensor(sequence.tokens[None, :-1]).long()
        assert model(before_the_end)[0, -1].argmax() == tokenizer.eos


def test_the_logged_loss_is_the_mean_of_each_demonstrations_cross_entropy(settings, tokenizer):
    """The first step sees the initial weights: by torch's own cross-entropy, a response at a time."""
    train(settings, epochs=1, batch_size=4, dropout=0.0)
    model, losses = load_model(settings["init"], GPT).eval(), []
    for sequence in records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64):
        tokens = torch.tensor(sequence.tokens).long()
        logits = model(tokens[None])[0, sequence.start - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[sequence.start :]).item())
    assert read_metrics(settings["out"])[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_accumulated_micro_batches_train_the_model_that_whole_batches_do(settings, tmp_path):
    train(settings, batch_size=4, dropout=0.0, epochs=1)
    train(settings, batch_size=4, dropout=0.0, epochs=1, max_tokens=1, out=tmp_path / "split")
    losses = [read_metrics(out)[0]["loss"] for out in (settings["out"], tmp_path / "split")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- how fast -----------------------------------------------------------------------------------------------


@pytest.fixture
def at_each_step(monkeypatch):
    """Has `look(model, optimizer)` called before each step of the optimizer."""

    def install(look):
        loop = train_sft.train

        def spy(config, model, optimizer, *args):
            optimizer.register_step_pre_hook(lambda optimizer, *_: look(model, optimizer))
            return loop(config, model, optimizer, *args)

        monkeypatch.setattr(train_sft, "train", spy)

    return install


def test_the_learning_rate_falls_from_its_peak_without_warmup_to_a_tenth(settings, at_each_step):
    """As the optimizer has it at each of its steps, and as it is logged."""
    rates = []
    at_each_step(lambda model, optimizer: rates.append(optimizer.param_groups[0]["lr"]))
    train(settings, epochs=4)
    assert len(rates) == 8
    assert (rates[0], rates[-1]) == pytest.approx((1e-2, 1e-3))
    assert rates == sorted(rates, reverse=True)
    assert rates == pytest.approx([row["lr"] for row in read_metrics(settings["out"])])


def test_adam_has_the_papers_betas_and_every_parameter(settings, at_each_step):
    seen = []
    at_each_step(lambda model, optimizer: seen.append((model, optimizer)))
    train(settings, epochs=1)
    for model, adam in seen:
        assert isinstance(adam, torch.optim.Adam) and adam.defaults["betas"] == (0.9, 0.95)
        assert {id(p) for p in adam.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_gradients_are_clipped_before_the_step(settings, at_each_step):
    norms = []
    at_each_step(lambda model, _: norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()))
    train(settings, epochs=1, max_grad_norm=0.01)
    assert norms == pytest.approx([0.01] * 2, rel=1e-3)


def test_a_steps_gradient_is_its_own(settings, at_each_step):
    """One batch again and again, and weights that hardly move: the same gradient each time, not their sum."""
    norms = []
    at_each_step(lambda model, _: norms.append(model.transformer.ln_f.weight.grad.norm().item()))
    train(settings, batch_size=4, lr=1e-9, max_grad_norm=1e9, dropout=0.0)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def test_dropout_is_on_in_training_and_off_in_what_is_measured(settings, monkeypatch):
    modes = []
    for name in ("response_logps", "validation_loss"):
        original = getattr(train_sft, name)

        def spy(model, *args, name=name, original=original):
            result = original(model, *args)
            modes.append((name, model.training, model.transformer.dropout.p))
            return result

        monkeypatch.setattr(train_sft, name, spy)
    train(settings, epochs=2, batch_size=4, validation=settings["data"])
    assert modes == [("response_logps", True, 0.1), ("validation_loss", False, 0.1)] * 2


# --- what is mixed in ---------------------------------------------------------------------------------------


def mixed_batches(demonstrations, documents, **changes):
    """The plan's (epoch, batch): a demonstration's number is its own, a document's follows theirs."""
    config = train_sft.Config(data=(), init="", out="", batch_size=20, **changes)
    sequences = SimpleNamespace(lengths=np.array([3 + i % 5 for i in range(demonstrations)]))
    steps = train_sft.plan(sequences, config, range(documents), documents_in_batch=2)
    return [(epoch, [int(row) for row in rows]) for epoch, rows, _ in steps]


def test_every_epoch_has_each_demonstration_once_with_a_tenth_of_each_batch_documents():
    for epoch in (1, 2):
        batches = [batch for e, batch in mixed_batches(90, 7, epochs=2) if e == epoch]
        assert sorted(n for batch in batches for n in batch if n < 90) == list(range(90))
        assert [sum(n >= 90 for n in batch) for batch in batches] == [2] * 5
        assert [len(batch) for batch in batches] == [20] * 5


def test_each_document_comes_once_before_any_comes_twice():
    documents = [n for _, batch in mixed_batches(90, 7, epochs=2) for n in batch if n >= 90]
    assert sorted(documents[:7]) == sorted(documents[7:14]) == list(range(90, 97))


def test_demonstrations_and_documents_come_in_an_order_of_each_seed_and_round():
    def order(seed):
        numbers = [n for _, batch in mixed_batches(90, 30, epochs=6, seed=seed) for n in batch]
        documents = [n for n in numbers if n >= 90]
        assert len(documents) == 60
        return [n for n in numbers if n < 90], documents[:30], documents[30:]

    assert order(0) == order(0)
    for one, other in zip(order(0), order(1)):
        assert one != other
    assert len({tuple(documents) for documents in (*order(0)[1:], range(90, 120))}) == 3


@pytest.mark.parametrize(("batch_size", "documents"), [(20, 2), (10, 1), (4, 1)])
def test_a_run_mixes_at_least_one_document_into_each_batch(settings, world, monkeypatch, batch_size, documents):
    """A tenth of 4 is rounded up to one: documents that are asked for are never left out in silence."""
    seen, plan = [], train_sft.plan

    def spy(*args):
        for epoch, rows, last in plan(*args):
            seen.append(sum(row >= len(args[0]) for row in rows))
            yield epoch, rows, last

    monkeypatch.setattr(train_sft, "plan", spy)
    train(settings, documents=(world.documents,), batch_size=batch_size)
    assert set(seen) == {documents}


def test_measurements_within_an_epoch_need_something_to_measure_on(settings):
    with pytest.raises(InputError, match="--validate_every"):
        train(settings, validate_every=3)


def test_a_share_that_leaves_no_room_for_demonstrations_is_refused(settings, world):
    with pytest.raises(InputError, match="--document_share 0.9 of --batch_size 2 leaves no place for demonstrations"):
        train(settings, documents=(world.documents,), batch_size=2, document_share=0.9)


# --- what a run leaves --------------------------------------------------------------------------------------


def test_each_epoch_is_kept_and_the_last_is_the_model(settings):
    train(settings)
    assert sorted(p.name for p in settings["out"].glob("*.pt")) == [
        "epoch-1.pt",
        "epoch-2.pt",
        "epoch-3.pt",
        "model.pt",
    ]
    epochs = [weights(settings["out"] / f"epoch-{i}.pt") for i in (1, 2, 3)]
    assert same(epochs[2], weights(settings["out"]))
    assert not same(epochs[0], epochs[1])


def test_the_validation_loss_is_logged_once_an_epoch(settings, tmp_path, tokenizer):
    """That of the epoch's checkpoint on the validation file."""
    others = [{"prompt": "name a kite\n", "response": "a red one."}]
    path = tiny.write_lines(tmp_path / "validation.jsonl", others)
    train(settings, validation=(path,))
    measured = [row["validation_loss"] for row in read_metrics(settings["out"]) if "validation_loss" in row]
    sequences = records.encode_demonstrations(others, tokenizer, 64)
    epochs = [load_model(settings["out"] / f"epoch-{i}.pt", GPT).eval() for i in (1, 2, 3)]
    expected = [loss_of_all(sequences, model, tokenizer.pad).item() for model in epochs]
    assert measured == pytest.approx(expected, rel=1e-5)


def test_the_validation_loss_is_logged_within_an_epoch_too(settings, world):
    train(settings, validation=(world.demonstrations,), validate_every=1)
    rows = read_metrics(settings["out"])
    assert len(rows) > 3 and all("validation_loss" in row for row in rows)


def test_a_finished_run_is_left_alone(settings, capsys):
    train(settings)
    before = {path: path.stat().st_mtime_ns for path in settings["out"].glob("*.pt")}
    train(settings)
    assert {path: path.stat().st_mtime_ns for path in settings["out"].glob("*.pt")} == before
    assert "finished already" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_model_and_another_gives_another(settings, tmp_path):
    """Whatever the process drew before."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(7)
        train(settings, out=tmp_path / name, seed=seed, epochs=1)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_a_loss_that_is_nan_stops_the_run_and_names_step_and_last_good_checkpoint(settings, monkeypatch):
    """Two steps an epoch: the third, the first of epoch 2, fails."""
    calls, loss = [], train_sft.sft_loss

    def broken(*args, **kwargs):
        calls.append(1)
        return loss(*args, **kwargs) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(train_sft, "sft_loss", broken)
    with pytest.raises(InputError, match=r"step 2: loss is nan; last good checkpoint: .*epoch-1.pt"):
        train(settings)
    assert not (settings["out"] / "model.pt").exists()
    assert all(p.isfinite().all() for p in weights(settings["out"] / "epoch-1.pt").values())


def test_an_absurd_learning_rate_ends_in_that_message_too(settings):
    with pytest.raises(InputError, match=r"step \d+: loss is .*last good checkpoint"):
        train(settings, lr=1e15, epochs=5)


def test_every_step_has_a_dropout_mask_of_its_own(settings, tmp_path, monkeypatch):
    seeds, seed_torch = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or seed_torch(seed))
    for seed in (0, 1):
        train(settings, seed=seed, out=tmp_path / str(seed))
    large = [seed for seed in seeds if seed > 1]  # 0 and 1 are those of the weights
    assert len(set(large)) == len(large) == 2 * 6
