"""tools.doctor reads runs and other projects' logs, and says what it sees in words and on a page."""

import csv
import json
import re
import subprocess
from unittest import mock

import pytest

from forked import PYTHON
from health import FLAGS, N, T, bands, ppo_rows, token_rows  # noqa: F401
from minirlhf.support import diagnosis, logs
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_lines
from minirlhf.support.tokenizer import Tokenizer, train_bpe
from tools import doctor


@pytest.fixture
def run(tmp_path):
    """Writes a run's folder."""

    def write(**changed):
        write_lines(tmp_path / "metrics.jsonl", ppo_rows(**changed))
        write_lines(tmp_path / "tokens.jsonl", token_rows())
        (tmp_path / "config.json").write_text(json.dumps(FLAGS))
        Tokenizer(train_bpe(["ab"] * 9, 258)).save(tmp_path)
        return str(tmp_path)

    return write


def said(capsys, run, **flags):
    doctor.main(doctor.Config(run=run, **flags))
    return capsys.readouterr().out


def test_a_healthy_run_is_called_so_and_what_the_log_lacks_is_named(run, capsys):
    text = said(capsys, run())
    assert f"PPO, {N} steps\nhealthy, as far as the log shows\ncould not be looked at (" in text
    assert "unequal_scores" in text.rpartition("lacks what they need): ")[2].split(", ")


def test_a_disease_comes_with_evidence_since_when_how_sure_and_what_to_do(run, capsys, monkeypatch):
    learned = diagnosis.learned() | {"trials": {"ppo": {"beta is too small": [23, 24]}}}
    monkeypatch.setattr(diagnosis, "learned", lambda: learned)
    text = said(capsys, run(kl=30 * T))
    sure = "right in 23 of the 24 trials with the town's texts that were said to have it; most had a fault"
    assert f"it has: beta is too small ({sure})\n  kl_per_token 2.5" in text
    healthy = r"seen by step [4-7]; healthy is at most \S+\. The KL from the start, nats per token"
    assert re.search(healthy, text)
    assert "first: The policy moves far from its start" in text
    few = {"trials": {"ppo": {"beta is too small": [3, 4]}}}
    monkeypatch.setattr(diagnosis, "learned", lambda: learned | few)
    sure = "how often this is right is not known"
    assert f"too small ({sure}: only 4 trials were said to have it, rightly 3)" in said(capsys, run(kl=30 * T))
    monkeypatch.setattr(diagnosis, "learned", lambda: learned | {"trials": {}})
    assert f"it has: beta is too small ({sure})\n" in said(capsys, run(kl=30 * T))


def test_what_is_outside_besides_is_said_too(run, capsys):
    text = said(capsys, run(kl=30 * T, explained_variance=-T))
    assert "it has: beta is too small" in text and "follows): the value network does not learn" in text
    assert "outside the healthy band, too:   explained" not in text and "too: explained -0.9" in text
    assert re.search(r"explained -0.9\d*, seen by step \d+; healthy is at least \S+\. The share", text)
    text = said(capsys, run(entropy=0.4 + T))
    assert "\noutside the healthy band, which alone is no disease: entropy_ratio" in text
    assert "\nhealthy, as far as the log shows\n" in text


def test_a_run_longer_than_the_healthy_ones_is_said_to_be_compared_with_their_end(run, capsys, monkeypatch):
    assert "(curves are compared" not in said(capsys, run())
    monkeypatch.setattr(diagnosis, "ITERATIONS", 30)
    assert "(curves are compared with iteration 30 of healthy runs, which is their last)" in said(capsys, run())


def test_the_page_has_a_curve_for_each_sign_before_the_healthy_band(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "doctor.html"
    doctor.main(doctor.Config(run=run(kl=30 * T, explained_variance=-T), out=str(out)))
    text = out.read_text()
    assert text.count("<svg") == 2 and "it has: beta is too small" in text and "<script" not in text
    assert "<!DOCTYPE svg" not in text


def test_only_curves_that_the_text_speaks_of_are_drawn(run):
    log = logs.read_log(run(kl=1 + 30 * T, explained_variance=-T))
    log.vocabulary = {b"xy"}  # other texts: an exact finding, and no word on the curves
    text, pictured = doctor.report("x", log)
    assert "it has: sampling and learning differ" in text and "explained" not in text
    assert [sign.name for sign in pictured] == ["first_kl_per_token"]
    log.rows[0]["kl"] = 0.0
    text, pictured = doctor.report("x", log)
    assert "by analogy" in text and "kl_per_token" in [sign.name for sign in pictured]


def test_the_band_is_drawn_where_it_is_known_and_to_the_edge_where_it_has_no_end():
    axis = mock.Mock()
    doctor.draw_band(axis, (1, 5, 9), (None, 0.2, None), (None, 0.4, 0.4), (3.0, 0.0, 1.0))
    ((steps, lows, highs), _) = axis.fill_between.call_args
    assert steps == (5, 9) and highs == [0.4, 0.4] and lows == [0.2, pytest.approx(0.0 - 0.05 * 3)]
    doctor.draw_band(axis, (1, 5), (None, None), (None, None), (3.0, 0.0))
    assert axis.fill_between.call_args.args == ((), [], [])


def test_a_run_is_watched_from_before_its_first_step_on(run, tmp_path, capsys, monkeypatch):
    folder = run()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "tokens.jsonl").unlink()
    with pytest.raises(InputError, match="no step is logged yet"):
        said(capsys, folder)
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: write_lines(tmp_path / "metrics.jsonl", ppo_rows()))
    assert "40 steps" in said(capsys, folder, watch=True)
    with pytest.raises(InputError, match="--watch: another project's log does not say when it ends"):
        doctor.main(doctor.Config(run=str(tmp_path / "metrics.jsonl"), watch=True))


def test_a_run_is_watched_until_its_last_step(run, tmp_path, capsys, monkeypatch):
    folder = run()
    write_lines(tmp_path / "metrics.jsonl", ppo_rows()[:20])
    looks = []

    def sleep(seconds):  # meanwhile the run goes on
        looks.append(seconds)
        write_lines(tmp_path / "metrics.jsonl", ppo_rows()[: 20 + 10 * len(looks)])

    monkeypatch.setattr(doctor.time, "sleep", sleep)
    text = said(capsys, folder, watch=True)
    assert looks == [30, 30] and [f"{n} steps" in text for n in (20, 30, 40)] == [True] * 3


# --- other projects --------------------------------------------------------------------------------------------------

TRL = [{"objective/scores": t, "objective/kl": 2 * t, "policy/entropy_avg": 1 + t, "policy/clipfrac_avg": 0.02,
        "epoch": t} for t in T]  # fmt: skip
VERL = [{"step": 10 * i, "critic/score/mean": t, "actor/entropy": 0.4 - 0.1 * t, "actor/pg_clipfrac": 0.02,
         "response_length/mean": 10 + t, "response_length/clip_ratio": 0.5 * t, "critic/vf_explained_var": 0.9 * t}
        for i, t in enumerate(T)]  # fmt: skip


def test_other_projects_columns_are_ours(tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": [*TRL, {"train_runtime": 3.0}]}))
    log, columns = doctor.read_foreign(str(path))
    assert columns["kl"] == "objective/kl" and len(columns) == 4
    assert len(log.rows) == N and log["kl"][-1] == 2 and log["entropy"][-1] == 2 and log.kind == "ppo"
    half = [row | {"step": 10 * (i + 1)} for i, row in enumerate(TRL)]  # of a run that is to have 800 steps
    path.write_text(json.dumps({"log_history": half, "max_steps": 800}))
    assert doctor.read_foreign(str(path))[0].steps == 2 * N
    path.write_text(json.dumps({"log_history": [{"loss": 0.5, "rewards/chosen": 1.0, "rewards/accuracies": 0.9}]}))
    assert doctor.read_foreign(str(path))[0].kind == "other"  # DPO's
    write_lines(tmp_path / "verl.jsonl", VERL)
    log, columns = doctor.read_foreign(str(tmp_path / "verl.jsonl"))
    assert log.kind == "ppo" and log.rows[-1]["step"] == 10 * (N - 1) and log["ended"][-1] == 0.5
    assert log["explained_variance"][-1] == 0.9 and columns["ended"] == "1 - response_length/clip_ratio"
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, VERL[0])
        writer.writeheader()
        writer.writerows([*VERL[:-1], dict.fromkeys(VERL[0], "")])
    assert len(doctor.read_foreign(str(tmp_path / "log.csv"))[0].rows) == N - 1


def test_of_another_projects_run_it_speaks_by_analogy(tmp_path, capsys, monkeypatch):
    learned = diagnosis.learned() | {"analogies": [18, 24]}
    monkeypatch.setattr(diagnosis, "learned", lambda: learned)
    rows = [{f"train/{name}": value for name, value in row.items()} for row in VERL]
    write_lines(tmp_path / "verl.jsonl", [row | {"train/actor/entropy": 0.4 - 0.39 * t} for row, t in zip(rows, T)])
    text = said(capsys, str(tmp_path / "verl.jsonl"))
    assert ", another project's\nread: critic/score/mean as score, " in text and "actor/entropy as entropy" in text
    assert "\nnothing found, and no curve could be judged" in text
    sure = "in trials with other texts, 18 of 24 healthy runs were called ill so"
    assert f"by analogy with runs of the town's texts: the entropy collapses ({sure})\n  entropy_ratio 0." in text
    unseen = text.split("lacks what they need): ")[1].strip().split(", ")
    assert {"wrong_rewards", "kl_per_token", "first_kl_per_token"} <= {*unseen}


@pytest.mark.parametrize("content", [
    [{"step": 3, "critic/score/mean": 0.5}],
    {"log_history": [{"step": 3, "critic/score/mean": 0.5}, {"step": 4, "eval_runtime": 2.0}]},
    {"step": 3, "data": {"critic/score/mean": 0.5}},
    {"global_step": 3, "train/critic/score/mean": 0.5},
])  # fmt: skip
def test_a_log_may_be_a_list_a_trainers_state_or_lines(tmp_path, content):
    (tmp_path / "log.json").write_text(json.dumps(content))
    (row,) = doctor.read_foreign(str(tmp_path / "log.json"))[0].rows
    assert row == {"step": 3, "score": 0.5}


def test_a_log_that_does_not_say_how_long_the_run_is_to_be_has_no_place(tmp_path, capsys):
    slow = [{"loss": 2.0 - i / 400, "step": i} for i in range(150)]
    write_lines(tmp_path / "log.jsonl", slow)
    assert "by analogy" not in said(capsys, str(tmp_path / "log.jsonl"))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": slow, "max_steps": 150}))
    text = said(capsys, str(tmp_path / "trainer_state.json"))
    assert "by analogy with runs of the town's texts: the learning rate is too low" in text


def test_what_is_not_a_number_in_a_csv_file_is_found(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(
        "step,loss,eval_loss\n" + "".join(f"{i},{'nan' if i > 5 else 1},\n" for i in range(9))
    )
    assert "it has: it has diverged" in said(capsys, str(tmp_path / "log.csv"))


def test_another_projects_sign_is_dated_by_the_bound_by_which_it_is_judged(tmp_path, capsys):
    rows = [{"accuracy": 0.75 if i < 60 else 0.9, "loss": 0.5, "eval_accuracy": 0.7, "step": i} for i in range(100)]
    write_lines(tmp_path / "log.jsonl", rows)
    assert "pairs_gap 0.2, seen by step 64" in said(capsys, str(tmp_path / "log.jsonl"))  # 0.05 is outside the band


def test_rows_of_evaluation_have_no_loss(tmp_path, capsys):
    rows = [{"loss": 2.0 - i / 50, "step": i, "epoch": 0.1} for i in range(40)]
    rows.insert(20, {"eval_loss": 1.5, "step": 20, "epoch": 0.1})
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    assert "SFT, 41 steps" in said(capsys, str(tmp_path / "trainer_state.json"))


@pytest.mark.parametrize(("content", "fault"), [
    ('{"step": NaN, "loss": 1}', "no log of a kind that is known"),
    ("[1, 2]", "no log of a kind that is known"),
    ("", "no step is logged yet|none of the known columns"),
    ("not JSON\n", "no log of a kind that is known"),
    ('{"perplexity": 3}\n', "none of the known columns; it has perplexity"),
])  # fmt: skip
def test_a_file_that_is_no_log_is_named(tmp_path, content, fault):
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(InputError, match=fault):
        doctor.main(doctor.Config(run=str(tmp_path / "log.jsonl")))


def test_bad_flags_end_in_one_line(tmp_path):
    for flags, fault in (
        (["nowhere"], "nowhere: no such folder or file"),
        ([tmp_path], "no metrics.jsonl; give the folder of a run"),
        ([tmp_path, "--out", "page.txt"], "choose a name.html"),
    ):
        done = subprocess.run([*PYTHON, "-m", "tools.doctor", *map(str, flags)], capture_output=True, text=True)
        assert done.returncode != 0 and fault in done.stderr and "Traceback" not in done.stderr


def test_the_table_of_columns_has_no_name_twice():
    theirs = [column for names in doctor.COLUMNS.values() for column in names]
    assert len(theirs) == len(set(theirs)) and set(ppo_rows()[0]) - {"step"} <= set(doctor.COLUMNS)
