"""The picture of a probe, and that of tuning, read back from the axes of matplotlib."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from matplotlib.figure import Figure

from pl_onecycle.curves import LossCurve, rounds
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.pictures import ProbePicture, SchedulePicture, SweepPicture, TuningPicture, draw
from tests.pictures.drawn import labelled, labels, points, rendered, title, words
from tests.report.made import FOUND, LRS, PLANNED, curve, several


def candidate(end: float, outcome: Any = "completed", val: float | None = None) -> LossCurve:
    """20 losses from 3 to ``end``, and four validation losses from 3 to ``val``."""
    losses = [3 - (3 - end) * min(k / 10, 1) for k in range(20)]
    val_loss = [] if val is None else [3.0, val, val, val]
    return LossCurve(
        [0.1 * (k + 1) for k in range(20)], losses, outcome, None, [5, 10, 15, 20][: len(val_loss)], val_loss
    )


def compared(curves: Mapping[float, LossCurve], chosen: float | None = None) -> ProbePicture:
    """The picture of candidates that are compared as a probe does."""
    done = rounds(curves)
    assert not isinstance(done, Refusal)
    named = {f"wd={value:g}": measured for value, measured in curves.items()}
    values = {f"wd={value:g}": value for value in curves}
    name = None if chosen is None else f"wd={chosen:g}"
    return ProbePicture("Weight decay probe", named, name, True, "by hand", values, done)


@pytest.mark.parametrize("over_lr", [True, False])
def test_training_and_validation_loss_are_drawn_side_by_side(over_lr: bool) -> None:
    figure = draw(ProbePicture("Probe", several(), "wd=1e-04", over_lr))
    train, val = figure.axes
    assert (title(train), train.get_xlabel()) == ("Probe", "learning rate" if over_lr else "optimizer step")
    assert (val.get_xlabel(), val.get_ylabel()) == ("optimizer step", "validation loss")
    assert labels(train) == labels(val) == ["wd=1e-04, chosen", "wd=0 (dropped)"]
    assert [x for x, _ in points(train.lines[0])] == ([0.1, 0.2, 0.3, 0.4] if over_lr else [1, 2, 3, 4])
    assert [x for x, _ in points(train.lines[1])] == ([0.1] if over_lr else [1])  # as far as it is finite
    assert points(val.lines[0]) == [[2, 2.5], [4, 1.5]]
    assert train.lines[0].get_linewidth() > train.lines[1].get_linewidth()
    assert len(rendered(figure)) > 1000


def test_losses_are_drawn_as_differences_to_the_candidate_that_ends_lowest() -> None:
    train, val, _ = draw(compared({0.0: candidate(2.0, val=2.5), 0.5: candidate(1.0, val=1.5)})).axes
    assert (train.get_ylabel(), val.get_ylabel()) == ("training loss above wd=0.5", "validation loss above wd=0.5")
    assert [y for _, y in points(labelled(val, "wd=0.5"))] == [0.0] * 4
    assert [y for _, y in points(labelled(val, "wd=0"))] == [0.0, 1.0, 1.0, 1.0]
    assert [y for _, y in points(labelled(train, "wd=0.5"))] == [0.0] * 20
    assert points(labelled(train, "wd=0"))[-1][1] == pytest.approx(1.0, abs=1e-3)


def test_the_level_of_each_candidate_is_a_dot_and_what_may_be_chance_are_whiskers() -> None:
    picture = compared({0.0: candidate(1.4), 0.5: candidate(1.0), 1.0: candidate(1.02)}, chosen=1.0)
    ax = draw(picture).axes[-1]
    # Of the lowest curve, from 3 to 1, the share of 0.03 is 0.06; the ends have no noise.
    assert (title(ax), ax.get_xlabel()) == ("training loss at the end", "above the best, which is 1")
    dots = [points(bars.lines[0])[0] for bars in ax.containers]
    assert dots == [[pytest.approx(0.4), 2], [0.0, 1], [pytest.approx(0.02), 0]]
    whiskers = [bars.lines[2][0].get_segments()[0][:, 0].tolist() for bars in ax.containers]
    assert whiskers[1] == pytest.approx([-0.06, 0.06])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["wd=0", "wd=0.5", "wd=1 ✓"]


def test_a_candidate_without_a_level_says_why() -> None:
    gone = candidate(9.0, "diverged")
    picture = compared(
        {0.0: candidate(1.0, val=1.0), 0.5: gone, 1.0: candidate(1.0, val=2.0), 2.0: candidate(1.0, val=1.0)}
    )
    assert words(draw(picture).axes[-1])[:-1] == ["diverged", "clearly worse by validation loss"]


def test_a_candidate_far_above_the_others_is_named_at_the_edge() -> None:
    near = {value: candidate(1.0 + value) for value in (0.0, 0.01, 0.02, 0.03)}
    ax = draw(compared({**near, 1e3: candidate(2.9)})).axes[-1]
    assert words(ax)[:-1] == ["1.9"]
    assert len(ax.containers) == 4


def test_ten_candidates_all_differ_and_are_named_at_their_ends_only() -> None:
    train, ends = draw(compared({k / 10: candidate(1 + k / 10) for k in range(10)})).axes
    assert labels(train) == []
    assert len({(line.get_color(), line.get_linestyle()) for line in train.lines}) == 10
    assert len(ends.get_yticklabels()) == 10


def test_one_candidate_has_its_losses_and_no_panel_to_compare_it_in() -> None:
    train, val = draw(compared({0.5: candidate(1.0, val=1.5)}, chosen=0.5)).axes
    assert (train.get_ylabel(), val.get_ylabel()) == ("training loss", "validation loss")
    assert labels(train) == labels(val) == ["wd=0.5, chosen"]


def test_the_reason_is_below_the_title() -> None:
    assert words(draw(compared({0.5: candidate(1.0)})).axes[0]) == ["by hand"]


def test_the_drawn_training_loss_is_a_mean_that_keeps_a_constant() -> None:
    line = draw(ProbePicture("Probe", {"a": LossCurve(LRS, [2.5] * 50)}, None, True)).axes[0].lines[0]
    assert [y for _, y in points(line)] == pytest.approx([2.5] * 50)


def test_without_validation_there_is_one_panel() -> None:
    (ax,) = draw(ProbePicture("Probe", {"a": curve()}, None, True)).axes
    assert labels(ax) == ["a"]


def test_several_curves_are_drawn_on_a_given_axis_and_nothing_else() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert draw(ProbePicture("Probe", several(), None, True), second) is second
    assert (figure.axes, len(first.lines), len(second.lines)) == ([first, second], 0, 2)


def test_early_losses_far_above_the_rest_do_not_squash_it_and_others_are_within_the_frame() -> None:
    rise = LossCurve([0.1] * 4, [1.0] * 4, "completed", None, [1, 2, 3, 4], [1e6, 3.0, 2.0, 1.0])
    val = draw(ProbePicture("Probe", {"a": rise}, None, False)).axes[1]
    assert val.get_ylim() == pytest.approx((1 - 0.16, 3 + 0.16))  # 0.08 of 3 - 1


def test_where_all_have_exploded_the_frame_shows_what_they_were_before() -> None:
    losses = [2.0, 1.9, 1.8, 1.7, 1e9, math.inf]
    (ax,) = draw(ProbePicture("Probe", {"a": LossCurve([0.1] * 6, losses, "diverged")}, None, False)).axes
    assert ax.get_ylim()[1] < 3


# ------------------------------------------------------------------------------------------------ tuning
def test_tuning_is_the_range_test_with_the_planned_cycle_above_the_probes() -> None:
    decay, momentum = (
        ProbePicture("Decay", several(), "wd=0", True),
        ProbePicture("Momentum", {"a": curve()}, None, True),
    )
    figure = draw(TuningPicture(SweepPicture(curve(), FOUND), [decay, momentum], SchedulePicture.of(PLANNED)))
    shown = {title(ax): ax.get_subplotspec().get_topmost_subplotspec().rowspan.start for ax in figure.axes if title(ax)}
    assert shown == {
        "LR range test: 0.0125": 0,
        "planned cycle": 0,
        "Decay": 1,
        "on the same few validation batches": 1,
        "Momentum": 2,
    }
    assert [title(ax) for ax in draw(TuningPicture(None, [momentum])).axes] == ["Momentum"]


def test_nothing_tuned_is_an_empty_panel() -> None:
    (ax,) = draw(TuningPicture(None, [ProbePicture("Probe", {}, None, True)])).axes
    assert (title(ax), len(ax.lines)) == ("", 0)
