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
from lab.methods import arms, details, dpo, findings
from lab.methods.findings import Details, Methods, at_distance
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json

PPO = dict(ema_decay=0.97, value_lr=5e-4, minibatch_size=32)


@pytest.fixture
def lab(tmp_path):
    """A lab whose models are names."""
    models = {name: f"toy/{name}" for name in ("gpt", "sft", "rl_start", "ppo", "ppo_ptx")}
    return SimpleNamespace(
        toy="toy", seed=40, tiny=False, models=lambda: models, file=lambda name: f"{name}.jsonl",
        recipe=lambda stage: PPO, records=lambda name, kind: [],
        answers_to=lambda records, folders, purpose: dict.fromkeys(folders, ["fine"] * len(records)),
    )  # fmt: skip


def test_arms_differ_in_their_method_and_in_what_belongs_to_it(lab):
    """The same start, prompts, reward model, answers and limit; averages and warmup are over as many answers."""
    common = dict(policy="toy/rl_start", prompts=("prompts_train.jsonl",), reward_model="toy/rm", episodes=6400,
                  max_response=26, lr=1e-3)  # fmt: skip
    for name in arms.ARMS:
        script, flags = arms.stage(lab, name, 1e-3, 0.2)
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
        assert flags["ema_decay"] ** (1 / flags["minibatch_size"]) == pytest.approx(0.97 ** (1 / 32))
        own = {
            "batch_size",
            "minibatch_size",
            "warmup",
            "ema_decay",
            "kl_coef",
            "save_every",
            "divide",
            "ptx_coef",
            "value_lr",
        }
        assert flags.keys() - common.keys() <= own
        script.Config(
            out="x", **{key: value for key, value in flags.items() if name != "GRPO, verifier" or key != "reward_model"}
        )


def test_every_method_is_searched_as_long_and_what_was_chosen_was_tried():
    assert list(arms.GRID) == list(arms.ARMS) == list(arms.CHOSEN)
    for name, (rates, prices) in arms.GRID.items():
        assert len(rates) == len(prices) == 3
        assert arms.CHOSEN[name][0] in rates and arms.CHOSEN[name][1] in prices


def test_methods_without_a_ratio_take_one_step_with_each_batch():
    for name in ("REINFORCE", "RLOO", "online DPO"):
        flags = arms.ARMS[name][1]
        assert flags["minibatch_size"] == flags["batch_size"]
    assert arms.ARMS["GRPO, not divided"][1]["divide"] is False


def test_for_ppos_flops_a_method_samples_more_answers():
    """Forwards for each token of an answer: PPO samples, asks reference, reward model and value network, and learns
    two networks; the others have no value network."""
    assert arms.at_ppos_flops("RLOO") == arms.at_ppos_flops("GRPO") == 10_624  # 6400 * 10 / 6, in whole batches
    assert arms.at_ppos_flops("expert iteration") == 17_024  # one answer in four is learned


def test_the_frontier_is_read_between_its_points_and_not_beyond():
    frontier = [(2.0, np.array([4.0, 0.0])), (0.0, np.array([0.0, 0.0])), (1.0, np.array([2.0, 1.0]))]
    assert at_distance(1.5, frontier).tolist() == [3.0, 0.5]
    assert at_distance(0.25, frontier).tolist() == [0.5, 0.25]
    assert at_distance(1.0, frontier).tolist() == [2.0, 1.0]
    assert at_distance(2.1, frontier) is None


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
    f = findings.figures(lab, found, RECORDS, [("RLOO", "PPO")])
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
    difference = findings.figures(lab, found, RECORDS, [("RLOO", "PPO")])["true utility: RLOO minus PPO"]
    assert (difference["low"], difference["high"]) == pytest.approx((0.5, 0.5))


def at(one, kl, utility):
    return one._replace(kl=certain(kl), utilities=[utility] * 4)


def test_methods_are_compared_at_the_kl_of_ppo_as_chosen(found, monkeypatch):
    """Each on the line between its own points, the first of which is the start."""
    monkeypatch.setattr(findings, "CHOSEN", {"PPO": (1e-3, 0.3)})
    one = found["PPO"]
    swept = {("PPO", 0.3): at(one, 4.0, 2.0), ("PPO", 1.0): at(one, 1.0, 9.0),
             ("RLOO", 0.1): at(one, 9.0, 5.0), ("RLOO", 0.3): at(one, 1.0, 1.0),
             ("GRPO", 0.1): at(one, 16.0, 4.0), ("DPO", 0.5): at(one, 3.9, 8.0)}  # fmt: skip
    f = Methods().frontiers(swept, at(one, 0.0, 0.5), RECORDS)
    assert f["frontier: PPO: price"] == [0.3, 1.0] and [kl["mean"] for kl in f["frontier: PPO: KL"]] == [4.0, 1.0]
    assert [own["mean"] for own in f["frontier: RLOO: true utility"]] == [5.0, 1.0]
    assert f["at PPO's KL: RLOO minus PPO"]["mean"] == 3.0 - 2.0  # between d = 1 and d = 3
    assert f["at PPO's KL: GRPO minus PPO"]["mean"] == pytest.approx((0.5 + 4.0) / 2 - 2.0)
    assert f["at PPO's KL: DPO minus PPO"]["low"] == -np.inf  # no point of it is so far from the start
    assert "at PPO's KL: PPO minus PPO" not in f


def test_the_best_of_n_has_the_highest_score_and_the_bounds_kl(lab, found, monkeypatch):
    texts = [[f"{i} {n}" for n in range(16)] for i in range(4)]
    scores = np.array([[float(n == i) + 2 * (n >= findings.N) for n in range(16)] for i in range(4)])
    gold = np.tile(np.arange(16.0), (4, 1))
    monkeypatch.setattr(findings, "best_of", lambda lab, records, n: (texts, gold, (scores,)))
    monkeypatch.setattr(findings, "judge_all", lambda records, own: own)
    monkeypatch.setattr(findings, "utilities_of", lambda judgements, own: np.arange(4.0))
    monkeypatch.setattr(findings, "expect_best", lambda proxy, values, ns: (proxy is scores, values is gold, ns))
    best, expected = Methods().best_of(lab, RECORDS, found["PPO"])
    chosen = [min(i, findings.N - 1) if i < findings.N else 0 for i in range(4)]
    assert best.texts == best.judgements == [f"{i} {n}" for i, n in enumerate(chosen)]
    assert best.rm_scores.tolist() == [float(i < findings.N) for i in range(4)]
    n = findings.N
    assert best.kl["mean"] == pytest.approx(np.log(n) - (n - 1) / n) and best.losses is found["PPO"].losses
    assert expected == (True, True, (2, 4, 8, 16))


def test_each_detail_is_ppo_with_its_change(lab, monkeypatch):
    trained = {}
    lab.ppo = lambda start, **changes: (train_ppo, dict(policy=start, kl_coef=0.3) | changes)
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.held_out = RECORDS
    monkeypatch.setattr(findings, "measured", lambda lab, folders, records: folders)
    monkeypatch.setattr(findings, "figures", lambda lab, found, records, pairs: {"pairs": pairs, "names": list(found)})
    monkeypatch.setattr(findings, "symptoms", lambda folder: folder)
    monkeypatch.setattr(findings.broken, "metrics", lambda folder: folder)
    f = Details().measure(lab)
    assert f["names"] == list(details.CHANGES) == list(f["metrics"])
    assert f["pairs"] == [(name, "nothing") for name in details.CHANGES if name != "nothing"]
    assert f["curves"] == {name: f"toy/{name}" for name in ("gpt", "sft", "rm", "ppo", "ppo_ptx")}
    for name in details.CHANGES:
        same = dict(policy="toy/rl_start", kl_coef=0.3, ptx_coef=0.0, change=name)
        assert trained[f"details/{name}"] == (details, same)


def test_each_method_is_trained_as_chosen_at_other_prices_and_for_ppos_flops(lab, found, monkeypatch):
    """And each figure is of the model that its name says."""
    trained, utility, folders_of = {}, {}, {}
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.ppo = lambda start, **changes: ("PPO-ptx", start, changes)
    lab.held_out = RECORDS * 500

    def measured(lab, folders, records):
        assert len(records) == 2000
        utility.update({label: float(i) for i, label in enumerate(folders)})
        folders_of.update(folders)
        return {label: at(found["PPO"], utility[label] + 1, utility[label]) for label in folders}

    monkeypatch.setattr(findings, "measured", measured)
    monkeypatch.setattr(Methods, "best_of", lambda self, lab, records, start: (
        at(start, 0.0, start.utilities[0] + 0.5), np.tile([[1.0, 2.0, 4.0, 8.0]], (4, 1))))  # fmt: skip
    monkeypatch.setattr(findings, "figures", lambda lab, found, records, pairs: {"of": found, "pairs": pairs})
    monkeypatch.setattr(findings, "mean", lambda values, records, **_: certain(float(np.mean(values))))
    monkeypatch.setattr(findings, "seconds", lambda folder: {"methods/rloo": 7.0}.get(folder, 1.0))
    f = Methods().measure(lab)
    for name, (lr, price) in arms.CHOSEN.items():
        assert trained[folders_of[name]] == arms.stage(lab, name, lr, price)
        for other in arms.FRONTIER[name]:
            assert trained[folders_of[name, other]] == arms.stage(lab, name, lr, other)
        assert price not in arms.FRONTIER[name] and len(set(arms.FRONTIER[name])) == 4
        prices = sorted([*arms.FRONTIER[name], price])
        assert f[f"frontier: {name}: price"] == prices
        wanted = [utility[name] if other == price else utility[name, other] for other in prices]
        assert [point["mean"] for point in f[f"frontier: {name}: true utility"]] == wanted
    assert trained[folders_of["RLOO, for PPO's FLOPs"]][1]["episodes"] == arms.at_ppos_flops("RLOO")
    lr, price = arms.CHOSEN["PPO"]
    assert trained[folders_of["PPO-ptx"]] == ("PPO-ptx", "toy/rl_start", dict(lr=lr, kl_coef=price))
    assert folders_of["start"] == "toy/rl_start" and f["of"][arms.BEST].utilities[0] == utility["start"] + 0.5
    assert {(name, "PPO") for name in f["of"] if name != "PPO"} | {("GRPO, verifier", "GRPO")} == set(f["pairs"])
    assert f["frontier: best of n: price"] == [2.0, 4.0, 8.0, 16.0]
    assert [kl["mean"] for kl in f["frontier: best of n: KL"]] == pytest.approx([0.193, 0.636, 1.204, 1.835], abs=1e-3)
    assert [own["mean"] for own in f["frontier: best of n: true utility"]] == [1.0, 2.0, 4.0, 8.0]
    assert f["seconds of training"]["RLOO"] == 7.0 and len(set(folders_of.values())) == len(folders_of)
    assert not any(isinstance(label, tuple) for label in f["of"])


def test_the_picture_has_each_methods_points_from_the_start_on_before_ppos():
    figure_module = pytest.importorskip("matplotlib.figure")
    f, names = {"true utility: start": certain(0.5)}, [*arms.ARMS, "best of n"]
    for i, name in enumerate(names):
        chosen = arms.CHOSEN[name][1] if name in arms.CHOSEN else arms.N
        f[f"frontier: {name}: price"] = [9.0, chosen + 1e-17]
        f[f"frontier: {name}: KL"] = [certain(4.0 + i), certain(1.0)]
        f[f"frontier: {name}: true utility"] = [certain(0.7 + i / 100), certain(0.6)]
    figure = figure_module.Figure()
    Methods().draw(figure, f)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(panels) == [name for name in names if name != "PPO"]
    for i, name in enumerate(names[1:], 1):
        ppos_ring, ppo, ring, own = (line.get_xydata().tolist() for line in panels[name].lines)
        assert ppo == [[0, 0.5], [1, 0.6], [2, 0.7]] and ring == ppos_ring == [[1, 0.6]]
        assert own == [[0, 0.5], [1, 0.6], [pytest.approx((4 + i) ** 0.5), pytest.approx(0.7 + i / 100)]]
    assert "at most" in panels["best of n"].get_xlabel()


def test_the_picture_of_details_has_what_each_change_does_and_arrows_to_what_lies_beyond():
    figure_module = pytest.importorskip("matplotlib.figure")
    f = {"true utility: lambda_0 minus nothing": certain(-0.05), "true utility: dropout minus nothing": certain(-0.5)}
    f["true utility: lambda_1 minus nothing"] = certain(0.01)
    figure = figure_module.Figure()
    Details().draw(figure, f)
    whole, near = figure.axes
    assert [label.get_text() for label in whole.get_yticklabels()] == ["lambda_1", "lambda_0", "dropout"]
    for axis in (whole, near):
        assert [own.lines[0].get_xydata().tolist() for own in axis.containers] == [
            [[0.01, 0]],
            [[-0.05, 1]],
            [[-0.5, 2]],
        ]
    arrows = near.lines[-1].get_xydata()
    assert arrows[:, 1].tolist() == [2] and near.get_xlim()[0] < arrows[0, 0] < -0.05
    assert whole.get_xlim()[0] < -0.5 and not any(line.get_marker() == "<" for line in whole.lines)


def test_the_claims_are_about_figures_that_are_measured(lab, found, monkeypatch):
    names = [*arms.ARMS, *(f"{name}, for PPO's FLOPs" for name in arms.COST if name != "PPO"), arms.BEST]
    monkeypatch.setattr(findings, "judge_all", None)
    lab.wins = lambda records, texts, others, purpose: np.zeros(4)
    lab.losses = lambda folders: {"start": (np.full(4, 10.0), np.full(4, 10))}
    pairs = [(name, "PPO") for name in names if name != "PPO"] + [("GRPO, verifier", "GRPO")]
    f = findings.figures(lab, dict.fromkeys(names, found["PPO"]), RECORDS, pairs)
    f |= {f"at PPO's KL: {name} minus PPO": None for name in arms.ARMS}
    assert {name for _, name, _ in Methods.hypotheses} <= f.keys()
    pairs = [(name, "nothing") for name in details.CHANGES]
    f = findings.figures(lab, dict.fromkeys(details.CHANGES, found["PPO"]), RECORDS, pairs)
    assert {name for _, name, _ in Details.hypotheses} <= f.keys()


def test_models_are_measured_by_the_same_reward_model_against_their_start(lab, monkeypatch):
    monkeypatch.setattr(arms, "at_once", lambda *calls: [call[0](*call[1:]) for call in calls])
    monkeypatch.setattr(arms, "measure", lambda *given: given)
    lab.records = lambda name, kind: (name, kind)
    noise, pages = (40, *b"methods"), ("web_held_out", "document")
    wanted = {name: (folder, "toy/rm", RECORDS, pages, 26, noise, "", "toy/rl_start")
              for name, folder in (("PPO", "a"), ("RLOO", "b"))}  # fmt: skip
    assert arms.measured(lab, {"PPO": "a", "RLOO": "b"}, RECORDS) == wanted


def test_the_search_tries_each_rate_with_each_price_and_says_the_true_utility(lab, found, monkeypatch):
    trained = {}
    lab.train = lambda stages: trained.update(stages) or {name: name for name in stages}
    lab.test = RECORDS
    monkeypatch.setattr(arms, "measured", lambda lab, folders, records: {
        name: found["RLOO" if name.startswith("search/rloo") else "PPO"] for name in folders})  # fmt: skip
    scores = np.array([[1.0, 0.0] + [-1.0] * 14] * 4)  # the first of 16 has the highest score, and is the worst
    monkeypatch.setattr(arms, "best_of", lambda lab, records, n: (None, 1.0 - scores, (scores,)))
    outcome = arms.search(lab)
    assert len(outcome) == 9 * 9 + 4 == len(trained) + 4
    assert {"method": "RLOO", "lr": 5e-4, "price": 1.0, "true utility": 3.5, "KL": 1.0} in outcome
    assert {"method": "PPO", "lr": 1e-4, "price": 0.1, "true utility": 2.5, "KL": 4.0} in outcome
    *_, sixteen = outcome
    assert sixteen["method"] == "best of n" and sixteen["price"] == 16.0 and sixteen["true utility"] == 0.0
    for name, (rates, prices) in arms.GRID.items():
        tried = [arms.stage(lab, name, lr, price) for lr in rates for price in prices]
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
    assert arms.best(searches) == {"PPO": (2, 1.0)}


def test_the_settings_are_those_of_the_searches_that_are_kept():
    kept = [read_json(path)["tried"] for path in sorted((results.FOLDER / "methods").glob("search-*.json"))]
    assert not kept or arms.CHOSEN | {"best of n": (0.0, float(arms.N))} == arms.best(kept)


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
