"""What is on disk is whole or absent, is read as data, and belongs to one run."""

import os
import pickle
from dataclasses import dataclass

import pytest
import torch

import tiny
from minirlhf import files
from minirlhf.config import InputError
from minirlhf.model import GPT, RewardModel


@dataclass(frozen=True)
class Settings:
    out: str
    seed: int = 0
    data: tuple = ("a",)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- whole or not at all ------------------------------------------------------------------------------------


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    files.write_atomically(tmp_path / "a" / "b.bin", b"12")
    assert snapshot(tmp_path) == {tmp_path / "a" / "b.bin": b"12"}


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_atomically(tmp_path / "x.pt", b"old")

    def half(file):
        file.write(b"ne")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        files.write_atomically(tmp_path / "x.pt", half)
    assert snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_reader_who_has_opened_the_old_file_reads_the_whole_old_file(tmp_path):
    files.write_atomically(tmp_path / "x.pt", b"old")
    with open(tmp_path / "x.pt", "rb") as reader:
        files.write_atomically(tmp_path / "x.pt", b"new and longer")
        assert reader.read() == b"old"
    assert (tmp_path / "x.pt").read_bytes() == b"new and longer"


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_atomically(tmp_path / "x.pt", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="x.pt: cannot be written .No space left on device"):
        files.write_atomically(tmp_path / "x.pt", b"new")
    assert snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_atomically(tmp_path / "file" / "x.json", b"1")


def test_json_comes_back(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": [1, None, "ü"]})
    assert files.read_json(tmp_path / "x.json") == {"a": [1, None, "ü"]}


@pytest.mark.parametrize("content", [None, "{"])
def test_json_that_is_missing_or_broken_is_named(tmp_path, content):
    if content:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="x.json: missing or not JSON"):
        files.read_json(tmp_path / "x.json")


# --- checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_a_model_comes_back_bit_for_bit_with_its_tokenizer_beside_it(kind, tokenizer, tmp_path):
    model = tiny.make(kind, tokenizer.n_vocab)
    files.save_model(tmp_path / "model.pt", model, tokenizer)
    loaded = files.load_model(tmp_path, kind, tokenizer)
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert (tmp_path / "tokenizer.tiktoken").exists()


def test_a_gpt_makes_a_reward_model_with_its_trunk_and_a_fresh_head(world, tokenizer):
    gpt = files.load_model(world.gpt, GPT, tokenizer)
    torch.manual_seed(0)
    first = files.load_model(world.gpt, RewardModel, tokenizer)
    second = files.load_model(world.gpt, RewardModel, tokenizer)
    assert same_weights(first.transformer, gpt.transformer)
    assert same_weights(second.transformer, gpt.transformer)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_dropout_is_the_runs_own_and_not_the_checkpoints(tokenizer, tmp_path):
    files.save_model(tmp_path / "model.pt", tiny.make(GPT, tokenizer.n_vocab, dropout=0.3), tokenizer)
    assert files.load_model(tmp_path, GPT).config.dropout == 0
    assert files.load_model(tmp_path, GPT, dropout=0.2).config.dropout == 0.2


def test_a_checkpoint_of_another_kind_is_refused(world, tokenizer):
    with pytest.raises(InputError, match="is a reward model's checkpoint, a gpt's is needed"):
        files.load_model(world.rm, GPT, tokenizer)


def test_a_checkpoint_of_another_tokenizer_is_refused(world):
    with pytest.raises(InputError, match="its tokenizer is not the one in use"):
        files.load_model(world.gpt, GPT, tiny.make_tokenizer(vocab_size=280))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/model.pt: no checkpoint there"):
        files.load_model(tmp_path, GPT)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named(world, tmp_path, share):
    whole = (world.folder / "gpt" / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="model.pt: truncated, or not a checkpoint"):
        files.load_model(tmp_path, GPT)


@pytest.mark.parametrize("value", [[1, 2], {"weights": torch.zeros(1)}])
def test_somebody_elses_checkpoint_is_named(tmp_path, value):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a checkpoint of these scripts"):
        files.load_model(tmp_path, GPT)


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
        files.load_model(tmp_path, GPT)
    assert not (tmp_path / "intruded").exists()


# --- a folder is one run's ----------------------------------------------------------------------------------


def test_a_folder_stays_its_runs_own(tmp_path):
    out = str(tmp_path / "run")
    files.claim(Settings(out))
    files.claim(Settings(out))
    assert files.read_json(f"{out}/config.json") == {"out": out, "seed": 0, "data": ["a"]}


def test_a_folder_of_another_run_is_refused_with_the_flags_that_differ(tmp_path):
    files.claim(Settings(str(tmp_path)))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="holds another run .--seed was 0, now 1.; choose another --out"):
        files.claim(Settings(str(tmp_path), seed=1))
    assert snapshot(tmp_path) == before


def test_flags_that_do_not_matter_may_differ(tmp_path):
    files.claim(Settings(str(tmp_path)), ignore=("seed",))
    files.claim(Settings(str(tmp_path), seed=1), ignore=("seed",))


@pytest.mark.parametrize(
    "make",
    [lambda path: path.mkdir() or (path / "thesis.txt").write_text("x"), lambda path: path.write_text("")],
)
def test_a_folder_or_file_that_is_no_runs_is_refused(tmp_path, make):
    make(tmp_path / "mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="is not empty and no run's|a file is in the way"):
        files.claim(Settings(str(tmp_path / "mine")))
    assert snapshot(tmp_path) == before


def test_a_finished_run_is_left_alone_and_an_unfinished_one_starts_again(tmp_path, capsys):
    settings = Settings(str(tmp_path / "run"))
    assert files.start_run(settings)
    files.Metrics(settings.out).write(step=0)
    assert files.start_run(settings)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    (tmp_path / "run" / "model.pt").write_bytes(b"done")
    assert not files.start_run(settings)
    assert "finished already" in capsys.readouterr().out


# --- metrics ------------------------------------------------------------------------------------------------


def test_metrics_come_back_row_by_row(tmp_path):
    metrics = files.Metrics(tmp_path)
    metrics.write(step=0, loss=1.5)
    metrics.write(step=1, loss=None)
    assert files.read_metrics(tmp_path) == [{"step": 0, "loss": 1.5}, {"step": 1, "loss": None}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_last_good_checkpoint(tmp_path, value):
    with pytest.raises(InputError, match=r"step 7: loss is .*; last good checkpoint: epoch-2.pt"):
        files.Metrics(tmp_path, good="epoch-2.pt").check(7, other=1.0, loss=value)
