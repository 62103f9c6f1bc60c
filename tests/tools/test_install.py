"""What pip installs is minirlhf alone, and the lines of docs/own_reward.md run with it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not importlib.util.find_spec("setuptools"), reason="no setuptools to build a wheel with")
def test_the_twenty_lines_run_where_only_the_library_is_installed(tmp_path):
    """In a folder that has a data.py and a chat.py of its own. Of ours nothing but minirlhf is installed."""
    page = (ROOT / "docs" / "own_reward.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    site, folder = tmp_path / "site", tmp_path / "mine"
    folder.mkdir()
    for name in ("data", "chat"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py is mine')\n")
    (folder / "own.py").write_text(code)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site]
    subprocess.run([*pip, tiny.copy_of_the_project(tmp_path / "clone")], check=True)
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} <= {"minirlhf", "__pycache__"}
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "own.py"], cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    first, *_, last = [float(line.split()[1]) for line in ran.stdout.splitlines()]
    assert first < 0.3 and last > 2
