"""Runs with a page, made once: one that trains well, one whose test refuses, one that diverges."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn, optim

from pl_onecycle import LRRangeTest, configure_one_cycle
from tests.fits import LRs, SmallNet, data, trainer


class Validated(SmallNet):
    """Trains by one cycle and logs its validation loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, optim.SGD(self.parameters(), lr=self.lr, momentum=0.9))


class Squares(Validated):
    """Has a loss that explodes with large lrs."""

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), 5.0 * nn.functional.one_hot(batch[1], 3))


class Run:
    """A fit in a directory, with what its optimizer was given at each step."""

    def __init__(self, module: pl.LightningModule, test: LRRangeTest, epochs: int, root: Path | None = None) -> None:
        self.root = Path(mkdtemp()) if root is None else root
        self.lrs = LRs()
        self.trainer = trainer([test, self.lrs], self.root, max_epochs=epochs)
        pl.seed_everything(1, verbose=False)
        self.trainer.fit(module, data(shuffle=True), data(128))

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def result(self) -> dict[str, Any]:
        saved: dict[str, Any] = json.loads((self.root / "lr_range_test" / "result.json").read_text())
        return saved


@cache
def good() -> Run:
    return Run(Validated(), LRRangeTest(1e-4, 10.0, 60, verify=True), epochs=8)


@cache
def refused() -> Run:
    return Run(Validated(), LRRangeTest(1e-9, 1e-8, 20), epochs=2)


@cache
def diverged() -> Run:
    return Run(Squares(lr=2.0), LRRangeTest(1e-4, 10.0, 60, apply=False), epochs=10)
