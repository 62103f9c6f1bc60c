"""The tables of docs/methods.md show each figure under its own name."""

import pytest

from lab import results, tables
from lab.findings.lab import UNKNOWN
from lab.methods import arms, details, findings
from lab.methods.tables import symptom


def figure(mean, width=0.5):
    return {"mean": mean, "low": mean - width, "high": mean + width}


HEADINGS = ("true utility", "wins against SFT", "does what was asked", "true", "KL", "RM score",
            "loss on pages above the start's")  # fmt: skip


def figures(names, base):
    """The figure of heading i and name j is i + j / 100; its difference from the base's j / 100 - 7."""
    found = {f"{heading}: {name}": figure(i + j / 100) for i, heading in enumerate(HEADINGS, 1)
             for j, name in enumerate(names)}  # fmt: skip
    return found | {f"true utility: {n} minus {base}": figure(j / 100 - 7) for j, n in enumerate(names) if n != base}


def rows(name, found):
    lines = [line[2:-2].split(" | ") for line in tables.TABLES[name](found).splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: line[1:] for line in lines[2:]}


def test_methods_have_their_own_figures():
    names = ["PPO", "start", "PPO-ptx", *list(arms.ARMS)[1:], arms.BEST]
    names += [f"{name}, for PPO's FLOPs" for name in arms.COST if name != "PPO"]
    f = figures(names, "PPO") | {"seconds of training": {name: 10.0 * i for i, name in enumerate(arms.ARMS)}}
    f["at PPO's KL: RLOO minus PPO"], f["at PPO's KL: REINFORCE minus PPO"] = figure(0.25), UNKNOWN
    found = {"methods": f}
    own = rows("methods", found)
    j = names.index("RLOO")
    assert own["RLOO"][2:] == [f"{200 + j}.0", f"{300 + j}.0", f"{400 + j}.0", f"5.0{j}", f"+6.0{j}", f"+7.0{j}0", "20"]
    assert own["RLOO"][0] == f"+1.0{j}0 (+0.5{j}0 to +1.5{j}0)" and own["RLOO"][1].startswith(f"-6.9{10 - j}0 (")
    j = names.index(arms.BEST)
    assert own[arms.BEST][5] == f"at most 5.{j}"
    assert own["PPO"][1] == "" and own["start"][-1] == "" and list(own)[:3] == ["start", "PPO", "PPO-ptx"]
    assert len(own) == len(arms.ARMS) + 3
    cost = rows("methods_flops", found)
    assert cost["RLOO"][-1] == f"{arms.at_ppos_flops('RLOO'):,}" and cost["PPO"][-1] == "6,400"
    j = names.index("RLOO, for PPO's FLOPs")
    assert cost["RLOO"][2] == f"{200 + j}.0"
    settings = rows("methods_settings", found)
    lr, price = arms.CHOSEN["RLOO"]
    assert f"**{lr:g}**" in settings["RLOO"][0] and f"**{price:g}**" in settings["RLOO"][1]
    assert settings["DPO"][1].replace("*", "") == "0.5, 1, 2" and settings["RLOO"][2] == "+0.250 (-0.250 to +0.750)"
    assert settings["REINFORCE"][2] == "unknown"
    assert settings["GRPO"][2] == "" and settings["GRPO"][0].count("**") == 2


def run(**changed):
    nothing = {"kl": [0.0, 1.0, 2.0], "entropy": [1.0, 1.0, 1.0], "seconds": [1.0] * 3}
    nothing |= {"value_loss": [1.0] * 3, "objective": [1.0] * 3}
    return {"metrics": {"nothing": nothing, "lambda_1": nothing | changed}}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([run(), run()], "nothing"),
        ([run(seconds=[9.0] * 3)] * 2, "nothing"),
        ([run(kl=[0.0, 3.0, 4.0])] * 2, "`kl` 3, not 1, in iteration 2"),
        ([run(kl=[0.0, 3.0, 4.0]), run()], "nothing"),
        ([run(kl=[0.0, 3.0, 4.0], entropy=[1.0, 8.0, 1.0])] * 2, "`entropy` 8, not 1, in iteration 2"),
        ([run(kl=[0.0, 1.0005, 2.0])] * 2, "nothing"),
        ([run(value_loss=[9.0] * 3, objective=[9.0] * 3)] * 2, "nothing"),
        ([run(kl=[-1.0, 1.0, 2.0], entropy=[1.0, 8.0, 1.0])] * 2, "`kl` -1, not 0, in iteration 1"),
    ],
)
def test_a_symptom_is_what_no_unchanged_run_has_and_all_changed_ones_do(runs, says, monkeypatch):
    monkeypatch.setattr("lab.methods.tables.SHOWN", (0, 1, 2))
    assert symptom(runs, "lambda_1") == says


def test_details_have_their_own_figures_and_what_they_change(monkeypatch):
    monkeypatch.setattr("lab.methods.tables.symptom", lambda runs, name: f"{runs} {name}")
    found = {"details": figures(list(details.CHANGES), "nothing"), "runs of details": "R"}
    own = rows("details", found)
    base, own = own.pop("PPO as it is"), {change.split("`")[1]: [change, *cells] for change, cells in own.items()}
    assert ["nothing", *own] == list(details.CHANGES)
    assert base[0] == "+1.000 (+0.500 to +1.500)" and base[1] == "" and base[-1] == ""
    j = list(details.CHANGES).index("no_whitening")
    one, utility, difference, *others = own["no_whitening"]
    assert (
        utility == "+1.010 (+0.510 to +1.510)" and difference.startswith("-6.990 (") and one.endswith("of the score.")
    )
    assert others == [f"{300 + j}.0", f"5.0{j}", f"+6.0{j}", f"+7.0{j}0", "R no_whitening"]


def test_the_runs_of_each_seed_are_kept_beside_their_means(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "METHODS", {"details": findings.Details})
    (tmp_path / "methods").mkdir()
    for seed in findings.SEEDS:
        figures = {"x": figure(seed), "metrics": {"kl": [float(seed)]}, "curves": {"rm": {"loss": [seed]}}}
        own = {"details": {"seed": seed, "figures": figures}}
        results.write_json(tmp_path / "methods" / f"seed-{seed}.json", own)
    found = results.load()
    assert found["details"]["x"]["mean"] == 44.5 and found["details"]["metrics"]["kl"] == [44.5]
    assert [one["metrics"]["kl"] for one in found["runs of details"]] == [[float(seed)] for seed in findings.SEEDS]
    assert [one["rm"]["loss"] for one in found["healthy"]] == [[seed] for seed in findings.SEEDS]


@pytest.mark.parametrize("name", ["methods", "details"])
def test_claims_are_shown_with_their_figure_and_bound(name):
    own = findings.FINDINGS[name]
    f = {figure_of: figure(0.01, 0.02) for _, figure_of, _ in own.hypotheses}
    text, first, _ = own.hypotheses[0]
    f[first] = figure(-0.5, 0.1)
    lines = tables.TABLES[f"{name}_claims"]({name: f}).splitlines()
    assert lines[2].startswith(f"| {text} | -0.500 (-0.600 to -0.400) |") and "does not hold" in lines[2]
    assert len(lines) == 2 + len(own.hypotheses) and "holds" in lines[3] and "not hold" not in lines[3]
