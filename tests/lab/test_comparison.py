"""The comparison of methods and details: arms differ in the method alone, and figures are what their names say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
import train_ppo
from lab import provenance, results
from lab.evaluation import Measured
from lab.findings.lab import certain
from lab.methods import __main__ as command
from lab.methods import details, dpo, findings
from lab.methods.findings import Details, Methods, above_frontier
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json

PPO = dict(ema_decay=0.97, value_lr=5e-4)


@pytest.fixture
def lab(tmp_path):
    """A lab whose models are names."""
    models = {name: f"toy/{name}" for name in ("gpt", "sft", "rl_start", "ppo", "ppo_ptx")}
    return SimpleNamespace(
        toy="toy", seed=40, tiny=False, models=lambda: models, file=lambda name: f"{name}.jsonl",
        recipe=lambda stage: PPO, test_answers={"sft": ["fine"] * 4}, records=lambda name, kind: [],
    )  # fmt: skip


def test_arms_differ_in_their_method_and_in_what_belongs_to_it(lab):
    """The same start, prompts, reward model, answers, limit and averaging; and as many answers in the warmup."""
    common = dict(policy="toy/rl_start", prompts=("prompts_train.jsonl",), reward_model="toy/rm", episodes=6400,
                  max_response=26, ema_decay=0.97, lr=1e-3)  # fmt: skip
    for name in findings.ARMS:
        script, flags = findings.stage(lab, name, 1e-3, 0.2)
        if script is dpo:
            assert flags["init"] == "toy/rl_start" and flags["data"] == ("rankings.jsonl",) and flags["beta"] == 0.2
            continue
        script.Config(out="x", **flags)
        if name == "GRPO, verifier":
            assert "reward_model" not in flags
            flags["reward_model"] = "toy/rm"
        assert common.items() <= flags.items() and flags["kl_coef"] == 0.2
        warmup = flags.get("warmup", 10) * flags["batch_size"]
        assert warmup == 1280 and 6400 % flags["batch_size"] == 0
        own = {"batch_size", "minibatch_size", "warmup", "kl_coef", "save_every", "divide", "ptx_coef", "value_lr"}
        assert flags.keys() - common.keys() <= own
        script.Config(
            out="x", **{key: value for key, value in flags.items() if name != "GRPO, verifier" or key != "reward_model"}
        )


def test_every_method_is_searched_as_long_and_what_was_chosen_was_tried():
    assert {len(findings.PRICES[name]) for name in findings.ARMS} == {3}
    for name, (lr, price) in findings.CHOSEN.items():
        assert lr in findings.RATES and price in findings.PRICES[name]


def test_methods_without_a_ratio_take_one_step_with_each_batch():
    for name in ("REINFORCE", "RLOO", "online DPO"):
        flags = findings.ARMS[name][1]
        assert flags["minibatch_size"] == flags["batch_size"]
    assert findings.ARMS["GRPO, not divided"][1]["divide"] is False


def test_at_ppos_cost_a_method_samples_more_answers():
    """Forwards for each token of an answer: PPO samples, asks reference, reward model and value network, and learns
    two networks; the others have no value network."""
    assert findings.at_cost("RLOO") == 10_624 and findings.at_cost("GRPO") == 10_624  # 6400 * 10 / 6, in whole batches
    assert findings.at_cost("expert iteration") == 17_024  # one answer in four is learned


def test_the_frontier_is_read_between_its_points_and_not_beyond():
    frontier = [(2.0, np.array([4.0, 0.0])), (0.0, np.array([0.0, 0.0])), (1.0, np.array([2.0, 1.0]))]
    assert above_frontier(1.5, np.array([4.0, 1.0]), frontier).tolist() == [1.0, 0.5]
    assert above_frontier(0.25, np.array([1.0, 0.0]), frontier).tolist() == [0.5, -0.25]
    assert above_frontier(1.0, np.array([2.0, 1.0]), frontier).tolist() == [0.0, 0.0]
    assert above_frontier(2.1, np.array([4.0, 1.0]), frontier) is None


RECORDS = [
    {"kind": kind, "content": f"{i}", "prompt": f"{i}\n"} for i, kind in enumerate(("fact", "myth", "say", "feel"))
]


def made(utility, follows, true, score, kl=1.0, loss=1.0):
    judgements = [SimpleNamespace(follows=f, truthful=t) for f, t in zip(follows, true)]
    losses = np.full(4, 10 * loss), np.full(4, 10)
    return Measured([f"{u}" for u in utility], judgements, list(utility), losses, np.array(score), certain(kl))


@pytest.fixture
def found():
    yes, no = True, False
    return {
        "PPO": made((1.0, 2.0, 3.0, 4.0), (yes, yes, no, no), (yes, no, None, None), (1.0, 1.0, 1.0, 1.0), 4.0, 1.5),
        "RLOO": made((2.0, 3.0, 4.0, 5.0), (yes, yes, yes, no), (yes, yes, None, None), (0.0, 0.0, 0.0, 2.0), 1.0, 1.1),
    }


def test_figures_are_means_over_prompts_and_differences_on_the_same_prompts(lab, found):
    lab.wins = lambda records, texts, others, purpose: np.array([float(text) > 2 for text in texts], float)
    lab.losses = lambda folders: {"start": (np.full(4, 10.0), np.full(4, 10))}
    f = findings.figures(lab, found, RECORDS, "PPO")
    wanted = {
        "true utility: PPO": 2.5, "true utility: RLOO": 3.5, "true utility: RLOO minus PPO": 1.0,
        "wins against SFT: PPO": 0.5, "wins against SFT: RLOO minus PPO": 0.25,
        "does what was asked: RLOO": 0.75, "does what was asked: RLOO minus PPO": 0.25,
        "true: PPO": 0.5, "true: RLOO": 1.0, "true: RLOO minus PPO": 0.5,
        "RM score: RLOO": 0.5, "KL: PPO": 4.0, "KL: RLOO": 1.0,
        "loss on pages above the start's: PPO": 0.5, "loss on pages above the start's: RLOO": 0.1,
    }  # fmt: skip
    assert {name: f[name]["mean"] for name in wanted} == pytest.approx(wanted)
    assert f["true: PPO"]["n"] == 2 and "true utility: PPO minus PPO" not in f


def test_differences_are_paired_by_prompt(lab, found):
    """Each answer is better by the same: the interval has no length."""
    lab.wins = lambda records, texts, others, purpose: np.zeros(4)
    lab.losses = lambda folders: {"start": (np.full(4, 10.0), np.full(4, 10))}
    found["RLOO"] = found["PPO"]._replace(utilities=[1.5, 2.5, 3.5, 4.5])
    difference = findings.figures(lab, found, RECORDS, "PPO")["true utility: RLOO minus PPO"]
    assert (difference["low"], difference["high"]) == pytest.approx((0.5, 0.5))


def test_frontiers_begin_at_the_start_and_all_points_count(found):
    points = [found["RLOO"]._replace(kl=certain(kl)) for kl in (1.0, 2.25)]
    swept = {("PPO", 1.0): found["PPO"], ("RLOO", 0.1): points[0], ("RLOO", 0.3): points[1]}
    gold = {("PPO", 1.0): np.full(4, 2.0), ("RLOO", 0.1): np.full(4, 3.0), ("RLOO", 0.3): np.full(4, 6.0)}
    f = Methods().frontiers(swept, gold, np.zeros(4), RECORDS)
    assert f["above PPO's frontier: RLOO"]["mean"] == pytest.approx((2.0 + 4.5) / 2)  # PPO's: 1 at d = 1, 1.5 at 1.5


def test_frontiers_are_compared_at_the_same_kl(found):
    swept = {
        ("PPO", 0.1): found["PPO"],
        ("PPO", 1.0): found["PPO"]._replace(kl=certain(1.0)),
        ("RLOO", 0.3): found["RLOO"],
    }
    gold = {label: np.array(own.utilities) for label, own in swept.items()}
    gold["PPO", 1.0] = np.zeros(4)
    f = Methods().frontiers(swept, gold, np.zeros(4), RECORDS)
    assert f["frontier: PPO: price"] == [0.1, 1.0] and [kl["mean"] for kl in f["frontier: PPO: KL"]] == [4.0, 1.0]
    assert f["above PPO's frontier: RLOO"]["mean"] == 3.5  # where PPO's is 0
    assert "above PPO's frontier: PPO" not in f


def test_the_best_of_16_has_the_highest_score_and_the_bounds_kl(lab, found, monkeypatch):
    texts = [[f"{i} {n}" for n in range(16)] for i in range(4)]
    scores = np.array([[float(n == i) for n in range(16)] for i in range(4)])
    monkeypatch.setattr(findings, "best_of", lambda lab, records, n: (texts, None, (scores,)))
    monkeypatch.setattr(findings, "judge_all", lambda records, own: own)
    monkeypatch.setattr(findings, "utilities", lambda records, own: np.arange(4.0))
    best = Methods().best_of(lab, RECORDS, found["PPO"])
    assert best.texts == best.judgements == ["0 0", "1 1", "2 2", "3 3"] and best.rm_scores.tolist() == [1.0] * 4
    assert best.kl["mean"] == pytest.approx(1.835, abs=1e-3) and best.losses is found["PPO"].losses


def test_each_detail_is_ppo_with_its_change(lab, monkeypatch):
    trained = {}
    lab.ppo = lambda start, **changes: (train_ppo, dict(policy=start, kl_coef=0.3) | changes)
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.test = RECORDS
    monkeypatch.setattr(findings, "measured", lambda lab, folders, records: folders)
    monkeypatch.setattr(findings, "figures", lambda lab, found, records, base: {"base": base, "names": list(found)})
    monkeypatch.setattr(findings, "symptoms", lambda folder: folder)
    f = Details().measure(lab)
    assert f["base"] == "nothing" and f["names"] == list(details.CHANGES) == list(f["metrics"])
    for name in details.CHANGES:
        same = dict(policy="toy/rl_start", kl_coef=0.3, ptx_coef=0.0, change=name)
        assert trained[f"details/{name}"] == (details, same)


def test_each_method_is_trained_as_chosen_at_other_prices_and_at_ppos_cost(lab, found, monkeypatch):
    """And each figure is of the model that its name says."""
    trained, utility = {}, {}
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.test = RECORDS * 500

    def measured(lab, folders, records):
        assert len(records) == 1000
        utility.update({label: float(i) for i, label in enumerate(folders)})
        folders_of.update(folders)
        return {label: found["PPO"]._replace(utilities=[utility[label]] * 4, kl=certain(utility[label] + 1))
                for label in folders}  # fmt: skip

    folders_of = {}
    monkeypatch.setattr(findings, "measured", measured)
    monkeypatch.setattr(Methods, "best_of", lambda self, lab, records, start: (
        start._replace(utilities=[start.utilities[0] + 0.5] * 4)))  # fmt: skip
    monkeypatch.setattr(findings, "figures", lambda lab, found, records, base: {"of": found, "base": base})
    monkeypatch.setattr(findings, "mean", lambda values, records, **_: certain(float(np.mean(values))))
    monkeypatch.setattr(findings, "seconds", lambda folder: {"methods/rloo": 7.0}.get(folder, 1.0))
    f = Methods().measure(lab)
    for name, (lr, price) in findings.CHOSEN.items():
        assert trained[folders_of[name]] == findings.stage(lab, name, lr, price)
        for other in findings.FRONTIER[name]:
            assert trained[folders_of[name, other]] == findings.stage(lab, name, lr, other)
        prices = [*findings.FRONTIER[name], price]
        assert f[f"frontier: {name}: price"] == prices
        wanted = [utility[name, other] for other in prices[:-1]] + [utility[name]]
        assert [point["mean"] for point in f[f"frontier: {name}: true utility"]] == wanted
    assert trained[folders_of["RLOO, at PPO's cost"]][1]["episodes"] == findings.at_cost("RLOO")
    assert folders_of["start"] == "toy/rl_start" and folders_of["PPO-ptx"] == "toy/ppo_ptx" and f["base"] == "PPO"
    assert f["of"]["best of 16"].utilities[0] == utility["start"] + 0.5
    assert [point["mean"] for point in f["frontier: best of 16: true utility"]] == [utility["start"] + 0.5]
    assert f["seconds of training"]["RLOO"] == 7.0 and len(set(folders_of.values())) == len(folders_of)
    assert not any(isinstance(label, tuple) for label in f["of"])


def test_models_are_measured_by_the_same_reward_model_against_their_start(lab, monkeypatch):
    monkeypatch.setattr(findings, "at_once", lambda *calls: [call[0](*call[1:]) for call in calls])
    monkeypatch.setattr(findings, "measure", lambda *given: given)
    lab.records = lambda name, kind: (name, kind)
    noise, pages = (40, *b"methods"), ("web_held_out", "document")
    wanted = {name: (folder, "toy/rm", RECORDS, pages, 26, noise, "", "toy/rl_start")
              for name, folder in (("PPO", "a"), ("RLOO", "b"))}  # fmt: skip
    assert findings.measured(lab, {"PPO": "a", "RLOO": "b"}, RECORDS) == wanted


def test_the_search_tries_each_rate_with_each_price_and_says_the_true_utility(lab, found, monkeypatch):
    trained = {}
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.test = RECORDS
    monkeypatch.setattr(findings, "measured", lambda lab, folders, records: {
        name: found["RLOO" if name.startswith("search/rloo") else "PPO"] for name in folders})  # fmt: skip
    outcome = findings.search(lab)
    assert len(outcome) == 9 * 9 == len(trained)
    assert {"method": "RLOO", "lr": 5e-4, "price": 1.0, "true utility": 3.5, "KL": 1.0} in outcome
    assert {"method": "PPO", "lr": 1e-3, "price": 0.1, "true utility": 2.5, "KL": 4.0} in outcome
    for name in findings.ARMS:
        tried = [findings.stage(lab, name, lr, price) for lr in findings.RATES for price in findings.PRICES[name]]
        assert all(one in trained.values() for one in tried)


def test_metrics_are_kept_of_some_iterations(tmp_path):
    rows = [dict(step=i, score=i / 10, episodes=i) for i in range(50)]
    tiny.write_lines(tmp_path / "metrics.jsonl", rows)
    assert findings.symptoms(tmp_path) == {"score": [i / 10 for i in findings.SHOWN]}


def test_settings_are_searched_on_validation_content_alone():
    with pytest.raises(InputError, match="not chosen on test content"):
        command.main(command.Config(search=True))
    with pytest.raises(InputError, match="nothing: not a finding; choose from methods, details"):
        command.main(command.Config(names=("nothing",)))


def test_what_is_chosen_has_the_highest_mean_of_all_searches():
    searches = [[{"method": "PPO", "lr": lr, "price": 1.0, "true utility": u} for lr, u in ((1, a), (2, b), (3, c))]
                for a, b, c in ((0.9, 0.7, 0.1), (0.2, 0.7, 0.8))]  # fmt: skip
    assert findings.best(searches) == {"PPO": (2, 1.0)}


def test_the_settings_are_those_of_the_searches_that_are_kept():
    kept = [read_json(path)["tried"] for path in sorted((results.FOLDER / "methods").glob("search-*.json"))]
    assert not kept or findings.CHOSEN == findings.best(kept)


def test_results_of_methods_answer_to_their_own_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    made = {"commit": "a" * 40, "changed": [], "command": "lab.methods --seed 40", "machine": "x",
            "claims": provenance.hash_of_claims(findings.CLAIMS)}  # fmt: skip
    (tmp_path / "run").mkdir()
    result = {"verdict": "shown", "figures": {"x": certain(1.0)}, "seed": 40, "made by": made}
    (tmp_path / "run" / "details.json").write_text(json.dumps(result))
    results.keep(tmp_path / "run")
    kept = json.loads((tmp_path / "results" / "methods" / "seed-40.json").read_text())
    assert kept["details"]["figures"]["x"]["mean"] == 1.0 and "details" not in results.load()  # of one seed in ten
    made["claims"] = provenance.hash_of_claims()
    (tmp_path / "run" / "details.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="another claims.md"):
        results.keep(tmp_path / "run")
