"""What each method reads off a curve, what it does not depend on, and when it refuses."""

import functools
import json
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import LRRangeTest
from pl_onecycle.curve import Array, LossCurve, first_explosion
from pl_onecycle.policy import RangeTestPolicy
from pl_onecycle.suggestion import METHODS, Method, Suggestion, refusal, suggest
from tests.fits import SmallNet, trainer

# A sweep of eight decades in 100 steps, both ends exact.
DECADES = np.linspace(-7, 1, 100)
FALL = 1.8


def training(decades: Array, lowest: float = -1.0) -> Array:
    """A typical curve: flat at 2.3, falling by 1.8 within a decade and a half, then an explosion."""
    fall = FALL / (1 + np.exp(-3 * (decades - lowest + 1.5)))
    curve: Array = 2.3 - fall + 0.02 * 10 ** (1.5 * (decades - lowest))
    return curve


def measured(loss: Array, decades: Array = DECADES, stop: bool = True) -> LossCurve:
    """The curve as a sweep records it, ended by `first_explosion`."""
    losses = loss.tolist()
    end = first_explosion(losses, 4.0) if stop else None
    losses = losses if end is None else losses[: end + 1]
    return LossCurve((10**decades).tolist()[: len(losses)], losses)


def noisy(seed: int, lowest: float = -1.0, sd: float = 0.05) -> LossCurve:
    return measured(training(DECADES, lowest) + np.random.default_rng(seed).normal(0, sd, len(DECADES)))


def staircase(stairs: int, steps: int = 100) -> LossCurve:
    policy = RangeTestPolicy(1e-7, 10.0, steps, "staircase", stairs)
    decades = np.log10([policy.lr(step) for step in range(steps)])
    return measured(training(decades), decades)


def lr_of(curve: LossCurve, method: Method) -> float:
    suggestion = suggest(curve, method)
    assert suggestion is not None, refusal(curve, method)
    return suggestion.lr


# ------------------------------------------------------------------------------- independent references
# Plain loops, written from the formulas of the peers; L is the smoothed loss.


SHARE, WIDEST, KERNEL = 0.85, 1.25, 0.2  # of the fall; in decades


def trough(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    """The middle, in decades, of where 85 % of the fall has happened, no wider than 1.25; on a wider kernel of 0.2."""
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
    return math.sqrt(10**low * 10 ** min(high, low + WIDEST))


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
ALL: list[Method] = list(REFERENCES)

CURVES: dict[str, Callable[[], LossCurve]] = {
    "parabola": lambda: measured((DECADES + 1) ** 2),
    "training": lambda: measured(training(DECADES)),
    "training, early": lambda: measured(training(DECADES, -4.0)),
    "training, no explosion": lambda: measured(training(DECADES, 1.0)),
    "training, never stopped": lambda: measured(training(DECADES), stop=False),
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
    assert set(METHODS) == set(REFERENCES)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_every_method_agrees_with_its_formula(curve: Callable[[], LossCurve], method: Method) -> None:
    measurement = curve()
    expected = REFERENCES[method](measurement.finite_lr.tolist(), measurement.smoothed().tolist(), measurement)
    if expected is None:
        assert suggest(measurement, method) is None
        assert refusal(measurement, method) == f"{method} finds no landmark on the curve"
    else:
        assert lr_of(measurement, method) == pytest.approx(expected, rel=1e-9 if method == "trough" else 1e-12)


@pytest.mark.parametrize("method", ["smith", "minimum"])
@pytest.mark.parametrize("lowest", [-4, -2, -1, 0])
def test_smith_and_minimum_answer_a_tenth_of_the_lr_of_the_minimum(lowest: int, method: Method) -> None:
    decades = np.linspace(-7, 1, 81)  # ten points a decade
    curve = measured((decades - lowest) ** 2, decades, stop=False)
    assert lr_of(curve, method) == pytest.approx(10.0 ** (lowest - 1))


def test_smith_looks_at_the_trend_and_minimum_at_the_raw_loss() -> None:
    decades = np.linspace(-7, 1, 81)
    loss = (decades + 1) ** 2 + 0.1
    loss[50] = 0.09  # one lucky batch at 10**-2
    curve = measured(loss, decades, stop=False)
    assert lr_of(curve, "minimum") == pytest.approx(1e-3)
    assert lr_of(curve, "smith") == pytest.approx(1e-2)


def test_steepest_is_the_middle_of_a_symmetric_fall() -> None:
    # Half a cosine is steepest in its middle, -3; of 82 points that interval lies between points 40 and 41.
    decades = np.linspace(-7, 1, 82)
    curve = measured(np.cos(math.pi * (decades + 7) / 8), decades)
    assert lr_of(curve, "steepest") == pytest.approx(10 ** decades[40])


def test_steepest_looks_left_of_the_minimum_only() -> None:
    # Down by 2 around -5 to the minimum at -4, up by 2 around -2 and down again, more steeply but less far, by 1.5.
    steps = [(-5.0, -2.0, 6.0), (-2.0, 2.0, 6.0), (0.0, -1.5, 30.0)]
    loss = 3.0 + np.sum([size / (1 + np.exp(-sharp * (DECADES - at))) for at, size, sharp in steps], axis=0)
    assert lr_of(measured(loss, stop=False), "steepest") == pytest.approx(1e-5, rel=0.25)


def test_valley_on_a_straight_fall_is_half_of_its_way() -> None:
    # 101 falling points: e = 100, s = 100 - 101 = -1, and -1 + int(101 / 3) + int(101 / 6) = -1 + 33 + 16 = 48.
    decades = np.linspace(-7, 3, 101)
    curve = measured(5.0 - decades, decades)
    assert lr_of(curve, "valley") == pytest.approx(10 ** decades[48])


def test_slide_on_a_straight_fall_is_fifteen_points_before_its_end() -> None:
    # All slopes agree, so the pair of points does not move: 100 - 15 = 85.
    decades = np.linspace(-7, 3, 101)
    curve = measured(5.0 - decades, decades)
    assert lr_of(curve, "slide") == pytest.approx(10 ** decades[85])


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_default_method_is_trough(curve: Callable[[], LossCurve]) -> None:
    found = suggest(curve())
    assert found == suggest(curve(), "trough")
    assert found is not None
    assert found.method == "trough"


@pytest.mark.parametrize("lowest", [-3.0, -2.0, -1.0, 0.0])
def test_smith_is_a_tenth_of_the_lr_at_which_the_curve_is_lowest(lowest: float) -> None:
    at = DECADES[training(DECADES, lowest).argmin()]
    assert math.log10(lr_of(measured(training(DECADES, lowest)), "smith")) == pytest.approx(at - 1, abs=0.1)


# Of a dense sweep: four decades, 28 steps in each.
DENSE = np.linspace(-4, 0, 113)


@pytest.mark.parametrize("slope", [1.0, 2.0, 4.0])
def test_the_middle_of_a_symmetric_trough_is_its_lowest_point(slope: float) -> None:
    # Down to -1 and up again as steeply, at 85 % of its way for less than a decade, and so less than 1.25.
    curve = measured(np.minimum(slope * np.abs(DENSE + 1), 2.0), DENSE, stop=False)
    assert math.log10(lr_of(curve, "trough")) == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize("wide", [1.0, 2.0, 3.0])
def test_a_trough_wider_than_a_decade_and_a_quarter_is_read_by_its_lower_end(wide: float) -> None:
    # 1 up to -5, 0 from -2 on: 85 % of the way down at -2 - 0.15 * 3 = -2.45, and -2.45 + 1.25 / 2 = -1.825, however
    # far it goes on.
    decades = np.linspace(-6, 1, 7 * 28 + 1)
    curve = measured(np.interp(decades, [-5, -2, -2 + wide, wide], [1.0, 0.0, 0.0, 1.0]), decades, stop=False)
    assert math.log10(lr_of(curve, "trough")) == pytest.approx(-1.825, abs=0.02)


def test_a_trough_that_the_sweep_does_not_leave_ends_with_the_sweep() -> None:
    # A straight fall by 4 in 112 steps. Its start is the median of the first tenth, 5 steps below the top, so that it
    # falls by 4 * 107 / 112 = 3.8214. It is 85 % down 0.15 * 3.8214 = 0.5732 decades before its end at 0.
    curve = measured(-DENSE, DENSE, stop=False)
    assert math.log10(lr_of(curve, "trough")) == pytest.approx(-0.5732 / 2, abs=1e-4)


@pytest.mark.parametrize("method", ALL)
def test_a_suggestion_tells_its_method_and_a_landmark_of_the_curve(method: Method) -> None:
    curve = measured(training(DECADES))
    suggestion = suggest(curve, method)
    assert suggestion is not None
    assert type(suggestion.lr) is float  # no numpy number, for checkpoints and YAML
    assert suggestion.method == method
    landmarks = {
        # 85 % down where exp(-3 (x + 2.5)) = 15 / 85, about -1.92 or 0.012 but for the smoothing, and 1.25 decades on.
        "trough": "the middle of the trough from 0.0115 to 0.205, cut there, where 85% of the fall has happened",
        "smith": "one order of magnitude below 0.0955, where the smoothed loss is lowest",
        "minimum": "one order of magnitude below 0.0955, where the raw loss is lowest",
        "steepest": "where the smoothed loss falls fastest over log lr",
        "valley": "half way down the longest fall, which ends at 0.0955",
        "slide": "where the slopes of a sliding pair of points first agree",
    }
    assert suggestion.reason == landmarks[method]


# --------------------------------------------------------------------------------------------- invariance
@pytest.mark.parametrize("method", ALL)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), power=st.floats(-6, 6), shift=st.floats(-100, 100))
def test_scale_and_shift_of_the_loss_change_nothing(method: Method, seed: int, power: float, shift: float) -> None:
    # Losses of 0.5 to 2.3 times c = 10^power plus d = c * shift, above, around and below zero.
    curve = noisy(seed)
    initial, scale = 2.3, 10**power
    base = LossCurve(curve.lr, curve.loss, initial_loss=initial)
    moved = LossCurve(curve.lr, [scale * (loss + shift) for loss in curve.loss], initial_loss=scale * (initial + shift))
    found, expected = suggest(moved, method), suggest(base, method)
    assert found is not None
    assert expected is not None
    # A point of the curve stays the same point; the lr of trough lies between two of them.
    rel = 1e-9 if method == "trough" else 0.0
    assert found.lr == pytest.approx(expected.lr, rel=rel, abs=0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_handful_of_noisy_losses_is_no_explosion() -> None:
    # Of this seed the first six losses happen to lie close together, and the next do not.
    assert len(noisy(5282)) > 80


@pytest.mark.parametrize("method", ALL)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6))
def test_scaling_the_lr_axis_scales_the_answer_and_its_interval(method: Method, seed: int, factor: float) -> None:
    curve = noisy(seed)
    found, base = suggest(LossCurve([factor * lr for lr in curve.lr], curve.loss), method), suggest(curve, method)
    assert found is not None
    assert base is not None
    assert base.low is not None
    assert base.high is not None
    assert found.lr == pytest.approx(factor * base.lr, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((factor * base.low, factor * base.high), rel=1e-9)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_a_refusal_does_not_depend_on_scale_and_shift_either(seed: int, scale: float, shift: float) -> None:
    # A fall of 0.1 in noise of 0.05 is sometimes refused and sometimes not.
    noise = np.random.default_rng(seed).normal(0, 0.05, len(DECADES))
    loss = 2.0 - 0.1 / (1 + np.exp(-3 * DECADES - 6)) + noise
    refused = refusal(measured(loss, stop=False)) is None
    assert (refusal(measured(scale * loss + shift, stop=False)) is None) == refused


# ------------------------------------------------------------------------------------------------ noise
def test_steepest_survives_noise_where_the_slope_over_linear_lr_does_not() -> None:
    # D7: over linear lr the noise between neighbouring tiny learning rates looks infinitely steep.
    clean = measured(training(DECADES))
    truth = lr_of(clean, "steepest")
    over_log, over_linear = [], []
    for seed in range(60):
        curve = noisy(seed)
        over_log.append(lr_of(curve, "steepest"))
        over_linear.append(curve.finite_lr[np.gradient(curve.finite_loss, curve.finite_lr).argmin()])
    assert truth / 10 < np.median(over_log) < truth * 10
    assert np.quantile(over_log, 0.1) > truth / 10
    assert np.quantile(over_log, 0.9) < truth * 10
    assert np.median(over_linear) < truth / 1000


@pytest.mark.parametrize("method", ["smith", "steepest"])
@pytest.mark.parametrize("lowest", [-3.0, -1.0, 0.0])
def test_noise_moves_the_median_answer_by_less_than_half_a_decade(lowest: float, method: Method) -> None:
    truth = lr_of(measured(training(DECADES, lowest)), method)
    answers = [lr_of(noisy(seed, lowest), method) for seed in range(40)]
    assert math.log10(float(np.median(answers)) / truth) == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped at the explosion", "swept to the end"])
@pytest.mark.parametrize("lowest", [-3.0, -2.0, -1.0, 0.0])
def test_no_method_suggests_an_lr_at_which_the_loss_has_exploded(lowest: float, stop: bool, method: Method) -> None:
    curve = measured(training(DECADES, lowest), stop=stop)
    suggestion = suggest(curve, method)
    if suggestion is None:  # the pair of slide may agree behind the explosion already
        assert method == "slide"
        assert str(refusal(curve, method)).endswith("where the loss has exploded")
    else:
        assert training(np.array([math.log10(suggestion.lr)]), lowest)[0] < 2.31


# A curve that its noise moves by less than so many decades in 95 of 100 draws is read well.
MOVED = 0.15
# Of a dense sweep: 3.6 decades, 28 steps in each.
DECADES_OF_A_DENSE_SWEEP = np.linspace(-3, 0.6, 101)


def typical(lowest: float, fall: float, sharpness: float) -> LossCurve:
    """As `training`, with another fall from 2.3 and another sharpness of it."""
    away = DECADES_OF_A_DENSE_SWEEP - lowest
    loss = 2.3 - fall / (1 + np.exp(-sharpness * (away + 1.5))) + 0.02 * 10 ** (1.5 * away)
    return measured(loss, DECADES_OF_A_DENSE_SWEEP)


def share_unmoved(curve: LossCurve, noise: str, monkeypatch: pytest.MonkeyPatch, draws: int = 60) -> float:
    """Of so many draws of 5 % noise on a curve, those that move its default suggestion by less than 0.15 decades."""
    monkeypatch.setattr("pl_onecycle.suggestion.DRAWS", 0)  # the interval is of no interest here, and most of the work
    base, loss = suggest(curve), curve.finite_loss
    assert base is not None, refusal(curve)
    sd = 0.05 * (np.abs(loss) if noise == "of the loss" else curve.start - curve.smoothed().min())
    unmoved = 0
    for seed in range(draws):
        noisy = loss + sd * np.random.default_rng(seed).normal(0, 1, len(loss))
        found = suggest(LossCurve(curve.finite_lr.tolist(), noisy.tolist(), curve.outcome))
        unmoved += found is not None and abs(math.log10(found.lr / base.lr)) < MOVED
    return unmoved / draws


kinds_of_noise = pytest.mark.parametrize("noise", ["of the loss", "of the fall"])


@kinds_of_noise
@pytest.mark.parametrize("sharpness", [2.0, 3.0, 6.0])
@pytest.mark.parametrize("fall", [1.0, 1.8])
@pytest.mark.parametrize("lowest", [-1.0, -0.5, 0.0, 0.5])
def test_noise_of_5_percent_hardly_moves_the_suggestion_of_a_dense_sweep(
    lowest: float, fall: float, sharpness: float, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert share_unmoved(typical(lowest, fall, sharpness), noise, monkeypatch) >= 0.95


class Digits(SmallNet):
    """One of a few nets for the digits of scikit-learn, with one of a few optimizers."""

    def __init__(self, net: str, optimizer: str) -> None:
        super().__init__()
        self.of_name, self.net = optimizer, nn.Sequential(nn.Linear(64, 10))
        if net == "two hidden layers":
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        elif net == "BatchNorm":
            self.net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def configure_optimizers(self) -> Any:
        if self.of_name == "SGD":
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        return torch.optim.AdamW(self.parameters(), lr=0.01)


REAL = [(net, optimizer) for net in ("linear", "two hidden layers", "BatchNorm") for optimizer in ("SGD", "AdamW")]


@pytest.fixture(scope="module")
def recorded() -> dict[tuple[str, str], LossCurve]:
    """What a default test measures on digits, by net and optimizer."""
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    curves = {}
    for name in REAL:
        torch.manual_seed(0)
        test = LRRangeTest(apply=False, report=False)
        trainer([test], max_steps=1).fit(Digits(*name), DataLoader(dataset, 64, shuffle=True))
        assert test.curve is not None
        curves[name] = test.curve
    return curves


@kinds_of_noise
@pytest.mark.parametrize("name", REAL, ids=" with ".join)
def test_noise_of_5_percent_hardly_moves_the_suggestion_of_a_recorded_curve(
    name: tuple[str, str],
    noise: str,
    recorded: dict[tuple[str, str], LossCurve],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert share_unmoved(recorded[name], noise, monkeypatch) >= 0.95


@pytest.mark.parametrize("name", REAL, ids=" with ".join)
def test_the_interval_of_a_recorded_curve_is_narrow_and_around_the_suggestion(
    name: tuple[str, str], recorded: dict[tuple[str, str], LossCurve]
) -> None:
    found = suggest(recorded[name])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.lr <= found.high
    assert 0 < found.decades < 0.3
    assert found.decades == pytest.approx(math.log10(found.high) - math.log10(found.low))
    assert not found.is_unsure


# Dense curves of the research that the methods were chosen by; not in the repository itself.
RESEARCH = Path(__file__).parents[2] / "shared" / "research" / "suggestion" / "curves.json"


@functools.cache
def research() -> dict[str, LossCurve]:
    """The first dense curve of each task, up to its first loss that is not finite."""
    curves = {}
    for task, kinds in json.loads(RESEARCH.read_text()).items() if RESEARCH.exists() else ():
        raw = next(iter(kinds.get("dense", {}).values()), None)
        if raw is not None:
            losses = [math.nan if loss is None else float(loss) for loss in raw["loss"]]
            end = next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
            curves[task] = LossCurve(raw["lr"][:end], losses[:end])
    return curves


@pytest.mark.skipif(not RESEARCH.exists(), reason=f"{RESEARCH} is not part of the repository")
@kinds_of_noise
def test_noise_of_5_percent_hardly_moves_the_suggestion_of_the_curves_of_the_research(
    noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {task: share_unmoved(curve, noise, monkeypatch, draws=40) for task, curve in research().items()}
    assert len(shares) == 14
    assert np.mean([*shares.values()]) >= 0.95
    # One of them falls by 27 % of its loss only, so that 5 % of the loss are 18 % of the fall.
    assert min(shares.values()) >= 0.8
    assert sorted(shares.values())[1] >= 0.95


# ---------------------------------------------------------------------------------------------- the interval
@pytest.mark.parametrize("method", ALL)
def test_the_interval_is_the_same_at_every_call_and_draws_from_no_stream_of_the_user(method: Method) -> None:
    curve = noisy(0)
    np.random.seed(3)
    torch.manual_seed(3)
    random.seed(3)
    expected = (np.random.rand(), torch.rand(1).item(), random.random())
    np.random.seed(3)
    torch.manual_seed(3)
    random.seed(3)
    first = suggest(curve, method)
    assert first == suggest(curve, method)
    assert (np.random.rand(), torch.rand(1).item(), random.random()) == expected
    assert first is not None
    assert first.low is not None
    assert first.high is not None
    assert 0 < first.low <= first.lr <= first.high


def test_more_noise_widens_the_interval_until_the_suggestion_is_unsure() -> None:
    widths = []
    for sd in (0.0, 0.02, 0.1, 0.4):
        found = [suggest(noisy(seed, sd=sd)) for seed in range(10)]
        widths.append(float(np.median([it.decades for it in found if it is not None])))
    assert widths == sorted(widths)
    assert widths[0] < 0.02
    assert widths[3] > 0.3


@pytest.mark.parametrize(
    ("low", "high", "decades", "is_unsure"),
    [(0.01, 0.1, 1.0, True), (0.1, 0.2, 0.30103, False), (0.1, 0.4, 0.60206, True), (0.1, 0.1, 0.0, False)],
)
def test_a_suggestion_is_unsure_from_half_a_decade_on(low: float, high: float, decades: float, is_unsure: bool) -> None:
    suggestion = Suggestion(0.1, "trough", "by hand", low, high)
    assert suggestion.decades == pytest.approx(decades, abs=1e-5)
    assert suggestion.is_unsure is is_unsure


@pytest.mark.parametrize("interval", [(None, None), (0.1, None), (None, 0.1)])
def test_a_suggestion_without_an_interval_does_not_claim_to_be_unsure(interval: Any) -> None:
    suggestion = Suggestion(0.1, "trough", "by hand", *interval)
    assert math.isnan(suggestion.decades)
    assert not suggestion.is_unsure


# -------------------------------------------------------------------------------------------- staircases
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
    assert lr_of(curve, method) == pytest.approx(lr)


# valley and slide count points, of which a staircase has too few.
@pytest.mark.parametrize("method", ["smith", "steepest", "minimum"])
@pytest.mark.parametrize("stairs", [5, 10, 20, 50])
def test_a_method_of_landmarks_finds_the_fall_of_a_staircase(stairs: int, method: Method) -> None:
    lr = lr_of(staircase(stairs), method)
    loss = training(np.array([math.log10(lr)]))[0]
    assert loss < 2.3 - 0.02 * FALL


@pytest.mark.parametrize("method", ALL)
def test_how_long_each_stair_is_held_does_not_matter_without_noise(method: Method) -> None:
    curves = [staircase(stairs=25, steps=25 * length) for length in (1, 2, 4, 10)]
    answers = [lr_of(curve, method) for curve in curves]
    assert answers == pytest.approx([answers[0]] * 4)


# ---------------------------------------------------------------------------------------------- refusals
NO_FALL = "the loss does not fall anywhere in the sweep"
NOT_FINITE = "the loss is not finite from the first step on"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ([2.0] * 100, NO_FALL),
        ([0.0] * 100, NO_FALL),
        ([-3.0] * 100, NO_FALL),
        ([1.0 + 1e-8 * (-1) ** k for k in range(100)], NO_FALL),
        ([], "the sweep ended after 0 finite points, at least 5 are needed"),
        ([3.0, 2.0, 1.0], "the sweep ended after 3 finite points, at least 5 are needed"),
        ([4.0, 3.0, 2.0, 1.0], "the sweep ended after 4 finite points, at least 5 are needed"),
        ([3.0, 2.0, math.nan], "the sweep ended after 2 finite points, at least 5 are needed"),
        ([math.nan], NOT_FINITE),
        ([math.inf, 2.0, 1.0, 0.5, 0.2, 0.1], NOT_FINITE),
    ],
    ids=[
        "flat",
        "zero",
        "flat, negative",
        "rounding",
        "empty",
        "3 points",
        "4 points",
        "nan third",
        "nan",
        "inf first",
    ],
)
def test_a_curve_without_an_answer_is_refused_with_the_reason(loss: list[float], reason: str) -> None:
    curve = LossCurve((10 ** DECADES[: len(loss)]).tolist(), loss)
    assert {method: refusal(curve, method) for method in ALL} == dict.fromkeys(ALL, reason)
    assert {method: suggest(curve, method) for method in ALL} == dict.fromkeys(ALL)


@pytest.mark.parametrize("initial", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_before_the_first_update_is_refused(initial: float) -> None:
    curve = measured(training(DECADES))
    assert refusal(LossCurve(curve.lr, curve.loss, initial_loss=initial)) == NOT_FINITE
    assert refusal(LossCurve(curve.lr, curve.loss, initial_loss=2.3)) is None


@pytest.mark.parametrize(
    "lr",
    [[0.1] * 6, [1e-3, 1e-2, 1e-1, 1e-1, 1e-2, 1e-3], [1e-3, 1e-2, 1e-1, 1.0, 10.0, 9.9]],
    ids=["held", "up and down", "last falls"],
)
def test_what_is_no_sweep_is_refused(lr: list[float]) -> None:
    curve = LossCurve(lr, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert refusal(curve) == "the learning rate does not rise from point to point, so this is no sweep"
    assert suggest(curve) is None


RISING = {
    "a line": 2 + 0.3 * (DECADES + 7),
    "a steep line": 10 * (DECADES + 7),
    "exploding at once": 1.5 ** np.arange(100.0),
    "exploding after a flat start": 2.3 + 0.02 * 10 ** (1.5 * (DECADES + 4)),
}


@pytest.mark.parametrize("loss", RISING.values(), ids=RISING)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped at the explosion", "swept to the end"])
def test_a_loss_that_only_rises_is_refused(loss: Array, stop: bool) -> None:
    curve = measured(loss, stop=stop)
    assert (np.diff(curve.finite_loss) > 0).all()
    reasons = {refusal(curve, method) for method in ALL}
    assert len(reasons) == 1
    assert None not in reasons
    assert refusal(curve) in reasons
    assert suggest(curve) is None


def test_a_loss_that_explodes_at_once_is_refused_because_it_does_not_fall() -> None:
    assert refusal(measured(RISING["exploding at once"])) == NO_FALL


@pytest.mark.parametrize("loss", RISING.values(), ids=RISING)
def test_a_loss_that_only_rises_but_for_its_noise_is_refused_for_nine_of_ten_seeds(loss: Array) -> None:
    refused = 0
    for seed in range(50):
        refused += refusal(measured(loss + np.random.default_rng(seed).normal(0, 0.05, 100), stop=False)) is not None
    assert refused >= 45


@pytest.mark.parametrize("sd", [1e-3, 0.05, 10.0])
def test_pure_noise_is_refused_for_nine_of_ten_seeds(sd: float) -> None:
    reasons = [
        refusal(LossCurve((10**DECADES).tolist(), (2.3 + np.random.default_rng(seed).normal(0, sd, 100)).tolist()))
        for seed in range(100)
    ]
    refused = [reason for reason in reasons if reason is not None]
    assert len(refused) >= 90
    assert all("less than 5 times the noise of " in reason or reason == NO_FALL for reason in refused)


def test_a_fall_of_four_times_the_noise_is_accepted_for_nine_of_ten_seeds() -> None:
    # A fall of 0.2 in noise of 0.05.
    loss = 2.3 - 0.2 / (1 + np.exp(-3 * DECADES - 6))
    refused = [
        refusal(measured(loss + np.random.default_rng(seed).normal(0, 0.05, 100), stop=False)) for seed in range(50)
    ]
    assert refused.count(None) >= 45


def test_a_refusal_tells_the_fall_and_the_noise() -> None:
    # 4, 0, 4, 0 ...: second differences are +-8, and 1.4826 * 8 / sqrt(6) = 4.842 for one loss. A Gaussian kernel of
    # 0.3 decades averages 2 sqrt(pi) * 0.3 * 99 / 8 = 13.16 losses, and half as many at an end of the curve, where the
    # highest and the lowest mean of this one are: 4.842 * sqrt(1 / 6.58 + 1 / 6.58) = 2.67, but for the end's own
    # point.
    curve = LossCurve((10**DECADES).tolist(), [4.0, 0.0] * 50)
    wide = curve.smoothed(0.3)
    assert [int(wide.argmax()), int(wide.argmin())] == [0, 99]
    told = str(refusal(curve))
    assert told.startswith(f"the loss falls by {wide[0] - wide[99]:.3g}, less than 5 times the noise of ")
    assert float(told.rpartition(" ")[2]) == pytest.approx(2.67, rel=0.1)


@pytest.mark.parametrize("method", ALL)
@given(losses=st.lists(st.floats(width=32), max_size=30), initial=st.one_of(st.none(), st.floats(width=32)))
def test_none_is_suggested_exactly_where_there_is_a_refusal(
    method: Method, losses: list[float], initial: float | None
) -> None:
    lr = [10.0 ** (k / 4 - 7) for k in range(len(losses))]
    curve = LossCurve(lr, losses, initial_loss=initial)
    suggestion = suggest(curve, method)
    assert (suggestion is None) == (refusal(curve, method) is not None)
    if suggestion is not None:
        assert lr[0] / 10 <= suggestion.lr <= lr[-1]


@pytest.mark.parametrize("method", ["fastest", "Smith", "", None, 3])
def test_an_unknown_method_is_refused_whatever_the_curve(method: Any) -> None:
    names = "'minimum', 'slide', 'smith', 'steepest', 'trough', 'valley'"
    sentence = f"Expected argument `method` to be one of .*{names}.* but got "
    for curve in (measured(training(DECADES)), LossCurve([], [])):
        for function in (suggest, refusal):
            with pytest.raises(ValueError, match=sentence):
                function(curve, method)


# ------------------------------------------------------------------------------------------- the value
def test_a_suggestion_cannot_be_changed() -> None:
    suggestion = Suggestion(0.1, "smith", "by hand")
    with pytest.raises(FrozenInstanceError):
        suggestion.lr = 0.2  # type: ignore[misc]


def test_a_suggestion_survives_json() -> None:
    suggestion = suggest(measured(training(DECADES)))
    assert suggestion is not None
    assert Suggestion(**json.loads(json.dumps(suggestion.to_dict(), allow_nan=False))) == suggestion
