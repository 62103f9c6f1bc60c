"""The command line is the dataclass: a field is a flag, its comment the help, a mistake one clear line."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from forked import PYTHON
from minirlhf.support import run
from minirlhf.support.config import command, parse
from minirlhf.support.errors import InputError
from tiny import to_flags

ROOT = Path(__file__).parents[2]
SCRIPTS = ["pretrain", "train_sft", "train_rm", "train_ppo", "reproduce", "chat", "tools.train_tokenizer",
           "tools.select_sft", "tools.export", "tools.label", "tools.bench", "lab.cross_validation",
           "data.town.__main__"]  # fmt: skip


@dataclass(frozen=True)
class Example:
    data: tuple[str, ...]  # files, at least one
    out: str  # where to
    lr: float = 0.5  # the rate (paper: 50 %)
    epochs: int = 3  # passes over the data,
    # one after the other
    n_ctx: int | None = None  # length
    fast: bool = False  # or slow


def test_flags_become_fields_of_their_own_types():
    config = parse(Example, ["--data", "a", "b", "--out", "x", "--lr", "1e-3", "--n_ctx", "7", "--fast"])
    assert config == Example(("a", "b"), "x", 1e-3, 3, 7, True)


def test_defaults_are_the_dataclasses():
    assert parse(Example, ["--data", "a", "--out", "x"]) == Example(("a",), "x")


def test_to_flags_and_back_is_the_identity():
    config = Example(("a", "b"), "x", 0.25, 9, 7, True)
    assert parse(Example, to_flags(dataclasses.asdict(config))) == config


def test_a_flag_that_is_none_is_not_given():
    assert to_flags({"n_layer": None, "lr": 0.5}) == ["--lr", "0.5"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "a"], "required: --out"),
        (["--data", "a", "--uot", "x"], "unknown flag or argument: --uot x"),
        (
            ["--data", "a", "--out", "x", "--learning_rate", "1"],
            "unknown flag or argument: --learning_rate 1",
        ),
        (["--data", "a", "--out", "x", "--l", "1"], "unknown flag or argument: --l 1"),
        (["--data", "a", "--out", "x", "--epochs", "two"], "--epochs: invalid int value: 'two'"),
        (["--data", "a", "--out", "x", "--epochs"], "--epochs: expected one argument"),
    ],
)
def test_a_wrong_flag_is_named(flags, says):
    with pytest.raises(InputError, match=re.escape(says)):
        parse(Example, flags)


@pytest.mark.parametrize(("words", "named"), [(["-m", "data.town"], "python -m data.town"), (["chat.py"], "chat.py")])
def test_help_names_the_command_as_it_was_given(words, named):
    shown = subprocess.run([*PYTHON, *words, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert shown.startswith(f"usage: {named} [-h]")


def test_help_shows_each_fields_comment_and_default(capsys):
    with pytest.raises(SystemExit):
        parse(Example, ["--help"], description="What it does.")
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("What it does.", "the rate (paper: 50 %) [0.5]", "one after the other [3]", "--no-fast"):
        assert text in shown


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_scripts_help_explains_every_field(name, capsys):
    """The comment on a field's line, as it stands in the source, is in the output of --help. Flags that all training
    scripts share have it in run.py."""
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as stop:
        parse(module.Config, ["--help"])
    assert stop.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    source = Path(inspect.getfile(module.Config)).read_text() + Path(run.__file__).read_text()
    fields = dataclasses.fields(module.Config)
    for field in fields:
        comment = re.search(rf"^    {field.name}: [^#\n]*# (.+)$", source, re.MULTILINE)[1]
        assert f"--{field.name}" in shown
        assert "".join(comment.split()) in shown
    assert len(fields) >= 2


@dataclass(frozen=True)
class Named:
    names: tuple[str, ...] = ()  # of files
    fast: bool = False  # or slow


def test_a_users_mistake_is_one_line_and_exit_status_2(monkeypatch, capsys):
    def main(config):
        raise InputError(f"{config.names[0]}: what to do")

    monkeypatch.setattr(sys, "argv", ["script", "x", "--fast"])
    with pytest.raises(SystemExit) as stop:
        command(main, Named, "names")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: x: what to do\n"


def test_a_positional_field_takes_words_without_its_flag_and_may_be_left_out():
    assert parse(Named, ["a", "b", "--fast"], "names") == Named(("a", "b"), True)
    assert parse(Named, [], "names") == Named()
    with pytest.raises(InputError, match="required: data"):
        parse(Example, ["--out", "x"], "data")


def test_an_interrupted_run_ends_without_a_traceback(monkeypatch, capsys):
    def main(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit) as stop:
        command(main, Named)
    assert stop.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_files_may_be_given_in_several_goes():
    assert parse(Example, ["--data", "a", "b", "--out", "x", "--data", "c"]).data == ("a", "b", "c")


def test_what_the_system_refuses_is_a_line_with_its_path(monkeypatch, capsys):
    def main(config):
        raise PermissionError(13, "Permission denied", "/closed/file")

    monkeypatch.setattr("sys.argv", ["x.py", "--data", "a", "--out", "b"])
    with pytest.raises(SystemExit) as end:
        command(main, Example)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: /closed/file: Permission denied; is it the path you mean, and may you use it?\n"
    )
