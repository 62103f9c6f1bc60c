"""The benchmark runs, and its FLOP counts agree with torch's."""

import json
from types import SimpleNamespace

import pytest
from torch.utils.flop_counter import FlopCounterMode

import tiny
from minirlhf.support.errors import InputError
from tools import bench


@pytest.fixture(scope="module")
def rates():
    return bench.machine(OPTIONS)


@pytest.fixture(autouse=True)
def small(monkeypatch, rates):
    """A tiny shape; the machine's rates, which take seconds, are measured once."""
    monkeypatch.setattr(bench, "machine", lambda options: rates)
    monkeypatch.setitem(bench.SHAPES, "small", (50, 32, 2, 2, 32, 4, 3, 8, 2))


OPTIONS = SimpleNamespace(device="cpu", dtype="float32", compile=False, threads=1, graph=False)


@pytest.mark.parametrize("work", ["sft", "rm", "generate", "ppo"])
def test_one_json_line_with_the_rate_and_its_share_of_the_machines(work, capsys):
    tiny.run(bench, [work, "small", "--iterations", "1", "--threads", "1"])
    figures = json.loads(capsys.readouterr().out)
    name, units = {"ppo": ("episodes", 4), "generate": ("tokens", 32)}.get(work, ("tokens", 44))
    assert figures[f"{name}_per_second"] == pytest.approx(units / figures["seconds"])
    assert 0 < figures["share"] < 1
    assert figures["gflops"] > 0


@pytest.mark.parametrize("work", [bench.sft, bench.rm])
def test_each_of_two_processes_takes_half_of_the_batch(work, monkeypatch):
    seen, whole = [], bench.response_logps if work is bench.sft else bench.train_rm.score_rankings

    def noted(model, given, *rest):
        seen.append(len(given.tokens) if work is bench.sft else len(given))
        return whole(model, given, *rest)

    monkeypatch.setattr(*(bench, "response_logps") if work is bench.sft else (bench.train_rm, "score_rankings"), noted)
    monkeypatch.setattr(bench.distributed, "shard", lambda rows: rows[::2])
    work(bench.Shape("small"), OPTIONS)[0]()
    assert seen == [2 if work is bench.sft else 1]


@pytest.mark.parametrize("work", [bench.sft, bench.rm, bench.ppo])
def test_the_arithmetic_is_what_torch_counts(work):
    """Sampling is left out: token by token, attention reads fewer keys than the formula counts."""
    step, _, flops = work(bench.Shape("small"), OPTIONS)
    with FlopCounterMode(display=False) as counter:
        step()
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize(("flag", "word"), [("iterations", "0"), ("threads", "-1"), ("iterations", "9" * 30)])
def test_numbers_beyond_sense_are_refused(flag, word):
    with pytest.raises(InputError, match=f"--{flag}"):
        tiny.run(bench, ["sft", "small", f"--{flag}", word])
