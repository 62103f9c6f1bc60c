"""A file on disk is complete or absent, and a folder belongs to one run."""

import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny
from forked import PYTHON, kill
from minirlhf.support import files, folder
from minirlhf.support.config import Text
from minirlhf.support.errors import InputError
from minirlhf.support.records import read

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    out: str
    seed: int = 0
    data: tuple = ("a",)


# --- complete or absent --------------------------------------------------------------------------------------


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    files.write_atomically(tmp_path / "a" / "b.bin", b"12")
    assert tiny.snapshot(tmp_path) == {tmp_path / "a" / "b.bin": b"12"}


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_atomically(tmp_path / "x.pt", b"old")

    def half(file):
        file.write(b"ne")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        files.write_atomically(tmp_path / "x.pt", half)
    assert tiny.snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_reader_who_has_opened_the_old_file_reads_all_of_the_old_file(tmp_path):
    files.write_atomically(tmp_path / "x.pt", b"old")
    with open(tmp_path / "x.pt", "rb") as reader:
        files.write_atomically(tmp_path / "x.pt", b"new and longer")
        assert reader.read() == b"old"
    assert (tmp_path / "x.pt").read_bytes() == b"new and longer"


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_atomically(tmp_path / "x.pt", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="x.pt: cannot be written .No space left on device"):
        files.write_atomically(tmp_path / "x.pt", b"new")
    assert tiny.snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_atomically(tmp_path / "file" / "x.json", b"1")


def test_json_comes_back(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": [1, None, "ü"]})
    assert files.read_json(tmp_path / "x.json") == {"a": [1, None, "ü"]}


@pytest.mark.parametrize("content", [None, "{", "[]", "7", "[" * 100_000])
def test_json_that_is_missing_or_broken_is_named(tmp_path, content):
    if content:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="x.json: missing or not a JSON object; put it back"):
        files.read_json(tmp_path / "x.json")


# --- a folder is one run's ----------------------------------------------------------------------------------


def test_a_folder_stays_its_runs_own(tmp_path):
    out = str(tmp_path / "run")
    folder.lock_output(Settings(out))
    folder.lock_output(Settings(out))
    assert files.read_json(f"{out}/config.json") == {"out": out, "seed": 0, "data": ["a"], "read": {}}


def test_a_folder_or_file_spelled_otherwise_is_the_same(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "d.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    folder.lock_output(Settings("run", data=("d.txt",)))
    for out, path in (("run/", "./d.txt"), ("./run", "sub/../d.txt"), (f"{tmp_path}/run", f"{tmp_path}/d.txt")):
        folder.lock_output(Settings(out, data=(path,)))
    with pytest.raises(InputError, match="holds another run .--data was"):
        folder.lock_output(Settings("run", data=("other.txt",)))


def test_a_file_whose_content_changed_under_a_run_is_named(tmp_path):
    path = tmp_path / "d.txt"
    for content in ("x", "x"):
        path.write_text(content)
        folder.lock_output(Settings(str(tmp_path / "run"), data=(str(path),)))
    path.write_text("y")
    with pytest.raises(InputError, match=f"--data {path} has changed since --out {tmp_path}/run was begun"):
        folder.lock_output(Settings(str(tmp_path / "run"), data=(str(path),)))


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        "epoch-1.pt",
        "tokenizer.json",
        "merges.txt",
        "x.safetensors",
        "a.parquet",
        "b.jsonl",
        "c.jsonl.gz",
        "x.tiktoken",
    ],
)
def test_a_folder_of_a_model_or_of_data_that_changed_under_a_run_is_named(name, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / name).write_text("x")
    folder.lock_output(Settings(str(tmp_path / "run"), data=(str(model),)))
    (model / "state-00000001.pt").write_text("no part of it")
    folder.lock_output(Settings(str(tmp_path / "run"), data=(str(model),)))
    (model / name).write_text("y")
    with pytest.raises(InputError, match=f"--data {model} has changed"):
        folder.lock_output(Settings(str(tmp_path / "run"), data=(str(model),)))


def test_of_a_finished_run_its_model_counts_and_nothing_else(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.pt", "epoch-1.pt", "config.json", "tokenizer.tiktoken"):
        (model / name).write_text("x")
    settings = Settings(str(tmp_path / "run"), data=(str(model),))
    folder.lock_output(settings)
    (model / "epoch-1.pt").unlink()
    (model / "config.json").write_text("the same command, spelled otherwise")
    (model / "notes.txt").write_text("a good run")
    folder.lock_output(settings)
    (model / "tokenizer.tiktoken").write_text("y")
    with pytest.raises(InputError, match=f"--data {model} has changed"):
        folder.lock_output(settings)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_stands_in_the_place_of_a_lock_is_named(tmp_path, make):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / ".lock")
    with pytest.raises(InputError, match="run/.lock: .*no run makes such; remove it"):
        folder.lock(tmp_path / "run")


def test_a_folder_in_which_another_process_is_at_work_is_refused_until_that_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.3)
    code = "import os, sys, time; from minirlhf.support.folder import lock; "
    code += "lock(sys.argv[1]); print(os.getpid(), flush=True); time.sleep(99)"
    other = subprocess.Popen([*PYTHON, "-c", code, tmp_path / "run"], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    pid = other.stdout.readline().strip()
    with pytest.raises(InputError, match=f"run: process {pid} on .* is at work in it; wait for its end, or choose"):
        folder.lock_output(Settings(str(tmp_path / "run")))
    assert not (tmp_path / "run" / "config.json").exists()
    kill(other)
    folder.lock_output(Settings(str(tmp_path / "run")))


def test_a_folder_of_another_run_is_refused_with_the_flags_that_differ(tmp_path):
    folder.lock_output(Settings(str(tmp_path)))
    before = tiny.snapshot(tmp_path)
    with pytest.raises(InputError, match="holds another run .--seed was 0, now 1.; choose another --out"):
        folder.lock_output(Settings(str(tmp_path), seed=1))
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize("value", ["\\ud800", "a\\u0000b"])
def test_a_config_that_no_run_wrote_is_named(value, tmp_path):
    folder.lock_output(Settings(str(tmp_path)))
    (tmp_path / "config.json").write_text(f'{{"data": "{value}"}}')
    with pytest.raises(InputError, match="config.json: not a run's; put it back, or choose another --out"):
        folder.lock_output(Settings(str(tmp_path)))


def test_flags_that_do_not_matter_may_differ(tmp_path):
    folder.lock_output(Settings(str(tmp_path)), ignore=("seed",))
    folder.lock_output(Settings(str(tmp_path), seed=1), ignore=("seed",))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir() or (path / "thesis.txt").write_text("x"),
        lambda path: path.write_text(""),
        lambda path: path.symlink_to(path.parent / "nothing"),
    ],
)
def test_a_folder_or_file_that_is_no_runs_is_refused(tmp_path, make):
    make(tmp_path / "mine")
    before = tiny.snapshot(tmp_path)
    with pytest.raises(InputError, match="is not empty and no run's|a file, or a link"):
        folder.lock_output(Settings(str(tmp_path / "mine")))
    assert tiny.snapshot(tmp_path) == before


# --- permissions, links, changes -------------------------------------------------------------------------------------


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_new_file_has_the_umask_s_permissions_and_a_private_one_stays_private(tmp_path):
    umask = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "new", b"1")
    finally:
        os.umask(umask)
    assert mode(tmp_path / "new") == 0o640
    (tmp_path / "new").chmod(0o600)
    files.write_atomically(tmp_path / "new", b"2")
    assert mode(tmp_path / "new") == 0o600


def test_a_file_system_without_permissions_is_written_to(tmp_path, monkeypatch):
    def refused(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    files.write_atomically(tmp_path / "new", b"1")
    assert (tmp_path / "new").read_bytes() == b"1"


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capsys):
    def none(*all):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = pytest.importorskip("fcntl")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        folder.lock(tmp_path / "run")
    assert capsys.readouterr().out == (
        f"--out {tmp_path / 'run'}: no locks on this file system; see to it that no second process writes there\n"
    )
    folder.lock(tmp_path / "other")
    assert capsys.readouterr().out == ""


def test_a_lock_does_not_follow_a_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="lock: a link, which no run makes; remove it"):
        folder.lock(tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_lock_file_that_was_removed_lets_no_second_run_in(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.3)
    code = "import os, sys, time; from minirlhf.support.folder import lock; "
    code += "lock(sys.argv[1]); print(flush=True); time.sleep(99)"
    other = subprocess.Popen([*PYTHON, "-c", code, tmp_path / "run"], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    other.stdout.readline()
    (tmp_path / "run" / ".lock").unlink()
    try:
        with pytest.raises(InputError, match="is at work in it"):
            folder.lock(tmp_path / "run")
    finally:
        kill(other)


@pytest.mark.parametrize("name", [".notes.half", "notes.half"])
def test_a_file_that_ends_in_half_may_be_somebody_s(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="is not empty and no run's"):
        folder.lock_output(Settings(str(tmp_path)))
    assert (tmp_path / name).read_text() == "mine"


@dataclass(frozen=True)
class Places:
    out: str
    data: tuple = ()
    device: Text = "auto"


def test_the_data_in_a_folder_are_hashed_whatever_lies_beside_them(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dataset_info.json", "README.txt", "old.pt", "part.jsonl"):
        (data / name).write_text("x")
    config = Places(str(tmp_path / "run"), data=(str(data),))
    folder.lock_output(config)
    (data / "part.jsonl").write_text("y")
    with pytest.raises(InputError, match=f"--data {data} has changed"):
        folder.lock_output(config)


def test_a_word_that_is_no_path_is_not_hashed_and_files_may_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto").write_text("x")
    (tmp_path / "d.jsonl").write_text("x")
    folder.lock_output(Places("run", data=("d.jsonl",)))
    (tmp_path / "auto").write_text("y")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder.lock_output(Places(str(tmp_path / "run"), data=(str(tmp_path / "d.jsonl"),)))


def test_a_file_that_changed_after_it_was_read_is_named(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "a"}\n')
    read(path, "prompt")
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(InputError, match="d.jsonl: was changed while it was read; run the command again"):
        folder.lock_output(Places(str(tmp_path / "run"), data=(str(path),)))
