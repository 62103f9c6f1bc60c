"""Every file, function, test and link that the README, the map and the glossary name exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TEXT = README + (ROOT / "docs" / "map.md").read_text()
FOLDERS = ("minirlhf", "minirlhf/support", "lab", "tools", ".")
ROWS = re.findall(r"^\| .+ \| `(\w+)\.(\w+)` \| `(tests/\w+/\w+\.py)::(\w+)` \|$", TEXT, re.MULTILINE)


def test_the_table_is_found():
    assert len(ROWS) > 15


@pytest.mark.parametrize(("module", "function", "file", "test"), ROWS)
def test_function_and_test_exist(module, function, file, test):
    (path,) = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/{module}.py")]
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert callable(getattr(importlib.import_module(name), function))
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize(("file", "lines"), re.findall(r"^\| `([^`]+)` \| (\d+) \|", README, re.MULTILINE))
def test_files_have_as_many_lines_as_readme_says(file, lines):
    assert len((ROOT / file).read_text().splitlines()) == int(lines)


def test_the_papers_files_do_not_grow():
    library = [ROOT / "minirlhf" / f"{name}.py" for name in ("model", "losses", "rollout", "data")]
    paper = [ROOT / f"train_{name}.py" for name in ("sft", "rm", "ppo")] + library
    lines = sum([path.read_text().splitlines() for path in paper], [])
    assert len(lines) <= 1200 and max(map(len, lines)) <= 100


def test_readme_is_short_and_names_with_the_map_every_file_that_a_person_runs_or_a_script_needs():
    assert len(README.splitlines()) <= 200
    for path in [path for folder in FOLDERS for path in (ROOT / folder).glob("[!_]*.py")]:
        assert f"`{path.relative_to(ROOT)}`" in TEXT


PAGES = [path for folder in (".", "docs", "data", "lab/findings") for path in (ROOT / folder).glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WORDS = [row.split("|")[1:-1] for row in GLOSSARY.splitlines() if row.startswith("| ")][1:]


def test_the_glossary_has_each_word_once():
    said = int(re.search(r"^(\d+) words", GLOSSARY, re.MULTILINE)[1])
    assert len({row[0] for row in WORDS}) == len(WORDS) == said >= 30


@pytest.mark.parametrize("name", sorted({name for row in WORDS for name in re.findall(r"`(\w+\.\w+)`", row[3])}))
def test_a_word_s_name_in_the_code_exists(name):
    module, name = name.split(".")
    (path,) = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/{module}.py")]
    assert hasattr(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), name)
