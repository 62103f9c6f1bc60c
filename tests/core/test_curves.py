"""What a run logged, drawn: a panel for each title, a line for each label."""

import pytest

from minirlhf.support import curves, logs

pytest.importorskip("matplotlib")


def test_a_line_has_the_points_that_were_logged_in_the_panel_of_its_title():
    rows = [{"step": 0, "loss": 3.0}, {"step": 1}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]
    figure = curves.draw_panels({"a title": {"run": logs.column(rows, "loss")}, "empty": {}})
    first, second = figure.axes
    assert first.get_title() == "a title" and not second.get_lines()
    (line,) = first.get_lines()
    assert line.get_xydata().tolist() == [[0, 3], [3, 1]] and line.get_label() == "run"


@pytest.mark.parametrize(("values", "scale"), [((1, 30), "log"), ((1, 15), "linear"), ((0, 30), "linear")])
def test_an_axis_is_logarithmic_where_positive_values_differ_widely(values, scale):
    (axis,) = curves.draw_panels({"x": {"y": list(enumerate(values))}}).axes
    assert axis.get_yscale() == scale


def test_means_of_parts_are_drawn_over_many_points():
    points = [(step, float(step % 2)) for step in range(3000)]
    (axis,) = curves.draw_panels({"x": {"y": points}}).axes
    pale, means = axis.get_lines()
    assert len(pale.get_ydata()) == 3000 and means.get_ydata() == pytest.approx([0.5] * 30)
    assert pale.get_color() == means.get_color() and pale.get_alpha() < 1


def test_panels_of_the_same_lines_share_a_legend():
    lines = {"a": [(0, 1.0)], "b": [(0, 2.0)]}
    figure = curves.draw_panels({"x": lines, "y": lines})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["a", "b"] and not figure.axes[0].get_legend()
    figure = curves.draw_panels({"x": lines, "y": {"a": [(0, 1.0)]}})
    assert not figure.legends and figure.axes[0].get_legend() and not figure.axes[1].get_legend()
