"""Folds share no conversation, no stage sees the fold left out, and a fold that was stopped goes on."""

import json
from types import SimpleNamespace

import pytest
import torch

import pretrain
from lab import cross_validation
from minirlhf.support import run

RECORDS = [
    {
        "prompt": f"\n\nHuman: the {i % 10}{turn}\n\nAssistant:",
        "responses": [f" good {i}", f" bad {i}"],
        "ranks": [1, 2],
    }
    for i in range(20)
    for turn in ("", "\n\nAssistant: so?\n\nHuman: yes")
]


def config(out):
    shape = dict(size="nano", n_layer=1, n_ctx=64, vocab_size=270)
    return cross_validation.Config(pairs="", documents=(), out=str(out), **shape)


def test_records_with_the_same_first_turn_are_in_one_fold():
    parts = cross_validation.split(RECORDS, 3, seed=0)
    turns = [{cross_validation.first_turn(record["prompt"]) for record in part} for part in parts]
    assert not turns[0] & turns[1] and not turns[0] & turns[2] and not turns[1] & turns[2]
    assert sorted(map(json.dumps, sum(parts, []))) == sorted(map(json.dumps, RECORDS))
    assert {len(part) for part in parts} == {12, 16}


@pytest.mark.parametrize(("given", "layers"), [({}, 4), ({"n_layer": 1}, 1)])
def test_a_size_has_its_own_layers_unless_others_are_given(given, layers, monkeypatch):
    class Begun(Exception):
        pass

    def begin(config):
        raise Begun(config.n_layer or pretrain.PRESETS[config.size]["n_layer"])

    monkeypatch.setattr(pretrain, "main", begin)
    small = cross_validation.Config(pairs="", documents=(), out="runs/folds", size="small", **given)
    with pytest.raises(Begun, match=f"^{layers}$"):
        cross_validation.train_fold(small, "runs/folds/fold-0", "tokenizer")


def test_a_fold_that_was_stopped_goes_on_and_saw_no_more_than_it_was_given(tmp_path, no_pictures, monkeypatch):
    recipe, save, stops = cross_validation.Config.recipe, run.save_model, []

    def stopped_once(path, *args):
        if not stops and str(path).endswith("model.pt"):
            stops.append(path)
            raise KeyboardInterrupt
        save(path, *args)

    def often(config):
        own = recipe.fget(config)
        return own | {"gpt": own["gpt"] | dict(save_every=1)}

    monkeypatch.setattr(cross_validation.Config, "recipe", property(often))
    monkeypatch.setattr(run, "save_model", stopped_once)
    fold = config(tmp_path), f"{tmp_path}/fold-0"
    tokenizer, _ = cross_validation.prepare_fold(*fold, RECORDS[20:], RECORDS[:20], [{"text": "a page"}])
    with pytest.raises(KeyboardInterrupt):
        cross_validation.train_fold(*fold, tokenizer)
    assert list((tmp_path / "fold-0" / "gpt").glob("state-*.pt"))
    cross_validation.train_fold(*fold, tokenizer)
    assert (tmp_path / "fold-0" / "rm" / "model.pt").exists()
    seen = "".join(path.read_text() for path in (tmp_path / "fold-0").glob("*.jsonl"))
    assert all(record["responses"][0] in seen for record in RECORDS[:20])
    assert not any(f'{record["responses"][0]}"' in seen for record in RECORDS[20:])


def test_scores_before_are_the_sft_models_and_after_those_of_ppo(tmp_path, monkeypatch):
    """And their difference is on the same prompts: each is better by 0.5."""
    models, score = {}, {"sft": 1.0, "ppo": 1.5}

    def load_model(folder, kind, tokenizer):
        return models.setdefault(
            folder.split("/")[-1], SimpleNamespace(config=SimpleNamespace(n_ctx=64), eval=lambda: None)
        )

    def sampled(policy, tokenizer, prompts, limit, seed, batch_size):
        (name,) = [name for name, model in models.items() if model is policy]
        for part in ([1, 0], [2]):
            yield (
                part,
                SimpleNamespace(texts=lambda tokenizer, part=part: [f"{name} {i}" for i in part], part=part, name=name),
            )

    monkeypatch.setattr(cross_validation, "Pipeline", lambda *all: SimpleNamespace(
        ppo=lambda *folders: folders, train=lambda stages: None))  # fmt: skip
    monkeypatch.setattr(cross_validation, "load_tokenizer", lambda folder: None)
    monkeypatch.setattr(cross_validation, "load_model", load_model)
    monkeypatch.setattr(cross_validation, "sample_responses", sampled)
    monkeypatch.setattr(cross_validation.records, "encode_prompts", lambda given, *rest: (given, [[1]] * len(given)))
    monkeypatch.setattr(cross_validation, "in_chunks", lambda function, model, responses: torch.tensor(
        [score[responses.name] + 10 * i for i in responses.part]))  # fmt: skip
    models["rm"] = SimpleNamespace(config=SimpleNamespace(n_ctx=64), eval=lambda: models["rm"])
    means = cross_validation.run_ppo(config(tmp_path), "fold-0", RECORDS[:3])
    assert {name: value["mean"] for name, value in means.items()} == pytest.approx(
        {"before PPO": 11.0, "after PPO": 11.5, "after minus before": 0.5})  # fmt: skip
    assert means["after minus before"]["low"] == pytest.approx(0.5)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert rows[1] == {"prompt": RECORDS[1]["prompt"], "before PPO": "sft 1", "after PPO": "ppo 1"}
