"""A scheduler without a length takes that of the fit that builds it, as a partial of Hydra does."""

import copy
import functools
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, OneCycleSettings
from tests.fits import data, trainer
from tests.schedules import saved, sgd
from tests.test_run_length import PEAK, Cycled, Rebuilds, Reloaded, ends_with_its_run

SAID = "One-cycle schedule: stepped after every optimizer step, not by interval {} and frequency {}, as it takes its"


class Partial(Cycled):
    """Builds its schedule as templates for Hydra do, from a partial that knows only the optimizer."""

    def __init__(self, config: dict[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__()
        self.config = {"monitor": "val/loss", "interval": "epoch", "frequency": 1} if config is None else config
        kind: Any = OneCycleScheduler
        self.partial = functools.partial(kind, **arguments)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.partial(optimizer=optimizer), **self.config}}


class InLists(Partial):
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [self.partial(optimizer)]


def expected(steps: int, peak: float = PEAK) -> list[float]:
    return [OneCyclePolicy(peak, steps).lr(step) for step in range(steps)]


# -------------------------------------------------------------------------------------------------- it is as long
@pytest.mark.parametrize(
    ("make", "given"),
    [
        (Partial, ("'epoch'", 1)),
        (lambda: Partial({"interval": "epoch", "frequency": 3}), ("'epoch'", 3)),
        (lambda: Partial({"interval": "step", "frequency": 2}), ("'step'", 2)),
        (InLists, ("'epoch'", 1)),
        (lambda: Partial({"interval": "step"}), None),
    ],
    ids=["template", "every third epoch", "every second step", "in lists", "every step"],
)
@pytest.mark.parametrize(
    ("arguments", "steps"),
    [({"max_epochs": 3}, 24), ({"max_epochs": -1, "max_steps": 11}, 11), ({"accumulate_grad_batches": 3}, 6)],
    ids=["epochs", "steps", "accumulated"],
)
def test_the_schedule_is_that_of_the_run_whatever_its_interval(
    make: Callable[[], Partial],
    given: tuple[str, int] | None,
    arguments: dict[str, Any],
    steps: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    module = make()
    trainer(**arguments).fit(module, data())
    assert module.lrs == [expected(steps)]
    said = [it for it in caplog.messages if it.startswith("One-cycle schedule")]
    assert [it.startswith(SAID.format(*(given or ()))) for it in said] == [True] * (given is not None)


@pytest.mark.parametrize("sizes", [(128, 256, 384), (512, 256, 128)])
def test_it_follows_data_that_change(sizes: tuple[int, ...]) -> None:
    module = Partial()
    trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=Reloaded(sizes))
    assert len(module.lrs[0]) == sum(sizes) // 16
    ends_with_its_run(module.lrs[0], shortest=min(sizes) * 3 // 16)


@pytest.mark.parametrize("epoch", [1, 2])
def test_one_that_is_built_in_the_middle_is_as_long_as_the_rest(epoch: int) -> None:
    module = Partial()
    trainer([Rebuilds(epoch)], max_epochs=4).fit(module, data())
    assert module.lrs[1] == expected(8 * (4 - epoch))


def test_the_found_lr_is_its_peak() -> None:
    module, test = Partial(), LRRangeTest(report=False)
    trainer([test], max_epochs=3).fit(module, data())
    assert test.value is not None
    assert module.lrs[0] == pytest.approx(expected(24, test.value))


def test_it_steps_by_hand_at_its_own_pace() -> None:
    class ByHand(Partial):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            schedule: Any = self.lr_schedulers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
                schedule.step()

    module = ByHand({})
    trainer(max_epochs=4).fit(module, data(batch_size=16))
    (lrs,) = module.lrs
    assert len(lrs) == 128
    assert max(lrs) == pytest.approx(PEAK, rel=0.05)
    assert lrs[-1] < PEAK / 30


def test_a_copy_and_a_pickle_have_its_length() -> None:
    module = Partial()
    trainer(max_epochs=3).fit(module, data())
    scheduler: Any = module.trainer.lr_scheduler_configs[0].scheduler
    scheduler.optimizer._optimizer_step_pre_hooks.clear()  # the test's own cannot be pickled
    for again in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert (again.total_steps, again.follows_run, again.only_real_steps) == (24, True, True)


# ------------------------------------------------------------------------------------------- where it has no length
def test_outside_a_fit_the_error_is_clear() -> None:
    said = (
        r"^A OneCycleScheduler without `total_steps` takes its length from the run, but no fit of a Trainer builds it:"
        r" build it in `configure_optimizers`, or pass `total_steps=`\.$"
    )
    with pytest.raises(MisconfigurationException, match=said):
        OneCycleScheduler(sgd())
    with pytest.raises(MisconfigurationException, match=said):
        Partial().configure_optimizers()


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from data().dataset  # type: ignore[misc]


def test_in_an_endless_run_the_error_is_clear() -> None:
    with pytest.raises(MisconfigurationException, match="this run is endless or its train loader has no length"):
        trainer(max_epochs=-1).fit(Partial(), DataLoader(Endless(), 8))


@pytest.mark.parametrize(
    "outer",
    [
        lambda opt, it: schedulers.SequentialLR(opt, [schedulers.ConstantLR(opt), it], [4]),
        lambda opt, it: schedulers.ChainedScheduler([it, schedulers.ConstantLR(opt)], opt),
    ],
    ids=["SequentialLR", "ChainedScheduler"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_inside_another_schedule_the_error_is_clear(outer: Any) -> None:
    class Inside(Partial):
        def configure_optimizers(self) -> Any:
            optimizer = self.optimizer(self.parameters())
            return [optimizer], [outer(optimizer, self.partial(optimizer))]

    said = r"^A one-cycle schedule inside a \w+ cannot take its length from the run: pass `total_steps=`\.$"
    with pytest.raises(MisconfigurationException, match=said):
        trainer().fit(Inside(), data())


@pytest.mark.parametrize("length", [None, 24])
def test_settings_of_the_shape_reach_only_what_configure_one_cycle_has_made(length: int | None) -> None:
    settings = OneCycleSettings(pct_start=0.2)
    said = r"\['pct_start'\] have no schedule to change: `Partial.configure_optimizers` does not use"
    with pytest.raises(MisconfigurationException, match=said):
        trainer([settings]).fit(Partial(total_steps=length), data())


def test_the_peak_of_settings_reaches_it() -> None:
    module = Partial()
    trainer([OneCycleSettings(max_lr=0.5, max_momentum=0.9)], max_epochs=3).fit(module, data())
    assert module.lrs[0] == expected(24, 0.5)


# ------------------------------------------------------------------------------------------------ kinds of numbers
def of_omegaconf(*values: float) -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create([*values])


@pytest.mark.parametrize(
    "make",
    [lambda *it: [*it], lambda *it: it, lambda *it: np.array(it), lambda *it: torch.tensor(it), of_omegaconf],
    ids=["list", "tuple", "numpy", "torch", "omegaconf"],
)
def test_a_peak_for_each_group_may_be_a_sequence_of_any_library(make: Any) -> None:
    scheduler = OneCycleScheduler(sgd(0.1, 0.2), make(0.5, 0.25), np.int64(10), pct_start=np.float32(0.25))
    assert scheduler.max_lrs == [0.5, 0.25]
    scheduler.set_max_lr(make(1.0, 0.5))
    state = scheduler.state_dict()
    assert state["max_lrs"] == [1.0, 0.5]
    assert {type(it) for it in (*state["max_lrs"], *state["policy"].values(), *state["clock"][0])} <= {
        *(int, float, str, bool, type(None))
    }
    assert saved(state) == state


@pytest.mark.parametrize("make", [np.float64, np.float32, torch.tensor, lambda it: np.array(it)])
def test_a_peak_may_be_a_number_of_any_library(make: Any) -> None:
    scheduler = OneCycleScheduler(sgd(0.1, 0.2), make(0.5), 10)
    assert scheduler.max_lrs == [0.25, 0.5]
    assert {type(it) for it in scheduler.state_dict()["max_lrs"]} == {float}


@pytest.mark.parametrize(
    "wrong", [[0.1], [0.1, -0.1], [0.0, 0.0], "0.1", [[0.1], [0.2]], np.array([[0.1, 0.2]])], ids=str
)
def test_a_peak_of_another_form_is_an_error(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^Expected argument `max_lr` to be [^\n]+ but got [^\n]+$"):
        OneCycleScheduler(sgd(0.1, 0.2), wrong, 10)
