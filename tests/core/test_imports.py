"""Imports go one way: each file imports only what stands above it here, and so nothing imports in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = """
    shapes config model
    losses distributed device muon
    files formats
    data
    tokenizer rollout
    huggingface evaluate graph
    checkpoint
    run
"""
# A script is no library: it imports another only where that is a step of its own, or (pretraining) has its loop.
TRAINING = {"train_tokenizer", "pretrain", "train_sft", "select_sft", "train_rm", "train_ppo"}
STEPS = {
    "pretrain": {"train_sft"},
    "reproduce": TRAINING,
    "folds": {"train_tokenizer", "pretrain", "train_sft", "train_rm", "train_ppo"},
    "findings.lab": TRAINING | {"reproduce"},
    "bench.bench": {"train_rm", "train_ppo"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
LINES = {name: number for number, line in enumerate(LIBRARY.splitlines()) for name in line.split()}
FOLDERS = ("minirlhf", "data/town", "people", "experiments", "findings", "bench", ".")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]


def name_of(path):
    """data/town/web.py is data.town.web."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path, code):
    """The modules of ours that the code of a file imports, wherever in it: {"minirlhf.files", "data.town"}."""
    package, found = path.relative_to(ROOT).parts[:-1], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            inside = [f"{module}.{alias.name}" for alias in node.names]
            found |= {name for name in inside if (ROOT / (name.replace(".", "/") + ".py")).exists()} or {module}
    return {
        name
        for name in found
        if name.split(".")[0] in {"minirlhf", "data", "people", "experiments", "findings", *SCRIPTS}
    }


def wrong(path, code):
    """Those of a file's imports that go the wrong way."""
    me, found = name_of(path), imports(path, code)
    if me == "data.town.__main__":  # a command, as the scripts are
        return {name for name in found if not name.startswith(("minirlhf.", "data.town"))}
    if me.startswith("data."):
        return {name for name in found if not name.startswith("data.town")}
    if me.startswith("minirlhf."):
        mine = LINES[me.split(".")[1]]
        return found - {f"minirlhf.{name}" for name, line in LINES.items() if line < mine}
    if not me.startswith(("findings", "bench")) and any(name.startswith("findings") for name in found):
        return found
    if me.startswith("people.") and any(name.startswith("experiments") for name in found):
        return found
    may = TRAINING if me.startswith("experiments.") else STEPS.get(me, set())
    return found & SCRIPTS - may


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    assert not wrong(path, path.read_text())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("minirlhf/losses.py", "from .data import collate"),
        ("minirlhf/model.py", "def f():\n    from . import rollout"),
        ("minirlhf/support/evaluate.py", "import train_sft"),
        ("minirlhf/data.py", "from data import town"),
        ("minirlhf/support/run.py", "from experiments.workers import at_once"),
        ("data/town/web.py", "from minirlhf.files import write_lines"),
        ("data/town/__main__.py", "import reproduce"),
        ("lab/evaluation.py", "from reproduce import LIMIT"),
        ("train_rm.py", "from train_sft import plan"),
        ("lab/report.py", "from findings import pictures"),
        ("lab/findings/tasks.py", "import folds"),
        ("chat.py", "import reproduce"),
        ("tools/web/agreement.py", "import train_rm"),
        ("tools/web/agreement.py", "from experiments.evaluation import load"),
        ("minirlhf/support/formats.py", "from people import labels"),
    ],
)
def test_an_import_the_other_way_is_noticed(path, code):
    assert wrong(ROOT / path, code)
