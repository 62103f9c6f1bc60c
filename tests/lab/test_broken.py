"""Runs that are broken on purpose: each differs from the recipe in what it is said to, and figures are of the logs."""

import json
from types import SimpleNamespace

import pytest

from data import town
from lab import broken, stages
from lab.pipeline import Pipeline
from minirlhf.support.files import read_json, write_lines
from minirlhf.support.records import read


@pytest.fixture(scope="module")
def own(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("broken")
    return Pipeline(out, f"{tiny_run}/town", stages.recipe_of("toy"), f"{tiny_run}/tokenizer")


def test_each_run_differs_from_the_recipe_in_one_thing(own, tiny_run):
    found = {name: stage[1] for group in broken.trainings(own, tiny_run) for name, stage in group.items()}
    validated, no_ptx = dict(validation=own.file("demonstrations_validation")), dict(ptx_coef=0.0)
    recipes = {"gpt": own.gpt(), "sft": own.sft(f"{tiny_run}/gpt", **validated), "rm": own.rm(f"{tiny_run}/sft"),
               "ppo": own.ppo(f"{tiny_run}/rl_start", f"{tiny_run}/rm", **no_ptx)}  # fmt: skip
    changed = {name: {key for key, value in settings.items() if value != recipes[name.partition("-")[0]][1].get(key)}
               for name, settings in found.items() if "-" in name}  # fmt: skip
    assert changed == {
        "gpt-hot": {"lr", "muon_lr"}, "gpt-slow": {"lr", "muon_lr"}, "sft-hot": {"lr"}, "sft-slow": {"lr"},
        "sft-long": {"epochs", "dropout"}, "rm-hot": {"lr"}, "rm-chance": {"data"}, "rm-long": {"epochs"},
    }  # fmt: skip
    ppo = {name: {key for key, value in found[name].items() if value != recipes["ppo"][1].get(key)}
           for name in found if "-" not in name}  # fmt: skip
    assert found["white"]["change"] == "no_whitening"
    assert ppo == {"beta0": {"kl_coef"}, "chance": {"reward_model"}, "hot": {"lr", "value_lr"}, "white": {"change"},
                   "gamma27": {"ptx_coef"}}  # fmt: skip
    assert found["gpt-hot"]["lr"] == 20 * own.recipe["gpt"]["lr"] == 400 * found["gpt-slow"]["lr"]
    assert found["gamma27"]["ptx_coef"] == 27.8


def test_shuffled_rankings_have_the_same_answers_and_other_ranks(own):
    before, after = read(own.file("rankings"), "ranking"), read(broken.write_shuffled(own), "ranking")
    assert [r["responses"] for r in before] == [r["responses"] for r in after]
    assert [sorted(r["ranks"]) for r in before] == [sorted(r["ranks"]) for r in after]
    assert sum(a["ranks"] != b["ranks"] for a, b in zip(before, after)) > len(before) / 2


def test_a_long_log_is_kept_as_means_of_its_parts(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": i, "loss": float(i), "lr": 1.0} for i in range(250)])
    assert broken.metrics(tmp_path) == {"loss": [49.5, 149.5, 224.5]}
    write_lines(tmp_path / "metrics.jsonl", [{"step": i, "kl": float(i)} for i in range(3)])
    assert broken.metrics(tmp_path) == {"kl": [0, 1, 2]}


def test_the_healthy_band_is_from_the_lowest_to_the_highest_run(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(broken.curves, "save_figure", lambda figure, path: drawn.update({path: figure}))
    monkeypatch.setattr(broken, "PANELS", {"a": ("loss validation_loss", {"recipe": "rm", "8 epochs": "rm-long"}),
                                           "b": ("kl", {"unscaled": "vowels-1"})})  # fmt: skip
    sick = {"loss": [9.0, 8.0, 7.0], "validation_loss": [5.0, 6.0]}
    found = {"rm": sick, "rm-long": sick, "vowels-1": {"kl": [0.0, 1.0]}}
    healthy = [{"rm": {"loss": [3.0, 1.0], "validation_loss": [2.0]}},
               {"rm": {"loss": [2.0, 2.0], "validation_loss": [1.0]}}]  # fmt: skip
    broken.draw({name: {"metrics": own} for name, own in found.items()}, healthy, tmp_path)
    loss, validation = drawn[f"{tmp_path}/a.png"].axes
    corners = {tuple(point) for point in loss.collections[0].get_paths()[0].vertices.tolist()}
    assert corners == {(50, 2), (150, 1), (150, 2), (50, 3)}
    assert {tuple(p) for p in validation.collections[0].get_paths()[0].vertices.tolist()} == {(1, 1), (1, 2)}
    assert loss.lines[0].get_xdata().tolist() == [50, 150, 250] and validation.lines[1].get_xdata().tolist() == [1, 2]
    assert (loss.get_xlabel(), validation.get_xlabel()) == ("step", "epoch")
    (kl,) = drawn[f"{tmp_path}/b.png"].axes
    assert not kl.collections and kl.lines[0].get_xdata().tolist() == [0, 1]
    assert kl.get_yscale() == "symlog" and loss.get_yscale() == "linear"


def test_all_labelers_together_order_more_pairs_than_none(own, tmp_path):
    records = town.prompts("test", 40, 0)
    good = [town.demonstrations([r], 0)[0]["response"] for r in records]
    rankings = [{"prompt": r["prompt"], "responses": [g, "You lumpy turnip."], "ranks": [1, 2], "content": r["content"]}
                for r, g in zip(records, good)]  # fmt: skip
    files = {"prompts_validation": [], "prompts_test": records}
    for name, rows in files.items():
        write_lines(tmp_path / f"{name}.jsonl", rows or records[:1])
    where = SimpleNamespace(file=lambda name: f"{tmp_path}/{name}.jsonl")
    assert broken.without_mistakes(where, rankings)["mean"] > 0.9
    turned = [r | {"ranks": [2, 1]} for r in rankings]
    assert broken.without_mistakes(where, turned)["mean"] < 0.1


def test_the_whole_is_run_on_a_tiny_run_and_kept(tiny_run, tmp_path, monkeypatch, in_one_process):
    monkeypatch.chdir(tmp_path)
    with in_one_process():
        broken.main(broken.Config(toy=str(tiny_run), tiny=True))
    found = read_json("runs/broken/broken.json")
    assert found["beta0"]["metrics"]["kl"] and found["rm-chance"]["held_out"]["n"] and "follows" in found["sft-long"]
    assert found["vowels-1"]["metrics"]["score"][0] == pytest.approx(10 * found["vowels-10"]["metrics"]["score"][0])
    assert json.dumps(found).count('"follows"') == 12
    assert all((tmp_path / "runs" / "broken" / f"{name}.png").exists() for name in broken.PANELS)
