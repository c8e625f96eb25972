"""The picture of a range test, read back from the axes of matplotlib."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from pl_onecycle.curves import LossCurve, Suggestion, compared_cycles, find_trough
from pl_onecycle.pictures import SchedulePicture, SweepPicture, draw, draw_results
from tests.pictures.drawn import ends, labelled, labels, points, rendered, title, words
from tests.report.made import FOUND, LRS, PLANNED, curve, nothing_measured

UNSURE = Suggestion(0.0125, "smith", "by hand", 0.01, 0.02)


def test_the_loss_panel_shows_raw_and_smoothed_losses_over_log_lr() -> None:
    figure = draw(SweepPicture(curve("stopped"), None))
    (ax,) = figure.axes
    assert (title(ax), ax.get_xlabel(), ax.get_ylabel()) == (
        "LR range test: no suggestion",
        "learning rate",
        "training loss",
    )
    assert ax.get_xscale() == "log"
    raw, smooth = ax.lines
    assert points(raw) == [list(point) for point in zip(LRS, curve().loss, strict=True)]
    assert [y for _, y in points(smooth)] == curve().smoothed().tolist()
    assert labels(ax) == ["measured", "smoothed"]
    assert len(rendered(figure)) > 1000


def test_the_suggestion_and_its_interval_are_marked_and_named() -> None:
    (ax,) = draw(SweepPicture(curve(), UNSURE)).axes
    name = "max_lr 0.0125 (0.01 to 0.02)"
    assert [x for x, _ in points(labelled(ax, name))] == [0.0125, 0.0125]
    assert labels(ax) == ["measured", "smoothed", name]
    (band,) = ax.patches
    assert ends(band) == [0.01, 0.02]


def test_the_title_says_what_changes_by_which_factor_and_the_line_below_it_why() -> None:
    picture = SweepPicture(curve(), replace(FOUND, lr=0.0746), before=0.001, reason="by hand")
    (ax,) = draw(picture).axes
    assert title(ax) == "LR range test: 0.001 → 0.0746 (×75)"
    assert words(ax) == ["by hand"]


def test_a_refusal_says_its_reason_in_the_picture_in_lines_that_fit() -> None:
    reason = "the loss falls by 1.13, less than 5 times the noise of 0.243, which is all that this curve shows of it"
    figure = draw(SweepPicture(curve(), None, reason=reason))
    (ax,) = figure.axes
    assert title(ax) == "LR range test: no suggestion"
    assert words(ax)[0].replace("\n", " ") == reason
    rendered(figure)  # which places everything
    box, whole = ax.texts[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_the_trough_is_shaded_from_its_left_to_its_right_end() -> None:
    trough = find_trough(curve()).ends
    (ax,) = draw(SweepPicture(curve(), FOUND, trough=trough)).axes
    assert ends(labelled(ax, "trough")) == pytest.approx(trough)


def test_coarse_sweeps_are_behind_the_curve_and_named_once() -> None:
    coarse = [LossCurve([0.1, 0.2], [3.0, 2.0], "risen"), LossCurve([0.01, 0.1], [3.0, 2.5], "risen")]
    (ax,) = draw(SweepPicture(curve(), None, coarse=coarse)).axes
    behind = [line for line in ax.lines if line.get_zorder() < labelled(ax, "measured").get_zorder()]
    assert [points(line) for line in behind] == [[[0.1, 3.0], [0.2, 2.0]], [[0.01, 3.0], [0.1, 2.5]]]
    assert labels(ax) == ["measured", "smoothed", "coarse sweep"]


def test_the_suggestions_of_other_methods_are_marked_too() -> None:
    others = [Suggestion(0.05, "steepest", ""), Suggestion(0.1, "valley", "")]
    (ax,) = draw(SweepPicture(curve(), UNSURE, "-accuracy", others)).axes
    assert ax.get_ylabel() == "-accuracy"
    assert [points(line)[0][0] for line in ax.lines[2:]] == [0.0125, 0.05, 0.1]
    assert labels(ax)[3:] == ["0.05 (steepest)", "0.1 (valley)"]
    assert len({line.get_color() for line in ax.lines[2:]}) == 3


def test_short_cycles_have_a_panel_with_the_level_of_each_and_those_that_diverged() -> None:
    level = {0.01: 1.0, 0.02: 0.5, 0.04: 0.75}
    cycles = {lr: LossCurve([lr] * 20, [2.0] * 10 + [end] * 10) for lr, end in level.items()}
    cycles[0.08] = LossCurve([0.08] * 2, [2.0, math.nan], "diverged")
    picture = SweepPicture(curve(), UNSURE, cycles=cycles, ends=compared_cycles(cycles))
    _, ax = draw(picture).axes
    assert title(ax) == "4 short cycles around the suggestion"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("max_lr of the cycle", "training loss at the end")
    (bars,) = ax.containers
    assert sorted(points(bars.lines[0])) == [[0.01, 1.0], [0.02, 0.5], [0.04, 0.75]]
    assert [x for x, _ in points(labelled(ax, "diverged"))] == [0.08]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.02", "0.04", "0.08"]


def test_the_planned_cycle_has_a_panel_of_its_own() -> None:
    figure = draw(SweepPicture(curve(), FOUND, planned=SchedulePicture.of(PLANNED)))
    loss, cycle, _ = figure.axes
    assert (title(loss), title(cycle)) == ("LR range test: 0.0125", "planned cycle")


# ------------------------------------------------------------------------------------------------- axes
def sweep(lr: list[float]) -> SweepPicture:
    return SweepPicture(LossCurve(lr, [2.0 - k / len(lr) for k in range(len(lr))]), None)


def test_the_axis_is_as_the_sweep_was_unless_another_is_asked_for() -> None:
    linear = sweep([k / 100 for k in range(1, 100)])
    exponential = sweep([10 ** (k / 20 - 5) for k in range(100)])
    stairs = sweep([10 ** (k // 10 - 5.0) for k in range(60)])
    scales = [draw(it).axes[0].get_xscale() for it in (linear, exponential, stairs)]
    assert scales == ["linear", "log", "log"]
    asked = [replace(linear, log_lr=True), replace(exponential, log_lr=False)]
    assert [draw(it).axes[0].get_xscale() for it in asked] == ["log", "linear"]


def test_points_at_both_ends_can_be_left_out_and_the_others_stay_as_they_are() -> None:
    (ax,) = draw(replace(SweepPicture(curve(), None), skip=(5, 10))).axes
    assert points(labelled(ax, "measured")) == [list(it) for it in zip(LRS, curve().loss, strict=True)][5:-10]
    assert [y for _, y in points(labelled(ax, "smoothed"))] == curve().smoothed()[5:-10].tolist()


def test_all_points_can_be_left_out() -> None:
    (ax,) = draw(replace(SweepPicture(curve(), FOUND), skip=(30, 30))).axes
    assert labels(ax) == ["max_lr 0.0125"]


@nothing_measured
@pytest.mark.parametrize("planned", [None, SchedulePicture.of(PLANNED)], ids=["alone", "with the cycle"])
def test_nothing_measured_is_a_panel_without_losses(measured: LossCurve, planned: SchedulePicture | None) -> None:
    figure = draw(SweepPicture(measured, None, planned=planned))
    ax = figure.axes[0]
    assert (len(ax.lines), labels(ax)) == (0, [])
    assert title(ax) == "LR range test: no suggestion"
    assert len(rendered(figure)) > 1000


def test_one_point_and_a_flat_curve_have_a_panel_of_some_height() -> None:
    for flat in (LossCurve([0.1], [2.0]), LossCurve(LRS, [2.0] * 50)):
        figure = draw(SweepPicture(flat, None))
        bottom, top = figure.axes[0].get_ylim()
        assert (bottom, top) == pytest.approx((1.9, 2.1))
        assert len(rendered(figure)) > 1000


@pytest.mark.parametrize("height", [1e3, 1e12, 3e38])
def test_an_explosion_does_not_squash_the_axis_and_is_marked_at_its_edge(height: float) -> None:
    losses = list(curve().loss)
    losses[-3:] = [height / 100, height / 10, height]
    (ax,) = draw(SweepPicture(LossCurve(LRS, losses, "diverged"), None)).axes
    bottom, top = ax.get_ylim()
    # 8 at the start and 2 at the lowest: losses are lowered to 8 + 6 = 14 at most, and the frame has room of 0.08.
    assert 0.8 <= bottom < 2
    assert 8 < top <= 21
    assert points(labelled(ax, "measured"))[-1][1] == height  # still recorded
    marked = [x for x, _ in points(labelled(ax, "above the frame"))]
    assert marked == [lr for lr, loss in zip(LRS, losses, strict=True) if loss > top]
    assert [x for x, _ in points(labelled(ax, "diverged at 10"))] == [LRS[-1]]


def test_noise_that_is_larger_than_the_fall_is_within_the_frame() -> None:
    losses = (2 + np.random.default_rng(0).normal(0, 1, 50)).tolist()
    (ax,) = draw(SweepPicture(LossCurve(LRS, losses), None)).axes
    assert labels(ax) == ["measured", "smoothed"]
    bottom, top = ax.get_ylim()
    assert bottom < min(losses) < max(losses) < top


def test_a_given_axis_is_drawn_on_and_nothing_else_changes() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    picture = SweepPicture(curve(), FOUND, planned=SchedulePicture.of(PLANNED))
    assert draw(picture, second) is second
    assert figure.axes == [first, second]
    assert (len(first.lines), len(second.lines)) == (0, 3)
    assert title(second) == "LR range test: 0.0125"


def test_several_results_are_drawn_side_by_side_under_their_names() -> None:
    figure = draw_results({"run_1\nLR range test": SweepPicture(curve(), FOUND), "run_2": SweepPicture(curve(), None)})
    assert [title(ax) for ax in figure.axes] == ["run_1\nLR range test", "run_2"]
    assert [words(ax) for ax in figure.axes] == [["LR range test: 0.0125"], ["LR range test: no suggestion"]]


def test_words_above_narrow_axes_are_in_lines_as_narrow() -> None:
    figure = Figure(figsize=(9, 3))
    ax = figure.subplots(1, 3)[0]
    draw(SweepPicture(curve(), FOUND, reason="a reason of some length that would reach into the next axes"), ax)
    rendered(figure)
    assert ax.texts[0].get_window_extent().width < 1.1 * ax.get_window_extent().width
