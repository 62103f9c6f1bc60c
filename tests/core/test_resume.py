"""A run that was killed, however often and wherever, ends bit by bit as the run that was left alone."""

import signal
import subprocess

import pytest

from harmed import SCRIPTS, assert_same, finish, jobs, kill_at, start


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The folder of each script's run that was left alone."""
    folder = tmp_path_factory.mktemp("alone")
    for script, flags in jobs(world, folder).items():
        finish(script, flags)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(script, alone, world, tmp_path):
    flags = jobs(world, tmp_path)[script]
    kill_at(script, flags, tmp_path / script, 10)
    finish(script, [*flags, "--resume"])
    assert_same(tmp_path / script, alone / script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_killed_between_the_write_of_a_state_and_its_renaming(script, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    assert start(script, flags, 3).wait(60) == -signal.SIGKILL
    assert list(folder.glob(".state-00000009.pt.*")) and not (folder / "state-00000009.pt").exists()
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_whose_newest_state_is_truncated(script, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    kill_at(script, flags, folder, 13)
    newest = max(folder.glob("state-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("room", "named"), [(16_000, ".pt"), (600, ".jsonl")])
def test_a_full_disk_is_a_line_and_the_run_goes_on_where_there_is_room(script, room, named, alone, world, tmp_path):
    flags, folder = jobs(world, tmp_path)[script], tmp_path / script
    process = start(script, flags, 0, room, subprocess.PIPE)
    (line,) = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 2
    assert line.startswith(f"error: {folder}/") and f"{named}: cannot be written (File too large); " in line
    finish(script, [*flags, "--resume"])
    assert_same(folder, alone / script)
