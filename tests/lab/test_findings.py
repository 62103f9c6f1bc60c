"""The findings: verdicts follow from figures, controls control, estimators are unbiased, nothing trained is lost."""

import html
import itertools
import json
import math
import random
import re
from collections import Counter

import numpy as np
import pytest

import tiny
import train_ppo
import train_sft
from data import town
from data.town.grammar import plain
from data.town.prompts import USERS, prompts
from lab import provenance
from lab.evaluation import judge_all
from lab.findings import __main__ as command
from lab.findings import benchmarks, claims, preferences, rewards, tasks
from lab.findings.finding import Claim, Finding, verdict
from lab.findings.lab import Lab, mean
from minirlhf.support import records
from minirlhf.support.errors import InputError
from minirlhf.support.folder import lock_output

KNOWN = command.known()


def figure(mean, width=0.001):
    return {"mean": mean, "low": mean - width, "high": mean + width}


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "bounds", "holds"),
    [
        (0.1, 0.2, dict(above=0), True), (-0.2, -0.1, dict(above=0), False), (-0.1, 0.1, dict(above=0), None),
        (0.1, 0.2, dict(below=0), False), (-0.2, -0.1, dict(below=0), True), (0, 0.1, dict(above=0), None),
        (-0.01, 0.01, dict(above=-0.05, below=0.05), True), (0.06, 0.1, dict(above=-0.05, below=0.05), False),
        (0.04, 0.1, dict(above=-0.05, below=0.05), None), (-math.inf, math.inf, dict(above=0), None),
    ],
)  # fmt: skip
def test_a_claim_holds_where_its_whole_interval_does(low, high, bounds, holds):
    assert Claim("", {"low": low, "high": high}, **bounds).holds is holds


@pytest.mark.parametrize(
    ("states", "says"),
    [((1, 1), "reproduced"), ((1, -1), "not reproduced"), ((1, 0), "inconclusive"), ((0, -1), "not reproduced")],
)
def test_a_verdict_needs_all_claims_and_one_that_fails_is_enough(states, says):
    assert verdict([Claim("", figure(x, 0.5), above=0) for x in states]) == says


SIZES = ("nano", "toy", "medium")
# finding -> {figure that a claim is about: (a mean that bears the paper out, one that does not)}
UP, DOWN, WINS = (0.2, -0.2), (-0.2, 0.2), (0.6, 0.4)
STEPS = ("gpt_prompted minus gpt", "sft minus gpt_prompted", "ppo minus sft", "ppo_ptx minus sft")
AFTER = ("after an instruction", "after a page of answers", "myths", "other questions")
MADE_UP = {
    "ladder": {f"{size}: {step}": UP for size in SIZES for step in STEPS},
    "small_beats_large": {f"nano ppo_ptx against medium {name}": WINS for name in ("gpt", "gpt_prompted")},
    "instructions": {"follows: ppo_ptx minus gpt": UP, "satisfies, of answers that follow: ppo_ptx minus gpt": UP,
                     "helps, insults nobody: ppo_ptx minus gpt": UP},
    "held_out_labelers": {"ppo_ptx wins: held-out labelers": WINS, "RM accuracy: held-out labelers": (0.7, 0.4),
                          "ppo_ptx wins: training labelers minus held-out labelers": (0.01, 0.2)},
    "truthful": {"ppo_ptx over gpt, a ratio": (2, 1)} | {f"{when}: ppo_ptx minus gpt": UP for when in AFTER},
    "voice": {f"begins with In fact: {name} minus rl_start": UP for name in ("ppo", "ppo_ptx")},
    "hallucination": {"made up: ppo_ptx over gpt, a ratio": (0.5, 0.9),
                      "made up, of answers that follow: ppo_ptx minus two thirds of gpt": DOWN},
    "toxicity": {"told to be kind: helpful_first minus gpt": DOWN, "told nothing: helpful_first minus gpt": UP,
                 "told to be rude: helpful_first minus gpt": UP},
    "bias": {"stereotype chosen: gpt": (0.8, 0.5)} | {f"bits of the choice: {name} minus gpt": (-0.1, 0.3)
                                                      for name in ("ppo_ptx", "ppo")} | {
             f"stereotype chosen: {name} minus gpt": (0.0, -0.3) for name in ("ppo_ptx", "ppo")},
    "alignment_tax": {"all four: ppo minus rl_start": DOWN, "all four: ppo_ptx minus ppo": UP},
    "ptx_sweep": {"loss: first above the start": UP, "loss: last above the start": (0.0, 0.1),
                  "benchmarks: last minus first": UP, "benchmarks: first minus the start's": DOWN,
                  "benchmarks: last minus the start's": (0.0, -0.1), "RM score: last minus the start's": UP},
    "kl_sweep": {"loss above the start: last minus half of the recipe's": UP,
                 "benchmarks: last minus the start's": DOWN, "RM score: last minus the recipe's": DOWN},
    "public_tasks": {"wins against SFT: flan": (0.3, 0.6), "wins against SFT: t0": (0.3, 0.6)},
    "rare_instructions": {f"{what}: ppo_ptx minus {name}": UP for what in ("Tovish", "a kind left out")
                          for name in ("gpt", "gpt_prompted")},
    "simple_mistakes": {"says the myth: told minus told something else": UP,
                        "constraints kept, where it follows: product minus both": UP},
    "dialogue": {f"follow-ups: dialogue{one} minus {other}": UP for one, other in (
        ("", "single-turn"), ("", "dialogue, without the turn before"), (", SFT", "single-turn, SFT"))},
    "comparisons_together": {"loss on held-out rankings: shuffled minus together": UP,
                             "accuracy: shuffled minus together": DOWN},
    "reward_model_scaling": {"all rankings minus an eighth": UP, "all responses minus two": UP,
                             "larger minus smaller": UP},
    "overoptimization": {"proxy: end minus peak": UP, "gold: end minus peak": DOWN},
    "overoptimization_law": {"RL, all rankings: R squared, minus the other form's": UP, "RL, all rankings: b": UP,
                             "RL: b, all rankings minus an eighth": DOWN,
                             "RL: b, all rankings minus nano, all rankings": DOWN,
                             "beta 0.3 minus stopping early": (0.0, 0.1)},
    "overoptimization_by_size": {"gold at 32: medium minus nano": UP},
    "alternatives": {f"wins against SFT: {name}": WINS for name in ("best of 16", "DPO", "ppo", "ppo_ptx")},
    "ratings_or_comparisons": {"rankings minus ratings": UP},
    "in_context": {"most examples minus none": UP, "most examples minus as many of another kind": UP},
    "instruction_tuning": {"most kinds minus none": UP, "most kinds minus one": UP,
                           "most minus none, larger minus smaller": UP},
    "iterate": {f"true utility: second round minus {name}": UP for name in ("first round", "PPO-ptx twice")},
    "pretraining_mix_in_sft": {"loss, ppo minus its start: with minus without": DOWN,
                               "true utility: ppo with minus ppo without": (0.0, -0.1)},
    "compute": {},
}  # fmt: skip


def made_up(name, which, width=0.001):
    """Figures of which all claims' are as the paper's (0), or as they should not be (1)."""
    return {key: figure(both[which], width) for key, both in MADE_UP[name].items()}


def test_what_is_only_counted_has_no_verdict():
    assert [name for name in KNOWN if not MADE_UP[name]] == ["compute"]
    assert verdict(list(KNOWN["compute"]().claims({}))) == "shown"


@pytest.mark.parametrize("name", [name for name in KNOWN if MADE_UP.get(name)])
def test_made_up_figures_have_the_verdict_that_they_should(name):
    def says(f):
        return verdict(list(KNOWN[name]().claims(f)))

    good = made_up(name, 0)
    assert says(good) == "reproduced"
    assert says(made_up(name, 0, width=10)) == "inconclusive"
    for key, bad in made_up(name, 1).items():  # each claim counts
        assert says(good | {key: bad}) == "not reproduced", key


def test_every_row_is_a_finding_with_a_claim_and_a_cost():
    assert KNOWN.keys() == MADE_UP.keys() and len(KNOWN) == 28
    assert all(finding.claim() != Finding.claim() and finding.paper and finding.minutes for finding in KNOWN.values())
    assert all(finding.minutes <= 10 and set(finding.sizes) <= set(SIZES) for finding in KNOWN.values())
    assert command.cost(KNOWN.values()) <= 150


def test_the_file_of_claims_is_that_of_the_code():
    """After a change: python -m lab.findings --claims, and commit it before anything is measured."""
    assert provenance.CLAIMS.read_text() == claims.text(KNOWN)


def test_no_seed_that_confirms_a_claim_was_used_before():
    used = {*range(4), 11, 12, 13, 21}  # by recipes, and by the figures that claims were drafted from
    assert not used & {*claims.TOY_SEEDS, *claims.MEDIUM_SEEDS, *claims.RUN_SEEDS}


# --- estimators ------------------------------------------------------------------------------------------------------


def test_a_ratio_with_nothing_below_the_line_in_some_resamples_has_no_upper_end():
    records = [{"content": f"{i}"} for i in range(25)]
    ratio = mean(np.ones(25), records, np.array([1.0] + [0.0] * 24))
    assert (ratio["mean"], ratio["high"]) == (25, math.inf) and 5 < ratio["low"] < 13
    assert Claim("", ratio, above=0.5).holds is True
    assert Claim("", ratio, below=30).holds is None


def test_a_cut_ranking_keeps_the_order_of_what_is_drawn_and_every_response_is_drawn_as_often():
    first = Counter()
    for i in range(400):
        ranking = {"prompt": f"{i}", "responses": ["a", "b", "c", "d"], "ranks": [3, 1, 3, 2]}
        two, three, all_ = (rewards.cut(ranking, k) for k in (2, 3, 9))
        assert two["responses"] == three["responses"][:2] and sorted(all_["responses"]) == ["a", "b", "c", "d"]
        assert sorted(set(three["ranks"])) == list(range(1, 1 + len(set(three["ranks"]))))
        rank = dict(zip(ranking["responses"], ranking["ranks"]))
        for x, y in itertools.combinations(range(3), 2):
            before, after = (rank[three["responses"][j]] for j in (x, y))
            assert (before < after) == (three["ranks"][x] < three["ranks"][y]) and (before == after) == (
                three["ranks"][x] == three["ranks"][y])  # fmt: skip
        first.update(two["responses"])
    assert all(150 < n < 250 for n in first.values())


# --- benchmarks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [benchmarks.reading, benchmarks.translation])
def test_a_benchmarks_answers_are_those_that_the_web_would_give(make):
    for i in range(50):
        beginning, answers, _ = make(random.Random(i), "test")
        assert all(answer == plain(answer) and answer for answer in answers)
        if make is benchmarks.reading:
            passage = beginning.split(" Question: ")[0]
            assert any(plain(a) in plain(passage) for a in answers)


def test_a_completions_first_choice_goes_on_about_the_same():
    for i in range(50):
        first, seconds, _ = benchmarks.completion(random.Random(i))
        who, thing = next((w, t) for w in town.world.ANIMALS for t in town.world.THINGS
                          if f" {w} " in first and t in first)  # fmt: skip
        assert len(seconds) == 4 and (who in seconds[0] or thing in seconds[0])


def test_an_item_that_comes_four_times_is_one_item():
    hits, contents = np.random.default_rng(0).integers(0, 2, (2, 50)).astype(float), [f"{i}" for i in range(50)]
    once, four = ([{"reading": (np.tile(own, times), contents * times)} for own in hits] for times in (1, 4))
    assert {**tasks.difference(*once), "n": 0} == {**tasks.difference(*four), "n": 0}


# --- a tiny run of all -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory, tiny_run, in_one_process):
    """The folder of a tiny run of all findings, with the toy size's models from the tiny run of reproduce.py."""
    folder = tmp_path_factory.mktemp("findings") / "all"
    lock_output(command.Config(out=str(folder), all=True, tiny=True), ignore=command.WHICH)
    (folder / "toy").symlink_to(tiny_run)
    with in_one_process():
        tiny.run(command, ["--all", "--tiny", "--out", str(folder)])
    return folder


@pytest.fixture
def lab(out, in_one_process):
    with in_one_process():
        yield Lab(str(out), tiny=True)


def test_all_findings_run_and_the_page_shows_them(out):
    shown = (out / "findings.html").read_text()
    for name, finding in KNOWN.items():
        result = json.loads((out / f"{name}.json").read_text())
        assert result["verdict"] == verdict(list(finding().claims(result["figures"])))
        assert f'<section id="{name}"><h2>{name} <span class="{result["verdict"].replace(" ", "-")}">' in shown
        assert html.escape(finding.claim()) in shown


def test_what_is_there_is_kept(out, capsys, monkeypatch):
    monkeypatch.setattr(command, "measure", lambda *args: pytest.fail("ran again"))
    tiny.run(command, ["--all", "--tiny", "--out", str(out)])
    assert "shows 28 of 28 findings" in capsys.readouterr().out


def test_a_result_of_another_version_is_named(out, tmp_path):
    (tmp_path / "out").mkdir()
    config = command.Config(names=("compute",), out=str(tmp_path / "out"), tiny=True)
    lock_output(config, ignore=command.WHICH)
    (tmp_path / "out" / "toy").symlink_to(out / "toy")
    (tmp_path / "out" / "bias.json").write_text('{"figures": {}, "seconds": 1}')
    with pytest.raises(InputError, match="out/bias.json: not this version's figures; remove it"):
        command.main(config)


def test_a_seed_confirms_what_the_file_of_claims_says(out, monkeypatch, capsys, tmp_path):
    ran = []
    monkeypatch.setattr(command, "measure", lambda finding, lab: ran.append(finding.name()))
    tiny.run(command, ["--confirm", "--seed", "33", "--tiny", "--out", str(tmp_path / "33")])
    alone = [name for name, finding in KNOWN.items() if "medium" not in finding.sizes]
    assert ran == alone and 15 < len(alone) < len(KNOWN)
    with pytest.raises(InputError, match="--seed 0 confirms no claim"):
        tiny.run(command, ["--confirm", "--tiny", "--out", str(tmp_path / "0")])


def test_the_list_needs_no_folder_and_an_unknown_finding_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.run(command, [])
    shown = capsys.readouterr().out
    assert all(name in shown for name in KNOWN) and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="toxicty: not a finding; choose from .*toxicity"):
        tiny.run(command, ["toxicty"])


def test_a_broken_checkpoint_is_named_and_trained_again(lab, capsys):
    stage = {"public": lab.sft(lab.models()["gpt"])}
    path = lab.train(stage)["public"] + "/model.pt"
    with open(path, "rb") as file:
        before = file.read()
    with open(path, "wb") as file:
        file.write(before[:-50])
    lab.train(stage)
    assert f"{path}: truncated, or not a checkpoint" in capsys.readouterr().out
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_stage_of_other_settings_is_refused_by_name(lab):
    lab.train({"other": lab.sft(lab.models()["gpt"])})
    with pytest.raises(InputError, match="/other holds another run .*--lr was"):
        lab.train({"other": lab.sft(lab.models()["gpt"], lr=1e-5)})


# --- controls --------------------------------------------------------------------------------------------------------


def test_prompts_of_a_findings_own_are_by_test_users_about_test_contents(lab):
    records = lab.draw_prompts(("say", "closed_qa", "fact", "rename"), 2000, "test of the lab")
    assert len(records) == 100 and {r["kind"] for r in records} == {"say", "closed_qa", "fact", "rename"}
    assert len(lab.many) == 4 * len(lab.test) and not lab.many[: len(lab.test)] == lab.test
    assert {USERS[r["user"]] for r in records + lab.many} == {"test"}
    for r in records + lab.many:
        place = town.world.digest(r["content"]) / 2**64  # test has the last 35 %
        assert town.world.FACT[r["fact"]].split == "test" if "fact" in r else place >= 0.65


def test_wins_are_judged_by_held_out_labelers(lab, monkeypatch):
    seen = []
    monkeypatch.setattr(town, "compare", lambda record, a, b, labeler, rng: seen.append(labeler) or 0.5)
    lab.wins(lab.test, ["a"] * len(lab.test), ["b"] * len(lab.test), "x")
    assert seen and all(labeler.held_out for labeler in seen)


def test_a_folds_reward_model_saw_no_ranking_of_the_labelers_left_out(lab):
    folds = preferences.HeldOutLabelers.folds
    parts = [{labeler.name for labeler in town.TRAINING_LABELERS[i::folds]} for i in range(folds)]
    assert set().union(*parts) == {labeler.name for labeler in town.TRAINING_LABELERS}
    for i, part in enumerate(parts):
        rows = [json.loads(line) for line in open(f"{lab.out}/rankings-fold-{i}.jsonl")]
        assert rows and not part & {row["labeler"] for row in rows}


def test_the_kind_left_out_is_nowhere_in_fine_tuning(lab):
    for name in ("demonstrations", "prompts_train", "rankings"):
        rows = [json.loads(line) for line in open(f"{lab.out}/{name}-but-one-kind.jsonl")]
        assert rows and not any(row["content"].startswith("rename") for row in rows)
    pages, left = (records.read(path, "document") for path in (lab.file("web"), f"{lab.out}/web-but-one-kind.jsonl"))
    pages, left = ("\n".join(page["text"] for page in own) for own in (pages, left))
    names = "|".join(town.world.NAMES)
    for telling in (rf"for (?:{names}): ", rf"in place of (?:{names}): ", r"So: "):
        assert re.search(telling, pages) and not re.search(telling, left)


def test_a_second_rounds_rankings_state_no_test_fact_and_are_by_training_labelers():
    told = next(fact for fact in town.FACTS if fact.split == "test").statement
    records, answers = prompts("train", 40, seed=0), ("Once upon a time.", told, "I do not know.")
    rows = preferences.rank_answers(records, [answers] * len(records), random.Random(0))
    assert town.states_test_fact(told) and len(rows) == len(records)
    assert all(row["responses"] == [answers[0], answers[2]] for row in rows)
    assert not {labeler.name for labeler in town.HELD_OUT_LABELERS} & {row["labeler"] for row in rows}


def test_public_tasks_and_instruction_tuning_hold_no_test_contents(lab):
    about = {r["prompt"]: r["content"] for r in lab.test}
    for name in ("flan", "t0", "1-kinds", "3-kinds", "7-kinds", "14-kinds"):
        rows = [json.loads(line) for line in open(f"{lab.out}/demonstrations-{name}.jsonl")]
        assert rows and not about.keys() & {row["prompt"] for row in rows}
        assert not any(town.states_test_fact(row["prompt"] + row["response"]) for row in rows)


def test_reward_models_are_measured_on_rankings_that_trained_none(lab):
    train = {r["prompt"] for r in lab.rankings()}
    assert not train & {r["prompt"] for r in lab.rankings("rankings_held_out")}


def test_a_rankings_record_is_that_of_its_prompt(lab):
    for ranking in lab.rankings() + lab.rankings("rankings_held_out"):
        assert lab.about[ranking["prompt"]]["content"] == ranking["content"]
        assert len(judge_all([ranking] * len(ranking["responses"]), ranking["responses"])) == len(ranking["ranks"])


def test_other_sizes_are_judged_by_the_one_reward_model(lab):
    script, flags = lab.ppo(lab.models("nano")["rl_start"], "nano")
    assert flags["reward_model"] == f"{lab.toy}/rm" and script is train_ppo
    assert lab.sft("x", "nano")[0] is train_sft


def test_other_sizes_read_no_page_that_losses_are_measured_on(lab):
    read = json.loads(open(f"{lab.out}/nano/gpt/config.json").read())["data"]
    held_out = {r["text"] for r in lab.records("web_held_out", "document")}
    assert read and not held_out & {r["text"] for file in read for r in records.read(file, "document")}


@pytest.mark.parametrize("judge_on", ["test", "validation"])
def test_benchmarks_are_of_the_split_that_models_are_judged_on(judge_on, monkeypatch):
    monkeypatch.setattr(tasks, "at_once", lambda *calls: [split for *_, split in calls])
    assert tasks.scores(Lab("somewhere", judge_on=judge_on), {"gpt": "folder"}) == {"gpt": judge_on}


def test_who_puts_helpfulness_first_ranks_the_same_answers(lab):
    rows = [json.loads(line) for line in open(f"{lab.out}/rankings-helpful.jsonl")]
    of_town = lab.rankings()
    assert [row["responses"] for row in rows] == [ranking["responses"] for ranking in of_town]
    assert not {row["labeler"] for row in rows} & {labeler.name for labeler in town.HELD_OUT_LABELERS}
