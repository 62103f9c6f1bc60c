"""The benchmark of starting: each way is run, and its figures are those of the run."""

import importlib
import json
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import tiny
from minirlhf.support.config import parse
from minirlhf.support.errors import InputError
from tools import bench_data


@pytest.fixture
def measured(tmp_path, tokenizer, capsys):
    tokenizer.save(tmp_path)

    def run(what, **more):
        flags = dict(tokenizer=tmp_path, rounds=1, out=tmp_path / "bench", mb=2, pairs=40, size="nano") | more
        tiny.run(bench_data, [what, *tiny.to_flags(flags)])
        assert not (tmp_path / "bench").exists()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        return {row["way"]: row for row in map(json.loads, lines)}

    return run


@pytest.mark.parametrize(
    ("what", "ways"),
    [("corpus", ["1 MB, text", "1 MB, encoded", "2 MB, text", "2 MB, encoded"]), ("pairs", ["text", "encoded"])],
)
def test_each_way_is_a_command_for_its_own_data(what, ways, measured, monkeypatch):
    """In this process, and without the trainings."""

    def run(words, out):
        module, *flags = words
        tiny.run(importlib.import_module(module), [*flags, "--processes", 1])
        return 1.5, 0.5

    def begin(words, out):
        module, *flags = map(str, words)
        config = parse(importlib.import_module(module).Config, [*flags, "--out", "run"])
        (data,) = config.data
        assert Path(data).exists()
        return {"seconds": 2.0, "gb": 0.25, "data": Path(data).name}

    monkeypatch.setattr(bench_data, "to_the_end", run)
    monkeypatch.setattr(bench_data, "first_row", begin)
    found = measured(what)
    if what == "pairs":
        assert found.pop("encoding, once")["seconds"] == 1.5
    assert list(found) == ways and all(("tokens" in row["data"]) == ("encoded" in way) for way, row in found.items())
    assert [row["data"][0] for row in found.values()] == ["1", "1", "2", "2"] if what == "corpus" else ["p", "p"]


def test_ppo_begins_and_goes_on(measured, monkeypatch):
    """A run is ended after its first row."""
    told, read = [], bench_data.read_metrics
    monkeypatch.setattr(bench_data, "read_metrics", lambda folder: told.append(read(folder)) or told[-1])
    found = measured("resume")
    assert list(found) == ["start", "going on"] and told[0][0]["step"] == 0 < told[1][0]["step"]
    for row, metrics in zip(found.values(), told):
        assert row["seconds"] > 0 and row["gb"] == metrics[0]["memory_gb"] > row["python_gb"]
        assert row["formula_gb"] == pytest.approx(3.4e-3, rel=0.2)


def test_two_trainings_take_turns(measured, monkeypatch):
    told, read, signals, send = [], bench_data.read_metrics, [], bench_data.subprocess.Popen.send_signal
    monkeypatch.setattr(bench_data, "TURNS", 4)
    monkeypatch.setattr(bench_data, "read_metrics", lambda folder: told.append(read(folder)) or told[-1])
    monkeypatch.setattr(bench_data.subprocess.Popen, "send_signal",
                        lambda self, signal: signals.append((self.pid, signal.name)) or send(self, signal))  # fmt: skip
    (row,) = measured("steps").values()
    text, encoded = ([r["seconds"] for r in rows[1:]] for rows in told)
    assert row["text"] == np.median(text) and row["encoded"] == np.median(encoded) and text and encoded
    assert row["ratio"] == row["encoded"] / row["text"]
    signals = signals[[name for _, name in signals].index("SIGSTOP") :]  # after the encoding
    pids = {pid for pid, _ in signals}
    assert len(pids) == 2 and [name for _, name in signals[18:]] == ["SIGKILL"] * 2
    for (pid, name), (same, then) in zip(signals[2:18:2], signals[3:18:2]):  # one at a time
        assert (name, then) == ("SIGCONT", "SIGSTOP") and pid == same
    assert signals[2][0] != signals[4][0] and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_too_little_text_to_compare_steps_is_said(measured, monkeypatch):
    over = subprocess.Popen(["true"])
    over.wait()
    monkeypatch.setattr(bench_data, "started", lambda *_: nullcontext(over))
    monkeypatch.setattr(bench_data, "wait_for", lambda *_: None)
    with pytest.raises(InputError, match="steps: --mb 1 of text is too little; a training has ended"):
        measured("steps", mb=1)


def test_the_rate_of_encoding_is_of_the_text(measured, monkeypatch):
    monkeypatch.setattr(bench_data, "cores", lambda: 1)
    (row,) = measured("encode").values()
    assert row["mb_per_second"] == pytest.approx(2 / row["seconds"], rel=0.01) and row["gb"] > 0


def test_a_command_that_fails_says_why(tmp_path):
    out = tmp_path / "bench"
    out.mkdir()
    with pytest.raises(InputError, match="tools.encode: error: x: no tokenizer there"):
        words = ["tools.encode", "--data", "none.jsonl", "--tokenizer", "x", "--out", tmp_path / "y"]
        bench_data.to_the_end(words, out)
    assert os.listdir(out) == ["errors"]


def test_a_training_that_ends_without_a_row_is_said(tmp_path):
    out = tmp_path / "bench"
    out.mkdir()
    with pytest.raises(InputError, match="(?s)tools.encode: ended too early: .*a tokenizer"):
        bench_data.first_row(["tools.encode", "--help"], out)


def test_a_folder_that_is_there_is_not_removed(tmp_path):
    with pytest.raises(InputError, match="is there already"):
        tiny.run(bench_data, ["encode", "--out", str(tmp_path)])
    assert tmp_path.exists()
