"""Kills at random moments, and torchrun that starts a job again: it ends as if it had been left alone."""

import json
import os
import random

from harmed import assert_same, finish, jobs, kill_at, lines
from ranks import RANKS, launch, torchrun


def test_a_run_killed_ten_times_at_random_moments(world, tmp_path):
    rng, script = random.Random(os.environ.get("KILLS_SEED", 0)), os.environ.get("KILLS_SCRIPT", "train_ppo")
    more = dict(inner_epochs=1) if script == "train_ppo" else {}
    for name in ("alone", "killed"):
        flags, folder = jobs(world, tmp_path / name, steps=4, **more)[script], tmp_path / name / script
        for _ in range(10 if name == "killed" else 0):
            kill_at(script, flags, folder, lines(folder) // 3 * 3 + rng.randint(0, 4), rng.uniform(0, 0.02))
        finish(script, [*flags, "--resume"])
    assert_same(folder, tmp_path / "alone" / script)


def test_torchrun_starts_a_job_again_that_lost_a_rank(world, tmp_path):
    """Three ranks, so that the order in which gradients are summed matters."""
    for name in ("left_alone", "restarted"):
        folder = tmp_path / name
        folder.mkdir()
        flags = jobs(world, folder, episodes=36, save_every=1, resume=True)["train_ppo"]
        (folder / "jobs.json").write_text(json.dumps([("train_ppo", flags)]))
        if name == "left_alone":
            launch(3, folder / "jobs.json")
        else:
            result = torchrun(3, RANKS, str(folder / "jobs.json"), "die", options=("--max-restarts", "2"))
            assert result.returncode == 0, result.stderr
        for rank in range(3):
            (folder / "train_ppo" / f"seen-{rank}.pt").unlink()
    assert "going on after step" in result.stdout
    assert_same(tmp_path / "restarted" / "train_ppo", tmp_path / "left_alone" / "train_ppo")
