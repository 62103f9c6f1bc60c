"""README's table leads from the paper to the code to a test: to names that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
ROWS = re.findall(r"^\| .+ \| `(\w+)\.(\w+)` \| `(tests/\w+\.py)::(\w+)` \|$", TEXT, re.MULTILINE)


def test_the_table_is_found():
    assert len(ROWS) > 15


@pytest.mark.parametrize(("module", "function", "file", "test"), ROWS)
def test_function_and_test_exist(module, function, file, test):
    (path,) = [path for folder in ("minirlhf", "experiments", ".") for path in ROOT.glob(f"{folder}/{module}.py")]
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert callable(getattr(importlib.import_module(name), function))
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize(("files", "lines"), re.findall(r"^\| (`[^|]+`) \| (\d+) \|", TEXT, re.MULTILINE))
def test_files_have_about_as_many_lines_as_readme_says(files, lines):
    paths = [ROOT / name for name in re.findall("`([^`]+)`", files)]
    paths = [path for given in paths for path in (given.glob("*.py") if given.is_dir() else [given])]
    assert sum(len(path.read_text().splitlines()) for path in paths) == pytest.approx(int(lines), rel=0.1)
