"""Imports go one way: each file imports only what comes before it, and nothing imports in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A file of minirlhf imports only those on the lines above its own.
LIBRARY = """
    config losses model
    distributed device
    files data
    tokenizer rollout progress report
    huggingface evaluate
    checkpoint
"""
# A script is no library: others may import it only where it is a step of theirs.
STEPS = {
    "reproduce": {"train_tokenizer", "train_sft", "select_sft", "train_rm", "train_ppo"},
    "folds": {"train_tokenizer", "train_sft", "train_rm", "train_ppo"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
LINES = {name: number for number, line in enumerate(LIBRARY.split("\n")) for name in line.split()}


def name_of(path):
    """data/town/web.py is data.town.web."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path, code=None):
    """The modules of ours that a file imports, wherever in it: {"minirlhf.files", "data.town", "train_sft"}."""
    package, found = path.relative_to(ROOT).parts[:-1], set()
    for node in ast.walk(ast.parse(code or path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            inside = [f"{module}.{alias.name}" for alias in node.names]
            submodules = {name for name in inside if (ROOT / (name.replace(".", "/") + ".py")).exists()}
            found |= submodules or {module}
    return {name for name in found if name.split(".")[0] in {"minirlhf", "data", *SCRIPTS}}


def wrong(path, code=None):
    """Those of a file's imports that go the wrong way."""
    me, found = name_of(path), imports(path, code)
    if me == "data.town.__main__":  # a command, like the scripts
        return {name for name in found if not name.startswith(("minirlhf.", "data.town"))}
    if me.startswith("data."):
        return {name for name in found if not name.startswith("data.town")}
    if me.startswith("minirlhf."):
        mine = LINES[me.split(".")[1]]
        above = {f"minirlhf.{name}" for name, number in LINES.items() if number < mine}
        return found - above
    return (found & SCRIPTS) - STEPS.get(me, set())


FILES = [*ROOT.glob("*.py"), *ROOT.glob("minirlhf/*.py"), *ROOT.glob("data/town/*.py")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    assert not wrong(path)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("minirlhf/losses.py", "from .data import collate"),
        ("minirlhf/model.py", "def f():\n    from . import rollout"),
        ("minirlhf/evaluate.py", "import train_sft"),
        ("minirlhf/data.py", "from data import town"),
        ("data/town/web.py", "from minirlhf.files import write_lines"),
        ("data/town/__main__.py", "import reproduce"),
        ("train_rm.py", "from train_sft import plan"),
        ("chat.py", "import reproduce"),
    ],
)
def test_an_import_the_other_way_is_noticed(path, line):
    assert wrong(ROOT / path, line)
