"""What is on disk is whole or absent, and belongs to one run."""

import os
from dataclasses import dataclass

import pytest

from minirlhf import files
from minirlhf.config import InputError


@dataclass(frozen=True)
class Settings:
    out: str
    seed: int = 0
    data: tuple = ("a",)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- whole or not at all ------------------------------------------------------------------------------------


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    files.write_atomically(tmp_path / "a" / "b.bin", b"12")
    assert snapshot(tmp_path) == {tmp_path / "a" / "b.bin": b"12"}


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_atomically(tmp_path / "x.pt", b"old")

    def half(file):
        file.write(b"ne")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        files.write_atomically(tmp_path / "x.pt", half)
    assert snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_reader_who_has_opened_the_old_file_reads_the_whole_old_file(tmp_path):
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
    assert snapshot(tmp_path) == {tmp_path / "x.pt": b"old"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_atomically(tmp_path / "file" / "x.json", b"1")


def test_json_comes_back(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": [1, None, "ü"]})
    assert files.read_json(tmp_path / "x.json") == {"a": [1, None, "ü"]}


@pytest.mark.parametrize("content", [None, "{"])
def test_json_that_is_missing_or_broken_is_named(tmp_path, content):
    if content:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="x.json: missing or not JSON"):
        files.read_json(tmp_path / "x.json")


# --- a folder is one run's ----------------------------------------------------------------------------------


def test_a_folder_stays_its_runs_own(tmp_path):
    out = str(tmp_path / "run")
    files.claim(Settings(out))
    files.claim(Settings(out))
    assert files.read_json(f"{out}/config.json") == {"out": out, "seed": 0, "data": ["a"]}


def test_a_folder_of_another_run_is_refused_with_the_flags_that_differ(tmp_path):
    files.claim(Settings(str(tmp_path)))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="holds another run .--seed was 0, now 1.; choose another --out"):
        files.claim(Settings(str(tmp_path), seed=1))
    assert snapshot(tmp_path) == before


def test_flags_that_do_not_matter_may_differ(tmp_path):
    files.claim(Settings(str(tmp_path)), ignore=("seed",))
    files.claim(Settings(str(tmp_path), seed=1), ignore=("seed",))


@pytest.mark.parametrize(
    "make",
    [lambda path: path.mkdir() or (path / "thesis.txt").write_text("x"), lambda path: path.write_text("")],
)
def test_a_folder_or_file_that_is_no_runs_is_refused(tmp_path, make):
    make(tmp_path / "mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="is not empty and no run's|a file is in the way"):
        files.claim(Settings(str(tmp_path / "mine")))
    assert snapshot(tmp_path) == before
