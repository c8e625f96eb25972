"""The cycle ends when the run ends, whatever changes the run's length or an optimizer's pace."""

import logging
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, configure_one_cycle
from pl_onecycle.run_length import FollowsRun, epochs_left, steps_left
from tests.fits import SmallNet, data, trainer

PEAK = 0.1


class Cycled(SmallNet):
    """Records the lr of each of its steps, and of each optimizer where there are several."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(PEAK)
        self.arguments = arguments
        self.lrs: list[list[float]] = []
        self.batch_size = 2

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=PEAK, momentum=0.9)
        lrs: list[float] = []
        self.lrs.append(lrs)
        optimizer.register_step_pre_hook(lambda it, *_: lrs.append(it.param_groups[0]["lr"]))
        return optimizer

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, self.optimizer(self.parameters()), **self.arguments)


def ends_with_its_run(lrs: list[float], peak: float = PEAK, shortest: int | None = None) -> None:
    """The peak is reached, the last step is annihilated, the one before is not yet idle, and nothing jumps.

    No step is larger than one of a cycle over the shortest run that was planned.
    """
    assert max(lrs) == pytest.approx(peak, rel=0.02)
    assert lrs[-1] == pytest.approx(peak / 10 / 1e4, rel=1e-6)
    assert lrs.count(lrs[-1]) <= 3
    steps = [abs(after - before) for before, after in pairwise(lrs)]
    assert max(steps) < 8 * peak / (shortest or len(lrs))


# ------------------------------------------------------------------------------------------ length changes
class Reloaded(pl.LightningDataModule):
    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return data(self.sizes[min(self.trainer.current_epoch, len(self.sizes) - 1)], 16)


@pytest.mark.parametrize("sizes", [(128, 256, 384, 512), (512, 384, 256, 128), (256, 64, 512, 256)])
@pytest.mark.parametrize("callbacks", [[], [LRRangeTest(num_steps=20, apply=False, report=False)]], ids=["", "test"])
def test_data_that_grow_or_shrink(sizes: tuple[int, ...], callbacks: list[Any], caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    module = Cycled()
    trainer(callbacks, max_epochs=4, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=Reloaded(sizes))
    (lrs,) = module.lrs
    assert len(lrs) == sum(sizes) // 16
    ends_with_its_run(lrs, shortest=min(sum(sizes[:k]) + sizes[k] * (4 - k) for k in range(4)) // 16)
    changes = [line for line in caplog.messages if line.startswith("One-cycle schedule: ")]
    assert len(changes) == sum(before != after for before, after in pairwise(sizes))


def test_the_log_line_says_from_what_to_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1).fit(Cycled(), datamodule=Reloaded((128, 256)))
    assert (
        "One-cycle schedule: 8 steps were planned from step 8 on, and the run has 16; the cycle now ends with step 23."
    ) in caplog.messages


@pytest.mark.parametrize("more", [3, 6])
def test_a_further_fit_begins_a_new_cycle_over_its_own_steps(more: int) -> None:
    module, its = Cycled(), trainer(max_epochs=2)
    its.fit(module, data(batch_size=8))
    its.fit_loop.max_epochs = 2 + more
    its.fit(module, data(batch_size=8))
    first, second = module.lrs
    assert (len(first), len(second)) == (64, 32 * more)
    for lrs in (first, second):
        ends_with_its_run(lrs)
        assert lrs[0] == pytest.approx(PEAK / 10)
    assert [type(it) for it in its.callbacks].count(FollowsRun) == 1  # type: ignore[attr-defined]


class Rebuilds(pl.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.strategy.setup_optimizers(trainer)


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_optimizer_that_is_built_again_gets_a_cycle_over_the_rest(epoch: int) -> None:
    module = Cycled()
    trainer([Rebuilds(epoch)], max_epochs=5).fit(module, data(batch_size=8))
    _, second = module.lrs
    assert len(second) == 32 * (5 - epoch)
    ends_with_its_run(second)


def test_a_batch_size_that_a_callback_changes() -> None:
    class Sized(Cycled):
        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

    module = Sized()
    trainer([BatchSizeFinder(max_trials=3, steps_per_trial=1)], max_epochs=4).fit(module)
    assert module.batch_size == 8
    ends_with_its_run(module.lrs[-1][-128:])


@pytest.mark.parametrize("scheduling", [{0: 1, 2: 4}, {0: 4, 1: 1}])
def test_an_accumulation_that_changes_with_the_epochs(scheduling: dict[int, int]) -> None:
    module = Cycled()
    trainer([GradientAccumulationScheduler(scheduling)], max_epochs=4).fit(module, data(batch_size=8))
    ends_with_its_run(module.lrs[0])


@pytest.mark.filterwarnings("ignore:The one-cycle schedule was saved for")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.parametrize("batch_size", [4, 32])
def test_a_resume_with_another_batch_size(batch_size: int, tmp_path: Any) -> None:
    saved = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    first, second = Cycled(), Cycled()
    trainer([saved], max_epochs=2, enable_checkpointing=True).fit(first, data(batch_size=8))
    path = tmp_path / "epoch=0-step=32.ckpt"
    trainer(max_epochs=4).fit(second, data(batch_size=batch_size), ckpt_path=path)
    assert len(second.lrs[0]) == 3 * 256 // batch_size
    lrs = [*first.lrs[0][:32], *second.lrs[0]]
    assert lrs[-1] == pytest.approx(PEAK / 10 / 1e4, rel=1e-6)
    assert max(lrs) == pytest.approx(PEAK, rel=0.02)


def test_a_length_that_was_given_is_kept() -> None:
    module = Cycled(total_steps=100)
    trainer(max_epochs=4, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=Reloaded((128, 256)))
    assert module.lrs[0][-1] > PEAK / 10
    assert module.trainer.lr_scheduler_configs[0].scheduler.total_steps == 100  # type: ignore[union-attr]


def test_a_length_that_does_not_change_is_not_replanned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    module = Cycled()
    trainer(max_epochs=4).fit(module, data(batch_size=8))
    plan = OneCycleScheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9), None, 128)
    assert module.lrs[0] == [plan.policy.lr(step) for step in range(128)]
    assert [line for line in caplog.messages if line.startswith("One-cycle schedule")] == []


@pytest.mark.parametrize(("rows", "before", "after"), [(960, 30, 32), (20, 32, 16), (30, 2, 1)])
def test_a_batch_size_that_changes_before_the_first_step_is_planned_exactly(rows: int, before: int, after: int) -> None:
    class Sized(pl.LightningDataModule):
        batch_size = before

        def train_dataloader(self) -> Any:
            return data(rows, self.batch_size)

    class Changes(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.datamodule.batch_size = after  # type: ignore[attr-defined]
            trainer.fit_loop._combined_loader = None
            trainer.fit_loop.setup_data()

    module = Cycled()
    trainer([Changes()], max_epochs=2).fit(module, datamodule=Sized())
    plan = OneCyclePolicy(PEAK, len(module.lrs[0]))
    assert module.lrs[0] == [plan.lr(step) for step in range(plan.total_steps)]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_of_another_length_says_once_what_is_planned(tmp_path: Path, caplog: Any) -> None:
    saver = ModelCheckpoint(tmp_path, filename="epoch")
    trainer([saver], max_epochs=2, enable_checkpointing=True).fit(Cycled(), data(batch_size=8))
    caplog.set_level(logging.INFO)
    module = Cycled()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The one-cycle schedule was saved for")
        trainer(max_epochs=6).fit(module, data(batch_size=8), ckpt_path=str(tmp_path / "epoch.ckpt"))
    lines = [line for line in caplog.messages if line.startswith("One-cycle schedule: ")]
    assert [line.partition(";")[0] for line in lines] == [
        "One-cycle schedule: 0 steps were planned from step 64 on, and the run has 128"
    ]
    assert max(module.lrs[-1]) == pytest.approx(PEAK, rel=0.02)
    assert module.lrs[-1][-1] < PEAK / 1e4


# ------------------------------------------------------------------------------------------------- own pace
class ByHand(Cycled):
    """Steps two optimizers, each at its own pace: (batches between steps, steps a batch)."""

    def __init__(self, *paces: tuple[int, int]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.paces = paces

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        schedules: Any = self.lr_schedulers()
        for optimizer, schedule, (every, times) in zip(optimizers, schedules, self.paces, strict=True):
            for _ in range(times if (batch_idx + 1) % every == 0 else 0):
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
                schedule.step()

    def configure_optimizers(self) -> Any:
        return [configure_one_cycle(self, self.optimizer(self.net[k].parameters())) for k in (0, 2)]


@pytest.mark.parametrize("limit", [{"max_epochs": 5}, {"max_epochs": 1}, {"max_steps": 96}], ids=str)
@pytest.mark.parametrize("paces", [((1, 1), (1, 1)), ((1, 1), (4, 1)), ((1, 3), (1, 1)), ((2, 1), (1, 2))], ids=str)
def test_each_optimizer_has_a_cycle_at_its_own_pace(limit: dict[str, Any], paces: Any) -> None:
    module = ByHand(*paces)
    trainer(**({"max_epochs": -1} | limit)).fit(module, data(batch_size=4))
    for lrs, (every, times) in zip(module.lrs, paces, strict=True):
        assert len(lrs) > 10, (every, times)
        assert max(lrs) == pytest.approx(PEAK, rel=0.1)
        assert lrs[-1] < PEAK / 20
        assert min(lrs[-3:]) < PEAK / 30


class Alternates(Cycled):
    """Steps its schedules in every batch, and its optimizer in every third."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self.manual_backward(self.loss(batch))
        if batch_idx % 3 == 2:
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr]


class NotStepped(Alternates):
    """Steps its optimizer by hand, and never its schedule."""

    def lr_schedulers(self) -> Any:
        return SimpleNamespace(step=lambda: None)


def test_a_schedule_that_nobody_steps_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"it is not stepped, although its optimizer is.*`self\.lr_schedulers\(\)`"):
        trainer(max_epochs=1).fit(NotStepped(), data(batch_size=4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="One-cycle schedule")
        trainer(max_epochs=1).fit(Alternates(), data(batch_size=4))


def test_a_trial_does_not_show_in_a_schedule_that_is_stepped_before_its_optimizer() -> None:
    lrs = []
    for callbacks in ([], [LRRangeTest(num_steps=10, apply=False, report=False)]):
        torch.manual_seed(0)
        module = Alternates()
        trainer(callbacks, max_epochs=3).fit(module, data(batch_size=8))
        lrs.append(module.lrs[0])
    assert lrs[0] == lrs[1][-len(lrs[0]) :]
    assert lrs[0][-1] < PEAK / 1e3


# --------------------------------------------------------------------------------------------------- the clock
class SlowToBegin(Cycled):
    """The first two batches take far longer than the others, as when a picture is drawn."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.3 if self.global_step < 2 else 0.003)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_slow_batches_at_the_start_do_not_shorten_the_cycle() -> None:
    module = SlowToBegin()
    trainer(max_time={"seconds": 3}, max_epochs=None).fit(module, data(batch_size=8))
    (lrs,) = module.lrs
    assert max(lrs) == pytest.approx(PEAK, rel=0.05)
    assert 0.25 < lrs.index(max(lrs)) / len(lrs) < 0.75
    assert lrs[-1] < PEAK / 50


class Paced(Cycled):
    """A step takes four milliseconds, or more from a step on."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.004)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [{"max_epochs": None}, {"max_epochs": 1000}, {"max_epochs": -1}], ids=str)
def test_a_run_that_the_clock_ends_is_annihilated_when_the_time_is_up(epochs: dict[str, Any]) -> None:
    module = Paced()
    trainer(max_time={"seconds": 2}, **epochs).fit(module, data(batch_size=8))
    (lrs,) = module.lrs
    assert len(lrs) > 60
    assert max(lrs) == pytest.approx(PEAK, rel=0.05)
    assert lrs[-1] < PEAK / 50
    assert lrs[len(lrs) // 2] > PEAK / 2


def test_steps_end_a_run_whose_time_is_long() -> None:
    module = Cycled()
    trainer(max_time={"hours": 1}, max_epochs=4).fit(module, data(batch_size=8))
    ends_with_its_run(module.lrs[0])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from data().dataset  # type: ignore[misc]


def test_without_a_length_and_without_a_clock_the_error_is_clear() -> None:
    with pytest.raises(MisconfigurationException, match="this run is endless or its train loader has no length"):
        trainer(max_epochs=-1).fit(Cycled(), DataLoader(Endless(), 8))


def test_steps_left_count_the_rest_of_the_epoch_and_the_epochs_to_come() -> None:
    class Counts(pl.Callback):
        def __init__(self) -> None:
            self.left: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.left.append(steps_left(trainer, _[-1] + 1))

    counts = Counts()
    trainer([counts], max_epochs=2, accumulate_grad_batches=3).fit(Cycled(), data(batch_size=32))
    assert counts.left == [3 + 3, 2 + 3, 2 + 3, 2 + 3, 1 + 3, 1 + 3, 1 + 3, 3, 3, 2, 2, 2, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"max_epochs": 5}, 5.0),
        ({"max_epochs": -1, "max_steps": 20}, 2.5),  # of 8 batches
        ({"max_epochs": -1, "max_steps": 8, "accumulate_grad_batches": 4}, 4.0),
        ({"max_epochs": 3, "limit_train_batches": 4}, 3.0),
        ({"max_epochs": -1, "max_time": {"seconds": 1}}, 1.0),  # unknown
    ],
)
def test_epochs_left_are_those_of_the_run_and_one_where_they_are_unknown(
    options: dict[str, Any], epochs: float
) -> None:
    seen: list[float] = []

    class Seen(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(epochs_left(trainer))
            trainer.should_stop = True

    trainer([Seen()], **options).fit(SmallNet(), data())
    assert seen[0] == epochs
