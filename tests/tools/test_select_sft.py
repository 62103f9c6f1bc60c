"""The SFT epoch is chosen by the reward model's scores of its samples, not by validation loss."""

import numpy as np
import pytest
import torch

import tiny
import train_ppo
from minirlhf import rollout
from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.support import records
from minirlhf.support.checkpoint import load_model, save_model
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json
from tiny import to_flags
from tools import select_sft
from train_sft import validation_loss

LIMIT = 4


def says(token, n_vocab, certainty, **shape):
    """A GPT that almost always samples `token`."""
    model = GPT(GPTConfig(n_vocab, **dict(n_ctx=64, n_layer=1, n_head=1, n_embd=16) | shape)).eval()
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wte.weight[token, 0] = certainty
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias[0] = 1.0
    return model


def likes(token, n_vocab):
    """A reward model whose score is high if the last token is `token`."""
    model = RewardModel(GPTConfig(n_vocab, n_ctx=64, n_layer=1, n_head=1, n_embd=16)).eval()
    with torch.no_grad():
        for part in (model.transformer.h[0].attn, model.transformer.h[0].mlp):
            part.c_proj.weight.zero_()  # the block is the identity
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight[:, 0] = -0.1
        model.transformer.wte.weight[token, 0] = 0.5
        model.head.weight.zero_()
        model.head.weight[0, 0] = 1.0
    return model


@pytest.fixture
def settings(tmp_path, tokenizer, world):
    """Ten epochs, of which the ninth samples the token that the reward model scores highest."""
    good, bad = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    for epoch in range(1, 11):
        model = says(good if epoch == 9 else bad, tokenizer.n_vocab, certainty=12)
        save_model(tmp_path / "sft" / f"epoch-{epoch}.pt", model, tokenizer)
    save_model(tmp_path / "sft" / "model.pt", model, tokenizer)
    save_model(tmp_path / "rm" / "model.pt", likes(good, tokenizer.n_vocab), tokenizer)
    return dict(sft=tmp_path / "sft", reward_model=tmp_path / "rm", prompts=(world.prompts,),
                out=tmp_path / "best", max_response=LIMIT)  # fmt: skip


def test_only_numbered_epochs_are_compared(world, tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "epoch-best.pt").write_bytes(b"")
    words = ["--sft", tmp_path / "sft", "--reward_model", world.rm, "--prompts", world.prompts, "--out", tmp_path / "o"]
    with pytest.raises(InputError):
        tiny.run(select_sft, words)


def test_a_run_that_was_stopped_has_no_best_epoch_yet(settings):
    stopped = pytest.raises(InputError, match="this run has not ended; let it go on with --resume first")
    (settings["sft"] / "state-00000004.pt").write_bytes(b"")
    with stopped:
        tiny.run(select_sft, to_flags(settings))
    (settings["sft"] / "state-00000004.pt").unlink()
    (settings["sft"] / "model.pt").unlink()  # before the first state
    with stopped:
        tiny.run(select_sft, to_flags(settings))


def test_the_epoch_of_the_highest_reward_is_chosen_where_the_validation_loss_disagrees(settings, tokenizer, capsys):
    tiny.run(select_sft, to_flags(settings))
    chosen, ninth = load_model(settings["out"], GPT), load_model(settings["sft"] / "epoch-9.pt", GPT)
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), ninth.parameters()))
    validation = [records.encode_response("name a dog\n", "bbb", tokenizer)]
    losses = [
        validation_loss(load_model(settings["sft"] / f"epoch-{i}.pt", GPT), validation, tokenizer.pad) for i in (8, 9)
    ]
    assert losses[0] < losses[1]
    assert "epoch-9.pt" in capsys.readouterr().out


def test_the_selection_is_written_with_every_epochs_mean(settings):
    tiny.run(select_sft, to_flags(settings))
    selection = read_json(settings["out"] / "selection.json")
    assert selection["chosen"] == "epoch-9.pt"
    assert list(selection["mean_rm_score"]) == [f"epoch-{i}.pt" for i in range(1, 11)]


def test_the_mean_is_over_a_response_to_each_prompt(settings, tokenizer, monkeypatch):
    """By a forward of the reward model over each sampled prompt + response alone."""
    samples, sample_responses = [], select_sft.sample_responses

    def spy(*args):
        for part, responses in sample_responses(*args):
            samples.append(responses)
            yield part, responses

    monkeypatch.setattr(select_sft, "sample_responses", spy)
    reward_model = tiny.make(RewardModel, tokenizer.n_vocab)
    save_model(settings["sft"] / "epoch-99.pt", tiny.make(GPT, tokenizer.n_vocab), tokenizer)
    config = select_sft.Config(**settings)
    prompts = [tokenizer.encode(record["prompt"]) for record in tiny.PROMPTS]
    mean = select_sft.mean_score(settings["sft"] / "epoch-99.pt", reward_model, prompts, tokenizer, config)
    scores = [
        reward_model(row[None, :length])[0, -1].item()
        for responses in samples
        for row, length in zip(responses.tokens, responses.lengths)
    ]
    assert len(scores) == len(prompts)
    assert mean == pytest.approx(np.mean(scores), abs=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_all_epochs_are_sampled_with_the_same_noise_which_is_not_that_of_ppo(settings, world, monkeypatch):
    drawn, draw = {"select": [], "ppo": []}, select_sft.uniforms

    def spy(name):
        return lambda *args: drawn[name].append(draw(*args)) or drawn[name][-1]

    monkeypatch.setattr(select_sft, "uniforms", spy("select"))
    monkeypatch.setattr(rollout, "uniforms", spy("ppo"))
    tiny.run(select_sft, to_flags(settings))
    flags = dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), ptx_coef=0, max_response=LIMIT)
    tiny.run(train_ppo, to_flags(flags | dict(episodes=8, batch_size=4, minibatch_size=4, out=settings["out"] / "ppo")))
    assert len(drawn["select"]) == 10 and len(drawn["ppo"]) == 3
    assert all(torch.equal(noise, drawn["select"][0]) for noise in drawn["select"])
    assert not any(torch.equal(noise, drawn["select"][0]) for noise in drawn["ppo"])


def test_of_equal_epochs_the_earliest_is_chosen():
    assert select_sft.select({"epoch-1.pt": 0.5, "epoch-2.pt": 0.7, "epoch-3.pt": 0.7}) == "epoch-2.pt"


def test_a_finished_selection_is_left_alone(settings, capsys):
    tiny.run(select_sft, to_flags(settings))
    before = (settings["out"] / "model.pt").stat().st_mtime_ns
    tiny.run(select_sft, to_flags(settings))
    assert (settings["out"] / "model.pt").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


def test_prompts_must_fit_the_policys_context_too(settings, tokenizer, capsys):
    """The longest prompt fits the reward model's 64 tokens and not the policy's 14: it is dropped, with a message."""
    lengths = [len(tokenizer.encode(record["prompt"])) for record in tiny.PROMPTS]
    fit = sum(n + LIMIT <= 14 for n in lengths)
    assert 0 < fit < len(lengths)
    for path in settings["sft"].glob("*.pt"):
        save_model(path, says(5, tokenizer.n_vocab, 12, n_ctx=14), tokenizer)
    tiny.run(select_sft, to_flags(settings))
    assert f"dropped {len(lengths) - fit} of {len(lengths)} prompts" in capsys.readouterr().out
