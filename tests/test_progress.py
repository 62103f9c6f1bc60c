"""Long work says how far it is, and leaves a picture."""

import pytest

from minirlhf.files import Metrics
from minirlhf.progress import draw_curves, progress


def test_progress_yields_every_item_and_says_when_it_is_done(capsys):
    assert list(progress("abc", "work")) == [(0, "a"), (1, "b"), (2, "c")]
    assert capsys.readouterr().out.startswith("work: 3/3")


def test_progress_goes_on_where_a_run_was_stopped(capsys):
    assert list(progress("abc", "work", start=2)) == [(2, "c")]
    assert capsys.readouterr().out.startswith("work: 3/3")


def test_curves_are_drawn_from_the_metrics_also_where_a_column_has_gaps(tmp_path):
    pytest.importorskip("matplotlib")
    metrics = Metrics(tmp_path)
    metrics.write(step=0, loss=2.0, validation_loss=None)
    metrics.write(step=1, loss=1.0, validation_loss=1.5)
    metrics.write(step=2)
    draw_curves(tmp_path, {"loss": "loss", "validation_loss": "validation", "absent": "absent"}, "title")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
