"""Methods without a value network: their gradients against a bandit whose answers can all be listed, their losses
against numbers worked out by hand, and their loop on two processes, stopped and continued."""

import copy
import dataclasses
import itertools
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
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, response_scores, uniforms
from minirlhf.support import folder, run
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_lines
from minirlhf.support.run import read_metrics
from tiny import to_flags

ONLINE = (reinforce, rloo, grpo, online_dpo, expert_iteration)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- all answers of a bandit -----------------------------------------------------------------------------------------
# A policy over three answers: "0", where 0 is the end; "1 0"; and "1 1", which is cut off. Its weights are the logits
# of the first token and of the second.

ANSWERS = ((0,), (1, 0), (1, 1))
MASK = torch.tensor([[True, False], [True, True], [True, True]])
SCORES = torch.tensor([0.3, 2.0, -1.0])


@pytest.fixture
def weights():
    return torch.tensor([[0.2, -0.4], [0.7, 0.1]], requires_grad=True)


def log_probs(weights):
    """(3, 2): of each token of each answer, 0 past the end."""
    first, second = weights.log_softmax(-1)
    return torch.stack([torch.stack([first[0], 0 * second[0]]), torch.stack([first[1], second[0]]),
                        torch.stack([first[1], second[1]])])  # fmt: skip


REFERENCE = log_probs(torch.tensor([[0.5, 0.1], [-0.3, 0.4]]))


def gradient_of_eq_2(weights, beta):
    """Of E[score - beta KL], by differentiating the sum over all answers."""
    logp = log_probs(weights).sum(1)
    objective = (logp.exp() * (SCORES - beta * (logp - REFERENCE.sum(1)))).sum()
    return torch.autograd.grad(objective, weights)[0]


def expected_gradient(method, weights, P, K, config, kl_in_reward):
    """Minus the mean gradient of a method's loss, over all batches of K answers to each of P prompts."""
    mean, every = 0.0, log_probs(weights)
    for drawn in itertools.product(range(3), repeat=P * K):
        rows = list(drawn)
        logp, ref, mask = every[rows], REFERENCE[rows], MASK[rows]
        old = logp.detach()
        rewards = SCORES[rows] - config.kl_coef * kl_in_reward * (old - ref).sum(1)
        advantages, _ = method.advantages(rewards.view(P, K), config)
        episodes = SimpleNamespace(responses=SimpleNamespace(mask=mask), logp=old, ref_logp=ref,
                                   advantages=advantages.reshape(-1, 1) * mask)  # fmt: skip
        mean += old.sum().exp() * method.loss(logp, episodes, config, len(rows))
    return -torch.autograd.grad(mean, weights)[0]


@pytest.mark.parametrize(
    ("method", "P", "K"), [(reinforce, 2, 1), (reinforce, 3, 1), (rloo, 1, 2), (rloo, 1, 4), (rloo, 2, 2)]
)
def test_the_gradient_is_unbiased(method, P, K, weights):
    config = SimpleNamespace(kl_coef=0.4)
    found = expected_gradient(method, weights, P, K, config, kl_in_reward=True)
    torch.testing.assert_close(found, gradient_of_eq_2(weights, 0.4))


@pytest.mark.parametrize("K", [2, 3])
def test_grpos_gradient_without_the_division_is_smaller_by_one_in_k_and_weighs_tokens_of_long_answers_less(K, weights):
    config = SimpleNamespace(kl_coef=0.0, clip=0.2, divide=False)
    found = expected_gradient(grpo, weights, 1, K, config, kl_in_reward=False)
    logp = log_probs(weights)
    p = logp.sum(1).exp().detach()
    per_answer = (logp / MASK.sum(1, keepdim=True)).sum(1)
    theory = torch.autograd.grad((p * (SCORES - (p * SCORES).sum()) * per_answer).sum(), weights)[0] * (K - 1) / K
    torch.testing.assert_close(found, theory)


def test_grpos_advantages_of_two_answers_say_which_is_better_and_not_by_how_much(weights):
    config = SimpleNamespace(kl_coef=0.0, clip=0.2, divide=True)
    advantages, baselines = grpo.advantages(torch.tensor([[1.0, 3.0], [0.0, -100.0], [5.0, 5.0]]), config)
    half = math.sqrt(0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-half, half], [half, -half], [0, 0]]), atol=1e-4, rtol=0)
    assert baselines.tolist() == [[2.0, 2.0], [-50.0, -50.0], [5.0, 5.0]]


def test_the_mean_of_k3_is_the_kl_and_that_of_its_gradient_the_reversed_kls():
    """One token: the mean over what the policy samples."""
    logits, ref = torch.tensor([0.3, -0.2, 0.9], requires_grad=True), torch.tensor([0.1, 0.6, -0.4]).log_softmax(0)
    logp, mask = logits.log_softmax(0), torch.ones(3, 1, dtype=torch.bool)
    p = logp.detach().exp()
    mean = (p * grpo.k3(logp[:, None], ref[:, None], mask)[:, 0]).sum()
    assert mean.item() == pytest.approx((p * (logp - ref)).sum().item())
    found = torch.autograd.grad(mean, logits, retain_graph=True)[0]
    reversed_kl = (ref.exp() * (ref - logp)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(reversed_kl, logits)[0])


# --- losses by hand --------------------------------------------------------------------------------------------------


def test_reinforce_loss_by_hand():
    logp, advantages = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]]), torch.tensor([[0.5, 0.5], [-2.0, -2.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert reinforce.reinforce_loss(logp, advantages, mask).item() == pytest.approx(-(0.5 * -3 + -2 * -3) / 2)
    assert reinforce.reinforce_loss(logp, advantages, mask, total=4).item() == pytest.approx(-4.5 / 4)


def test_grpo_loss_by_hand():
    ratios, ref_ratios = [[1.5, 0.5, 1.1], [0.5, 1.5, 7.0]], [[2.0, 1.0, 0.5], [1.0, 3.0, 9.0]]
    advantages, lengths, beta = [1.0, -2.0], [3, 2], 0.1
    expected = 0.0
    for row in range(2):
        for t in range(lengths[row]):
            r, A = ratios[row][t], advantages[row]
            gain = min(r * A, min(max(r, 0.8), 1.2) * A)
            x = ref_ratios[row][t]
            expected += (gain - beta * (x - math.log(x) - 1)) / lengths[row]
    logp, old = torch.tensor(ratios).log(), torch.zeros(2, 3)
    ref, mask = logp + torch.tensor(ref_ratios).log(), torch.tensor([[True] * 3, [True, True, False]])
    A = torch.tensor(advantages)[:, None].expand(2, 3)
    assert grpo.grpo_loss(logp, old, ref, A, mask, 0.2, beta).item() == pytest.approx(-expected / 2)
    assert grpo.grpo_loss(logp, old, ref, A, mask, 0.2, beta, total=6).item() == pytest.approx(-expected / 6)


def test_dpo_loss_is_the_papers_formula():
    better, worse = torch.tensor([-1.0, -5.0]), torch.tensor([-2.0, -4.0])
    ref_better, ref_worse = torch.tensor([-3.0, -5.5]), torch.tensor([-2.5, -1.0])
    expected = 0.0
    for pi_w, pi_l, ref_w, ref_l in ((-1.0, -2.0, -3.0, -2.5), (-5.0, -4.0, -5.5, -1.0)):
        margin = 0.3 * ((pi_w - ref_w) - (pi_l - ref_l))
        expected += -math.log(1 / (1 + math.exp(-margin))) / 2
    assert dpo.dpo_loss(better, worse, ref_better, ref_worse, 0.3).item() == pytest.approx(expected, rel=1e-6)
    assert dpo.dpo_loss(better, worse, better, worse, 0.3).item() == pytest.approx(math.log(2))


def test_online_dpos_pair_is_the_best_and_the_worst_answer():
    rewards = torch.tensor([[0.5, 2.0, 1.0], [3.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    signs, _ = online_dpo.advantages(rewards)
    assert signs.tolist() == [[-1, 1, 0], [1, -1, 0], [0, 0, 0]]
    logp, ref = torch.tensor([[-1.0, -1.0], [-2.0, -9.0], [-4.0, -9.0], [-1.0, -2.0]]), torch.full((4, 2), -1.5)
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    episodes = SimpleNamespace(responses=SimpleNamespace(mask=mask), ref_logp=ref,
                               advantages=torch.tensor([[-1.0], [1.0], [1.0], [-1.0]]))  # fmt: skip
    margins = [(-2 + 1.5) - (-2 + 3), (-4 + 1.5) - (-3 + 3)]  # the better answer is the second, then the first
    expected = sum(math.log(1 + math.exp(-0.7 * margin)) for margin in margins) / 2
    found = online_dpo.loss(logp, episodes, SimpleNamespace(kl_coef=0.7), total=4)
    assert found.item() == pytest.approx(expected)


def test_expert_iteration_learns_the_best_answer_alone():
    best, _ = expert_iteration.advantages(torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 0.0]]))
    assert best.tolist() == [[0, 1, 0], [1, 0, 0]]
    episodes = SimpleNamespace(responses=SimpleNamespace(mask=torch.tensor([[True, True], [True, False]])))
    logp = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]])
    assert expert_iteration.loss(logp, episodes, None, total=2).item() == pytest.approx((1.5 + 4) / 2)


# --- the bandit, solved ----------------------------------------------------------------------------------------------

ARMS, BETA = [0.0, 0.3, -0.4, 0.5, 0.1, -0.2], 0.5


def tilted(start):
    """The best policy for E[r] - beta KL: pi_ref exp(r / beta) / Z."""
    best = [p * math.exp(r / BETA) for p, r in zip(start, ARMS)]
    return [p / sum(best) for p in best]


class Table(torch.nn.Module):
    """A reward that depends on the last token alone."""

    def __init__(self):
        super().__init__()
        self.rewards = torch.nn.Parameter(torch.tensor(ARMS), requires_grad=False)

    def forward(self, tokens, at):
        return self.rewards[tokens.gather(1, at)]


def solve(method, K, minibatch, iterations=60, B=256, **flags):
    """The policy's probabilities before and after."""
    V = len(ARMS)
    policy = tiny.make(GPT, V, spread=0.3, n_layer=1, n_embd=16)
    reference, ema = copy.deepcopy(policy), copy.deepcopy(policy)
    networks = online.Networks(policy, reference, Table(), ema)
    config = method.Config(policy="", prompts=(), out="", samples=K, batch_size=B, minibatch_size=minibatch, episodes=B,
                           max_response=1, kl_coef=BETA, ema_decay=0.98, **flags)  # fmt: skip
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3, betas=(0.9, 0.95))
    made = {"kl_in_reward": method is not grpo}
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - i / iterations)
        responses, logp = generate(policy, [[0]] * B, uniforms((0, i), range(B), 1), eos=-1, pad=V)
        own = online.Method(method.advantages, method.loss, **made)
        episodes = online.judge_episodes(networks, responses, logp, config, own)
        for chosen in torch.from_numpy(np.random.default_rng(i).permutation(B // K)).split(minibatch // K):
            online.update(policy, ema, optimizer, episodes, chosen.tolist(), config, own)
    return [model(torch.tensor([[0]]))[0, 0].softmax(0).tolist() for model in (reference, ema)]


@pytest.mark.parametrize(("method", "K"), [(reinforce, 1), (rloo, 4)])
def test_on_a_bandit_the_policy_becomes_the_reference_tilted_by_the_reward(method, K):
    start, end = solve(method, K, minibatch=64)
    assert max(abs(p - q) for p, q in zip(start, tilted(start))) > 0.1  # there was some way to go
    assert end == pytest.approx(tilted(start), abs=0.025)


def test_dpos_optimum_on_the_bandit_is_ppos():
    """With as many comparisons as one likes, each preferred with probability sigmoid(r_i - r_j)."""
    start = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.05, 0.2])
    logits = start.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14)
    pairs = list(itertools.permutations(range(6), 2))

    def loss():
        optimizer.zero_grad()
        logp, ref = logits.log_softmax(0), start.log()
        total = 0.0
        for i, j in pairs:
            one = dpo.dpo_loss(logp[i : i + 1], logp[j : j + 1], ref[i : i + 1], ref[j : j + 1], BETA)
            total = total + one / (1 + math.exp(ARMS[j] - ARMS[i]))
        total.backward()
        return total

    optimizer.step(loss)
    assert logits.softmax(0).tolist() == pytest.approx(tilted(start.tolist()), abs=1e-5)


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
        responses, _ = generate(policy, prompts, uniforms((0, i), range(4), 8), tokenizer.eos, tokenizer.pad)
        for row, text, score in zip(rows, responses.texts(tokenizer), response_scores(rm, responses).tolist()):
            assert score < row["score"] or (score, text) == (pytest.approx(row["score"]), row["response"])
    mean = np.mean([row["score"] for row in rows])
    assert f"mean score {mean:.2f}, of all samples " in capsys.readouterr().out


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


def test_the_verifier_is_grpos_reward(monkeypatch, tmp_path):
    record = draw_record("myth", random.Random(0), "train")
    path, seen = tiny.write_lines(tmp_path / "prompts.jsonl", [record]), []
    monkeypatch.setattr(online, "main", lambda config, method, reward: seen.append((method, reward)))
    verifier.main(verifier.Config(policy="p", prompts=(path,), out="o"))
    (method, reward), *_ = seen
    assert method.advantages is grpo.advantages and reward([record["prompt"]], record["answers"]) == [1.0]
    with pytest.raises(InputError, match="--reward_model"):
        verifier.Config(policy="p", prompts=(path,), out="o", reward_model="rm")


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(world, tmp_path, no_pictures):
    return dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], episodes=48, batch_size=8,
                minibatch_size=4, lr=1e-3, max_response=8, warmup=2, ema_decay=0.9, save_every=2,
                out=str(tmp_path / "run"))  # fmt: skip


@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.__name__)
def test_on_two_processes_in_micro_batches_a_run_takes_the_steps_of_one(method, settings, tmp_path):
    seen = []
    for n, more in ((1, {}), (2, {"max_tokens": 40})):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        words = to_flags(settings | more | {"out": str(folder / "run")})
        (folder / "jobs.json").write_text(json.dumps([[method.__name__, words]]))
        ranks.launch(n, folder / "jobs.json")
        seen.append(torch.load(folder / "run" / "seen-0.pt"))
    assert len(seen[0][0][0]) == 12
    torch.testing.assert_close(*seen)


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
    folder.release()
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
