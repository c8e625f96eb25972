"""A scenario, and its fit with everything that must not depend on a trial."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from tests.fits import data, trainer
from tests.scenarios.compare import content, parts, plain, states
from tests.scenarios.record import Marker, Recording

REPORTS = ("report.html", "lr_range_test", "weight_decay_probe", "tune")  # files and directories that differ by nature
ATTRIBUTES = ("seen", "average", "counts", "outputs", "ready", "total", "last")


@dataclass
class Scenario:
    """What is trained: a module, its data and a Trainer; each made again for every fit."""

    module: Callable[[], Recording] = Recording
    loader: Callable[[], Any] = data
    callbacks: Callable[[Path], list[pl.Callback]] = lambda root: []
    options: Callable[[Path], dict[str, Any]] = lambda root: {}
    points: int = 25  # of the curve of `completing_test`
    resumed: bool = False  # from a checkpoint after the first epoch, so that there is no trial
    val_loader: Callable[[], Any] = lambda: None  # handed to the fit with the train loader


@dataclass
class Fit:
    """A Trainer with its module and data, and the outcome of its fit."""

    scenario: Scenario
    root: Path
    finder: pl.Callback | None = None

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.marker = Marker()
        pl.seed_everything(7, verbose=False)
        self.module, self.loader = self.scenario.module(), self.scenario.loader()
        self.val_loader = self.scenario.val_loader()
        finders = [] if self.finder is None else [self.finder]
        callbacks = [*self.scenario.callbacks(self.root), self.marker, *finders]
        self.trainer = trainer(callbacks, self.root, **self.scenario.options(self.root))

    def run(self) -> "Fit":
        resume = self.first_epoch() if self.scenario.resumed else None
        pl.seed_everything(8, verbose=False)
        self.trainer.fit(self.module, **self.data(), ckpt_path=resume)
        return self

    def data(self) -> dict[str, Any]:
        """The arguments of ``Trainer.fit`` that say what to train with."""
        if isinstance(self.loader, pl.LightningDataModule):
            return {"datamodule": self.loader}
        return {"train_dataloaders": self.loader, "val_dataloaders": self.val_loader}

    def first_epoch(self) -> Path:
        """Train another module for one epoch without a finder, and return where it is saved."""
        first = Fit(replace(self.scenario, resumed=False), self.root / "first")
        first.trainer.fit_loop.max_epochs = 1
        first.run().trainer.save_checkpoint(path := self.root / "first.ckpt")
        return path

    def outcome(self) -> dict[str, Any]:
        """Everything that must not depend on a trial, as values that compare with ==."""
        module, trainer, record = self.module, self.trainer, self.module.record
        metrics = [trainer.logged_metrics, trainer.callback_metrics, trainer.progress_bar_metrics]
        progress = trainer.fit_loop.epoch_loop.state_dict()
        finders = (Marker, type(self.finder))
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return {
            "weights": plain(module.state_dict()),
            "buffers": plain(dict(module.named_buffers())),
            "training": [part.training for part in module.modules()],
            "frozen": [parameter.requires_grad for parameter in module.parameters()],
            "optimizers": [plain(optimizer.state_dict()) for optimizer in trainer.optimizers],
            "schedulers": [plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
            "scaler": plain(trainer.precision_plugin.state_dict()),
            "metrics": plain(metrics),
            "counters": [trainer.global_step, trainer.current_epoch, trainer.fit_loop.total_batch_idx, plain(progress)],
            "streams": [random.random(), np.random.rand(), torch.rand(1).item()],
            "attributes": plain({k: v for k, v in vars(module).items() if k in ATTRIBUTES}),
            "batches": record.batches,
            "steps": record.steps,
            "validated": record.validated,
            "hooks": record.hooks,
            "loaders": [states(self.loader), states(self.val_loader), record.loader_states],
            "callbacks": [self.state_of(callback) for callback in callbacks if not isinstance(callback, finders)],
            "loggers": [getattr(logger, "calls", None) for logger in trainer.loggers],
            "rows": {str(p.relative_to(self.root)): p.read_text() for p in self.root.rglob("metrics.csv")},
            "files": sorted(
                str(path.relative_to(self.root))
                for path in self.root.rglob("*")
                if not (path.is_dir() and any(path.iterdir()))  # what is in it says that it is there
                and not any(name in str(path.relative_to(self.root)) for name in REPORTS)
            ),
            "checkpoints": {str(path.relative_to(self.root)): content(path) for path in self.root.rglob("*.ckpt")},
        }

    def state_of(self, callback: pl.Callback) -> str:
        """What a callback keeps, averages of the weights too; as text, for the paths in it."""
        kept = [callback.state_dict(), *(part.state_dict() for part in parts(callback) if isinstance(part, nn.Module))]
        return f"{type(callback).__name__} {plain(kept)}".replace(str(self.root), "root")
