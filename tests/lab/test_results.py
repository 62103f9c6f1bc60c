"""Pages say what results/ holds: figures are filled in, a wrong one is found; what cannot be believed is not kept."""

import json

import pytest

import tiny
from lab import provenance, results
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
    assert results.unmarked(PAGE) == []
    assert results.unmarked(PAGE + "\nIt is 0.5.\n") == ["It is 0.5.\n"]
    assert (
        results.unmarked("```\nx = 0.5\n```\n\n<!-- table wins -->\n| 0.5 |\n<!-- end -->\n\nSection 3.5 and 2,000")
        == []
    )


@pytest.mark.parametrize(
    ("page", "fault"),
    [(PAGE.replace("| gain", "| gian"), "no figure 'toy | gian'"),
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
