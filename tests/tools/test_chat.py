"""chat.py without a model lists those that there are, and begins with prompts that the model knows."""

import shutil

import pytest

import chat
import tiny
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_lines


@pytest.fixture
def runs(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, source in (("toy/ppo", world.gpt), ("toy/rm", world.rm), ("mine", world.gpt)):
        shutil.copytree(source, tmp_path / "runs" / name)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "model.pt").write_bytes(b"cut")
    return tmp_path / "runs"


def test_without_a_model_those_in_runs_are_listed_and_no_reward_model(runs, capsys):
    tiny.run(chat, [])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    python chat.py runs/mine",
        "    python chat.py runs/toy/ppo",
    ]


def test_without_a_run_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no model in runs/; make some with python reproduce.py"):
        tiny.run(chat, [])


def test_examples_are_prompts_of_the_models_town_one_of_each_kind(runs):
    records = [
        {"kind": kind, "prompt": f"{kind} {i}\n"}
        for i in range(2)
        for kind in ("story", "story", "myth", "say", "fact")
    ]
    write_lines(runs / "toy" / "town" / "prompts_test.jsonl", records)
    assert chat.examples("runs/toy/ppo") == ["story 0", "myth 0", "say 0"]
    assert chat.examples("runs/mine") == []
