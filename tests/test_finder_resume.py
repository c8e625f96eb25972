"""A resumed fit continues with what its finder has found, and tests no more than the uninterrupted one."""

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops import _FitLoop
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, WeightDecayProbe
from tests.fits import LRs, Momentum, data, line, lines, trainer
from tests.probes import PROBES, OneCycle, decay_probe, fit, found
from tests.range_test.made import SCHEDULES, with_milestones


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
def test_a_resumed_fit_does_not_test_again_and_knows_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # D2: the peer loses the resume and starts over at step 0.
    first, saved = LRRangeTest(num_steps=40), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    trainer([first, saved], enable_checkpointing=True, max_epochs=1).fit(Momentum(SCHEDULES["OneCycleLR"]), data())
    again, lrs = LRRangeTest(num_steps=40), LRs()
    module = Momentum(SCHEDULES["OneCycleLR"])
    caplog.clear()
    resumed = trainer([again, lrs])
    with caplog.at_level("INFO"):
        resumed.fit(module, data(), ckpt_path=saved.best_model_path)
    assert f"skipped, as this run was tested in epoch 0; its max_lr {module.lr:.3g} is set again in module.lr." in line(
        caplog
    )
    assert resumed.global_step == 16
    assert len(lrs.lr) == 8
    assert again.curve == first.curve
    assert again.suggestion == first.suggestion
    assert module.lr == first.suggestion.lr  # type: ignore[union-attr]
    # The uninterrupted run's learning rates, at every step.
    whole, whole_lrs = LRRangeTest(num_steps=40), LRs()
    torch.manual_seed(0)
    trainer([whole, whole_lrs]).fit(Momentum(SCHEDULES["OneCycleLR"]), data())
    assert first.suggestion is not None
    assert lrs.lr[0] == pytest.approx(
        [rate * first.suggestion.lr / whole.suggestion.lr for rate in whole_lrs.lr[8]]  # type: ignore[union-attr]
    )


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@PROBES
def test_a_resumed_fit_does_not_probe_again_and_keeps_its_result(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values, whole, lrs, module = (0.5, 0.4), LRs(), LRs(), OneCycle(1e-4)
    first, saved = kind(values, 10, report=False), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    fit(first, OneCycle(1e-4), saved, whole, enable_checkpointing=True, max_epochs=2)
    again = kind(values, 10, report=False)
    caplog.clear()
    checkpoint = str(next(tmp_path.glob("epoch=0*.ckpt")))
    with caplog.at_level("INFO"):
        fit(again, module, lrs, max_epochs=2, ckpt_path=checkpoint)
    assert (again.curves, again.suggestion) == (first.curves, first.suggestion)
    assert "skipped, as this run was tested in epoch 0" in line(caplog, first.title)
    # Momentum, rates and decay of the second epoch are those of the fit that was not cut.
    assert (lrs.lr, lrs.momentum) == (whole.lr[8:], whole.momentum[8:])
    assert lrs.weight_decay == whole.weight_decay[8:]
    if kind is WeightDecayProbe:
        assert lrs.weight_decay == [[found(first).value]] * 8
        assert module.weight_decay == found(first).value
        assert f"its weight_decay {found(first).value:.3g} is set again in module.weight_decay" in line(
            caplog, first.title
        )


def test_the_state_is_plain_and_makes_a_round_trip(tmp_path: Path) -> None:
    probe, other = decay_probe(1e-4, 0.0), decay_probe(1e-4, 0.0)
    fit(probe)
    torch.save(probe.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (other.curves, other.suggestion, other.why) == (probe.curves, probe.suggestion, probe.why)
    assert other.state_dict() == probe.state_dict()


# ---------------------------------------------------------------------------------------------------- interrupted runs
def same_batches() -> Any:
    """Eight batches an epoch, all alike: a loader that starts over in the middle of an epoch gives what it would."""
    features, labels = next(iter(data()))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features.repeat(8, 1), labels.repeat(8)), 32)


class Interrupt(pl.Callback):
    """Raises in a hook at a step of the real run, or at an epoch."""

    def __init__(self, fault: BaseException, hook: str, *, step: int | None = None, epoch: int | None = None) -> None:
        self.fault, self.step, self.epoch = fault, step, epoch
        setattr(self, hook, self._raise)

    def _raise(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step or (self.step is None and trainer.current_epoch == self.epoch):
            raise self.fault


class Stopped(Exception):
    """What ends a run on purpose."""


# How a run of three epochs of eight steps ends: (what interrupts it, when checkpoints are saved, the last one's step).
INTERRUPTIONS: dict[str, tuple[Callable[[], Interrupt], dict[str, Any], int]] = {
    "in an epoch, saved every step": (
        lambda: Interrupt(Stopped(), "on_train_batch_end", step=11),
        {"every_n_train_steps": 1},
        10,  # the interruption comes before the checkpoint of its step
    ),
    "Ctrl-C in an epoch, saved every fifth step": (
        lambda: Interrupt(KeyboardInterrupt(), "on_train_batch_start", step=13),
        {"every_n_train_steps": 5},
        10,
    ),
    "in the first epoch, saved every third step": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=6),
        {"every_n_train_steps": 3},
        6,
    ),
    "in an epoch, saved every epoch": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=14),
        {"every_n_epochs": 1},
        8,
    ),
    "at the start of an epoch, saved every epoch": (
        lambda: Interrupt(KeyboardInterrupt(), "on_train_epoch_start", epoch=2),
        {"every_n_epochs": 1},
        16,
    ),
    "at the end of an epoch, saved every step": (
        lambda: Interrupt(Stopped(), "on_train_epoch_end", epoch=1),
        {"every_n_train_steps": 1},
        16,
    ),
    "at the start of an epoch, saved every eighth step": (
        lambda: Interrupt(Stopped(), "on_train_epoch_start", epoch=1),
        {"every_n_train_steps": 8},
        8,
    ),
    "in the last epoch, saved every third step": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=22),
        {"every_n_train_steps": 3},
        21,
    ),
}


def saving(interruption: str, folder: Path) -> pl.Callback:
    if "saved every epoch" not in interruption and not hasattr(_FitLoop, "restarted_mid_epoch"):
        pytest.skip("before its #20379 Lightning repeats a batch of an epoch within which it resumes")
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, **INTERRUPTIONS[interruption][1])


RESUMED: dict[str, Any] = {
    "OneCycleScheduler": lambda module, optimizer: OneCycleScheduler(
        optimizer, None, int(module.trainer.estimated_stepping_batches)
    ),
    "OneCycleLR": lambda module, optimizer: schedulers.OneCycleLR(optimizer, 0.01, total_steps=24, pct_start=0.25),
    "no scheduler": None,
}


resuming = pytest.mark.filterwarnings(
    "ignore:.*You're resuming from a checkpoint that ended before the epoch ended.*",
    "ignore:.*callbacks used to create the checkpoint need to be provided.*",
)


def begun(
    name: str, milestones: tuple[int, ...], *others: Any, **options: Any
) -> tuple[pl.Trainer, Momentum, Any, LRs]:
    """A Trainer and a module, the same at every call; the test in it and what each step will have used."""
    torch.manual_seed(0)
    test, lrs = with_milestones(*milestones), LRs()
    return trainer([test, lrs, *others], **({"max_epochs": 3} | options)), Momentum(RESUMED[name]), test, lrs


@functools.cache
def uninterrupted(name: str, milestones: tuple[int, ...] = ()) -> tuple[Any, LRs]:
    fit, module, test, lrs = begun(name, milestones)
    fit.fit(module, same_batches())
    return test, lrs


def resumed_from(
    interruption: str, folder: Path, name: str, milestones: tuple[int, ...] = (), max_epochs: int = 3
) -> tuple[int, pl.Trainer, Any, LRs]:
    """Interrupt a run and resume it: from which step, the Trainer, its test, and what each step used."""
    interrupt, _, step = INTERRUPTIONS[interruption]
    fit, module, *_ = begun(name, milestones, interrupt(), saving(interruption, folder), enable_checkpointing=True)
    with pytest.raises((Stopped, KeyboardInterrupt, SystemExit)):
        fit.fit(module, same_batches())
    fit, module, test, lrs = begun(name, milestones, max_epochs=max_epochs)
    fit.fit(module, same_batches(), ckpt_path=str(folder / f"step={step}.ckpt"))
    return step, fit, test, lrs


def count_of_tests(caplog: pytest.LogCaptureFixture) -> int:
    return sum("\n" in said for said in lines(caplog))


@pytest.fixture(autouse=True)
def _ctrl_c_as_it_was() -> Iterator[None]:
    """Lightning leaves it ignored."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@resuming
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_resumed_run_trains_with_the_rates_of_the_uninterrupted_one(
    interruption: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = uninterrupted(name)
    caplog.clear()
    with caplog.at_level("INFO"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, name)
    assert fit.global_step == 24
    assert len(expected.lr) == 24
    assert max(lr for [lr] in expected.lr) == pytest.approx(whole.suggestion.lr, rel=1e-12)
    assert (lrs.lr, lrs.momentum) == (expected.lr[step:], expected.momentum[step:])
    # The result came with the checkpoint: only the interrupted run has tested.
    assert count_of_tests(caplog) == 1
    assert (test.curve, test.suggestion) == (whole.curve, whole.suggestion)


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_resumed_module_has_the_found_lr_in_its_attribute(interruption: str, tmp_path: Path) -> None:
    _, fit, test, _ = resumed_from(interruption, tmp_path, "no scheduler")
    module: Any = fit.lightning_module
    assert module.lr == test.suggestion.lr


@resuming
@pytest.mark.parametrize(
    ("interruption", "name"),
    [(interruption, "OneCycleScheduler") for interruption in INTERRUPTIONS]
    + [("in an epoch, saved every step", name) for name in ("OneCycleLR", "no scheduler")],
)
def test_a_resumed_run_repeats_no_milestone_and_leaves_out_none(
    interruption: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = uninterrupted(name, (1, 2))
    caplog.clear()
    with caplog.at_level("INFO"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, name, (1, 2))
    assert fit.global_step == 24
    assert (lrs.lr, lrs.momentum) == (expected.lr[step:], expected.momentum[step:])
    assert (test.curve, test.suggestion) == (whole.curve, whole.suggestion)
    # Each epoch begins with a test. The interrupted run has begun this many, and the resumed one begins those after
    # the checkpoint's step.
    begun = {"in the first epoch, saved every third step": 1, "at the start of an epoch, saved every epoch": 3}
    begun["in the last epoch, saved every third step"] = 3
    assert count_of_tests(caplog) == begun.get(interruption, 2) + 2 - (step - 1) // 8


@resuming
def test_a_milestone_is_not_repeated_where_lightning_starts_its_epoch_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Saves(pl.Callback):
        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "interrupted.ckpt")

    starts: list[int] = []
    interrupt = Interrupt(Stopped(), "on_train_epoch_start", epoch=2)
    fit, module, before, _ = begun("OneCycleScheduler", (1, 2), interrupt, Saves())
    with pytest.raises(Stopped):
        fit.fit(module, same_batches())
    starts_again = pl.callbacks.LambdaCallback(on_train_epoch_start=lambda *_: starts.append(1))
    fit, module, test, lrs = begun("OneCycleScheduler", (1, 2), starts_again)
    caplog.clear()
    with caplog.at_level("INFO"):
        fit.fit(module, same_batches(), ckpt_path=str(tmp_path / "interrupted.ckpt"))
    assert len(starts) == 1
    assert count_of_tests(caplog) == 0
    assert (test.curve, test.suggestion) == (before.curve, before.suggestion)
    assert lrs.lr[0] == [OneCyclePolicy(before.suggestion.lr, 8).lr(0)]


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_run_that_is_resumed_for_more_epochs_continues_without_a_jump_to_its_new_end(
    interruption: str, tmp_path: Path
) -> None:
    whole, expected = uninterrupted("OneCycleScheduler")
    with pytest.warns(UserWarning, match=r"saved for 24 steps and is resumed at step \d+ in a run of 48, and its"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, "OneCycleScheduler", max_epochs=6)
    assert test.suggestion == whole.suggestion
    assert fit.global_step == 48
    rates, planned = [lr for [lr] in lrs.lr], [lr for [lr] in expected.lr]
    assert len(rates) == 48 - step
    assert (lrs.lr[0], lrs.momentum[0]) == (expected.lr[step], expected.momentum[step])
    assert (lrs.lr[-1], lrs.momentum[-1]) == (expected.lr[-1], expected.momentum[-1])
    if step <= OneCyclePolicy(1.0, 24).peak_step:
        assert max(rates) == test.suggestion.lr
    assert np.abs(np.diff(rates)).max() <= np.abs(np.diff(planned)).max() * (1 + 1e-12)


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_milestones_of_a_resumed_run_that_only_suggest_are_invisible(interruption: str, tmp_path: Path) -> None:
    interrupt, _, step = INTERRUPTIONS[interruption]
    fit = trainer([interrupt(), saving(interruption, tmp_path)], max_epochs=3, enable_checkpointing=True)
    with pytest.raises((Stopped, KeyboardInterrupt, SystemExit)):
        fit.fit(Momentum(), data(shuffle=True))

    def resumed(*callbacks: pl.Callback) -> list[Any]:
        torch.manual_seed(1)
        module = Momentum()
        fit = trainer(callbacks, max_epochs=3)
        fit.fit(module, data(shuffle=True), ckpt_path=str(tmp_path / f"step={step}.ckpt"))
        weights = [value.tolist() for value in module.state_dict().values()]
        return [weights, fit.global_step, torch.rand(1).item()]

    test = with_milestones(1, 2, apply=False)
    with_test = resumed(test)
    assert with_test == resumed()
    assert (test.curve is None) == (step > 16)


@resuming
def test_a_test_that_only_the_resumed_run_has_runs_at_its_milestone(tmp_path: Path) -> None:
    """The run that was interrupted had no milestone, and no test at all."""
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1)
    schedule = lambda module, optimizer: OneCycleScheduler(optimizer, None, 24)  # noqa: E731
    trainer([saved], tmp_path, enable_checkpointing=True, max_epochs=1).fit(Momentum(schedule), same_batches())
    test, lrs = with_milestones(2), LRs()
    resumed = trainer([test, lrs], tmp_path, max_epochs=3)
    resumed.fit(Momentum(schedule), same_batches(), ckpt_path=str(tmp_path / "step=8.ckpt"))
    assert test.suggestion is not None
    before, new = OneCyclePolicy(0.01, 24), OneCyclePolicy(test.suggestion.lr, 8)
    expected = [before.lr(step) for step in range(8, 16)] + [new.lr(step) for step in range(8)]
    assert [lr for [lr] in lrs.lr] == expected


@pytest.mark.parametrize("finder", [LRRangeTest, WeightDecayProbe])
def test_a_checkpoint_without_a_reason_loads_and_says_so(finder: Callable[[], Any]) -> None:
    callback = finder()
    state = callback.state_dict() | {"epoch": 0}
    del state["refusal"]  # as in checkpoints from before it was saved
    callback.load_state_dict(state)
    assert callback.suggestion is None
    assert callback.why == callback.facts()["refusal"] == "its checkpoint does not say why"
