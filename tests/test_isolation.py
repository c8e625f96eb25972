"""The trial is invisible: what a fit comes to with it equals what it comes to without it, bit for bit.

One helper fits twice and compares everything. Scenarios (what is being trained) are crossed with exits (how the
trial ends).
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pl_onecycle import LRRangeTest
from tests.scenarios import SCENARIOS, Fit, Marker, Record, differences, in_trial, shape_of

# -------------------------------------------------------------------------------------------------- exits


def completing_test(**arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-5, 1e-2, 25, apply=False, **arguments)


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fit_with_a_completed_trial_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    expected = Fit(scenario, tmp_path / "without", None).run().outcome()
    test = completing_test()
    fit = Fit(scenario, tmp_path / "with", test).run()
    assert differences(expected, fit.outcome()) == []
    assert test.curve is not None
    assert test.curve.outcome == "completed"
    assert len(test.curve) == scenario.points
    assert len(set(test.curve.loss)) > 1  # it did train
    assert len(expected["weights"]) > 0


@pytest.mark.parametrize("name", ["momentum, weight decay, Nesterov", "BatchNorm", "shuffling"])
def test_a_fit_with_a_diverged_trial_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    expected = Fit(scenario, tmp_path / "without", None).run().outcome()
    test = LRRangeTest(1e-4, 1e6, 60, apply=False)
    assert differences(expected, Fit(scenario, tmp_path / "with", test).run().outcome()) == []
    assert test.curve is not None
    assert test.curve.outcome == "diverged"


class Broken(Exception):
    """What goes wrong in the middle of a trial."""


FAULTS = {"exception": Broken("on purpose"), "Ctrl-C": KeyboardInterrupt(), "exit": SystemExit(3)}


def break_trial(fit: Fit, fault: BaseException | None, at_batch: int) -> Callable[[], None]:
    """Raise ``fault`` in the training step of the trial's batch ``at_batch``; return how to mend it."""
    step, count = fit.module.training_step, iter(range(10_000))

    def broken(batch: Any, batch_idx: int) -> Any:
        if in_trial(fit.module) and next(count) == at_batch and fault is not None:
            raise fault
        return step(batch, batch_idx)

    fit.module.training_step = broken  # type: ignore[method-assign]
    return lambda: setattr(fit.module, "training_step", step)


@pytest.mark.parametrize("at_batch", [0, 3, 13])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "name",
    [
        "momentum, weight decay, Nesterov",
        "BatchNorm",
        "two persistent workers",
        "accumulation 4, last window short",
        "plain attributes",
        "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger",
    ],
)
def test_after_a_fault_in_the_trial_all_is_as_before_and_the_trainer_can_fit(
    name: str, fault: str, at_batch: int, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    fit = Fit(scenario, tmp_path / "with", completing_test())
    mend = break_trial(fit, FAULTS[fault], at_batch)
    with pytest.raises((Broken, SystemExit)):  # Lightning turns Ctrl-C into an exit
        fit.run()
    callbacks = fit.trainer.callbacks  # type: ignore[attr-defined]
    marker = next(callback for callback in callbacks if isinstance(callback, Marker))
    assert differences(marker.before, shape_of(fit.trainer)) == []
    assert not list(fit.root.rglob("*.ckpt"))
    assert not list(fit.root.rglob("lr_range_test*"))
    mend()
    if fault != "Ctrl-C":  # after it Lightning itself ignores a further SIGINT, but a fit works alike
        expected = Fit(scenario, tmp_path / "without", None).run().outcome()
        vars(fit.module.record).update(vars(Record()))
        again = fit.run().outcome()
        assert (
            differences({key: expected[key] for key in ("weights", "batches", "optimizers", "counters")}, again) == []
        )


def test_a_second_ctrl_c_on_the_way_back_waits_for_its_end(tmp_path: Path) -> None:
    """The signal comes from within the restore itself, at every tenth of its parts."""
    scenario = SCENARIOS["BatchNorm"]
    parts = 0

    class Interrupts(random.Random):
        """Sends Ctrl-C when it gets its state back."""

        def setstate(self, state: Any) -> None:
            nonlocal parts
            parts += 1
            os.kill(os.getpid(), signal.SIGINT)
            super().setstate(state)

    fit = Fit(scenario, tmp_path / "with", completing_test())
    fit.module.interrupts = [Interrupts(k) for k in range(5)]  # type: ignore[assignment]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit.run()
    signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored
    callbacks = fit.trainer.callbacks  # type: ignore[attr-defined]
    marker = next(callback for callback in callbacks if isinstance(callback, Marker))
    assert parts == 5
    assert differences(marker.before, shape_of(fit.trainer)) == []
