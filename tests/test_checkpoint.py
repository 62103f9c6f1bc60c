"""Models and states on disk are read as data, are whole, and belong to one run."""

import os
import pickle
from dataclasses import dataclass

import pytest
import torch

import tiny
from minirlhf import checkpoint, distributed, files
from minirlhf import tokenizer as tokenizers
from minirlhf.config import InputError
from minirlhf.files import Metrics, read_metrics
from minirlhf.model import GPT, RewardModel


@dataclass(frozen=True)
class Settings:
    out: str
    seed: int = 0
    resume: bool = False


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_a_model_comes_back_bit_for_bit_with_its_tokenizer_beside_it(kind, tokenizer, tmp_path):
    model = tiny.make(kind, tokenizer.n_vocab)
    checkpoint.save_model(tmp_path / "model.pt", model, tokenizer)
    loaded = checkpoint.load_model(tmp_path, kind, tokenizer)
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert (tmp_path / "tokenizer.tiktoken").exists()


def test_a_kill_between_the_tokenizers_two_files_does_not_leave_another_tokenizer(tokenizer, tmp_path, monkeypatch):
    model, write, written = tiny.make(GPT, tokenizer.n_vocab), tokenizers.write_atomically, []

    def killed(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(tokenizers, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_model(tmp_path / "model.pt", model, tokenizer)
    monkeypatch.setattr(tokenizers, "write_atomically", write)
    checkpoint.save_model(tmp_path / "model.pt", model, tokenizer)
    assert tokenizers.load(tmp_path).hash == tokenizer.hash


def test_a_gpt_makes_a_reward_model_with_its_trunk_and_a_fresh_head(world, tokenizer):
    gpt = checkpoint.load_model(world.gpt, GPT, tokenizer)
    torch.manual_seed(0)
    first = checkpoint.load_model(world.gpt, RewardModel, tokenizer, new_head=True)
    second = checkpoint.load_model(world.gpt, RewardModel, tokenizer, new_head=True)
    assert same_weights(first.transformer, gpt.transformer)
    assert same_weights(second.transformer, gpt.transformer)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_dropout_is_the_runs_own_and_not_the_checkpoints(tokenizer, tmp_path):
    checkpoint.save_model(tmp_path / "model.pt", tiny.make(GPT, tokenizer.n_vocab, dropout=0.3), tokenizer)
    assert checkpoint.load_model(tmp_path, GPT).config.dropout == 0
    assert checkpoint.load_model(tmp_path, GPT, dropout=0.2).config.dropout == 0.2


def test_a_checkpoint_of_another_kind_is_refused(world, tokenizer):
    with pytest.raises(InputError, match="is a reward model's checkpoint, a gpt's is needed"):
        checkpoint.load_model(world.rm, GPT, tokenizer)
    with pytest.raises(InputError, match="is a gpt's checkpoint, a reward model's is needed"):
        checkpoint.load_model(world.gpt, RewardModel, tokenizer)


def test_a_checkpoint_of_another_tokenizer_is_refused(world):
    with pytest.raises(InputError, match="its tokenizer is not the one in use"):
        checkpoint.load_model(world.gpt, GPT, tiny.make_tokenizer(vocab_size=280))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/model.pt: no checkpoint there"):
        checkpoint.load_model(tmp_path, GPT)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named(world, tmp_path, share):
    whole = (world.folder / "gpt" / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="model.pt: truncated, or not a checkpoint"):
        checkpoint.load_model(tmp_path, GPT)


@pytest.mark.parametrize("value", [[1, 2], {"weights": torch.zeros(1)}])
def test_somebody_elses_checkpoint_is_named(tmp_path, value):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a checkpoint of these scripts"):
        checkpoint.load_model(tmp_path, GPT)


class Intruder:
    """A pickle that makes a file when it is loaded as code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_is_never_run_as_code(tmp_path, save):
    save({"model": Intruder(tmp_path / "intruded")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load_model(tmp_path, GPT)
    assert not (tmp_path / "intruded").exists()


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone_and_an_unfinished_one_starts_again(tmp_path, capsys):
    settings = Settings(str(tmp_path / "run"))
    assert checkpoint.start_run(settings)
    Metrics(settings.out).write(step=0)
    assert checkpoint.start_run(settings)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    (tmp_path / "run" / "model.pt").write_bytes(b"done")
    assert not checkpoint.start_run(settings)
    assert "finished already" in capsys.readouterr().out


def test_a_run_that_left_a_state_is_not_thrown_away_unasked(tmp_path):
    settings = Settings(str(tmp_path / "run"))
    checkpoint.start_run(settings)
    Metrics(settings.out).write(step=0)
    checkpoint.save_state(settings.out, 1, {})
    with pytest.raises(InputError, match="stopped after a checkpoint; add --resume"):
        checkpoint.start_run(settings)
    assert read_metrics(settings.out) == [{"step": 0}]
    assert checkpoint.start_run(Settings(settings.out, resume=True))
    assert read_metrics(settings.out) == [{"step": 0}]


def test_resume_does_not_make_another_run_this_one(tmp_path):
    checkpoint.start_run(Settings(str(tmp_path / "run")))
    with pytest.raises(InputError, match="seed was 0, now 1"):
        checkpoint.start_run(Settings(str(tmp_path / "run"), seed=1, resume=True))


def test_what_a_killed_process_half_wrote_is_swept_away(tmp_path):
    """Killed in its very first write, and again while it wrote others."""
    run, settings = tmp_path / "run", Settings(str(tmp_path / "run"))
    run.mkdir()
    for names in ([".config.json.x_y1z2.half"], [".state-00000001.pt.a_b.half", ".tokenizer.tiktoken.c_d.half"]):
        for name in names:
            (run / name).write_bytes(b"ha")
        checkpoint.start_run(settings)
        assert [path.name for path in run.iterdir()] == ["config.json"]


# --- states -------------------------------------------------------------------------------------------------


class Learner:
    """A model and its optimizer, which take a step towards `target`."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.parts = {"model": self.model, "optimizer": self.optimizer}

    def step(self, target=1.0):
        self.model(torch.ones(1, 2)).sub(target).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self


@pytest.fixture
def three(tmp_path):
    """A folder with the states after 2, 4 and 6 steps, saved in turn."""
    learner, metrics = Learner(), Metrics(tmp_path)
    for step in range(6):
        learner.step()
        metrics.write(step=step)
        if step % 2:
            checkpoint.save_state(tmp_path, step + 1, learner.parts)
    metrics.write(step=6)
    return tmp_path


def after(steps):
    learner = Learner()
    for _ in range(steps):
        learner.step()
    return learner


def load(folder, seed=9):
    learner = Learner(seed)
    return checkpoint.load_state(folder, learner.parts, Metrics(folder)), learner


def test_the_newest_two_states_are_kept(three):
    assert [path.name for path in sorted(three.glob("*.pt"))] == ["state-00000004.pt", "state-00000006.pt"]


def test_a_run_goes_on_from_the_newest_state_bit_by_bit(three):
    step, learner = load(three)
    assert step == 6 and same_weights(learner.model, after(6).model)
    assert same_weights(learner.step(3.0).model, after(6).step(3.0).model)  # Adam's moments are back too
    assert [row["step"] for row in read_metrics(three)] == [0, 1, 2, 3, 4, 5]


def test_where_there_is_no_state_nothing_changes(tmp_path):
    Metrics(tmp_path).write(step=0)
    step, learner = load(tmp_path, seed=0)
    assert step == 0 and same_weights(learner.model, Learner().model)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_state_is_named_and_the_one_before_it_used(three, share, capsys):
    newest = three / "state-00000006.pt"
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    step, learner = load(three)
    assert step == 4 and same_weights(learner.model, after(4).model)
    assert "state-00000006.pt: truncated or corrupt" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(three)] == [0, 1, 2, 3]


def test_one_wrong_bit_in_a_state_is_noticed(three, capsys):
    newest = three / "state-00000006.pt"
    content, weight = newest.read_bytes(), after(6).model.bias.detach().numpy().tobytes()
    at = content.index(weight)
    newest.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert load(three)[0] == 4
    assert "state-00000006.pt: truncated or corrupt" in capsys.readouterr().out


def test_a_state_of_another_number_of_processes_is_refused(three, monkeypatch):
    monkeypatch.setattr(checkpoint, "world", lambda: 2)
    with pytest.raises(InputError, match="state-00000006.pt: made by 1 processes, and there are 2 now; go on with 1"):
        load(three)
    assert len(read_metrics(three)) == 7


def test_a_state_is_never_run_as_code(three):
    torch.save({"step": Intruder(three / "intruded"), "world": 1}, three / "state-00000008.pt")
    with pytest.raises(InputError, match="state-00000008.pt: truncated, or not a checkpoint"):
        load(three)
    assert not (three / "intruded").exists()


def test_a_finished_runs_states_are_dropped(three):
    checkpoint.drop_states(three)
    assert not list(three.glob("*.pt"))


def test_only_rank_0_writes(tmp_path, tokenizer, monkeypatch):
    for module in (checkpoint, distributed):
        monkeypatch.setattr(module, "rank", lambda: 1)
    checkpoint.save_state(tmp_path, 1, {})
    checkpoint.save_model(tmp_path / "model.pt", tiny.make(GPT, tokenizer.n_vocab), tokenizer)
    monkeypatch.setattr(files, "rank", lambda: 1)
    Metrics(tmp_path).write(step=0)
    assert not list(tmp_path.iterdir())
