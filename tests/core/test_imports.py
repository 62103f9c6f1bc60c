"""Imports go down only: each file imports what is below it, and so nothing imports in a circle."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# minirlhf/support/, the lowest line first; a file imports from lines above its own here.
SUPPORT = """
    errors shapes chats marks clock processes
    config files distributed device forward statistics
    muon formats tokenizer accumulation sampling progress shown optim tokens
    logs cuda_graph
    rows curves signs
    folder records
    huggingface
    checkpoint diagnosis
    run
"""
PAPER = """
    model losses data
    rollout
"""
LAB = ("lab", "lab/findings", "lab/methods", "lab/inside", "lab/doctor")
FOLDERS = ("minirlhf", "minirlhf/support", "data/town", "tools", "tools/web", *LAB, ".")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
TRAINING = {"pretrain", "train_sft", "train_rm", "train_ppo"}
# What a folder's files may import of ours; a name stands for itself and all that is in it.
BELOW = {
    "minirlhf.support": {"minirlhf.support"},
    "minirlhf": {"minirlhf"},
    "data.town": {"data.town"},
    "tools": {"minirlhf", "data.town", "tools"},
    "tools.web": {"minirlhf", "data.town", "tools.web"},
    "lab": {"minirlhf", "data.town", "tools", "lab"} | TRAINING,
    "lab.findings": {"minirlhf", "data.town", "tools", "lab"} | TRAINING,
    "lab.methods": {"minirlhf", "data.town", "lab", "train_ppo"},
    "lab.inside": {"minirlhf", "data.town", "lab"},
    "lab.doctor": {"minirlhf", "data.town", "lab"} | TRAINING,
}
ALONE = {  # files that may import something else than their folder's
    "data.town.__main__": {"data.town", "minirlhf"},
    "tools.bench": {"minirlhf", "train_rm", "train_ppo"},
    "pretrain": {"minirlhf", "train_sft"},
    "reproduce": {"minirlhf", "lab"},
    "chat": {"minirlhf", "tools.web"},
}
CORE = {"numpy", "torch", "tiktoken"}
EXTRAS = {"matplotlib", "tqdm", "safetensors", "tokenizers", "pyarrow"}  # imported where they are needed


def name_of(path):
    """data/town/web.py is data.town.web."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path, code):
    """The modules that the code of a file imports, wherever in it: {"minirlhf.support.files", "data.town", "torch"}."""
    package, found = path.relative_to(ROOT).parts[:-1], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            inside = {f"{module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if is_ours(name)}
            found |= modules if len(modules) == len(inside) else modules | {module}
    return found


def is_ours(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def inside(name, places):
    return any(name == place or name.startswith(f"{place}.") for place in places)


def line_of(name, listing):
    return next((number for number, line in enumerate(listing.splitlines()) if name in line.split()), None)


def wrong(path, code):
    """The imports of a file that do not go down."""
    me, found = name_of(path), {name for name in imports(path, code) if is_ours(name)}
    folder = me if path.name == "__init__.py" else me.rpartition(".")[0]
    may = ALONE.get(me, BELOW.get(folder, {"minirlhf"}))
    up = {name for name in found if not inside(name, may)}
    if path.name == "__init__.py":
        return up
    for package, listing in (("minirlhf.support", SUPPORT), ("minirlhf", PAPER)):
        if folder == package:
            mine = line_of(path.stem, listing)
            assert mine is not None, f"{path}: has no line of its own in this test"
            for name in found:
                other = line_of(name.removeprefix(f"{package}."), listing)
                up |= {name} if other is not None and other >= mine else set()
    return up


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    assert not wrong(path, path.read_text())


def test_support_imports_nothing_of_ours_but_itself():
    for path in (ROOT / "minirlhf" / "support").glob("*.py"):
        ours = {name for name in imports(path, path.read_text()) if is_ours(name)}
        assert all(name.startswith("minirlhf.support") for name in ours), path


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(ROOT / "minirlhf")], ids=name_of)
def test_the_library_imports_three_packages_and_extras_where_they_are_needed(path):
    code = path.read_text()
    others = {name.split(".")[0] for name in imports(path, code)} - set(sys.stdlib_module_names) - {"minirlhf"}
    assert others <= CORE | EXTRAS
    top = ast.Module([node for node in ast.parse(code).body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert not {name.split(".")[0] for name in imports(path, ast.unparse(top))} & EXTRAS


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("minirlhf/support/checkpoint.py", "from ..model import GPT"),
        ("minirlhf/support/files.py", "from .run import Run"),
        ("minirlhf/support/run.py", "def f():\n    from .. import rollout"),
        ("minirlhf/losses.py", "from .data import collate"),
        ("minirlhf/model.py", "def f():\n    from . import rollout"),
        ("minirlhf/rollout.py", "import train_sft"),
        ("minirlhf/data.py", "from data import town"),
        ("minirlhf/support/run.py", "from lab.workers import at_once"),
        ("data/town/web.py", "from minirlhf.support.files import write_lines"),
        ("data/town/__main__.py", "import reproduce"),
        ("tools/export.py", "from lab import stages"),
        ("tools/web/agreement.py", "import train_rm"),
        ("tools/label.py", "import chat"),
        ("lab/evaluation.py", "import reproduce"),
        ("lab/findings/tasks.py", "from chat import reply"),
        ("train_rm.py", "from train_sft import plan"),
        ("train_ppo.py", "from tools import select_sft"),
        ("chat.py", "from lab import report"),
        ("reproduce.py", "from lab import report\nimport train_ppo"),
    ],
)
def test_an_import_that_goes_up_is_noticed(path, code):
    assert wrong(ROOT / path, code)
