"""Step 3: the episodes' reward, a step's gradient, what moves and what must not, where it converges."""

import copy
import inspect
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
import train_ppo
from minirlhf import losses, rollout
from minirlhf.data import Responses, collate
from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.rollout import generate, response_logps, uniforms
from minirlhf.support import records
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from minirlhf.support.config import parse
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics
from minirlhf.support.sampling import decode
from tiny import to_flags

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = dict(episodes=16, batch_size=8, minibatch_size=4, max_response=6, lr=1e-3, value_lr=1e-3,
             documents_per_episode=1, document_tokens=12)  # fmt: skip


@pytest.fixture
def settings(world, tmp_path):
    return SMALL | dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,),
                        out=tmp_path / "ppo", ptx_coef=0.0)  # fmt: skip


@pytest.fixture
def with_documents(settings, world):
    return settings | dict(documents=(world.documents,), ptx_coef=2.0)


def train(settings, **changes):
    tiny.run(train_ppo, to_flags(settings | changes))


def config_of(settings, **changes):
    return parse(train_ppo.Config, to_flags(settings | changes))


def weights(path, kind=GPT):
    return load_model(path, kind).state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture
def watch(monkeypatch):
    """Calls `look` with the arguments of each update before it, and keeps the networks' first state."""

    def install(look=lambda *args: None):
        seen, update = SimpleNamespace(networks=None, first=None, calls=0), train_ppo.update

        def spy(networks, *args):
            if seen.networks is None:
                seen.networks, seen.first = networks, [snapshot(n) for n in networks]
            seen.calls += 1
            look(networks, *args)
            return update(networks, *args)

        monkeypatch.setattr(train_ppo, "update", spy)
        return seen

    return install


# --- one step by itself -------------------------------------------------------------------------------------


class Recorder:
    """An optimizer that keeps the gradients it is given and changes nothing."""

    def __init__(self, model):
        self.parameters = list(model.parameters())

    def step(self):
        self.gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


@pytest.fixture
def batch(settings, tokenizer):
    """Networks in float64, each moved off the other, and the episodes of an older policy."""
    config = config_of(settings, max_grad_norm=1e9, ptx_coef=0.0)
    kinds = (GPT, GPT, RewardModel, RewardModel, GPT)
    networks = train_ppo.Networks(*(tiny.make(k, tokenizer.n_vocab, seed).double() for seed, k in enumerate(kinds)))
    older = copy.deepcopy(networks.policy)
    with torch.no_grad():
        for p in older.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    prompts = [tokenizer.encode(text) for text in ("the cat", "a", "what is two", "name a red")] * 3
    responses, logp = generate(older, prompts, uniforms((4,), 12, 6), tokenizer.eos, tokenizer.pad)
    lengths = torch.tensor([6, 1, 3, 2, 5, 6, 1, 4, 6, 2, 3, 5])  # cut short, so that they differ
    mask = torch.arange(6) < lengths[:, None]
    ends = (responses.prompt_lengths + lengths)[:, None]
    tokens = torch.where(torch.arange(responses.tokens.shape[1]) < ends, responses.tokens, tokenizer.pad)
    responses = Responses(tokens, responses.prompt_lengths, mask)
    episodes = train_ppo.judge_episodes(networks, responses, logp.double() * mask, config, tokenizer.eos)
    return SimpleNamespace(networks=networks, config=config, episodes=episodes)


@pytest.fixture
def documents(tokenizer):
    return records.pack(tiny.DOCUMENTS, tokenizer, 20)


def gradients(batch, rows, documents, pad, **changes):
    """(policy's, value network's) gradients as update() hands them to the optimizers."""
    config = SimpleNamespace(**(vars(batch.config) | changes))
    optimizers = [Recorder(network) for network in (batch.networks.policy, batch.networks.value)]
    train_ppo.update(batch.networks, optimizers, batch.episodes, torch.tensor(rows), documents, pad, config)
    return [optimizer.gradients for optimizer in optimizers]


ROWS = [3, 0, 7, 1]


def test_the_policys_gradient_is_that_of_a_loop_over_tokens(batch, tokenizer):
    """PPO's clipped objective, a mean over the minibatch's tokens, one episode and one token at a time."""
    found, _ = gradients(batch, ROWS, [], tokenizer.pad)
    policy, episodes, terms = batch.networks.policy, batch.episodes, []
    for i in ROWS:
        start, n = episodes.responses.prompt_lengths[i], episodes.responses.response_lengths[i]
        tokens = episodes.responses.tokens[i, : start + n]
        logp = policy(tokens[None])[0].log_softmax(-1)
        for t in range(n):
            ratio = (logp[start + t - 1, tokens[start + t]] - episodes.logp[i, t]).exp()
            advantage = episodes.advantages[i, t]
            terms.append(min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage, key=torch.Tensor.item))
    expected = torch.autograd.grad(-sum(terms) / len(terms), list(policy.parameters()))
    torch.testing.assert_close(found, list(expected))


def test_the_value_networks_gradient_is_that_of_a_loop_over_tokens(batch, tokenizer):
    """The larger of two errors, the value's and that of the value held within 0.1 of what it was."""
    older = batch.episodes.values + 0.3 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double()
    batch.episodes = batch.episodes._replace(values=older)
    _, found = gradients(batch, ROWS, [], tokenizer.pad, value_clip=0.1)
    value, episodes, terms, held = batch.networks.value, batch.episodes, [], 0
    for i in ROWS:
        start, n = episodes.responses.prompt_lengths[i], episodes.responses.response_lengths[i]
        for t in range(n):
            v = value(episodes.responses.tokens[None, i, : start + t])[0, -1]  # what came before token t
            clipped = older[i, t] + (v - older[i, t]).clamp(-0.1, 0.1)
            errors = [(x - episodes.returns[i, t]) ** 2 / 2 for x in (v, clipped)]
            terms.append(max(errors, key=torch.Tensor.item))
            held += errors[1] > errors[0]
    assert 0 < held < len(terms)
    expected = torch.autograd.grad(sum(terms) / len(terms), list(value.parameters()))
    torch.testing.assert_close(found, list(expected))


def test_ppo_ptx_adds_the_documents_gradient_times_the_coefficient_to_ppos(batch, documents, tokenizer):
    ppo, value = gradients(batch, ROWS, [], tokenizer.pad)
    both, value_too = gradients(batch, ROWS, documents, tokenizer.pad, ptx_coef=3.0)
    policy, losses = batch.networks.policy, []
    for row in documents:
        tokens = torch.tensor(row.tokens).long()
        losses.append(torch.nn.functional.cross_entropy(policy(tokens[None, :-1])[0], tokens[1:], reduction="none"))
    language = torch.autograd.grad(torch.cat(losses).mean(), list(policy.parameters()))
    torch.testing.assert_close(both, [a + 3 * b for a, b in zip(ppo, language)])
    torch.testing.assert_close(value_too, value, rtol=0, atol=0)  # the value network learns nothing from documents


@pytest.mark.parametrize("max_tokens", [1, 30, 60])
def test_micro_batches_give_the_gradient_of_the_whole_minibatch(batch, documents, tokenizer, max_tokens):
    """Though the responses differ in length; in float64, since Adam would turn rounding into steps."""
    rows = list(range(12))
    whole = gradients(batch, rows, documents, tokenizer.pad, ptx_coef=3.0)
    parts = gradients(batch, rows, documents, tokenizer.pad, ptx_coef=3.0, max_tokens=max_tokens)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_micro_batches_report_the_losses_of_the_whole_minibatch(batch, documents, tokenizer):
    reports = []
    for max_tokens in (1, 16384):
        config = SimpleNamespace(**(vars(batch.config) | dict(max_tokens=max_tokens, ptx_coef=3.0)))
        optimizers = [Recorder(network) for network in (batch.networks.policy, batch.networks.value)]
        rows = torch.arange(12)
        given = batch.networks, optimizers, batch.episodes, rows, documents, tokenizer.pad, config
        reports.append({name: float(value) for name, value in train_ppo.update(*given).items()})
    assert reports[0] == pytest.approx(reports[1])
    whole = collate(documents, tokenizer.pad)
    logp = response_logps(batch.networks.policy, whole)[whole.mask]
    assert reports[0]["ptx_loss"] == pytest.approx(-logp.mean().item())  # nats per token, without the coefficient


def test_what_adam_gets_is_clipped_and_cleared_for_the_next_step(batch, tokenizer):
    whole = gradients(batch, ROWS, [], tokenizer.pad)
    clipped = gradients(batch, ROWS, [], tokenizer.pad, max_grad_norm=1e-3)
    for before, after in zip(whole, clipped):
        norm = torch.cat([g.flatten() for g in before]).norm()
        torch.testing.assert_close(after, [g * 1e-3 / norm for g in before], rtol=1e-4, atol=0)
    for network in (batch.networks.policy, batch.networks.value):
        assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_the_optimizers_are_adam_with_the_papers_betas(batch):
    optimizers = train_ppo.make_optimizers(batch.networks, batch.config)
    assert [type(o) for o in optimizers] == [torch.optim.Adam] * 2
    assert [o.defaults["betas"] for o in optimizers] == [(0.9, 0.95)] * 2
    for optimizer, network in zip(optimizers, (batch.networks.policy, batch.networks.value)):
        assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("decay", [0.992, 0.5])
def test_the_average_moves_a_fraction_of_the_way_to_the_policy_after_each_step(batch, tokenizer, decay):
    networks, config = batch.networks, SimpleNamespace(**(vars(batch.config) | dict(ema_decay=decay)))
    policy, average = ([p.detach().clone() for p in n.parameters()] for n in (networks.policy, networks.ema))
    optimizers = train_ppo.make_optimizers(networks, config)
    train_ppo.update(networks, optimizers, batch.episodes, torch.tensor(ROWS), [], tokenizer.pad, config)
    assert not torch.equal(policy[0], next(networks.policy.parameters()))
    for old, new, found in zip(average, networks.policy.parameters(), networks.ema.parameters()):
        torch.testing.assert_close(found, decay * old + (1 - decay) * new)


def test_the_clip_fraction_is_the_share_of_tokens_whose_ratio_left_the_range(batch, tokenizer):
    """Above and below alike."""
    optimizers = [Recorder(network) for network in (batch.networks.policy, batch.networks.value)]
    config = SimpleNamespace(**(vars(batch.config) | dict(clip=0.05)))
    args = batch.networks, optimizers, batch.episodes, torch.tensor(ROWS), [], tokenizer.pad, config
    found = float(train_ppo.update(*args)["clip_fraction"])
    responses, logp = batch.episodes.responses, batch.episodes.logp
    ratios = (response_logps(batch.networks.policy, responses) - logp).exp()[ROWS][responses.mask[ROWS]].tolist()
    above, below = sum(r > 1.05 for r in ratios), sum(r < 0.95 for r in ratios)
    assert above and below and above + below < len(ratios)
    assert found == pytest.approx((above + below) / len(ratios))


# --- what the episodes earn ---------------------------------------------------------------------------------


def test_an_answer_without_an_end_has_the_fixed_score_and_others_the_reward_models(batch, tokenizer):
    networks, responses, logp = batch.networks, batch.episodes.responses, batch.episodes.logp
    rows = zip(responses.tokens.tolist(), responses.lengths.tolist())
    ended = torch.tensor([row[:n][-1] == tokenizer.eos for row, n in rows])
    for i in range(0, 12, 3):  # all were cut short: these now end
        responses.tokens[i, responses.lengths[i] - 1] = tokenizer.eos
        ended[i] = True
    scores, usual = (
        train_ppo.judge_episodes(
            networks, responses, logp, SimpleNamespace(**(vars(batch.config) | dict(no_end_penalty=penalty))),
            tokenizer.eos
        ).scores
        for penalty in (2.5, None)
    )  # fmt: skip
    assert 4 <= ended.sum() < 12
    assert (scores[~ended] == -2.5).all() and scores[ended].equal(usual[ended])
    assert not (usual == -2.5).any()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5)])
def test_returns_are_those_of_a_loop_over_each_episode_alone(batch, gamma, lam):
    """Score, KL and values by forwards over single rows; advantages by the sum of eq. 16."""
    config = SimpleNamespace(**(vars(batch.config) | dict(kl_coef=0.3, discount=gamma, gae_lambda=lam)))
    networks, responses, logp = batch.networks, batch.episodes.responses, batch.episodes.logp
    episodes = train_ppo.judge_episodes(networks, responses, logp, config, eos=0)
    for i in range(12):
        start, n = responses.prompt_lengths[i].item(), responses.response_lengths[i].item()
        tokens = responses.tokens[i, None, : start + n]
        reference = networks.reference(tokens)[0].log_softmax(-1)
        ref_logp = [reference[start + t - 1, tokens[0, start + t]].item() for t in range(n)]
        rewards = [-0.3 * (logp[i, t].item() - ref_logp[t]) for t in range(n)]
        rewards[-1] += networks.reward_model(tokens)[0, -1].item()
        values = [*networks.value(tokens)[0, start - 1 : start + n - 1].tolist(), 0.0]
        deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n)]
        for t in range(n):
            advantage = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
            assert episodes.returns[i, t].item() == pytest.approx(advantage + values[t], abs=1e-5)
    advantages = episodes.advantages[responses.mask]
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_what_is_logged_leaves_padding_out(settings):
    """By hand: two responses of 2 and 1 tokens; what lies past the end is 100 here, and must not show."""
    tokens, mask = torch.tensor([[1, 2, 3], [1, 9, 10]]), torch.tensor([[True, True], [True, False]])
    responses = Responses(tokens, torch.tensor([1, 1]), mask)
    logp, ref_logp = torch.tensor([[-1.0, -2.0], [-3.0, 100.0]]), torch.tensor([[-2.0, -2.5], [-2.0, -100.0]])
    values, returns = torch.tensor([[1.0, 2.0], [4.0, 100.0]]), torch.tensor([[2.0, 3.0], [7.0, -100.0]])
    none = torch.zeros(2, 2)
    episodes = train_ppo.Episodes(
        responses, torch.tensor([1.0, 2.0]), logp, ref_logp, none, values, none, returns, none
    )
    row = train_ppo.episode_metrics(episodes, config_of(settings, kl_coef=0.5), eos=9)
    assert row["kl"] == pytest.approx((1 + 0.5 - 1) / 2)  # nats per response
    assert row["kl3"] == pytest.approx((math.exp(-1) + math.exp(-0.5) - 1 + 0.5 + math.exp(1) - 1 - 1) / 2)
    assert row["entropy"] == pytest.approx((1 + 2 + 3) / 3)  # nats per token
    assert row["score"] == 1.5
    assert row["objective"] == pytest.approx(1.5 - 0.5 * 0.25)
    assert row["response_length"] == 1.5
    assert row["ended"] == 0.5
    # Returns 2, 3 and 7 are 4 on average; values miss them by 1, 1 and 3, which is 5/3 on average.
    assert row["explained_variance"] == pytest.approx(1 - (4 / 9 + 4 / 9 + 16 / 9) / (4 + 1 + 9))


# --- a whole run --------------------------------------------------------------------------------------------


def test_before_the_first_update_there_is_no_kl_and_the_ratio_is_1(settings, watch):
    ratios = []

    def look(networks, optimizers, episodes, rows, *rest):
        if not ratios:
            old = episodes.select(rows)
            ratio = (response_logps(networks.policy, old.responses) - old.logp).exp()
            ratios.append(ratio[old.responses.mask])
            policy, reference = (response_logps(n, episodes.responses) for n in (networks.policy, networks.reference))
            assert torch.equal(policy, reference)

    watch(look)
    train(settings)
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), atol=1e-5, rtol=0)
    first, second = read_metrics(settings["out"])
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert abs(second["kl"]) > 1e-4


def test_nothing_is_in_training_mode_neither_in_rollout_nor_in_the_update(settings, watch, monkeypatch):
    modes, sampler = [], rollout.generate

    def look(networks, *rest):
        modes.extend(module.training for network in networks for module in network.modules())

    def spy(model, *args, **kwargs):
        modes.extend(module.training for module in model.modules())
        return sampler(model, *args, **kwargs)

    watch(look)
    monkeypatch.setattr(rollout, "generate", spy)
    train(settings)
    assert len(modes) > 100
    assert not any(modes)


def test_sampling_is_at_temperature_1(settings, monkeypatch):
    calls, sampler = [], rollout.generate

    def spy(*args, **kwargs):
        calls.append((len(args), kwargs))
        return sampler(*args, **kwargs)

    monkeypatch.setattr(rollout, "generate", spy)
    train(settings)
    # Model, prompts, noise, eos and pad; temperature is left at its default.
    assert calls == [(5, {})] + [(5, {"batch_size": 128, "decode": decode})] * 2  # the first is not learned from
    assert inspect.signature(sampler).parameters["temperature"].default == 1


def test_the_value_network_starts_as_the_reward_model_bias_included_with_parameters_of_its_own(settings, watch):
    seen = watch()
    train(settings)
    _, _, reward_model, value, _ = seen.first
    assert same(reward_model, value)
    assert value["head.bias"].item() == weights(settings["reward_model"], RewardModel)["head.bias"].item() != 0
    networks = seen.networks
    shared = {p.data_ptr() for p in networks.value.parameters()} & {
        p.data_ptr() for n in (networks.reward_model, networks.policy) for p in n.parameters()
    }
    assert not shared
    assert not same(networks.value.state_dict(), value)


def test_the_reference_and_the_reward_model_are_bitwise_the_same_after_training(with_documents, watch):
    seen = watch()
    train(with_documents, lr=1e-2)
    policy, reference, reward_model, value, _ = seen.first
    assert same(seen.networks.reference.state_dict(), reference)
    assert same(seen.networks.reward_model.state_dict(), reward_model)
    assert same(reference, weights(with_documents["policy"]))
    assert not same(seen.networks.policy.state_dict(), policy)


def test_each_episode_is_in_exactly_one_minibatch_in_an_order_drawn_anew(settings, watch):
    minibatches = []
    watch(lambda networks, optimizers, episodes, rows, *rest: minibatches.append(rows.tolist()))
    train(settings, episodes=32)
    orders = [sum(minibatches[i : i + 2], []) for i in range(0, 8, 2)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_each_prompt_is_answered_once_before_any_is_answered_twice(settings, watch, tokenizer):
    prompts = []

    def look(networks, optimizers, episodes, rows, *rest):
        for i in rows:
            prompts.append(episodes.responses.tokens[i, : episodes.responses.prompt_lengths[i]].tolist())

    watch(look)
    train(settings)
    expected = [tokenizer.encode(record["prompt"]) for record in tiny.PROMPTS]
    for i in range(2):
        assert sorted(prompts[8 * i : 8 * i + 8]) == sorted(expected * 2)


def test_the_policys_learning_rate_climbs_over_ten_iterations_and_the_value_networks_stays(settings, watch):
    rates = []
    watch(lambda networks, optimizers, *rest: rates.append([o.param_groups[0]["lr"] for o in optimizers]))
    train(settings, episodes=48, batch_size=4, minibatch_size=4, lr=2e-4, value_lr=3e-4)
    policy, value = zip(*rates)
    climb = [0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1, 1]
    assert policy == pytest.approx([2e-4 * factor for factor in climb])
    assert value == (3e-4,) * 12


def test_the_warmup_is_as_long_as_asked_for(settings, watch):
    rates = []
    watch(lambda networks, optimizers, *rest: rates.append(optimizers[0].param_groups[0]["lr"]))
    train(settings, episodes=16, batch_size=4, lr=1e-4, warmup=2)
    assert rates == pytest.approx([1e-5, 5.5e-5, 1e-4, 1e-4])


@pytest.mark.parametrize("per_episode", [1, 8, 0.5])
def test_each_minibatch_brings_its_documents(with_documents, watch, per_episode):
    counts = []
    watch(lambda networks, optimizers, episodes, rows, documents, *rest: counts.append(len(documents)))
    train(with_documents, documents_per_episode=per_episode)
    assert counts == [4 * per_episode] * 4


def test_a_pretraining_sequence_has_the_length_asked_for(with_documents, watch):
    lengths = set()
    watch(lambda n, o, e, r, documents, *rest: lengths.update(len(s.tokens) - 1 for s in documents))
    train(with_documents, document_tokens=9)
    assert max(lengths) == 9


def test_samples_show_episodes_as_the_reward_model_scored_them(settings, world):
    train(settings, show=3)
    rows, tokenizer = read_metrics(settings["out"], "samples.jsonl"), load_tokenizer(world.gpt)
    assert [row["step"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert {row["prompt"] for row in rows} <= {record["prompt"] for record in tiny.PROMPTS}
    assert [row["kl"] for row in rows[:3]] == pytest.approx([0] * 3, abs=1e-5)  # the policy is the reference yet
    assert all(abs(row["kl"]) > 1e-4 for row in rows[3:])
    rm, policy = load_model(world.rm, RewardModel), load_model(world.gpt, GPT)
    prompts = [tokenizer.encode(row["prompt"]) for row in rows[:3]]
    noise = uniforms((0, 0), 8, 6)[:3]
    responses, _ = generate(policy, prompts, noise, tokenizer.eos, tokenizer.pad)
    assert [row["response"] for row in rows[:3]] == responses.texts(tokenizer)
    with torch.no_grad():
        last = responses.lengths - 1
        scores = rm(responses.tokens)[torch.arange(3), last]
    assert [row["score"] for row in rows[:3]] == pytest.approx(scores.tolist(), abs=1e-4)


def test_the_paper_is_the_default():
    config = train_ppo.Config(policy="", reward_model="", prompts=(), out="", documents=("d",))
    assert (config.ptx_coef, config.documents_per_episode, config.kl_coef, config.ema_decay) == (
        27.8,
        8,
        0.02,
        0.992,
    )
    assert (config.episodes, config.batch_size, config.minibatch_size, config.inner_epochs) == (
        256_000,
        512,
        64,
        1,
    )
    assert (config.discount, config.clip, config.warmup, config.value_lr) == (1, 0.2, 10, 9e-6)


def test_a_coefficient_of_0_is_plain_ppo_bit_for_bit(settings, with_documents, tmp_path):
    train(settings)
    train(with_documents, ptx_coef=0.0, out=tmp_path / "zero")
    train(with_documents, out=tmp_path / "ptx")
    for name, kind in (("model", GPT), ("policy", GPT), ("value", RewardModel)):
        plain = weights(settings["out"] / f"{name}.pt", kind)
        assert same(plain, weights(tmp_path / "zero" / f"{name}.pt", kind))
    assert not same(weights(settings["out"]), weights(tmp_path / "ptx"))


def test_ppo_and_ppo_ptx_see_the_same_prompts_in_the_same_minibatches(settings, with_documents, watch, tmp_path):
    """Documents are drawn from a stream of their own; the first episodes are the same, too."""
    seen = []

    def look(networks, optimizers, episodes, rows, *rest):
        seen.append((episodes.responses.prompt_lengths.tolist(), rows.tolist(), episodes.responses.tokens.tolist()))

    watch(look)
    train(settings)
    train(with_documents, out=tmp_path / "ptx")
    assert [step[:2] for step in seen[:4]] == [step[:2] for step in seen[4:]]
    assert seen[0] == seen[4]


def test_the_average_is_the_model_and_the_policy_is_kept_in_its_own_right(settings, watch):
    seen = watch()
    train(settings, ema_decay=0.5)
    assert same(weights(settings["out"]), seen.networks.ema.state_dict())
    assert same(weights(settings["out"] / "policy.pt"), seen.networks.policy.state_dict())
    assert not same(seen.networks.ema.state_dict(), seen.networks.policy.state_dict())


def test_every_iteration_is_logged_with_its_updates_mean_losses(with_documents, monkeypatch):
    losses, update = [], train_ppo.update
    monkeypatch.setattr(train_ppo, "update", lambda *args: losses.append(update(*args)) or losses[-1])
    train(with_documents)
    rows = read_metrics(with_documents["out"])
    assert [(row["step"], row["episodes"]) for row in rows] == [(0, 8), (1, 16)]
    assert {"score", "kl", "entropy"} <= rows[0].keys()
    for row, (first, second) in zip(rows, (losses[:2], losses[2:])):
        for name in ("policy_loss", "value_loss", "ptx_loss", "clip_fraction"):
            assert row[name] == pytest.approx(float(first[name] + second[name]) / 2)


def test_the_same_seed_gives_the_same_model_and_another_gives_another(settings, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(7)
        train(settings, out=tmp_path / name, seed=seed)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_over_long_prompts_are_dropped_and_counted(settings, tmp_path, capsys):
    path = tiny.write_lines(tmp_path / "p.jsonl", [*tiny.PROMPTS, {"prompt": "x" * 100}])
    train(settings, prompts=(path,))
    assert f"{path}: dropped 1 of 5 prompts, longer than 58 tokens" in capsys.readouterr().out


def test_what_a_shorter_reward_model_cannot_hold_is_dropped(settings, tokenizer, tmp_path, capsys):
    (tmp_path / "rm").mkdir()
    save_model(tmp_path / "rm" / "model.pt", tiny.make(RewardModel, tokenizer.n_vocab, n_ctx=24), tokenizer)
    long = tiny.write_lines(tmp_path / "p.jsonl", [*tiny.PROMPTS, {"prompt": "x" * 30}])
    train(settings, reward_model=tmp_path / "rm", prompts=(long,))
    assert f"{long}: dropped 1 of 5 prompts, longer than 18 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("decay", "said"), [(0.992, True), (0.5, False)])
def test_a_run_too_short_for_its_average_is_told_so(settings, decay, said, capsys):
    """4 steps leave 0.992^4 of the start in the average."""
    train(settings, episodes=8, batch_size=4, minibatch_size=2, ema_decay=decay)
    assert ("short run: model.pt will be 97% initial weights" in capsys.readouterr().out) == said


def test_a_finished_run_is_left_alone(settings, capsys):
    train(settings)
    before = (settings["out"] / "model.pt").stat().st_mtime_ns
    train(settings)
    assert (settings["out"] / "model.pt").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["policy_loss", "value_loss"])
def test_a_loss_that_is_nan_stops_the_run_and_names_step_and_last_good_checkpoint(settings, monkeypatch, name):
    """Two updates an iteration: the fourth is the second's."""
    calls, loss = [], getattr(losses, name)

    def broken(*args):
        calls.append(1)
        return loss(*args) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(losses, name, broken)
    with pytest.raises(InputError, match=rf"step 1: {name} is nan; last good checkpoint: .*state-00000001.pt"):
        train(settings, save_every=1)
    assert not (settings["out"] / "model.pt").exists()
    policy, value, average, *_ = torch.load(settings["out"] / "state-00000001.pt")["parts"]
    assert all(p.isfinite().all() for network in (policy, value, average) for p in network.values())


# --- where it converges -------------------------------------------------------------------------------------


def test_on_a_bandit_ppo_converges_to_the_reference_tilted_by_the_reward():
    """One prompt, responses of one token. The best policy for E[r] - beta KL is pi_ref exp(r / beta) / Z."""
    rewards, beta, V, B = [0.0, 0.3, -0.4, 0.5, 0.1, -0.2], 0.5, 6, 256
    torch.manual_seed(0)
    shape = GPTConfig(V, n_ctx=4, n_layer=1, n_head=1, n_embd=16)
    policy, value = tiny.make(GPT, V, spread=0.3, n_layer=1, n_embd=16), RewardModel(shape).eval()
    reference, ema = copy.deepcopy(policy), copy.deepcopy(policy)
    networks = train_ppo.Networks(policy, reference, tiny.Table(rewards), value, ema)
    config = train_ppo.Config(
        policy="", reward_model="", prompts=(), out="", ptx_coef=0.0, batch_size=B, minibatch_size=64,
        episodes=B, max_response=1, kl_coef=beta, lr=3e-3, value_lr=3e-3, ema_decay=0.98,
    )  # fmt: skip
    optimizers = train_ppo.make_optimizers(networks, config)
    iterations = 60
    for i in range(iterations):
        optimizers[0].param_groups[0]["lr"] = config.lr * (1 - i / iterations)
        responses, logp = generate(policy, [[0]] * B, uniforms((0, i), B, 1), eos=-1, pad=V)
        episodes = train_ppo.judge_episodes(networks, responses, logp, config, eos=-1)
        for rows in torch.from_numpy(np.random.default_rng(i).permutation(B)).split(64):
            train_ppo.update(networks, optimizers, episodes, rows, [], V, config)
    start, end = (model(torch.tensor([[0]]))[0, 0].softmax(0).tolist() for model in (reference, ema))
    tilted = [p * math.exp(r / beta) for p, r in zip(start, rewards)]
    best = [p / sum(tilted) for p in tilted]
    assert max(abs(p - q) for p, q in zip(start, best)) > 0.1  # there was some way to go
    assert end == pytest.approx(best, abs=0.02)


def test_a_whole_run_raises_the_score(settings, world, tmp_path):
    """Against a random reward model, two dozen iterations are enough to see it."""
    train(
        settings,
        episodes=1536,
        batch_size=64,
        minibatch_size=16,
        lr=3e-2,
        value_lr=1e-2,
        warmup=1,
        kl_coef=0.0,
    )
    scores = [row["score"] for row in read_metrics(settings["out"])]
    assert np.mean(scores[-2:]) > np.mean(scores[:2]) + 0.4


def test_the_tokenizer_lies_beside_the_model(settings, tokenizer):
    train(settings)
    assert load_tokenizer(settings["out"]).hash == tokenizer.hash


# --- what is drawn at random ----------------------------------------------------------------------------------


def take(n, *args):
    return [int(i) for i in itertools.islice(train_ppo.endless(*args), n)]


def test_an_endless_order_has_each_once_before_any_twice_and_every_round_another_order():
    rounds = [take(40, 20, 0, (0, 0, 1))[i : i + 20] for i in (0, 20)]
    assert all(sorted(r) == list(range(20)) for r in rounds) and rounds[0] != rounds[1]
    assert take(20, 20, 0, (1, 0, 1)) != rounds[0]


@pytest.mark.parametrize("start", range(12))
def test_an_endless_order_can_be_entered_anywhere(start):
    assert take(15, 5, start, (3,)) == take(15 + start, 5, 0, (3,))[start:]


def test_each_seed_and_each_iteration_draws_its_own(settings, world, tmp_path, monkeypatch):
    """Prompts, documents, sampling noise and minibatches: four streams, none alike."""
    orders, noises, batches = [], [], []
    endless, generate_, update = train_ppo.endless, rollout.generate, train_ppo.update

    def draw(n, start, seed):
        orders.append(seed)
        return endless(n, start, seed)

    def sample(policy, prompts, noise, *rest, **kwargs):
        noises.append(noise.flatten().tolist())
        return generate_(policy, prompts, noise, *rest, **kwargs)

    def step(networks, optimizers, episodes, rows, *rest):
        batches.append(rows.tolist())
        return update(networks, optimizers, episodes, rows, *rest)

    monkeypatch.setattr(train_ppo, "endless", draw)
    monkeypatch.setattr(rollout, "generate", sample)
    monkeypatch.setattr(train_ppo, "update", step)
    changes = dict(batch_size=8, minibatch_size=8, inner_epochs=2, episodes=16)
    for seed in (0, 1):
        train(settings, out=tmp_path / str(seed), seed=seed, **changes)
    assert len(set(orders)) == 4
    assert len({tuple(noise) for noise in noises}) == 4
    assert len({tuple(rows) for rows in batches}) == 8  # two passes of each iteration, all in their own order
    assert all(sorted(rows) == list(range(8)) for rows in batches)
