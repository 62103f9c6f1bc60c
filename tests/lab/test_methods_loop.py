"""The loop of methods without a value network: two processes, stopped and continued; best-of-n; the verifier."""

import dataclasses
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ranks
import tiny
from data.town.prompts import draw_record
from lab.methods import best_of_n, dpo, expert_iteration, grpo, online, online_dpo, reinforce, rloo, verifier
from minirlhf import losses
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, response_logps, response_scores, uniforms
from minirlhf.support import folder, run
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_lines
from minirlhf.support.logs import read_metrics
from tiny import to_flags

ONLINE = (reinforce, rloo, grpo, online_dpo, expert_iteration)


pytestmark = pytest.mark.usefixtures("float64")


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(world, tmp_path, no_pictures):
    return dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], episodes=48, batch_size=8,
                minibatch_size=4, lr=1e-3, max_response=8, warmup=2, ema_decay=0.9, save_every=2,
                out=str(tmp_path / "run"))  # fmt: skip


@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.__name__)
def test_on_two_processes_in_micro_batches_a_run_takes_the_steps_of_one(method, settings, tmp_path):
    """And says the same loss. Gradients are not clipped, so that their size counts, too."""
    seen, losses = [], []
    flags = settings | dict(batch_size=16, minibatch_size=8, max_grad_norm=1e9)
    for n, more in ((1, {}), (2, {"max_tokens": 40})):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        words = to_flags(flags | more | {"out": str(folder / "run")})
        (folder / "jobs.json").write_text(json.dumps([[method.__name__, words]]))
        ranks.launch(n, folder / "jobs.json")
        seen.append(torch.load(folder / "run" / "seen-0.pt"))
        losses.append([row["loss"] for row in read_metrics(folder / "run")])
    assert len(seen[0][0][0]) == 6
    torch.testing.assert_close(*seen)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.fixture
def steps(settings, monkeypatch):
    """Runs a method, and returns what was there after each step: {lr, chosen, episodes, learner, ema}."""

    def run(method, **changes):
        seen, update = [], online.update

        def watched(learner, ema, optimizer, episodes, chosen, *rest):
            loss = update(learner, ema, optimizer, episodes, chosen, *rest)
            lr = optimizer.param_groups[0]["lr"]
            seen.append(SimpleNamespace(lr=lr, chosen=chosen, episodes=episodes, learner=learner, ema=ema))
            return loss

        monkeypatch.setattr(online, "update", watched)
        tiny.run(method, to_flags(settings | changes))
        return seen

    return run


def test_the_warmup_counts_iterations_and_minibatches_share_out_the_prompts(steps):
    seen = steps(rloo, samples=2, warmup=3)
    assert [step.lr for step in seen[::2]] == pytest.approx([1e-3 * min(1, 0.1 + 0.3 * i) for i in range(6)])
    for one, other in zip(seen[::2], seen[1::2]):
        assert sorted(one.chosen + other.chosen) == [0, 1, 2, 3] and len(one.chosen) == 2
    assert any(step.chosen != sorted(step.chosen) for step in seen)


def test_ratios_are_those_of_the_policy_that_learns_to_the_one_that_sampled(settings, monkeypatch):
    update, differ = online.update, []

    def watched(learner, ema, optimizer, episodes, chosen, *rest):
        rows = [row for i in chosen for row in (2 * i, 2 * i + 1)]
        with torch.no_grad():
            wanted = (response_logps(learner, episodes.responses) - episodes.logp).exp() * episodes.responses.mask
        loss = update(learner, ema, optimizer, episodes, chosen, *rest)
        torch.testing.assert_close(episodes.ratios[rows], wanted[rows], atol=1e-4, rtol=1e-4)
        differ.append((wanted[rows] - 1.0 * episodes.responses.mask[rows]).abs().max().item())
        return loss

    monkeypatch.setattr(online, "update", watched)
    tiny.run(grpo, to_flags(settings | dict(samples=2)))
    assert max(differ[::2]) < 1e-4 < max(differ[1::2])  # 1 in the first step with a batch


def test_the_policy_and_its_average_are_saved_under_their_names(steps, settings, monkeypatch):
    decays, ema_update = [], losses.ema_update
    monkeypatch.setattr(losses, "ema_update", lambda *all: decays.append(all[2]) or ema_update(*all))
    last = steps(rloo, ema_decay=0.5)[-1]
    assert decays == [0.5] * 12
    tokenizer = load_tokenizer(settings["policy"])
    for name, network in (("policy.pt", last.learner), ("model.pt", last.ema)):
        saved = load_model(f"{settings['out']}/{name}", GPT, tokenizer)
        torch.testing.assert_close(saved.state_dict(), network.state_dict(), check_dtype=False)


def test_each_iteration_has_noise_of_its_own(settings):
    tiny.run(rloo, to_flags(settings | dict(lr=1e-12)))
    answers = {}
    for i, row in enumerate(read_lines(f"{settings['out']}/samples.jsonl")):
        answers.setdefault((i % 8, row["prompt"]), []).append(row["response"])
    again = [own for own in answers.values() if len(own) > 1]
    assert again and all(len(set(own)) > 1 for own in again)


def test_the_kl_is_in_no_reward_of_grpo(settings):
    tiny.run(grpo, to_flags(settings | dict(kl_coef=0.5)))
    for row in read_lines(f"{settings['out']}/tokens.jsonl"):
        assert sum(row["reward"]) == pytest.approx(row["score"], abs=1e-3)
    assert "objective" not in read_metrics(settings["out"])[0]


def test_answers_that_tie_are_learned_by_grpo_and_not_by_online_dpo(settings, monkeypatch):
    """GRPO's loss has the KL, too."""
    totals = {}
    for method in (grpo, online_dpo):
        loss, own = method.loss, totals.setdefault(method, [])
        monkeypatch.setattr(method, "loss", lambda *all, own=own, loss=loss: own.append(all[3]) or loss(*all))
        flags = dict(prompts=tuple(settings["prompts"]), reward_model=None, out=f"{settings['out']}-{method.__name__}")
        method.main(method.Config(**settings | flags), lambda prompts, texts: [0.0] * len(texts))
    assert set(totals[grpo]) == {4} and totals[online_dpo] == []


@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.__name__)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(method, settings, tmp_path, monkeypatch):
    tiny.run(method, to_flags(settings))
    log, other = run.Run.log, settings | {"out": str(tmp_path / "other")}

    def stop(self, *samples, **row):
        if self.step == 3:
            raise KeyboardInterrupt
        log(self, *samples, **row)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.Run, "log", stop)
        tiny.run(method, to_flags(other))
    folder.release_locks()
    tiny.run(method, to_flags(other) + ["--resume"])
    for name in ("model.pt", "policy.pt", "samples.jsonl", "tokens.jsonl"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.__name__)
def test_a_reward_of_ones_own_is_learned(method, settings):
    """More tokens are better."""
    asked = []

    def reward(prompts, texts):
        asked.append((prompts, texts))
        return [float(len(text)) for text in texts]

    config = method.Config(**settings | dict(reward_model=None, prompts=tuple(settings["prompts"]), kl_coef=0.0,
                                             episodes=960, batch_size=48, minibatch_size=12, lr=1e-2))  # fmt: skip
    if method is online_dpo:
        config = dataclasses.replace(config, kl_coef=0.1)
    method.main(config, reward)
    rows = read_metrics(settings["out"])
    scores = [row["score"] for row in rows]
    assert len(asked) == 20 and np.mean(scores[-3:]) > np.mean(scores[:3]) + 1


def test_answers_to_a_prompt_are_neighbours_and_differ(settings):
    tiny.run(rloo, to_flags(settings | dict(samples=4)))
    rows = read_lines(f"{settings['out']}/samples.jsonl")[:8]
    assert len({row["prompt"] for row in rows[:4]}) == len({row["prompt"] for row in rows[4:]}) == 1
    assert rows[0]["prompt"] != rows[4]["prompt"] and len({row["response"] for row in rows[:4]}) > 1


def test_values_are_baselines_and_returns_rewards(settings, world):
    """RLOO's advantage of each token, as tokens.jsonl has it, is the reward of the whole answer minus the mean of the
    others'."""
    tiny.run(rloo, to_flags(settings | dict(samples=4, kl_coef=0.5)))
    rows = read_lines(f"{settings['out']}/tokens.jsonl")[:4]
    total = [sum(row["reward"]) for row in rows]
    assert total[0] == pytest.approx(
        rows[0]["score"] - 0.5 * (sum(rows[0]["logp"]) - sum(rows[0]["ref_logp"])), abs=1e-3
    )
    for row, own in zip(rows, total):
        baseline = (sum(total) - own) / 3
        assert row["value"] == pytest.approx([baseline] * len(row["tokens"]), abs=1e-3)
        assert row["advantage"] == pytest.approx([own - baseline] * len(row["tokens"]), abs=1e-3)


def test_grpo_and_online_dpo_keep_the_kl_out_of_the_reward(settings, monkeypatch):
    seen = []
    monkeypatch.setattr(online, "main", lambda config, method, reward: seen.append(method.kl_in_reward))
    for method in ONLINE:
        method.main(None)
    assert dict(zip(ONLINE, seen)) == {
        reinforce: True,
        rloo: True,
        grpo: False,
        online_dpo: False,
        expert_iteration: True,
    }


def test_prompts_fit_the_shortest_context_of_all_networks(settings, monkeypatch):
    asked, load = [], online.load_model

    def shorter(folder, kind, tokenizer):
        network = load(folder, kind, tokenizer)
        network.config = dataclasses.replace(network.config, n_ctx=20 if kind is RewardModel else 30)
        return network

    monkeypatch.setattr(online, "load_model", shorter)
    monkeypatch.setattr(online.records, "load_prompts", lambda paths, tokenizer, *room: asked.append(room) or [])
    monkeypatch.setattr(online, "start_run", lambda config: False)
    tiny.run(rloo, to_flags(settings))
    assert asked == [(20, 8)]


@pytest.mark.parametrize(
    ("method", "flags", "fault"),
    [(rloo, dict(samples=1), "--samples 1"), (grpo, dict(samples=3), "--minibatch_size 4"),
     (grpo, dict(clip=0.0), "--clip"), (reinforce, dict(batch_size=1, minibatch_size=1), "--batch_size 1"),
     (online_dpo, dict(samples=1), "--samples 1"), (rloo, dict(reward_model=None), "--reward_model")],
)  # fmt: skip
def test_bad_settings_are_one_line(method, flags, fault, settings):
    with pytest.raises(InputError, match=fault):
        tiny.run(method, to_flags(settings | flags))


def test_dpo_prefers_what_was_ranked_first(world, tmp_path, no_pictures):
    flags = dict(init=world.gpt, data=(world.rankings,), epochs=20, batch_size=4, lr=3e-3, out=tmp_path / "dpo")
    tiny.run(dpo, to_flags(flags))
    rows = read_metrics(tmp_path / "dpo")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy is its own reference yet
    assert rows[-1]["loss"] < 0.2


def test_dpos_flags_reach_its_steps(world, tmp_path, no_pictures, monkeypatch):
    betas, rates, loss, step = [], [], dpo.dpo_loss, dpo.take_step
    monkeypatch.setattr(dpo, "dpo_loss", lambda *all, **more: betas.append(all[4]) or loss(*all, **more))
    lr = lambda optimizer: optimizer.param_groups[0]["lr"]  # noqa: E731
    monkeypatch.setattr(dpo, "take_step", lambda *all: rates.append(lr(all[1])) or step(*all))
    flags = dict(
        init=world.gpt, data=(world.rankings,), epochs=3, batch_size=3, beta=0.7, lr=1e-3, out=tmp_path / "dpo"
    )
    tiny.run(dpo, to_flags(flags))
    assert set(betas) == {0.7} and rates == pytest.approx([1e-3, 5.5e-4, 1e-4])


def test_dpo_reads_all_pairs_in_each_epoch_in_another_order(world, tmp_path, no_pictures, monkeypatch):
    seen, collate = [], dpo.data.collate
    monkeypatch.setattr(
        dpo.data, "collate", lambda rows, *rest: seen.append(tuple(rows[0].tokens)) or collate(rows, *rest)
    )
    flags = dict(init=world.gpt, data=(world.rankings,), epochs=4, batch_size=1, out=tmp_path / "dpo")
    tiny.run(dpo, to_flags(flags))
    n = len(seen) // 4
    epochs = [seen[i * n : (i + 1) * n] for i in range(4)]
    assert n > 1 and all(sorted(own) == sorted(epochs[0]) for own in epochs) and len(set(map(tuple, epochs))) > 1


def test_dpo_on_two_ranks_in_micro_batches_takes_the_steps_of_one_process(world, tmp_path):
    flags = dict(init=world.gpt, data=[world.rankings], epochs=3, batch_size=4, lr=1e-2, seed=3)
    for n, more in ((1, {}), (2, {"max_tokens": 30})):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        words = to_flags(flags | more | {"out": str(folder / "dpo")})
        (folder / "jobs.json").write_text(json.dumps([["lab.methods.dpo", words]]))
        ranks.launch(n, folder / "jobs.json")
    one, two = (torch.load(tmp_path / n / "dpo" / "seen-0.pt") for n in "12")
    assert len(one[0][0]) == 3
    torch.testing.assert_close(one, two)


def test_dpos_pair_is_the_best_and_the_worst():
    sequences = ["b", "worst", "best", "c"]
    assert dpo.best_and_worst(SimpleNamespace(ranks=[2, 4, 1, 3], sequences=sequences)) == ("best", "worst")
    assert dpo.best_and_worst(SimpleNamespace(ranks=[1, 1], sequences=sequences)) is None


# --- best-of-n, and the verifier -------------------------------------------------------------------------------------


def test_the_best_of_n_has_the_highest_score_and_is_written_as_a_demonstration(world, tmp_path, capsys):
    flags = dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], n=5, max_response=8)
    tiny.run(best_of_n, to_flags(flags | dict(out=tmp_path / "best.jsonl")))
    rows = read_lines(tmp_path / "best.jsonl")
    assert [row["prompt"] for row in rows] == [record["prompt"] for record in tiny.PROMPTS]
    tokenizer = load_tokenizer(world.gpt)
    policy, rm = load_model(world.gpt, GPT, tokenizer).eval(), load_model(world.rm, RewardModel, tokenizer).eval()
    prompts = [tokenizer.encode(row["prompt"]) for row in rows]
    for i in range(5):  # of each of the samples
        responses, _ = generate(policy, prompts, uniforms((0, i), 4, 8), tokenizer.eos, tokenizer.pad)
        for row, text, score in zip(rows, responses.texts(tokenizer), response_scores(rm, responses).tolist()):
            assert score < row["score"] or (score, text) == (pytest.approx(row["score"]), row["response"])
    said, mean = capsys.readouterr().out, np.mean([row["score"] for row in rows])
    assert f"mean score {mean:.2f}, of all samples " in said and "at most 0.81 nats" in said  # log 5 - 4/5
    assert float(said.split("of all samples ")[1].split()[0]) < mean
    tiny.run(best_of_n, to_flags(flags | dict(out=tmp_path / "other.jsonl", seed=1)))
    assert read_lines(tmp_path / "other.jsonl") != rows


def test_the_kl_of_best_of_n_is_the_bound_where_all_answers_differ():
    """Of N answers of equal probability, the best of n is the i-th with the probability (i/N)^n - ((i-1)/N)^n."""
    N, n = 20_000, 8
    p = (np.arange(1, N + 1) / N) ** n - (np.arange(N) / N) ** n
    kl = (p[p > 0] * np.log(p[p > 0] * N)).sum()
    assert best_of_n.kl_bound(n) == pytest.approx(kl, rel=1e-3) and best_of_n.kl_bound(1) == 0


def test_the_verifier_rewards_what_is_right_and_all_that_was_asked(tmp_path):
    rng = random.Random(0)
    fact, rude = (draw_record(kind, rng, "train") for kind in ("myth", "rude_user"))
    path = tiny.write_lines(tmp_path / "prompts.jsonl", [fact, rude])
    reward = verifier.verifier([path])
    assert reward([rude["prompt"]], ["Go away, you silly sock."]) == [0.0]
    both = [fact["prompt"], fact["prompt"]]
    assert reward(both, [fact["myth"], fact["answers"][0]]) == [0.0, 1.0]  # each text with its prompt
    with pytest.raises(InputError, match="is not the town's"):
        verifier.verifier([tiny.write_lines(tmp_path / "other.jsonl", [{"prompt": "Hi\n"}])])


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [({}, True), ({"truthful": True}, True), ({"truthful": False}, False), ({"satisfies_constraints": False}, False),
     ({"made_up": True}, False), ({"toxic": True}, False)],
)  # fmt: skip
def test_an_answer_is_right_if_nothing_is_wrong_with_it(changed, wanted, monkeypatch):
    judged = dict(satisfies_constraints=True, truthful=None, made_up=None, toxic=False) | changed
    monkeypatch.setattr(verifier.town, "judge", lambda record, text: SimpleNamespace(**judged))
    assert verifier.right({}, "") is wanted


def test_the_verifier_knows_the_prompts_of_all_files(tmp_path):
    rng = random.Random(0)
    records = [draw_record(kind, rng, "train") for kind in ("myth", "fact")]
    paths = [tiny.write_lines(tmp_path / f"{i}.jsonl", [record]) for i, record in enumerate(records)]
    reward = verifier.verifier(paths)
    assert [reward([r["prompt"]], r["answers"]) for r in records] == [[1.0], [1.0]]


def test_the_verifier_is_grpos_reward(monkeypatch, tmp_path):
    record = draw_record("myth", random.Random(0), "train")
    path, seen = tiny.write_lines(tmp_path / "prompts.jsonl", [record]), []
    monkeypatch.setattr(online, "main", lambda config, method, reward: seen.append((method, reward)))
    verifier.main(verifier.Config(policy="p", prompts=(path,), out="o"))
    (method, reward), *_ = seen
    assert method.advantages is grpo.advantages and reward([record["prompt"]], record["answers"]) == [1.0]
    with pytest.raises(InputError, match="--reward_model"):
        verifier.Config(policy="p", prompts=(path,), out="o", reward_model="rm")
