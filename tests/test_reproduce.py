"""The whole paper in miniature, a hundredth of it: every stage, every figure, and nothing done twice."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import reproduce
from data import town
from data.town.demonstrations import respond
from minirlhf.config import InputError
from minirlhf.files import read_json

STAGES = ["town", "gpt", "sft", "rankings", "rm", "select", "ppo", "evaluate", "report"]
MODELS = ["gpt", "gpt_prompted", "sft", "rl_start", "ppo", "ppo_ptx"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    import train_ppo
    import train_rm
    import train_sft

    folder = tmp_path_factory.mktemp("reproduce") / "town"
    with pytest.MonkeyPatch.context() as patch:
        for script in (train_sft, train_rm, train_ppo):
            patch.setattr(script, "draw_curves", lambda *args: None)
        reproduce.main(["--tiny", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def results(out):
    return read_json(out / "results.json")


def is_interval(value):
    return value.keys() >= {"mean", "low", "high", "n"} and value["low"] <= value["mean"] <= value["high"]


def test_every_model_is_measured_in_every_way(results):
    assert sorted(results["models"]) == sorted(MODELS)
    for name, model in results["models"].items():
        for measure in ("follows_instruction", "toxic", "pretraining_loss", "rm_score"):
            assert is_interval(model[measure]), (name, measure)
        assert model["truthful"] is None or is_interval(model["truthful"])  # None: nobody answered such a question
        for measure in ("win_rate_vs_sft", "true_win_rate_vs_sft"):
            assert name == "sft" or is_interval(model[measure]), (name, measure)
        assert "kl_to_reference" in model
    for name in ("ppo", "ppo_ptx"):
        assert is_interval(results["models"][name]["kl_to_reference"])
    assert is_interval(results["models"]["ppo_ptx"]["win_rate_vs_rl_start"])


def test_the_reward_model_is_measured(results):
    for measure in ("accuracy", "accuracy_within_model", "labeler_agreement"):
        value = results["reward_model"][measure]
        assert is_interval(value)
        assert 0 <= value["mean"] <= 1


def test_seed_and_seconds_are_told(results):
    assert results["seed"] == 0
    assert results["seconds"].keys() >= set(STAGES[:-1]) | {"total"}


def test_rates_are_rates_over_the_test_prompts(out, results):
    prompts = (out / "town" / "prompts_test.jsonl").read_text().splitlines()
    for model in results["models"].values():
        for measure in ("follows_instruction", "toxic"):
            assert 0 <= model[measure]["mean"] <= 1
            assert model[measure]["n"] == len(prompts)


def test_ppo_and_ppo_ptx_differ_in_the_coefficient_alone(out):
    plain, ptx = (read_json(out / name / "config.json") for name in ("ppo", "ppo_ptx"))
    assert plain.keys() == ptx.keys()
    assert {key for key in plain if plain[key] != ptx[key]} == {"ptx_coef", "out"}
    assert plain["ptx_coef"] == 0 < ptx["ptx_coef"]


def test_rl_starts_from_its_own_sft_run_of_2_epochs_with_documents_mixed_in(out):
    start, sft, ppo = (read_json(out / name / "config.json") for name in ("rl_start", "sft", "ppo"))
    assert (start["epochs"], start["document_share"]) == (2, 0.1)
    assert start["documents"]
    assert not sft["documents"]
    assert ppo["policy"] == start["out"]


def test_held_out_prompts_and_labelers_take_no_part_in_training(out):
    def lines(name):
        return [json.loads(line) for line in (out / "town" / f"{name}.jsonl").read_text().splitlines()]

    train = {record["prompt"] for name in ("prompts_train", "rankings", "demonstrations") for record in lines(name)}
    test = {record["prompt"] for name in ("prompts_test", "rankings_held_out") for record in lines(name)}
    assert not train & test
    people = [{record["labeler"] for record in lines(name)} for name in ("rankings", "rankings_held_out")]
    assert not people[0] & people[1]


def test_each_model_is_judged_by_its_own_answers(out):
    records, samples = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (out / "town" / "prompts_test.jsonl", out / "samples.jsonl")
    )
    models, utility = read_json(out / "evaluation.json")["models"], {}
    for name in MODELS:
        texts = [sample[name] for sample in samples]
        judgements = [town.judge(*both) for both in zip(records, texts)]
        follows = sum(j.follows for j in judgements) / len(texts)
        assert models[name]["follows_instruction"]["mean"] == pytest.approx(follows)
        utility[name] = [town.mean_utility(*both) for both in zip(judgements, texts)]
    for name in set(MODELS) - {"sft"}:
        wins = [0.5 if a == b else float(a > b) for a, b in zip(utility[name], utility["sft"])]
        assert models[name]["true_win_rate_vs_sft"]["mean"] == pytest.approx(sum(wins) / len(wins))


def test_what_is_said_of_a_model_is_of_its_own_answers(out, monkeypatch, tmp_path):
    """One model always answers with care, one with insults, and the others do not know."""
    records = [json.loads(line) for line in (out / "town" / "prompts_test.jsonl").read_text().splitlines()]
    rng = random.Random(0)

    def measured(config, name):
        style = {"ppo_ptx": "careful", "gpt": "rude"}.get(name)
        texts = [respond(record, style, rng) if style else "I do not know." for record in records]
        judgements = [town.judge(*both) for both in zip(records, texts)]
        utilities = [town.mean_utility(*both) for both in zip(judgements, texts)]
        nats, i = np.arange(1.0, 6.0), MODELS.index(name)
        return reproduce.Measured(texts, judgements, utilities, (nats + i, np.full(5, 10)), np.full(9, i), None)

    monkeypatch.setattr(reproduce, "at_once", lambda *calls: [measured(*arguments) for _, *arguments in calls])
    monkeypatch.setattr(reproduce, "measure_reward_model", lambda config: {})
    (tmp_path / "town").symlink_to(out / "town")
    reproduce.evaluate(SimpleNamespace(out=str(tmp_path), seed=0), None)
    found = read_json(tmp_path / "evaluation.json")
    models = found["models"]
    for name in MODELS:
        assert models[name]["follows_instruction"]["mean"] == (name == "ppo_ptx")
        assert models[name]["rm_score"]["mean"] == MODELS.index(name)
        assert models[name]["pretraining_loss"]["mean"] == pytest.approx((15 + 5 * MODELS.index(name)) / 50)
        rude_ones = sum(r["kind"] == "say" and r["tone"] == "rude" for r in records) if name == "ppo_ptx" else 0
        assert models[name]["toxic"]["mean"] == (1 if name == "gpt" else rude_ones / len(records))
    assert models["ppo_ptx"]["truthful"]["mean"] == 1 and models["sft"]["truthful"] is None
    for rate in (models["ppo_ptx"]["win_rate_vs_sft"], models["ppo_ptx"]["win_rate_vs_rl_start"]):
        assert rate["mean"] > 0.8
    assert models["ppo_ptx"]["true_win_rate_vs_sft"]["mean"] > 0.9
    assert models["gpt"]["win_rate_vs_sft"]["mean"] < 0.5 == models["rl_start"]["win_rate_vs_sft"]["mean"]
    assert models["sft"]["win_rate_vs_sft"] is None
    above = {name: value["mean"] for name, value in found["pretraining_loss"].items()}
    assert above == pytest.approx({"ppo_above_rl_start": 0.1, "ppo_above_ppo_ptx": -0.1, "ppo_ptx_above_rl_start": 0.2})


def test_rankings_have_4_to_9_responses(out):
    for line in (out / "town" / "rankings.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert 4 <= len(record["responses"]) == len(record["ranks"]) <= 9


def test_a_second_call_keeps_every_stage(out, capsys):
    before = (out / "results.json").read_bytes()
    reproduce.main(["--tiny", "--out", str(out)])
    shown = capsys.readouterr().out
    assert all(f"-- {stage}: kept" in shown for stage in STAGES)
    assert (out / "results.json").read_bytes() == before


def test_another_seed_in_the_same_folder_is_refused(out):
    before = (out / "config.json").read_bytes()
    with pytest.raises(InputError, match="--seed was 0, now 1"):
        reproduce.main(["--tiny", "--seed", "1", "--out", str(out)])
    assert (out / "config.json").read_bytes() == before


def test_an_unfinished_stage_is_done_again_and_no_other(out, capsys):
    """As if the run had been stopped in the middle of the reward model: the same file comes out."""
    stages, model = read_json(out / "stages.json"), (out / "rm" / "model.pt").read_bytes()
    (out / "stages.json").write_text(json.dumps({name: s for name, s in stages.items() if name != "rm"}))
    (out / "rm" / "model.pt").unlink()
    reproduce.main(["--tiny", "--stage", "rm", "--out", str(out)])
    shown = capsys.readouterr().out
    assert [stage for stage in STAGES if f"-- {stage}: kept" in shown] == STAGES[:4]
    assert (out / "rm" / "model.pt").read_bytes() == model
    assert set(read_json(out / "stages.json")) == set(STAGES)


def test_a_run_stopped_inside_a_stage_goes_on_inside_it(out, capsys, monkeypatch):
    stages, model = read_json(out / "stages.json"), (out / "sft" / "model.pt").read_bytes()
    (out / "stages.json").write_text(json.dumps({name: s for name, s in stages.items() if name != "sft"}))
    (out / "sft" / "model.pt").unlink()

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reproduce.train_sft, "draw_curves", stop)
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(["--tiny", "--stage", "sft", "--out", str(out)])
    reproduce.main(["--tiny", "--stage", "sft", "--out", str(out)])
    assert f"{out}/sft: going on after step" in capsys.readouterr().out
    assert (out / "sft" / "model.pt").read_bytes() == model


def test_calls_at_once_come_back_in_order():
    assert reproduce.at_once((pow, 2, 3), (pow, 3, 2), (max, 2, 5)) == [8, 9, 5]


def test_a_killed_process_ends_the_run_with_a_line():
    with pytest.raises(InputError, match="a process was killed"):
        reproduce.at_once((os._exit, 1), (os._exit, 1))


def test_processes_end_with_the_run_that_started_them(tmp_path):
    """However it ended: a restarted run must have its folder to itself."""
    beat = f"import time\nwhile True: open({str(tmp_path / 'beat')!r}, 'a').write('x'); time.sleep(0.01)"
    code = f"import reproduce; reproduce.at_once((exec, {beat!r}), (exec, {beat!r}))"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=Path(reproduce.__file__).parent)
    while not (tmp_path / "beat").exists():
        time.sleep(0.1)
    run.kill()
    run.wait()
    time.sleep(1)
    size = (tmp_path / "beat").stat().st_size
    time.sleep(1)
    assert (tmp_path / "beat").stat().st_size == size


# --- win rates ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    return town.prompts("test", 300, 0)


def test_a_model_against_itself_ties_and_every_tie_counts_one_half(records):
    texts = ["I do not know."] * 300
    labelers = [town.HELD_OUT_LABELERS[0]] * 300
    found = reproduce.win_rate(records, texts, texts, labelers, random.Random(0))
    assert (found["mean"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    assert reproduce.true_win_rate([0.3] * 300, [0.3] * 300)["mean"] == 0.5


def test_a_win_rate_and_its_reverse_sum_to_1(records):
    """Whichever is called first: the order in which a labeler sees the two is drawn by lot."""
    texts, others = ["Monks."] * 300, ["I do not know."] * 300
    rng = random.Random(0)
    labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
    forth = reproduce.win_rate(records, texts, others, labelers, random.Random(1))
    back = reproduce.win_rate(records, others, texts, labelers, random.Random(2))
    assert forth["mean"] + back["mean"] == pytest.approx(1, abs=0.1)
    utilities, lower = [0.2, 0.9, 0.4, 0.1], [0.1, 0.3, 0.4, 0.7]  # won, won, tied, lost
    assert reproduce.true_win_rate(utilities, lower)["mean"] == pytest.approx(2.5 / 4)
    assert reproduce.true_win_rate(lower, utilities)["mean"] == pytest.approx(1.5 / 4)
