"""The walkthrough's blocks print what the page shows; curves of several runs are plotted together."""

from pathlib import Path

import pytest
import torch

import tiny
from minirlhf.support.errors import InputError
from tools import curves, run_page

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "docs" / "walkthrough.md").read_text()


@pytest.fixture
def one_thread():
    """The page's models are small: two threads that share a core take ten times as long. Restores the float type, too,
    which the page sets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)


def test_every_block_prints_what_the_page_shows(one_thread):
    shown = 0
    for match, expected, printed in run_page.blocks(PAGE):
        assert run_page.alike(expected, printed), f"{match[1][:200]}\nprints\n{printed}"
        shown += bool(expected)
    assert shown > 8


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("loss 0.700", "loss  0.701", True), ("loss 0.70", "loss 0.75", False), ("loss 0.70", "less 0.70", False),
        ("-1.20 a", "1.20 a", False), ("12 rows", "13 rows", False), ("", "x", False), ("1.0 2.0", "1.0", False),
    ],
)  # fmt: skip
def test_only_rounding_may_differ(one, other, same):
    assert run_page.alike(one, other) is same


def test_a_page_is_written_with_what_its_blocks_print():
    page = "A\n\n```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\nwrong\n```\n\nB\n"
    expected = "A\n\n```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n\nB\n"
    assert run_page.written(page) == expected == run_page.written(expected)


def test_runs_are_drawn_beside_each_other_and_a_column_that_is_none_is_named(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tiny.write_lines(tmp_path / name / "metrics.jsonl", [{"step": i, "score": i * 0.5} for i in range(4)])
    words = [f"first={tmp_path}/one", f"{tmp_path}/two", "--out", f"{tmp_path}/both.png", "--columns", "score"]
    tiny.run(curves, words)
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "d.jsonl").write_text("mine")
    for out, runs, says in (("d.jsonl", "one", "choose a name.png"), ("x.png", "nowhere", "nowhere: no such folder")):
        with pytest.raises(InputError, match=says):
            tiny.run(curves, [f"{tmp_path}/{runs}", "--out", f"{tmp_path}/{out}", "--columns", "score"])
    assert (tmp_path / "d.jsonl").read_text() == "mine"
    with pytest.raises(InputError, match="one: no kl in its metrics.jsonl"):
        tiny.run(curves, [*words, "kl"])


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()
    with pytest.raises(InputError, match="metrics.jsonl: no such file; give the folder of a run"):
        tiny.run(curves, ["lr=3", "--columns", "loss", "--out", "x.png"])
    tiny.write_lines(tmp_path / "lr=3" / "metrics.jsonl", [{"step": 0, "loss": 1.0}])
    assert curves.label_and_folder("lr=3") == ("lr=3", "lr=3")
    assert curves.label_and_folder("a=lr=3") == ("a", "lr=3")
    tiny.run(curves, ["lr=3", "a=lr=3", "--columns", "loss", "--out", "x.png"])
    assert (tmp_path / "x.png").exists()
