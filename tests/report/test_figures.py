"""Pictures: what is drawn where, read back from the axes of matplotlib."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from pl_onecycle.curves import LossCurve, Suggestion
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import ProbePicture, SweepPicture, draw_probe, draw_range_test, draw_tuning
from tests.report.made import FOUND, LRS, PLANNED, curve, nothing_measured, several


def labels(ax: Any) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def points(line: Any) -> list[list[float]]:
    return [list(point) for point in line.get_xydata().tolist()]


def rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def test_the_loss_panel_shows_raw_and_smoothed_losses_over_log_lr() -> None:
    figure = draw_range_test(SweepPicture(curve("stopped"), None))
    (ax,) = figure.axes
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (
        "LR range test (stopped, no suggestion)",
        "learning rate",
        "training loss",
    )
    assert ax.get_xscale() == "log"
    raw, smooth = ax.lines
    assert points(raw) == [list(point) for point in zip(LRS, curve().loss, strict=True)]
    assert [y for _, y in points(smooth)] == curve().smoothed().tolist()
    assert labels(ax) == ["measured", "smoothed"]
    assert len(rendered(figure)) > 1000


def test_the_suggestion_is_a_line_at_its_lr() -> None:
    (ax,) = draw_range_test(SweepPicture(curve(), FOUND)).axes
    assert [x for x, _ in points(ax.lines[2])] == [0.0125, 0.0125]
    assert labels(ax) == ["measured", "smoothed", "max_lr 0.0125 (smith)"]


def test_the_planned_cycle_is_drawn_next_to_the_loss_step_by_step() -> None:
    figure = draw_range_test(SweepPicture(curve(), FOUND), PLANNED)
    loss, cycle, right = figure.axes
    assert loss.get_title() == "LR range test (completed)"
    assert (cycle.get_title(), cycle.get_xlabel(), right.get_ylabel()) == (
        "planned cycle",
        "optimizer step",
        "momentum",
    )
    steps = list(range(40))
    assert points(cycle.lines[0]) == [[step, PLANNED.lr(step)] for step in steps]
    assert points(right.lines[0]) == [[step, PLANNED.momentum(step)] for step in steps]
    assert labels(cycle) == ["learning rate", "momentum"]


def test_other_methods_and_the_range_of_an_unsure_suggestion_are_marked_too() -> None:
    unsure = Suggestion(0.0125, "smith", "by hand", 0.01, 0.02)
    others = [Suggestion(0.05, "steepest", ""), Suggestion(0.1, "valley", "")]
    (ax,) = draw_range_test(SweepPicture(curve(), unsure, "-accuracy", others)).axes
    assert ax.get_ylabel() == "-accuracy"
    assert [points(line)[0][0] for line in ax.lines[2:]] == [0.0125, 0.05, 0.1]
    assert labels(ax)[2:] == ["max_lr 0.0125 (smith)", "0.05 (steepest)", "0.1 (valley)"]
    (span,) = ax.patches
    assert (span.get_extents().x0, span.get_extents().x1) == pytest.approx(
        [ax.transData.transform((x, 1))[0] for x in (0.01, 0.02)]
    )


def test_a_cycle_without_momentum_has_one_axis() -> None:
    figure = draw_range_test(SweepPicture(curve(), None), OneCyclePolicy(1.0, 10, cycle_momentum=False))
    assert len(figure.axes) == 2
    assert labels(figure.axes[1]) == ["learning rate"]


def test_a_long_cycle_is_drawn_with_few_points_but_both_ends_and_near_its_peak() -> None:
    policy = OneCyclePolicy(1.0, 1_000_000)
    line = points(draw_range_test(SweepPicture(curve(), None), policy).axes[1].lines[0])
    assert len(line) == 501
    assert line[0] == [0, policy.lr(0)]
    assert line[-1] == [999_999, policy.lr(999_999)]
    # Steps 2000 apart, the slope of the rise is 0.9 in 450000 steps: at most 0.004 below the peak.
    assert max(lr for _, lr in line) > 1 - 0.004


def test_a_cycle_of_one_step_can_be_drawn() -> None:
    figure = draw_range_test(SweepPicture(curve(), None), OneCyclePolicy(0.5, 1))
    assert points(figure.axes[1].lines[0]) == [[0, 0.5]]
    assert len(rendered(figure)) > 1000


def test_a_given_axis_is_drawn_on_and_nothing_else_changes() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert draw_range_test(SweepPicture(curve(), FOUND), ax=second) is figure
    assert figure.axes == [first, second]
    assert (len(first.lines), len(second.lines)) == (0, 3)
    assert second.get_title() == "LR range test (completed)"


@nothing_measured
@pytest.mark.parametrize("planned", [None, PLANNED], ids=["alone", "with the cycle"])
def test_nothing_measured_is_an_empty_panel(measured: LossCurve, planned: OneCyclePolicy | None) -> None:
    figure = draw_range_test(SweepPicture(measured, None), planned)
    assert len(figure.axes[0].lines) == 0
    assert labels(figure.axes[0]) == []
    assert figure.axes[0].get_title() == f"LR range test ({measured.outcome}, no suggestion)"
    assert len(rendered(figure)) > 1000


def test_one_point_and_a_flat_curve_have_a_panel_of_some_height() -> None:
    for flat in (LossCurve([0.1], [2.0]), LossCurve(LRS, [2.0] * 50)):
        figure = draw_range_test(SweepPicture(flat, None))
        bottom, top = figure.axes[0].get_ylim()
        assert (bottom, top) == pytest.approx((1.9, 2.1))
        assert len(rendered(figure)) > 1000


@pytest.mark.parametrize("height", [1e3, 1e12, 3e38])
def test_an_explosion_does_not_squash_the_axis(height: float) -> None:
    losses = list(curve().loss)
    losses[-3:] = [height / 100, height / 10, height]
    (ax,) = draw_range_test(SweepPicture(LossCurve(LRS, losses, "diverged"), None)).axes
    bottom, top = ax.get_ylim()
    # 8 at the start and 2 at the lowest: losses are lowered to 8 + 6 = 14 at most, and a tenth of 12 is room.
    assert 0.8 <= bottom < 2
    assert 8 < top <= 15.2
    assert points(ax.lines[0])[-1][1] == height  # still recorded


def test_drawing_does_not_import_pyplot() -> None:
    # torchmetrics imports pyplot whether or not somebody draws, so it is forgotten before.
    script = """
import sys
from pl_onecycle.curves import LossCurve
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import SweepPicture, draw_range_test
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    del sys.modules[name]
figure = draw_range_test(SweepPicture(LossCurve([0.1, 0.2], [2.0, 1.0]), None), OneCyclePolicy(0.1, 10))
figure.savefig("figure.png")
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert result.stdout.split() == ["True", "False"], result.stderr
    assert imread("figure.png").std() > 0


def test_a_missing_matplotlib_raises_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"^Pictures need matplotlib: pip install 'pl-onecycle\[plot\]'$"):
        draw_range_test(SweepPicture(curve(), None))


# ------------------------------------------------------------------------------------------------- probe
@pytest.mark.parametrize("over_lr", [True, False])
def test_training_and_validation_loss_are_drawn_side_by_side(over_lr: bool) -> None:
    figure = draw_probe(ProbePicture("Probe", several(), "wd=1e-04", over_lr))
    train, val = figure.axes
    assert (train.get_title(), train.get_xlabel()) == ("Probe", "learning rate" if over_lr else "optimizer step")
    assert (val.get_xlabel(), val.get_ylabel()) == ("optimizer step", "validation loss")
    assert labels(train) == labels(val) == ["wd=1e-04, chosen", "wd=0 (dropped)"]
    assert [x for x, _ in points(train.lines[0])] == ([0.1, 0.2, 0.3, 0.4] if over_lr else [1, 2, 3, 4])
    assert [x for x, _ in points(train.lines[1])] == ([0.1] if over_lr else [1])  # as far as it is finite
    assert points(val.lines[0]) == [[2, 2.5], [4, 1.5]]
    assert train.lines[0].get_linewidth() > train.lines[1].get_linewidth()
    assert len(rendered(figure)) > 1000


def test_the_drawn_training_loss_is_a_mean_that_keeps_a_constant() -> None:
    line = draw_probe(ProbePicture("Probe", {"a": LossCurve(LRS, [2.5] * 50)}, None, True)).axes[0].lines[0]
    assert [y for _, y in points(line)] == pytest.approx([2.5] * 50)


def test_without_validation_there_is_one_panel() -> None:
    (ax,) = draw_probe(ProbePicture("Probe", {"a": curve()}, None, True)).axes
    assert labels(ax) == ["a"]


def test_several_curves_are_drawn_on_a_given_axis_and_nothing_else() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert draw_probe(ProbePicture("Probe", several(), None, True), second) is figure
    assert (figure.axes, len(first.lines), len(second.lines)) == ([first, second], 0, 2)


def test_the_first_losses_of_a_rise_do_not_squash_the_validation_axis() -> None:
    rise = LossCurve([0.1] * 4, [1.0] * 4, "completed", None, [1, 2, 3, 4], [1e6, 3.0, 2.0, 1.0])
    val = draw_probe(ProbePicture("Probe", {"a": rise}, None, False)).axes[1]
    assert val.get_ylim() == pytest.approx((1 - 0.1, 2 + 0.5))  # of 2 and 1, the later half


# ------------------------------------------------------------------------------------------------ tuning
def test_tuning_is_drawn_as_its_range_test_and_its_probes_side_by_side() -> None:
    decay, momentum = (
        ProbePicture("Decay", several(), "wd=0", True),
        ProbePicture("Momentum", {"a": curve()}, None, True),
    )
    titles = [ax.get_title() for ax in draw_tuning(SweepPicture(curve(), FOUND), [decay, momentum]).axes]
    assert titles == ["LR range test (completed)", "Decay", "on the same few batches", "Momentum"]
    assert [ax.get_title() for ax in draw_tuning(None, [momentum]).axes] == ["Momentum"]


def test_nothing_tuned_is_an_empty_panel() -> None:
    (ax,) = draw_tuning(None, [ProbePicture("Probe", {}, None, True)]).axes
    assert (ax.get_title(), len(ax.lines)) == ("", 0)
