"""Pages say what results/ holds: figures are filled in, a wrong one is found; what cannot be believed is not kept."""

import json
import re

import pytest

import tiny
from lab import provenance, results, tables
from minirlhf.support.errors import InputError


def figure(mean, width=0.01):
    return {"mean": mean, "low": mean - width, "high": mean + width, "of each run": [mean - 0.02, mean + 0.02]}


FOUND = {
    "toy": {"wins": figure(0.6123), "gain": figure(-0.021), "loss": [figure(0.5), figure(1234.5678, 0.5)], "plain": 2.5}
}
PAGE = """It beats it.

<!-- figures
toy | wins % ()
toy | gain
toy | loss | 1
0.3
-->
It wins 99.9 % (1.0 to 2.0) of 2,000, minus +0.500, at most 9.99, with beta 0.3.

Nothing here.
"""


FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def unmarked(page):
    """The paragraphs of a page with decimal numbers that are filled from nothing."""
    for pattern in (FENCED, results.TABLE, results.FIGURES, results.CODE):
        page = pattern.sub("", page)
    return [text for text in page.split("\n\n") if results.NUMBER.search(text)]


def test_a_paragraphs_numbers_are_filled_in_their_form():
    page = results.fill(PAGE, FOUND)
    assert "wins 61.2 % (60.2 to 62.2) of 2,000, minus -0.021, at most 1,234.57, with beta 0.3." in page
    assert results.fill(page, FOUND) == page and page.startswith("It beats it.\n\n<!-- figures\n")


@pytest.mark.parametrize("wrong", ["61.3 %", "(60.1", "-0.022", "0.021", "beta 0.4", "1,234.56"])
def test_a_wrong_figure_is_found(wrong):
    right = {"61.3 %": "61.2 %", "(60.1": "(60.2", "-0.022": "-0.021", "0.021": "-0.021", "beta 0.4": "beta 0.3",
             "1,234.56": "1,234.57"}[wrong]  # fmt: skip
    page = results.fill(PAGE, FOUND)
    changed = page.replace(right, wrong, 1) if wrong != "beta 0.4" else page.replace("beta 0.3.", "beta 0.4.")
    assert changed != page and results.fill(changed, FOUND) != changed


def test_a_paragraph_that_names_no_figures_is_found():
    assert unmarked(PAGE) == []
    assert unmarked(PAGE + "\nIt is 0.5.\n") == ["It is 0.5.\n"]
    assert unmarked("```\nx = 0.5\n```\n\n<!-- table wins -->\n| 0.5 |\n<!-- end -->\n\nSection 3.5 and 2,000") == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [(PAGE.replace("| gain", "| gian"), "no figure 'toy | gian'"),
     (PAGE.replace("| loss | 1", "| loss | 2"), "no figure 'toy | loss | 2'"),
     (PAGE.replace("toy | gain\n", ""), "6 decimal numbers and 5"),
     (PAGE.replace("0.3.", "0.3 and 0.4."), "7 decimal numbers and 6")],
)  # fmt: skip
def test_a_mark_that_fits_nothing_is_named(page, fault):
    with pytest.raises(InputError, match=f"README.md: .*{fault.replace('|', '.')}"):
        results.fill(page, FOUND, "README.md")


MADE_BY = {"commit": "a" * 40, "changed": [], "command": "reproduce.py --seed 30", "machine": "x"}


@pytest.mark.parametrize(
    ("change", "why"),
    [({}, None), ({"commit": "unknown"}, "of which commit"), ({"changed": ["lab/stages.py"]}, "lab/stages.py"),
     ({"command": "reproduce.py --judge_on validation"}, "a trial"), ({"command": "x --tiny"}, "a trial"),
     ({"claims": "0" * 64}, "another claims.md")],
)  # fmt: skip
def test_only_what_can_be_believed_is_kept(tmp_path, monkeypatch, change, why):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    (tmp_path / "run").mkdir()
    made = MADE_BY | {"claims": provenance.hash_of_claims()} | change
    result = {"size": "toy", "seed": 30, "models": {}, "made by": made, "x": {"mean": 0.123456789}}
    (tmp_path / "run" / "results.json").write_text(json.dumps(result))
    if why:
        with pytest.raises(InputError, match=why):
            results.keep(tmp_path / "run")
        assert not (tmp_path / "results").exists()
    else:
        results.keep(tmp_path / "run")
        kept = json.loads((tmp_path / "results" / "reproduce" / "toy-30.json").read_text())
        assert kept == result | {"x": {"mean": 0.123457}}


def test_findings_of_one_seed_are_kept_together(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    made, seeds = MADE_BY | {"claims": provenance.hash_of_claims()}, [(30, 31, 32), (30, 31)]
    monkeypatch.setattr(results, "seeds_of", lambda finding: seeds[-1])
    for name, seed in (("bias", 30), ("compute", 30), ("bias", 31)):
        folder = tmp_path / f"{name}-{seed}"
        folder.mkdir()
        figures = {"bits of the choice: ppo_ptx minus gpt": {"mean": seed / 100, "low": 0.0, "high": 0.01}}
        (folder / f"{name}.json").write_text(json.dumps({"figures": figures, "seed": seed, "made by": made}))
        results.keep(folder)
    kept = json.loads((tmp_path / "results" / "findings" / "seed-30.json").read_text())
    assert list(kept) == ["bias", "compute"]
    found = results.load()["bias"]
    assert found["bits of the choice: ppo_ptx minus gpt"]["mean"] == pytest.approx(0.305) and found["seeds"] == 2
    assert "compute" not in results.load()  # of one seed of two
    seeds.pop()
    assert results.load() == {}
    with pytest.raises(InputError, match="no results of"):
        (tmp_path / "empty").mkdir()
        results.keep(tmp_path / "empty")


def test_a_result_says_what_made_it(tiny_run):
    made = json.loads((tiny_run / "results.json").read_text())["made by"]
    assert made.keys() == {"commit", "changed", "claims", "machine", "command"}
    assert made["claims"] == provenance.hash_of_claims() and "torch" in made["machine"]


def test_the_command_fills_all_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "load", lambda: FOUND)
    for name in results.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PAGE)
    tiny.run(results, [])
    assert all("wins 61.2 %" in (tmp_path / name).read_text() for name in results.PAGES)


# --- the project's own pages and tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", results.PAGES)
def test_a_page_holds_what_results_holds_and_no_other_figure(name):
    page = (provenance.ROOT / name).read_text()
    assert results.fill(page, results.load(), name) == page
    assert unmarked(page) == []


def test_what_is_kept_was_measured_with_these_claims_on_their_seeds():
    for path in (results.FOLDER / "findings").glob("*.json"):
        kept = json.loads(path.read_text())
        assert all(results.why_not(one) is None and f"seed-{one['seed']}.json" == path.name for one in kept.values())
    for path in (results.FOLDER / "reproduce").glob("*.json"):
        kept = json.loads(path.read_text())
        assert results.why_not(kept) is None and f"{kept['size']}-{kept['seed']}.json" == path.name


def run_of(shift):
    """What reproduce.py found, with each figure a tenth of its place in the table."""
    models = {}
    for i, name in enumerate(tables.NAMES):
        columns = ("win_rate_vs_sft", "follows_instruction", "truthful_informative", "pretraining_loss")
        models[name] = {column: figure(0.1 * i + 0.01 * j + shift) for j, column in enumerate(columns)}
    models["sft"]["win_rate_vs_sft"] = None
    models["ppo_ptx"]["win_rate_vs_rl_start"] = figure(0.77 + shift)
    gains = {key: {f"ppo_ptx_above_{base}": figure(0.01 * i + shift) for base in ("sft", "gpt")}
             for i, key in enumerate(("follows", "truthful_informative"))}  # fmt: skip
    tax = {f"{a}_above_{b}": figure(x) for (a, b), x in zip(
        (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")), (0.3, 0.2, 0.1))}  # fmt: skip
    rm = {
        name: figure(x) for name, x in (("accuracy", 0.7), ("accuracy_within_model", 0.65), ("labeler_agreement", 0.8))
    }
    kinds = {
        kind: {name: figure(x) | {"n": n} for name in tables.NAMES}
        for kind, n, x in (("few", 10, 0.2), ("many", 90, 0.9))
    }
    return {"models": models, "gains": gains, "pretraining_loss": tax, "reward_model": rm, "follows_by_kind": kinds,
            "memory": {"most_similar": figure(0.14), "same_kind": figure(0.05)}, "seeds": 3}  # fmt: skip


def rows_of(table):
    return [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.splitlines()[2:]]


def test_tables_show_each_figure_under_its_own_name():
    found = {"toy": run_of(0.0)}
    models = rows_of(tables.TABLES["models"](found))
    assert [row[0] for row in models] == ["GPT", "GPT, prompted", "SFT", "RL start", "PPO", "PPO-ptx"]
    assert models[-1][2] == "50.0 % (49.0 to 51.0); 48.0 to 52.0" and models[2][2] == ""
    assert [cell[:6] for cell in models[-1][3:]] == ["51.0 %", "52.0 %"]
    wins = {row[0]: row[1:] for row in rows_of(tables.TABLES["wins"](found))}
    assert wins["PPO"] == ["40.0 (39.0 to 41.0)", "38.0 to 42.0"] and "SFT" not in wins
    assert wins["PPO-ptx against RL start"][0] == "77.0 (76.0 to 78.0)"
    others = {row[0]: row[1] for row in rows_of(tables.TABLES["others"](found))}
    assert others["follows the instruction: PPO-ptx (%)"] == "51.0 (50.0 to 52.0)"
    assert others["true and informative, PPO-ptx minus SFT (points)"] == "+1.0 (+0.0 to +2.0)"
    assert others["pretraining loss, PPO minus PPO-ptx"].startswith("+0.200")
    assert others["reward model, held-out rankings (%)"].startswith("70.0") and others["two labelers agree"].startswith(
        "80.0"
    )
    assert others["true and informative: RL start (%)"] == "32.0 (31.0 to 33.0)"
    kinds = rows_of(tables.TABLES["kinds"](found))
    assert kinds == [["many", "90", *["90"] * 6], ["few", "10", *["20"] * 6]]


def test_the_verdicts_are_counted_and_each_claim_has_a_row():
    claims = results.known()
    bias, voice = (
        {name: figure(x) for _, name, _ in claims[one].hypotheses} for one, x in (("bias", 9.0), ("voice", 0.5))
    )
    found = {"bias": bias | {"seeds": 5}, "voice": voice | {"seeds": 5}}
    rows = rows_of(tables.TABLES["findings"](found))
    assert len(rows) == len(claims["bias"].hypotheses) + len(claims["voice"].hypotheses)
    assert rows[0][0] == "`voice`, 5 seeds: reproduced" and rows[0][2:] == [
        "0.500 (0.490 to 0.510)",
        "above 0",
        "holds",
    ]
    assert any(row[0] == "`bias`, 5 seeds: not reproduced" for row in rows)
    missing = sum(bool(one.hypotheses) for one in claims.values()) - 2
    words = f"Of 2 findings 1 is reproduced, 1 is not reproduced, and 0 are inconclusive. ({missing} more are"
    assert tables.TABLES["verdicts"](found).startswith(words)


def test_each_findings_source_and_what_differs_are_told():
    rows = {row[0]: row[1:] for row in rows_of(tables.TABLES["sources"]({}))}
    assert rows == {f"`{name}`": [one.paper, one.sample, one.remark] for name, one in results.known().items()}


def test_what_fits_is_by_the_formulas_of_the_page():
    """GPT-2: 16, 44, 52 or, where eight processes share two optimizers' moments, 38 bytes for each of 124.4 million
    parameters, and 1.42 GB for 2,048 tokens of a step."""
    row = rows_of(tables.TABLES["fits"]({}))[0]
    parts = 2048 * (4 * 768 * 12 + 68 * 768 + 12 * 50257) / 1e9
    assert row[1:6] == ["124M", *(f"{each * 0.12444 + parts:.1f}" for each in (16, 44, 52, 38))]
