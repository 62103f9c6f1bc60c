"""Each exercise is red before it is done: its test fails for want of the function, and passes in the project itself."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minirlhf.config import InputError

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("exercise", ROOT / "docs" / "exercise.py")
exercise = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exercise)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exercises") / "gae"
    exercise.make("gae", folder)
    return folder


def outcome(folder, test):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    done = subprocess.run(words, cwd=folder, env=env | {"PYTHONPATH": ""}, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", exercise.EXERCISES)
def test_red_before_and_green_after(name, copy):
    file, test = exercise.places(name)
    source = (ROOT / file).read_text()
    (copy / "minirlhf" / "losses.py").write_text((ROOT / "minirlhf" / "losses.py").read_text())  # as if gae were done
    (copy / file).write_text(exercise.blanked(source, name)[0])
    status, said = outcome(copy, test)
    assert status == 1 and "yours to write" in said
    (copy / file).write_text(source)
    if name in ("gae", "sample_token", "set_bias"):  # the others' tests are the same files'
        assert outcome(copy, test)[0] == 0


def test_a_gap_keeps_signature_and_docstring_and_the_line_that_is_named():
    source = 'A = 1\n\n\n@f\ndef g(a,\n      b):\n    """What."""\n    x = a\n    return x\n\n\ndef h():\n    """."""\n'
    gap, line = exercise.blanked(source, "g")
    assert gap == source.replace("    x = a\n    return x\n", f"    {exercise.YOURS}\n") and line == 8
    assert exercise.YOURS in gap.splitlines()[line - 1]


def test_an_exercise_that_is_begun_is_not_overwritten(copy):
    with pytest.raises(InputError, match="is there already"):
        exercise.make("gae", copy)
    with pytest.raises(InputError, match="nothing: no exercise; choose of cosine_lr"):
        exercise.main(["nothing"])


def test_they_are_listed(capsys):
    exercise.main([])
    assert len(capsys.readouterr().out.splitlines()) == len(exercise.EXERCISES) >= 10
