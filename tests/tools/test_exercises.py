"""Each exercise's tests fail before it is solved and for wrong solutions, and pass with the project's own function."""

import ast
import os
import shutil
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import tiny
from minirlhf.support.errors import InputError
from tools import exercises

ROOT = Path(__file__).parents[2]


RUNNER = """
import gc, os, sys
import numpy, pytest, tiktoken, torch._dynamo  # what the tests need and what takes long to import

gc.freeze()  # pytest collects garbage at its end
for line in sys.stdin:
    folder, tests = line.split()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os._exit(pytest.main(["-x", "-p", "no:cacheprovider", tests]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_tests():
    """A function that runs an exercise's tests on a copy of the project: (exit status, output). One process imports
    torch, and a fork of it runs each copy's tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env |= {"PYTHONPATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", RUNNER], cwd="/", env=env, **pipes) as runner:

        def run(folder, name):
            print(folder, exercises.tests(name), file=runner.stdin, flush=True)
            return int(runner.stdout.readline()), (folder / "output.txt").read_text()

        yield run
        runner.stdin.close()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exercises") / "copy"
    shutil.copytree(ROOT, folder, ignore=exercises.LEFT_OUT)
    return folder


@pytest.fixture
def attempt(copy, run_tests):
    """Replaces a function's body in a complete copy, runs its tests, and restores the copy."""

    def run(name, body):
        file = exercises.EXERCISES[name]
        source = (ROOT / file).read_text()
        (copy / file).write_text(exercises.with_body(source, name, body))
        Path(cache_from_source(copy / file)).unlink(missing_ok=True)  # its date may be the new source's, to the second
        result = run_tests(copy, name)
        (copy / file).write_text(source)
        return result

    return run


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_red_before(name, attempt):
    status, said = attempt(name, exercises.YOURS)
    assert status == 1 and "yours to write" in said


@pytest.mark.parametrize("name", ["gae", "ranked_above", "sample_token", "set_bias", "grpo.advantages"])
def test_green_with_the_solution_while_the_others_are_out_of_sight(name, tmp_path, run_tests):
    exercises.make(name, tmp_path / name)
    file, original = tmp_path / name / exercises.EXERCISES[name], ROOT / exercises.EXERCISES[name]
    (solution,) = (
        n for n in ast.parse(original.read_text()).body if getattr(n, "name", "") == exercises.function_of(name)
    )
    lines = original.read_text().splitlines()[solution.body[1].lineno - 1 : solution.end_lineno]
    text = file.read_text()
    same_file = list(exercises.EXERCISES.values()).count(exercises.EXERCISES[name])
    assert text.count("return solved(") == same_file - 1
    file.write_text(text.replace(f"    {exercises.YOURS}", "\n".join(lines)))
    assert run_tests(tmp_path / name, name)[0] == 0


WRONG = {  # as readers wrote it, or might
    "sft_loss": ["return -masked_mean(logp, mask)"],
    "ptx_loss": ["return -coef * logp.mean()"],
    "whiten": ["return (x - x[mask].mean()) / x[mask].std()"],
    "shaped_rewards": [
        "r = -beta * (logp - ref_logp) * mask; r[:, -1] += scores; return r",
        "r = -beta * (logp - ref_logp); r[torch.arange(len(r)), mask.sum(1) - 1] += scores; return r",
    ],
    "sample_token": ["return (log_probs.exp().cumsum(-1) > noise[:, None]).int().argmax(-1)"],
    "ranked_above": ["return ranks[:, :, None] < ranks[:, None, :]"],
    "ranking_loss": [
        "better = ranked_above(ranks); margins = scores[:, :, None] - scores[:, None, :]; "
        "return -F.logsigmoid(margins)[better].mean()"
    ],
    "policy_loss": [
        "r = torch.exp(logp - old_logp); "
        "return -torch.minimum(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages).mean()",
        "r = torch.exp(logp - old_logp); return -masked_mean(r.clamp(1 - clip, 1 + clip) * advantages, mask, total)",
    ],
    "value_loss": [
        "c = old_values + (values - old_values).clamp(-clip, clip); "
        "return 0.5 * torch.maximum((values - returns) ** 2, (c - returns) ** 2).mean()",
        "c = old_values + (values - old_values).clamp(-clip, clip); "
        "return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (c - returns) ** 2), mask)",
    ],
    "rloo.advantages": ["b = rewards.mean(1, keepdim=True).expand_as(rewards); return rewards - b, b"],
    "grpo.advantages": ["b = rewards.mean().expand_as(rewards); return (rewards - b) / (rewards.std() + 1e-4), b"],
    "dpo_loss": ["return -F.logsigmoid(beta * (better - worse)).mean()"],
    "grpo_loss": [
        "r = torch.exp(logp - old_logp); g = torch.minimum(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages); "
        "return -((g - beta * k3(logp, ref_logp, mask)) * mask).sum() / mask.sum()"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "body"), [(name, body) for name, bodies in WRONG.items() for body in bodies])
def test_red_where_it_is_wrong(name, body, attempt):
    status, said = attempt(name, body)
    assert status == 1 and "SyntaxError" not in said and "NameError" not in said


def test_another_body_keeps_signature_and_docstring():
    source = 'A = 1\n\n\n@f\ndef g(a,\n      b):\n    """What."""\n    x = a\n    return x\n\n\ndef h():\n    """."""\n'
    assert exercises.with_body(source, "g", "return k({})") == source.replace(
        "    x = a\n    return x\n", "    return k(a, b)\n"
    )


def test_an_exercise_that_is_begun_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    (tmp_path / "train_rm.py").write_text((ROOT / "train_rm.py").read_text())
    half = tmp_path / "runs" / "exercises" / "set_bias.half"  # of a copy that was stopped
    half.mkdir(parents=True)
    (half / "train_rm.py").write_text("the solution")
    for said in ("open ", "exists already"):
        tiny.run(exercises, ["set_bias"])
        mine = tmp_path / "runs" / "exercises" / "set_bias" / "train_rm.py"
        printed = capsys.readouterr().out
        assert said in printed and f"{mine}, line " in printed and mine.exists()
        assert f"line {1 + mine.read_text()[: mine.read_text().index('def set_bias(')].count(chr(10))}" in printed
        mine.write_text("# mine\ndef set_bias(): ...\n")
    assert mine.read_text().startswith("# mine") and not half.exists()
    with pytest.raises(InputError, match="nothing: not an exercise; choose one of cosine_lr"):
        tiny.run(exercises, ["nothing"])


def test_they_are_listed(capsys):
    tiny.run(exercises, [])
    assert len(capsys.readouterr().out.splitlines()) == len(exercises.EXERCISES) >= 10
