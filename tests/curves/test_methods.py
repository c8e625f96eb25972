"""What each method reads from a curve, against independent references and on staircases."""

import math
import statistics
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from pl_onecycle.curves import METHODS, LossCurve, Method, find_trough, refusal, suggest
from pl_onecycle.curves.methods import RULES
from pl_onecycle.policy import RangeTestPolicy
from tests.curves.made import DECADES, measured, noisy, suggested, swept, training

# --------------------------------------------------------------------------------- independent references
# Plain loops, written from the formulas of the peers; L is the smoothed loss.
SHARE, WIDEST, KERNEL, MARGIN = 0.8, 1.25, 0.2, 0.5  # of the fall; in decades


def trough(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    """The middle, in decades, of where 80 % of the fall has happened, no wider than 1.25; on a wider kernel of 0.2.

    Half a decade below the upper end at least, and not below the lower end.
    """
    wide = curve.smoothed(KERNEL).tolist()
    start = statistics.median(wide[: max(len(wide) // 10, 3)])
    level = start - SHARE * (start - min(wide))
    left = 0
    while wide[left] > level:
        left += 1
    low = between(lr, wide, level, left) if left else math.log10(lr[0])
    right = wide.index(min(wide))
    while right < len(wide) and wide[right] <= level:
        right += 1
    high = between(lr, wide, level, right) if right < len(wide) else math.log10(lr[-1])
    high = min(high, low + WIDEST)
    middle = math.sqrt(10**low * 10**high)
    return 10**low if high - low < MARGIN else min(middle, 10 ** (high - MARGIN))


def between(lr: list[float], smooth: list[float], level: float, k: int) -> float:
    """Where, in decades, the line from point k - 1 to point k passes the level."""
    share = (smooth[k - 1] - level) / (smooth[k - 1] - smooth[k])
    return (1 - share) * math.log10(lr[k - 1]) + share * math.log10(lr[k])


def smith(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    return lr[smooth.index(min(smooth))] / 10


def minimum(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    return lr[list(curve.loss).index(min(curve.loss))] / 10  # raw


def steepest(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    best, found = math.inf, lr[0]
    for i in range(smooth.index(min(smooth))):
        slope = (smooth[i + 1] - smooth[i]) / (math.log(lr[i + 1]) - math.log(lr[i]))
        if slope < best:
            best, found = slope, lr[i]
    return found


def valley(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    """fastai: the longest falling subsequence, in O(n^2)."""
    longest = [1] * len(smooth)
    start = end = 0
    for i in range(1, len(smooth)):
        for j in range(i):
            if smooth[i] < smooth[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
        if longest[end] < longest[i]:
            end, start = i, i - longest[i]
    sections = (end - start) / 3
    return lr[start + int(sections) + int(sections / 2)]


def slide(lr: list[float], smooth: list[float], curve: LossCurve) -> float | None:
    """fastai, with indices from the right; its threshold of 0.005 is a share of the fall."""
    gradient = np.gradient(smooth)
    right, left = -1, -1 - min(15, len(lr) - 1)
    found = lr[left]
    while left >= -len(lr) and abs(gradient[right] - gradient[left]) > 0.005 * (curve.start - min(smooth)):
        found = lr[left]
        right, left = right - 1, left - 1
    return found if left >= -len(lr) else None  # the pair has run off the curve


REFERENCES: dict[Method, Callable[[list[float], list[float], LossCurve], float | None]] = {
    "trough": trough,
    "smith": smith,
    "steepest": steepest,
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
}


CURVES: dict[str, Callable[[], LossCurve]] = {
    "parabola": lambda: measured((DECADES + 1) ** 2),
    "training": lambda: measured(training(DECADES)),
    "training, early": lambda: measured(training(DECADES, -4.0)),
    "training, no explosion": lambda: measured(training(DECADES, 1.0)),
    "training, never stopped": lambda: swept(training(DECADES)),
    "training, 30 points": lambda: measured(training(np.linspace(-7, 1, 30)), np.linspace(-7, 1, 30)),
    "training, linear sweep": lambda: measured(
        training(np.log10(np.linspace(1e-4, 1, 100))), np.log10(np.linspace(1e-4, 1, 100))
    ),
    "noisy": lambda: noisy(0),
    "noisier": lambda: noisy(1, sd=0.2),
    "negative": lambda: measured(training(DECADES) - 10),
    "short": lambda: measured(training(np.linspace(-4, 0, 8)), np.linspace(-4, 0, 8)),
}


# ----------------------------------------------------------------------------------------------- formulas
def test_every_method_has_a_reference() -> None:
    assert get_args(Method) == METHODS
    assert set(METHODS) == set(REFERENCES) == set(RULES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_every_method_agrees_with_its_formula(curve: Callable[[], LossCurve], method: Method) -> None:
    measurement = curve()
    expected = REFERENCES[method](measurement.finite_lr.tolist(), measurement.smoothed().tolist(), measurement)
    if expected is None:
        assert suggest(measurement, method) is None
        assert refusal(measurement, method) == f"{method} finds no landmark on the curve"
    else:
        assert suggested(measurement, method).lr == pytest.approx(expected, rel=1e-9 if method == "trough" else 1e-12)


@pytest.mark.parametrize("method", ["smith", "minimum"])
@pytest.mark.parametrize("lowest", [-4, -2, -1, 0])
def test_smith_and_minimum_suggest_a_tenth_of_the_lr_of_the_minimum(lowest: int, method: Method) -> None:
    decades = np.linspace(-7, 1, 81)  # ten points a decade
    curve = swept((decades - lowest) ** 2, decades)
    assert suggested(curve, method).lr == pytest.approx(10.0 ** (lowest - 1))


def test_smith_reads_the_trend_and_minimum_the_raw_loss() -> None:
    decades = np.linspace(-7, 1, 81)
    loss = (decades + 1) ** 2 + 0.1
    loss[50] = 0.09  # one lucky batch at 10**-2
    curve = swept(loss, decades)
    assert suggested(curve, "minimum").lr == pytest.approx(1e-3)
    assert suggested(curve, "smith").lr == pytest.approx(1e-2)


def test_steepest_is_the_middle_of_a_symmetric_fall() -> None:
    # Half a cosine is steepest in its middle, -3; of 82 points that interval lies between points 40 and 41.
    decades = np.linspace(-7, 1, 82)
    curve = measured(np.cos(math.pi * (decades + 7) / 8), decades)
    assert suggested(curve, "steepest").lr == pytest.approx(10 ** decades[40])


def test_steepest_searches_left_of_the_minimum_only() -> None:
    # Down by 2 around -5 to the minimum at -4, up by 2 around -2 and down again, more steeply but less far, by 1.5.
    steps = [(-5.0, -2.0, 6.0), (-2.0, 2.0, 6.0), (0.0, -1.5, 30.0)]
    loss = 3.0 + np.sum([size / (1 + np.exp(-sharp * (DECADES - at))) for at, size, sharp in steps], axis=0)
    assert suggested(swept(loss), "steepest").lr == pytest.approx(1e-5, rel=0.25)


def test_valley_on_a_straight_fall_is_half_of_its_way() -> None:
    # 101 falling points: e = 100, s = 100 - 101 = -1, and -1 + int(101 / 3) + int(101 / 6) = -1 + 33 + 16 = 48.
    decades = np.linspace(-7, 3, 101)
    assert suggested(measured(5.0 - decades, decades), "valley").lr == pytest.approx(10 ** decades[48])


def test_slide_on_a_straight_fall_is_fifteen_points_before_its_end() -> None:
    # All slopes agree, so the pair of points does not move: 100 - 15 = 85.
    decades = np.linspace(-7, 3, 101)
    assert suggested(measured(5.0 - decades, decades), "slide").lr == pytest.approx(10 ** decades[85])


@pytest.mark.parametrize("lowest", [-3.0, -2.0, -1.0, 0.0])
def test_smith_is_a_tenth_of_the_lr_at_which_the_curve_is_lowest(lowest: float) -> None:
    at = DECADES[training(DECADES, lowest).argmin()]
    assert math.log10(suggested(measured(training(DECADES, lowest)), "smith").lr) == pytest.approx(at - 1, abs=0.1)


# Of a dense sweep: four decades, 28 steps in each.
DENSE = np.linspace(-4, 0, 113)


@pytest.mark.parametrize("slope", [0.7, 0.8, 0.9])
def test_the_middle_of_a_symmetric_trough_of_a_decade_or_more_is_its_lowest_point(slope: float) -> None:
    # Down from 1.5 to 0 at -2 and up again as steeply: 0.2 * 1.5 / slope to either side, less for the smoothing.
    curve = swept(np.minimum(slope * np.abs(DENSE + 2), 1.5), DENSE)
    found = find_trough(curve)
    assert 0.5 < found.right - found.left < 1.25
    lowest = min((found.left + found.right) / 2, found.right - 0.5)
    assert (found.left + found.right) / 2 == pytest.approx(-2, abs=0.01)
    assert math.log10(suggested(curve, "trough").lr) == pytest.approx(lowest, abs=1e-9)


@pytest.mark.parametrize(("slope", "distance"), [(2.0, 0.5), (2.5, 0.5)])
def test_a_suggestion_stays_half_a_decade_below_a_near_rise(slope: float, distance: float) -> None:
    curve = swept(np.minimum(slope * np.abs(DENSE + 1), 2.8), DENSE)
    found = find_trough(curve)
    assert 0.5 < found.right - found.left < 1.0
    assert found.right - math.log10(suggested(curve, "trough").lr) == pytest.approx(distance, abs=1e-9)
    assert "below the middle of the trough" in suggested(curve, "trough").reason


def test_a_suggestion_never_lies_below_its_trough() -> None:
    curve = swept(np.minimum(6 * np.abs(DENSE + 1), 2.0), DENSE)
    found = find_trough(curve)
    assert found.right - found.left < 0.5
    assert math.log10(suggested(curve, "trough").lr) == pytest.approx(found.left, abs=1e-9)


@pytest.mark.parametrize("wide", [1.0, 2.0, 3.0])
def test_a_trough_wider_than_a_decade_and_a_quarter_is_read_by_its_lower_end(wide: float) -> None:
    # 1 up to -5, 0 from -2 on: 80 % of the way down at -2 - 0.2 * 3 = -2.6, and -2.6 + 1.25 / 2 = -1.975, however
    # wide it is.
    decades = np.linspace(-6, 1, 7 * 28 + 1)
    curve = swept(np.interp(decades, [-5, -2, -2 + wide, wide], [1.0, 0.0, 0.0, 1.0]), decades)
    assert math.log10(suggested(curve, "trough").lr) == pytest.approx(-1.975, abs=0.02)


def test_a_trough_that_the_sweep_does_not_leave_ends_with_the_sweep() -> None:
    # A straight fall by 4 in 112 steps. Its start is the median of the first tenth, 5 steps below the top, so that it
    # falls by 4 * 107 / 112 = 3.8214. It is 80 % down 0.2 * 3.8214 = 0.7643 decades before its end at 0, and half a
    # decade below that end is lower than the middle.
    curve = swept(-DENSE, DENSE)
    assert find_trough(curve).left == pytest.approx(-0.7643, abs=1e-4)
    assert math.log10(suggested(curve, "trough").lr) == pytest.approx(-0.5, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_suggestion_names_its_method_and_a_landmark_of_the_curve(method: Method) -> None:
    suggestion = suggested(measured(training(DECADES)), method)
    assert type(suggestion.lr) is float  # no numpy number, for checkpoints and YAML
    assert suggestion.method == method
    landmarks = {
        # 80 % down where exp(-3 (x + 2.5)) = 20 / 80, about -2.04 or 0.0091 but for the smoothing, and 1.25 decades on.
        "trough": (
            "the middle of the trough from 0.00896 to 0.159, at most 1.25 decades, where 80% of the fall has happened"
        ),
        "smith": "one order of magnitude below 0.0955, where the smoothed loss is lowest",
        "minimum": "one order of magnitude below 0.0955, where the raw loss is lowest",
        "steepest": "where the smoothed loss falls fastest over log lr",
        "valley": "half way down the longest fall, which ends at 0.0955",
        "slide": "where the slopes of a sliding pair of points first agree",
    }
    assert suggestion.reason == landmarks[method]


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_default_method_is_trough(curve: Callable[[], LossCurve]) -> None:
    found = suggest(curve())
    assert found == suggested(curve(), "trough")
    assert found is not None
    assert found.method == "trough"


# --------------------------------------------------------------------------------------------- staircases
def staircase(stairs: int, steps: int = 100) -> LossCurve:
    policy = RangeTestPolicy(1e-7, 10.0, steps, "staircase", stairs)
    decades = np.log10([policy.lr(step) for step in range(steps)])
    return measured(training(decades), decades)


@pytest.mark.parametrize(
    ("method", "lr"),
    [
        ("smith", 1e-2),  # lowest on the stair of 0.1
        ("minimum", 1e-2),
        ("steepest", 1e-3),  # from 1.9 on the stair of 1e-3 to 0.6 on the next one is the steepest fall
        ("valley", 1e-6),  # 8 falling stairs: e = 7, s = 7 - 8 = -1, stair -1 + int(8 / 3) + int(8 / 6) = 2
    ],
)
def test_a_staircase_is_read_by_its_stairs(method: Method, lr: float) -> None:
    # Ten stairs of five steps, a decade apart.
    stairs = [2.5, 2.4, 2.3, 2.2, 2.1, 1.9, 0.6, 0.5, 0.9, 3.0]
    curve = LossCurve([10.0 ** (k // 5 - 8) for k in range(50)], [stairs[k // 5] for k in range(50)])
    assert suggested(curve, method).lr == pytest.approx(lr)


# valley and slide count points, of which a staircase has too few.
@pytest.mark.parametrize("method", ["smith", "steepest", "minimum"])
@pytest.mark.parametrize("stairs", [5, 10, 20, 50])
def test_a_method_of_landmarks_finds_the_fall_of_a_staircase(stairs: int, method: Method) -> None:
    lr = suggested(staircase(stairs), method).lr
    loss = training(np.array([math.log10(lr)]))[0]
    assert loss < 2.3 - 0.02 * 1.8


@pytest.mark.parametrize("method", METHODS)
def test_how_long_each_stair_is_held_does_not_matter_without_noise(method: Method) -> None:
    curves = [staircase(stairs=25, steps=25 * length) for length in (1, 2, 4, 10)]
    lrs = [suggested(curve, method).lr for curve in curves]
    assert lrs == pytest.approx([lrs[0]] * 4)
