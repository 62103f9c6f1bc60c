"""Checkpoints are read as data and never as code, are complete, and have their tokenizer beside them."""

import pickle
from pathlib import Path

import pytest
import torch

import tiny
from minirlhf.model import GPT, RewardModel
from minirlhf.support import checkpoint
from minirlhf.support import tokenizer as tokenizers
from minirlhf.support.errors import InputError


@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_a_model_comes_back_bit_for_bit_with_its_tokenizer_beside_it(kind, tokenizer, tmp_path):
    model = tiny.make(kind, tokenizer.n_vocab)
    checkpoint.save_model(tmp_path / "model.pt", model, tokenizer)
    loaded = checkpoint.load_model(tmp_path, kind, tokenizer)
    assert tiny.same_weights(loaded, model)
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
    assert tiny.same_weights(first.transformer, gpt.transformer)
    assert tiny.same_weights(second.transformer, gpt.transformer)
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
    content = (world.folder / "gpt" / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="model.pt: truncated, or not a checkpoint"):
        checkpoint.load_model(tmp_path, GPT)


@pytest.mark.parametrize("value", [[1, 2], {"weights": torch.zeros(1)}])
def test_a_file_that_is_no_checkpoint_of_ours_is_named(tmp_path, value):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a checkpoint of these scripts"):
        checkpoint.load_model(tmp_path, GPT)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_is_never_run_as_code(tmp_path, save):
    save({"model": tiny.Intruder(tmp_path / "intruded")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load_model(tmp_path, GPT)
    assert not (tmp_path / "intruded").exists()


def test_only_rank_0_writes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoint, "rank", lambda: 1)
    checkpoint.save_model(tmp_path / "model.pt", tiny.make(GPT, tokenizer.n_vocab), tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_in_the_weights_is_found(world, tmp_path):
    """torch.load does not look at a file's checksums."""
    content = bytearray((Path(world.gpt) / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match="model.pt: truncated, or not a checkpoint"):
        checkpoint.read_checkpoint(tmp_path)


def test_a_truncated_tokenizer_is_written_again_with_the_model(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.tiktoken"
    path.write_bytes(path.read_bytes()[:1200])
    checkpoint.save_model(tmp_path / "model.pt", tiny.make(GPT, tokenizer.n_vocab), tokenizer)
    assert checkpoint.load_tokenizer(tmp_path).hash == tokenizer.hash


def test_a_run_that_was_stopped_is_named_as_one(tmp_path):
    (tmp_path / "state-00000003.pt").touch()
    with pytest.raises(InputError, match="this run has not ended; let it go on with --resume first"):
        checkpoint.load_tokenizer(tmp_path)
