"""Losses that are fetched in chunks, as on an accelerator, give the same curves as losses fetched step by step."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch

from pl_onecycle import LRRangeTest, WeightDecayProbe
from pl_onecycle.curves import LossCurve, has_risen
from pl_onecycle.policy import RangeTestPolicy
from pl_onecycle.trial import Checkups, recorder
from pl_onecycle.trial.losses import LossCollector
from tests.fits import Momentum, data, trainer
from tests.trial.made import GivenLoss, curve_of

SWEEP = RangeTestPolicy(1e-5, 1.0, 40)
LOSSES: dict[str, Callable[[int], float]] = {
    "falls": lambda call: 3.0 - 0.05 * call + 0.01 * (call % 3),
    "rises": lambda call: 1.0 + 0.01 * (call % 3) + max(call - 20, 0) * 0.2,
    "explodes": lambda call: 1.0 - 0.02 * min(call, 20) + math.exp(max(call - 20, 0)) - 1,
    "rises and explodes": lambda call: 1.0 + 0.01 * (call % 3) + max(call - 19, 0) * 0.3 + (call > 23) * 1e9,
    "nan": lambda call: math.nan if call == 17 else 1.0 / (1 + call),
    "nan at once": lambda call: math.nan,
}
CHECKUPS = {
    "none": Checkups(),
    "every step": Checkups(range(12, 40), should_end=has_risen, outcome="risen"),
    "some": Checkups([10, 20, 30, 40], should_end=lambda curve: curve.loss[-1] > 1.5, outcome="dropped"),
}


def in_chunks(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(recorder, "_chunk", lambda trainer, decides: steps)


def plain(curve: LossCurve) -> str:
    return repr(asdict(curve))  # in which NaN equals NaN


@pytest.mark.parametrize("checkups", CHECKUPS.values(), ids=CHECKUPS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_curve_does_not_depend_on_the_chunk(loss: Any, checkups: Checkups, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = []
    for steps in (1, 3, 8, 100):
        in_chunks(monkeypatch, steps)
        curves.append(plain(curve_of(GivenLoss(loss), SWEEP, checkups=checkups)))
    assert len(set(curves)) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: LRRangeTest(report=False),
        lambda: LRRangeTest(report=False, verify=True),
        lambda: WeightDecayProbe([1e-1, 1e-2, 0.0], num_steps=30, report=False),
    ],
    ids=["range test", "verified", "probe"],
)
def test_what_a_finder_finds_does_not_depend_on_the_chunk(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, trained = [], []
    for steps in (1, 8):
        in_chunks(monkeypatch, steps)
        torch.manual_seed(0)
        finder = make()
        trainer([finder]).fit(Momentum(), data())
        found.append(finder.state_dict())
        trained.append(found[-1].pop("steps", 0))
    assert found[0] == found[1]
    assert found[0]["suggestion"] is not None
    assert trained[0] <= trained[1] < trained[0] + 8


def test_losses_are_fetched_once_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch = LossCollector.fetch

    def counting(collector: LossCollector, flag: bool) -> bool:
        fetched.append(collector.waiting)
        return fetch(collector, flag)

    monkeypatch.setattr(LossCollector, "fetch", counting)
    in_chunks(monkeypatch, 8)
    curve_of(GivenLoss(LOSSES["falls"]), SWEEP, checkups=CHECKUPS["every step"])
    assert fetched == [8, 8, 8, 8, 8, 1]  # 41 steps: the last one shows the effect of the one before
