"""What a real run saw, kept where no trial restores it."""

from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from tests.fits import SmallNet
from tests.scenarios.compare import shape_of


@dataclass
class Record:
    """What a real run saw; an object of no type that a trial restores."""

    batches: list[list[float]] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    validated: list[list[float]] = field(default_factory=list)  # the batches, and what the module's validation has kept
    hooks: list[str] = field(default_factory=list)
    trial_hooks: list[str] = field(default_factory=list)  # of the trial alone, so never compared between fits
    loader_states: list[Any] = field(default_factory=list)


class Recording(SmallNet):
    """Remembers the batches it is trained with, outside what a trial could restore."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def see(self, batch: Any, batch_idx: int) -> None:
        if not in_trial(self):
            self.record.batches.append([float(part.double().sum()) for part in tensors(batch)])
            self.record.steps.append((self.trainer.current_epoch, self.trainer.global_step, batch_idx))


class Marker(pl.Callback):
    """A user's callback; a trial has none. Records the state of the Trainer right before the trial."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = self.before or shape_of(trainer)


def in_trial(module: pl.LightningModule) -> bool:
    """Whether the Trainer is on trial: both finders put one callback of theirs in the place of the user's."""
    callbacks = module.trainer.callbacks  # type: ignore[attr-defined]
    return not any(isinstance(callback, Marker) for callback in callbacks)


def tensors(batch: Any) -> list[Tensor]:
    parts = batch.values() if isinstance(batch, dict) else batch
    flat = [part for item in parts for part in (item if isinstance(item, (list, tuple)) else (item,))]
    return [part for part in flat if part is not None]  # what an exhausted loader gives next to a longer one
