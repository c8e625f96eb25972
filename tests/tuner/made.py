"""What the tests of `tune` tune, and what a user can see of it before and after."""

import random
import signal
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pl_onecycle import LRRangeTest, OneCycleTuner, TuneResult, WeightDecayProbe, configure_one_cycle
from tests.fits import SmallNet, data, trainer
from tests.scenarios import plain

# Warnings of Lightning about these fits.
ALLOWED = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty"),
]


class Cycled(SmallNet):
    """What a user writes, and need not change."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.1))

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)
        return configure_one_cycle(self, optimizer)


class Scheduled(Cycled):
    """The same under one of several schedules of 16 steps."""

    kinds = ("configure_one_cycle", "OneCycleLR", "none")

    def __init__(self, schedule: str) -> None:
        super().__init__()
        self.schedule = schedule

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-2)
        if self.schedule == "configure_one_cycle":
            return configure_one_cycle(self, optimizer)
        if self.schedule == "none":
            return optimizer
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=16, pct_start=0.25)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class Rows(pl.LightningDataModule):
    """Train and validation rows in batches of a size that can be changed; says how large the batches were."""

    def __init__(self, batch_size: int = 32, samples: int = 256) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return data(self.hparams["samples"], self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return data(96)


def a_test(**arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, 10.0, 25, **arguments)


def a_probe(**arguments: Any) -> WeightDecayProbe:
    return WeightDecayProbe((1e-1, 1e-3, 0.0), 10, val_batches=1, **arguments)


SHORT: dict[str, Any] = {"lr_range_test": a_test(), "weight_decay_probe": a_probe()}


def tune(
    model: pl.LightningModule | None = None,
    train: Any = None,
    val: Any = None,
    on: pl.Trainer | None = None,
    **arguments: Any,
) -> TuneResult:
    """Tune shortly; with the small data unless there are others."""
    if train is None and "datamodule" not in arguments:
        train, val = data(shuffle=True), data(96)
    return OneCycleTuner(on or trainer()).tune(model or Cycled(), train, val, **(SHORT | arguments))


def shape(model: pl.LightningModule, its: Any, datamodule: Any = None) -> dict[str, Any]:
    """What a user can see of model, data module, Trainer and random streams."""
    loops = [its.fit_loop, its.fit_loop.epoch_loop, its.validate_loop]
    hparams = dict(model.hparams)  # made when they are first asked for
    return {
        "weights": plain(model.state_dict()),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "training": [part.training for part in model.modules()],
        "attributes": {key: id(value) for key, value in vars(model).items()},
        "hparams": hparams,
        "data": {key: id(value) for key, value in vars(datamodule).items()} if datamodule else {},
        "trainer": {key: id(value) for key, value in vars(its).items() if key not in ("state", "_results")},
        "state": (its.state.status, its.state.stage),
        "counters": (its.global_step, its.current_epoch, plain(its.fit_loop.state_dict())),
        "callbacks": [id(callback) for callback in its.callbacks],
        "loops": [{key: id(value) for key, value in vars(loop).items()} for loop in loops],
        "loggers": [id(logger) for logger in its.loggers],
        "optimizers": [id(optimizer) for optimizer in its.optimizers],
        "metrics": plain([its.logged_metrics, its.callback_metrics, its.progress_bar_metrics]),
        "streams": [random.getstate(), plain(np.random.get_state()), torch.get_rng_state().tolist()],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [part for part in before if before[part] != after[part]]
