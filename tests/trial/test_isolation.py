"""The trial is invisible: a fit with it ends like a fit without it, bit for bit.

One helper fits twice and compares everything. Scenarios (what is being trained, `tests/scenarios`) are crossed with
exits (how the trial ends, `tests/faults.py`). They run with the range test, the probe and `tune`.
"""

import inspect
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, _GeneratorContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch.loops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pl_onecycle
from pl_onecycle import LRRangeTest, OneCycleTuner, TuneResult, WeightDecayProbe
from pl_onecycle.trial.isolation import isolated
from pl_onecycle.trial.memory import slots
from tests import scenarios
from tests.faults import FAULTS, Broken, fails, in_hook
from tests.fits import data
from tests.scenarios import SCENARIOS, Fit, Record, Scenario, differences, plain, shape_of

# ---------------------------------------------------------------------------------------------- completed


def completing_test() -> LRRangeTest:
    return LRRangeTest(1e-5, 1e-2, 25, early_stop_threshold=None, apply=False)


@cache
def without_a_trial(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return Fit((SCENARIOS | SMALL)[name], Path(folder) / "fit").run().outcome()


def with_expected_warnings(test: Callable[..., None]) -> Callable[..., None]:
    """Let the warnings pass that some scenarios are made to bring about."""
    for line in (
        "ignore:.*`training_step` returned `None`.*",
        "ignore:.*is an instance of `nn.Module` and is already saved.*",
        "ignore:.*Your `IterableDataset` has `__len__` defined.*",
        "ignore:.*val_dataloader.*shuffling enabled.*",
        "ignore:The module holds objects of type Record",  # one keeps the hooks of the trial there
        "ignore:.*cannot be started over, and a fit begins after the batches",
    ):
        test = pytest.mark.filterwarnings(line)(test)
    return test


@with_expected_warnings
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fit_with_a_completed_trial_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    test = completing_test()
    fit = Fit(SCENARIOS[name], tmp_path / "fit", test).run()
    assert differences(expected, fit.outcome()) == []
    assert len(fit.module.record.batches) > 0
    if fit.scenario.resumed:
        assert test.curve is None
        return
    assert test.curve is not None
    assert test.curve.outcome == "completed"
    assert len(test.curve) == fit.scenario.points
    assert len(set(test.curve.loss)) > 1  # it did train


@pytest.mark.parametrize("name", ["momentum, weight decay, Nesterov", "BatchNorm", "shuffling"])
def test_a_fit_with_a_diverged_trial_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    test = LRRangeTest(1e-4, 1e6, 60, apply=False)
    assert differences(expected, Fit(SCENARIOS[name], tmp_path / "fit", test).run().outcome()) == []
    assert test.curve is not None
    assert test.curve.outcome == "diverged"


LIVE_ON = (
    "records of an open file",
    "file read on from epoch to epoch",
    "file read on by a persistent worker",
    "file read line by line",
    "everlasting iterator",
    "everlasting iterator, two workers",
    "everlasting iterator, two persistent workers",
    "everlasting generator",
    "loader around a loader, one batch ahead",
    "data set around a loader with workers",
    "queue between processes",
    "sampler that continues",
)


@with_expected_warnings
@pytest.mark.parametrize("name", LIVE_ON)
def test_a_fit_on_data_that_live_on_equals_one_without_a_trial_in_the_middle(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    test = LRRangeTest(1e-5, 1e-2, 25, early_stop_threshold=None, apply=False, milestones=(1,))
    fit = Fit(SCENARIOS[name], tmp_path / "fit", test).run()
    assert differences(expected, fit.outcome()) == []
    assert test.curve is not None
    assert len(test.curve) == 25


# -------------------------------------------------------------------------------------------------- probe

STEPS = 10  # of each candidate


def completing_probe() -> WeightDecayProbe:
    return WeightDecayProbe((0.1, 0.0), STEPS, early_stop_threshold=None, val_batches=1, apply=False, report=False)


@with_expected_warnings
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fit_with_a_weight_decay_probe_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    probe = completing_probe()
    fit = Fit(SCENARIOS[name], tmp_path / "fit", probe).run()
    assert differences(expected, fit.outcome()) == []
    if fit.scenario.resumed:
        assert probe.curves == {}
        return
    one, other = probe.curves.values()
    assert {one.outcome, other.outcome} == {"completed"}
    assert one.initial_loss == other.initial_loss  # both from the same weights and batches
    assert one.loss != other.loss  # and each with a decay of its own
    for curve in (one, other):
        assert len(curve) == STEPS * fit.scenario.points // 25  # of 25 steps of the range test
        assert len(curve.val_loss) == (10 if fit.trainer.enable_validation else 0)


@with_expected_warnings
@pytest.mark.parametrize("name", [*SCENARIOS][:3])
def test_a_fit_with_a_search_for_a_weight_decay_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    probe = WeightDecayProbe(num_steps=STEPS, val_batches=1, apply=False, report=False)
    fit = Fit(SCENARIOS[name], tmp_path / "fit", probe).run()
    assert differences(expected, fit.outcome()) == []
    assert len(probe.curves) >= 3


def test_the_report_of_a_probe_is_all_that_is_left_of_it(tmp_path: Path) -> None:
    name = "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger"
    expected, probe = without_a_trial(name), completing_probe()
    probe.report = True
    fit = Fit(SCENARIOS[name], tmp_path / "fit", probe).run()
    assert differences(expected, fit.outcome()) == []
    (folder,) = fit.root.rglob("weight_decay_probe")
    assert {path.name for path in folder.iterdir()} >= {"curves.csv", "result.json"}


# --------------------------------------------------------------------------------------------------- tune


def tuned(fit: Fit) -> TuneResult:
    """Tune with a short test and a short probe of one candidate, before the fit has begun."""
    test = LRRangeTest(1e-5, 1e-2, 3, early_stop_threshold=None)
    probe = WeightDecayProbe((0.1,), STEPS, early_stop_threshold=None, val_batches=1)
    return OneCycleTuner(fit.trainer).tune(fit.module, **fit.data(), lr_range_test=test, weight_decay_probe=probe)


def streams() -> list[Any]:
    return [random.getstate(), plain(np.random.get_state()), torch.get_rng_state().tolist()]


@pytest.fixture
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred pictures would take longer than all that they show."""
    monkeypatch.setattr("pl_onecycle.report.report.can_draw", lambda: False)


_TAKEN = "of a source that gives each batch once, what `tune` has taken is gone before the fit is handed the source"
_CALLED = "the hooks that set up a fit run in `tune` as well, and the scenario counts them where nothing is put back"
# What cannot be as without `tune`, by nature: name of the scenario -> in what it shows, and why.
SHOWN_BY_TUNE: dict[str, tuple[str, str]] = {
    "data set that cannot be started over": ("batches", _TAKEN),
    "queue": ("batches", _TAKEN),
    "iterator instead of a loader": ("batches", _TAKEN),
    "everlasting generator": ("batches", _TAKEN),
    "loader around a loader, one batch ahead": ("batches", _TAKEN),
    "data set around a loader with workers": ("batches", _TAKEN),
    "queue between processes": ("batches", _TAKEN),
    "sampler that continues": ("batches", _TAKEN),
    "validation data that cannot be started over": ("validated", _TAKEN),
    "validation on a queue": ("validated", _TAKEN),
    "validation on a queue, no sanity check": ("validated", _TAKEN),
    "data module that counts": ("hooks", _CALLED),
    "data module reloaded every epoch": ("hooks", _CALLED),
    "hooks of the module": ("hooks", _CALLED),
}


@with_expected_warnings
@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fit_after_tune_equals_a_fit_without(name: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    fit = Fit(SCENARIOS[name], tmp_path / "fit")
    before = streams()
    result = tuned(fit)
    assert streams() == before
    assert result.weight_decay == 0.1  # which the fit must know nothing of
    assert fit.module.record == Record(hooks=fit.module.record.hooks, trial_hooks=fit.module.record.trial_hooks)
    wrong = differences(expected, fit.run().outcome())
    if name not in SHOWN_BY_TUNE:
        assert wrong == []
        return
    shown, why = SHOWN_BY_TUNE[name]
    assert shown in wrong  # else it has no place among the exceptions
    if why == _CALLED:
        assert wrong == ["hooks"]
        once = len(expected["hooks"])
        assert fit.module.record.hooks[-once:] == expected["hooks"]  # those of the fit itself are its own


# ------------------------------------------------------------------------------------------------- faults

# What tells also of the fit that a fault has ended: its rows, and how many epochs Lightning has begun in all.
OF_ALL_FITS = ("rows", "checkpoints")


def ended(
    fit: Fit, strike: AbstractContextManager[Any], by: type[BaseException] | tuple[type[BaseException], ...]
) -> None:
    """Let a fit be ended in its trial, and see that all is as before."""
    with strike:
        with pytest.raises(by):
            fit.run()
        assert differences(fit.marker.before, shape_of(fit.trainer)) == []
    assert fit.module.record == Record(trial_hooks=fit.module.record.trial_hooks)  # the real run had not begun
    assert not list(fit.root.rglob("*.ckpt"))
    assert not list(fit.root.rglob("lr_range_test*"))


MANY_FAULTS = ("plain attributes", "16-mixed and its gradient scale")
ONE_FAULT = (
    "momentum, weight decay, Nesterov",
    "BatchNorm",
    "two persistent workers, shuffling",
    "data set with noise of every kind",
    "accumulation 4, last window short",
    "torchmetrics attribute",
    "LazyLinear",
    "GAN, two optimizers",
    "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger",
)


@pytest.mark.filterwarnings("ignore:LR range test. the (report|picture) could not be (written|drawn).*")
@pytest.mark.filterwarnings("ignore:The page of this run could not be written.*")
@pytest.mark.parametrize("at", [0, 13])
@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in MANY_FAULTS for fault in FAULTS] + [(name, "exception") for name in ONE_FAULT],
)
def test_after_a_fault_in_the_trial_all_is_as_before_and_the_trainer_can_fit(
    name: str, fault: str, at: int, tmp_path: Path
) -> None:
    expected = without_a_trial(name)
    test = completing_test()
    fit = Fit(SCENARIOS[name], tmp_path / "fit", test)
    ends, strike = FAULTS[fault].ends, FAULTS[fault].strikes(fit, at)
    if ends is None:
        with strike:
            fit.run()
        wrong = differences(expected, fit.outcome())
    else:
        ended(fit, strike, ends)
        wrong = differences(expected, fit.run().outcome())
    assert [part for part in wrong if ends is None or part not in OF_ALL_FITS] == []
    assert test.curve is not None
    assert test.curve.outcome == ("diverged" if "loss" in fault else "completed")


OF_A_PROBE = (
    "plain attributes",
    "16-mixed and its gradient scale",
    "many of these at once",
    "outcome of the validation kept",
    "validation loader that shuffles by a generator, no sanity check",
)
VALIDATED = OF_A_PROBE[2:]


def struck_in_the_second_candidate(fit: Fit, fault: str) -> AbstractContextManager[None]:
    if fault == "exception in validation_step":  # ten times a candidate on one batch
        return in_hook("validation_step", fails(Broken("on purpose")), fit, 13)
    batches = (STEPS + 1) * fit.trainer.accumulate_grad_batches  # of a candidate: its last loss is that of one more
    return FAULTS[fault].strikes(fit, batches + 5)


@with_expected_warnings
@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in OF_A_PROBE for fault in ("exception", "Ctrl-C", "SIGTERM")]
    + [(name, "exception in validation_step") for name in VALIDATED],
)
def test_after_a_fault_in_the_second_candidate_all_is_as_before_and_the_trainer_can_fit(
    name: str, fault: str, tmp_path: Path
) -> None:
    expected, probe = without_a_trial(name), completing_probe()
    fit = Fit(SCENARIOS[name], tmp_path / "fit", probe)
    ends = FAULTS[fault].ends if fault in FAULTS else Broken
    assert ends is not None
    ended(fit, struck_in_the_second_candidate(fit, fault), ends)
    assert list(probe.curves) == [0.1]
    assert [part for part in differences(expected, fit.run().outcome()) if part not in OF_ALL_FITS] == []
    assert len(probe.curves) == 2


@with_expected_warnings
@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize("fault", ["exception", "Ctrl-C", "SIGTERM", "exception in on_train_epoch_start"])
@pytest.mark.parametrize("name", ["plain attributes", "16-mixed and its gradient scale", "many of these at once"])
def test_after_a_fault_in_tune_all_is_as_before_and_the_trainer_can_fit(name: str, fault: str, tmp_path: Path) -> None:
    expected = without_a_trial(name)
    fit = Fit(SCENARIOS[name], tmp_path / "fit")
    before, ends = streams(), FAULTS[fault].ends
    assert ends is not None
    with FAULTS[fault].strikes(fit, 9), pytest.raises(ends):
        tuned(fit)
    assert streams() == before
    assert fit.module.record == Record()
    assert list(fit.root.iterdir()) == []
    assert differences(expected, fit.run().outcome()) == []


def test_a_second_ctrl_c_on_the_way_back_waits_for_its_end(tmp_path: Path) -> None:
    """The signal comes from within the restore itself, at every tenth of its parts."""
    parts = 0

    class Interrupts(random.Random):
        """Sends Ctrl-C when it gets its state back."""

        def setstate(self, state: Any) -> None:
            nonlocal parts
            parts += 1
            signal.raise_signal(signal.SIGINT)
            super().setstate(state)

    fit = Fit(SCENARIOS["BatchNorm"], tmp_path / "fit", completing_test())
    fit.module.interrupts = [Interrupts(k) for k in range(5)]  # type: ignore[assignment]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit.run()
    signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored
    assert parts == 5
    assert differences(fit.marker.before, shape_of(fit.trainer)) == []


# --------------------------------------------------------------------------------------------- any moment


def small(scenario: Scenario) -> Scenario:
    """The same with five batches of eight."""
    options = scenario.options
    return replace(
        scenario,
        loader=lambda: data(40, 8, shuffle=True),
        options=lambda root: options(root) | {"max_epochs": 1},
    )


SMALL = {
    f"small {name}": small(SCENARIOS[name])
    for name in (
        "momentum, weight decay, Nesterov",
        "BatchNorm",
        "dropout",
        "accumulation 4, last window short",
        "16-mixed and its gradient scale",
        "OneCycleLR",
        "torchmetrics attribute",
        "plain attributes",
    )
}

Place = tuple[str, int]  # a file and a line


class Moments:
    """Counts the lines that run in a trial, from its first to the beginning of the way back, and acts before one.

    Counted are those of this package, Lightning's loops and the module. On the way back signals are held back, so that
    it has no moments.
    """

    begins, ends = inspect.unwrap(isolated).__code__, _GeneratorContextManager.__exit__.__code__

    def __init__(self, place: Place | None = None, time: int = 1, act: Callable[[], object] = lambda: None) -> None:
        self.place, self.time, self.act = place, time, act
        self.count: Counter[Place] = Counter()
        self.counting = self.over = False

    def __enter__(self) -> "Moments":
        self.tracer = sys.gettrace()
        slots.cache_clear()  # its lines run in each trial, and not only in the first
        sys.settrace(self.on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.tracer)

    def on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code is self.begins:
            self.counting = not self.over
        elif code is self.ends and frame.f_locals["self"].gen.gi_code is self.begins:
            self.counting, self.over = False, True
        return self.on_line if counts(code.co_filename) else None

    def on_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and self.counting:
            place = frame.f_code.co_filename, frame.f_lineno
            self.count[place] += 1
            if place == self.place and self.count[place] == self.time:
                self.counting, self.over = False, True
                self.act()
        return self.on_line


# Whole paths, as a checkout that is itself called pl_onecycle may hold a virtual environment.
HOMES = [Path(str(home.__file__)).parent for home in (pl_onecycle, lightning.pytorch.loops, scenarios)]


@cache
def counts(file: str) -> bool:
    return any(home in Path(file).parents for home in HOMES)


@cache
def moments(name: str) -> Counter[Place]:
    """How often each line of the trial runs."""
    with tempfile.TemporaryDirectory() as folder, Moments() as counter:
        Fit(SMALL[name], Path(folder) / "fit", small_test()).run()
    return counter.count


def small_test() -> LRRangeTest:
    return LRRangeTest(1e-5, 1e-2, 5, apply=False, report=False)


ACTS = {
    Broken: fails(Broken("on purpose")),
    torch.cuda.OutOfMemoryError: fails(torch.cuda.OutOfMemoryError("CUDA out of memory.")),
    SystemExit: fails(KeyboardInterrupt()),  # Lightning's answer to Ctrl-C
}


@pytest.mark.slow
@settings(max_examples=200)
@given(name=st.sampled_from(sorted(SMALL)), ends=st.sampled_from(list(ACTS)), choice=st.data())
def test_after_an_exception_at_any_moment_all_is_as_before_and_the_trainer_can_fit(
    name: str, ends: type[BaseException], choice: st.DataObject
) -> None:
    expected, lines = without_a_trial(name), moments(name)
    place = choice.draw(st.sampled_from(sorted(lines)), label="line")
    time = choice.draw(st.integers(1, lines[place]), label="time")
    handler = signal.getsignal(signal.SIGINT)
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(SMALL[name], Path(folder) / "fit", small_test())
        ended(fit, Moments(place, time, ACTS[ends]), ends)
        signal.signal(signal.SIGINT, handler)
        found = fit.run().outcome()
    assert [part for part in differences(expected, found) if part not in OF_ALL_FITS] == []
