"""The whole paper in miniature, a hundredth of it: every stage, every figure, and nothing done twice."""

import json
import random
import shutil
from pathlib import Path

import pytest

import reproduce
import tiny
from data import town
from lab import report, stages
from minirlhf.model import PRESETS
from minirlhf.support import files, run
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json

STAGES = ["town", "gpt", "sft", "rankings", "rm", "select", "ppo", "evaluate", "report"]
MODELS = ["gpt", "gpt_prompted", "sft", "rl_start", "ppo", "ppo_ptx"]


SMALLER = {"sft": dict(epochs=1), "ppo": dict(episodes=32)}


@pytest.fixture
def out(tiny_run):
    return tiny_run


@pytest.fixture
def results(out):
    return read_json(out / "results.json")


def is_interval(value):
    return value.keys() >= {"mean", "low", "high", "n"} and value["low"] <= value["mean"] <= value["high"]


def test_sizes_rise_by_a_hundred_times_in_all():
    """Parameters of a GPT by hand: embeddings of 768 tokens and 120 positions, L blocks of 12 D^2 + 13 D, a norm."""
    shapes = [(PRESETS[size]["n_layer"], PRESETS[size]["n_embd"]) for size in stages.SIZES]
    counts = [(768 + 120) * D + L * (12 * D * D + 13 * D) + 2 * D for L, D in shapes]
    assert counts == sorted(counts) and counts[-1] >= 100 * counts[0]


def test_every_model_is_measured_in_every_way(results):
    assert sorted(results["models"]) == sorted(MODELS)
    for name, model in results["models"].items():
        for measure in ("follows_instruction", "toxic", "pretraining_loss", "rm_score"):
            assert is_interval(model[measure]), (name, measure)
        assert is_interval(model["truthful_informative"])
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


def test_size_seed_and_seconds_are_told(results):
    assert (results["size"], results["seed"]) == ("toy", 0)
    assert results["seconds"].keys() >= set(STAGES[:-1]) | {"total"}


def test_rates_are_rates_over_the_test_prompts(out, results):
    prompts = (out / "town" / "prompts_test.jsonl").read_text().splitlines()
    for model in results["models"].values():
        for measure in ("follows_instruction", "toxic"):
            assert 0 <= model[measure]["mean"] <= 1
            assert model[measure]["n"] == stages.TINY["evaluate"]["prompts"] < len(prompts)


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


def test_documents_that_measure_the_tax_are_read_by_no_training(out):
    for name in ("gpt", "sft", "rl_start", "rm", "ppo", "ppo_ptx"):
        config = read_json(out / name / "config.json")
        paths = [path for key in ("data", "documents", "demonstrations", "prompts") for path in config.get(key, ())]
        names = {Path(path).stem for path in paths}
        assert names and names <= {"web", "demonstrations", "rankings", "prompts_train"}
    train, held_out = (
        {json.loads(line)["text"] for line in (out / "town" / f"{name}.jsonl").read_text().splitlines()}
        for name in ("web", "web_held_out")
    )
    assert held_out and not train & held_out


def test_rankings_that_are_trained_on_state_no_fact_of_the_test(tmp_path, monkeypatch):
    """Though the models that answer do state them, again and again; rankings that only measure may."""
    told = [fact.statement for fact in town.FACTS if fact.split == "test"]
    kept = [fact.statement for fact in town.FACTS if fact.split == "train"]

    def answer(folder, records, limit, seed):
        return [random.Random(f"{seed} {i}").choice(told + kept) for i in range(len(records))]

    monkeypatch.setattr(stages, "at_once", lambda *calls: [answer(*arguments) for _, *arguments in calls])
    config = stages.Config(out=str(tmp_path))
    for split in ("train", "test"):
        records = town.prompts(split, 200, 0)
        files.write_lines(tmp_path / "town" / f"prompts_{split}.jsonl", records)
    monkeypatch.setitem(stages.RECIPE, "rankings", dict(prompts=200, held_out=50))
    stages.make_rankings(config)
    lines = {
        name: [json.loads(line) for line in (tmp_path / "town" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("rankings", "rankings_held_out")
    }
    assert len(lines["rankings"]) > 20 and len(lines["rankings_held_out"]) == 50
    stated = {name: any(t in r["responses"] for r in some for t in told) for name, some in lines.items()}
    assert stated == {"rankings": False, "rankings_held_out": True}
    people = {name: {record["labeler"] for record in some} for name, some in lines.items()}
    assert people["rankings"] <= {labeler.name for labeler in town.TRAINING_LABELERS}
    assert people["rankings_held_out"] <= {labeler.name for labeler in town.HELD_OUT_LABELERS}


def test_recipes_can_be_judged_without_reading_the_test(tmp_path, monkeypatch, in_one_process):
    read, seen = stages.read, []
    monkeypatch.setattr(stages, "read", lambda path, kind: seen.append(str(path)) or read(path, kind))
    for stage, changes in SMALLER.items():
        monkeypatch.setitem(stages.TINY, stage, stages.TINY[stage] | changes)
    with in_one_process():
        tiny.run(reproduce, ["--tiny", "--judge_on", "validation", "--out", str(tmp_path / "run")])
    assert any("prompts_validation" in path for path in seen)
    assert not any("prompts_test" in path for path in seen)
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    records = [json.loads(x) for x in (tmp_path / "run" / "town" / "prompts_validation.jsonl").read_text().splitlines()]
    assert [sample["prompt"] for sample in samples] == [record["prompt"] for record in records][: len(samples)]
    assert len(samples) == stages.TINY["evaluate"]["prompts"]


def test_a_context_too_short_for_the_prompts_is_named_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setitem(stages.TINY, "gpt", dict(n_layer=1, n_ctx=80, epochs=2))
    with pytest.raises(InputError, match="an answer 26; gpt's n_ctx 80 is too short"):
        tiny.run(reproduce, ["--tiny", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "gpt").exists()


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
        assert [sample["follows"][name] for sample in samples] == [j.follows for j in judgements]
        scores = [sample["rm_score"][name] for sample in samples]
        assert models[name]["rm_score"]["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-3)
        utility[name] = [town.mean_utility(*both) for both in zip(judgements, texts)]
    for name in set(MODELS) - {"sft"}:
        wins = [0.5 if a == b else float(a > b) for a, b in zip(utility[name], utility["sft"])]
        assert models[name]["true_win_rate_vs_sft"]["mean"] == pytest.approx(sum(wins) / len(wins))


def test_rankings_have_2_to_9_different_responses(out):
    for name in ("rankings", "rankings_held_out"):
        for line in (out / "town" / f"{name}.jsonl").read_text().splitlines():
            record = json.loads(line)
            assert 2 <= len(set(record["responses"])) == len(record["responses"]) == len(record["ranks"]) <= 9


def test_of_questions_about_facts_people_rank_a_true_and_a_false_answer_too(tmp_path, monkeypatch):
    """In training only; whoever measures the reward model measures models' answers."""
    config = stages.Config(out=str(tmp_path), tiny=True)
    prompts = {split: town.prompts(split, n, 0) for split, n in (("train", 24), ("test", 12))}
    while sum(record["kind"] in ("fact", "myth") for record in prompts["train"]) < 5:
        prompts = {split: town.prompts(split, len(own), random.random()) for split, own in prompts.items()}
    for split, own in prompts.items():
        files.write_lines(config.file(f"prompts_{split}"), own)
    monkeypatch.setattr(stages, "at_once", lambda *calls: [[f"{i}." for _ in call[2]] for i, call in enumerate(calls)])
    stages.make_rankings(config)
    own = {record["prompt"]: record for record in prompts["train"]}
    for line in Path(config.file("rankings")).read_text().splitlines():
        ranking = json.loads(line)
        record = own[ranking["prompt"]]
        written = [text for text, by in zip(ranking["responses"], ranking["models"]) if by == "written"]
        told = [town.judge(record, text) for text in written]
        assert sorted(j.truthful for j in told) == [False, True] * (record["kind"] in ("fact", "myth"))
        assert all(j.follows for j in told) and all(text.startswith("In fact, ") for text in written)
        assert len(ranking["responses"]) <= 9
    held_out = Path(config.file("rankings_held_out")).read_text()
    assert len(held_out.splitlines()) == 12 and "written" not in held_out


def test_a_second_call_keeps_every_stage(out, capsys):
    before = (out / "results.json").read_bytes()
    tiny.run(reproduce, ["--tiny", "--out", str(out)])
    shown = capsys.readouterr().out
    assert all(f"-- {stage}: kept" in shown for stage in STAGES)
    assert (out / "results.json").read_bytes() == before


def test_another_seed_in_the_same_folder_is_refused(out):
    before = (out / "config.json").read_bytes()
    with pytest.raises(InputError, match="--seed was 0, now 1"):
        tiny.run(reproduce, ["--tiny", "--seed", "1", "--out", str(out)])
    assert (out / "config.json").read_bytes() == before


def test_an_unfinished_stage_is_done_again_and_no_other(out, capsys):
    """As if the run had been stopped in the middle of the reward model: the same file comes out."""
    done, model = read_json(out / "stages.json"), (out / "rm" / "model.pt").read_bytes()
    (out / "stages.json").write_text(json.dumps({name: s for name, s in done.items() if name != "rm"}))
    (out / "rm" / "model.pt").unlink()
    tiny.run(reproduce, ["--tiny", "--stage", "rm", "--out", str(out)])
    shown = capsys.readouterr().out
    assert [stage for stage in STAGES if f"-- {stage}: kept" in shown] == STAGES[:4]
    assert (out / "rm" / "model.pt").read_bytes() == model
    assert set(read_json(out / "stages.json")) == set(STAGES)


def test_a_run_stopped_inside_a_stage_goes_on_inside_it(out, capsys, monkeypatch, in_one_process):
    done, model = read_json(out / "stages.json"), (out / "sft" / "model.pt").read_bytes()
    (out / "stages.json").write_text(json.dumps({name: s for name, s in done.items() if name != "sft"}))
    (out / "sft" / "model.pt").unlink()

    save = run.save_model

    def stop(path, *args):
        if str(path).endswith("model.pt"):
            raise KeyboardInterrupt
        save(path, *args)

    with in_one_process(), monkeypatch.context() as patch:
        patch.setattr(run, "save_model", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny.run(reproduce, ["--tiny", "--stage", "sft", "--out", str(out)])
    with in_one_process():
        tiny.run(reproduce, ["--tiny", "--stage", "sft", "--out", str(out)])
    assert f"{out}/sft: going on after step" in capsys.readouterr().out
    assert (out / "sft" / "model.pt").read_bytes() == model


def test_figures_of_another_version_are_named(out, tmp_path):
    shutil.copytree(out, tmp_path / "copy")
    for name in ("report.html", "results.json"):
        (tmp_path / "copy" / name).unlink()
    (tmp_path / "copy" / "evaluation.json").write_text('{"figures": 1}')
    with pytest.raises(InputError, match="evaluation.json: of another version; remove it"):
        stages.make_report(stages.Config(out=str(tmp_path / "copy"), tiny=True))
    assert not (tmp_path / "copy" / "results.json").exists()


def test_a_picture_that_cannot_be_drawn_costs_no_report(out, results, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy" / "report.html").unlink()
    monkeypatch.setattr(report, "draw_curves", lambda out: 1 / 0)
    report.write(tmp_path / "copy", results)
    assert f"no {tmp_path / 'copy' / 'curves.png'}: division by zero" in capsys.readouterr().out
    page = (tmp_path / "copy" / "report.html").read_text()
    assert 'alt="ladder"' in page and 'alt="curves"' not in page
    assert "<table" in (tmp_path / "copy" / "report.html").read_text()
