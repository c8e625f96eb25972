"""Kinds of fits in which a trial must be invisible, and what to compare of a fit with a trial and one without.

Shared by `test_isolation.py`, which crosses them with the ways in which a trial goes wrong (`faults.py`), and by
`benchmarks/isolation.py`, which puts Lightning's own finder through the same.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.fits import SmallNet, data, trainer

# ------------------------------------------------------------------------------------- what a fit remembers


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
    """A user's callback; a trial has none. Looks at the Trainer right before the trial."""

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
    return [part for part in flat if part is not None]  # what an exhausted loader gives beside a longer one


# -------------------------------------------------------------------------------------------------- modules


class Momentum(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)


class Adam(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class TwoGroups(Recording):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters(), "lr": 0.01}, {"params": self.net[-1].parameters(), "lr": 0.1}]
        return torch.optim.SGD(groups, momentum=0.9)


class Dropout(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.3))


class BatchNorm(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


class FrozenBatchNorm(BatchNorm):
    def on_train_start(self) -> None:
        self.net[1].eval()


class FrozenTrunk(BatchNorm):
    """Trains a head on a trunk whose weights and statistics stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.net[:2].requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenTrunk":
        super().train(mode)
        self.net[:2].eval()
        return self

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[-1].parameters(), lr=0.05, momentum=0.9)


class Unfreezes(FrozenTrunk):
    """Trains its trunk too from the sixth step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 5:
            self.net[:2].requires_grad_(True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Lazy(Momentum):
    """Learns the shape of its first layer from its first batch, and draws that layer's weights then."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0] = nn.LazyLinear(16)


class Compiled(Momentum):
    def __init__(self) -> None:
        super().__init__()
        self.net: Any = torch.compile(self.net, backend="eager")


class Scripted(Recording):
    def __init__(self) -> None:
        super().__init__()
        plain = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
        self.net: nn.Module = torch.jit.script(plain)  # type: ignore[assignment]


class Backbone(Recording):
    """What `BackboneFinetuning` asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        return self.loss([self.backbone(batch[0]), batch[1]])

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=0.05, momentum=0.9)


class HiddenBuffer(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)  # bound anew at every step
        return super().training_step([batch[0] - self.mean, batch[1]], batch_idx)


class Metric(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return super().training_step(batch, batch_idx)


class Metrics(Recording):
    """A collection whose two metrics share their counts, logged at the end of the epoch over all it has seen."""

    def __init__(self) -> None:
        super().__init__()
        parts = [MulticlassAccuracy(num_classes=3), MulticlassF1Score(num_classes=3)]
        self.metrics = MetricCollection(parts, prefix="train_")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.metrics.update(self.net(batch[0]), batch[1])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


class Counter(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        return super().training_step([batch[0] * (1 + 1e-4 * self.seen), batch[1]], batch_idx)


class Outputs(Recording):
    """Collects its losses in a list, and reduces and clears it at the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean_output", torch.stack(self.outputs).mean())
        self.outputs.clear()


class Attributes(Outputs):
    """State in plain attributes of many kinds: a number, a tensor, an array, a list, a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.average = torch.zeros(1)
        self.counts = np.zeros(3)
        self.generator = torch.Generator().manual_seed(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.counts += np.bincount(batch[1].numpy(), minlength=3)
        noise = torch.randn(batch[0].shape, generator=self.generator)
        loss = super().training_step([batch[0] + 0.01 * self.seen / (1 + self.seen) * noise, batch[1]], batch_idx)
        self.average.mul_(0.9).add_(0.1 * loss.detach())
        return loss


class LooksAtGradients(Momentum):
    """Trains with what the last step has left of its gradients."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        norm = sum(float(part.grad.norm()) for part in self.parameters() if part.grad is not None)
        return super().training_step(batch, batch_idx) / (1 + norm)


class AddsUpLosses(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.total += loss  # with its graph
        return loss


class OneLevelAnEpoch(Recording):
    """Runs out of levels where an epoch more is begun than the fit has."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = iter([1.0, 0.5])

    def on_train_epoch_end(self) -> None:
        next(self.levels)


class KeepsHparams(Recording):
    def __init__(self) -> None:
        super().__init__()
        head = nn.Linear(3, 3)
        self.save_hyperparameters({"head": head, "width": 3}, logger=False)
        self.net.append(head)


class Note:
    """A class of the user's, which no safe unpickler knows."""


class NotesInCheckpoints(Momentum):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["note"] = Note()


class OwnScheduler(Momentum):
    """Steps a schedule of its own by hand, and keeps a gradient scaler."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.own = torch.optim.lr_scheduler.StepLR(optimizer, 3, 1.0)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return optimizer

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.own.step()
        self.scaler.scale(torch.ones(1))
        self.scaler.update(self.scaler.get_scale() * 2)
        self.average = self.own.last_epoch + self.scaler.get_scale()


class Scheduled(Momentum):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class Validated(BatchNorm):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def val_dataloader(self) -> Any:
        return data(64)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class KeepsValidation(Validated):
    """Trains with what it has kept of the validation."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + 0.01 * float(self.last.sum()))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.last = self.net(batch[0]).mean(0)
        super().validation_step(batch, batch_idx)


class InferenceTensor(KeepsValidation):
    """Keeps a tensor of inference mode, which is written to in that mode only.

    Whatever the Trainer's ``inference_mode``, Lightning validates without it within a fit.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.inference_mode():
            self.last.mul_(0.9)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        with torch.inference_mode():
            self.last = self.last * 1


class ValidatedOn(KeepsValidation):
    """Validates on the loaders that the fit is given, of which there may be several, and remembers on what."""

    val_dataloader = pl.LightningModule.val_dataloader

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        if not in_trial(self):
            sums = [float(part.double().sum()) for part in tensors(batch)]
            self.record.validated.append([float(dataloader_idx), float(batch_idx), *sums])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class ValidationMetrics(ValidatedOn):
    """One metric that Lightning resets, a collection that the module does, and losses in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")
        self.metrics = MetricCollection([MulticlassAccuracy(num_classes=3), MulticlassF1Score(num_classes=3)])
        self.outputs: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy)
        self.metrics.update(self.net(batch[0]), batch[1])
        self.outputs.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log_dict({name: 2 * value for name, value in self.metrics.compute().items()})
        self.log("val_worst", torch.stack(self.outputs).max())

    def on_train_epoch_end(self) -> None:  # so that they last longer than a validation
        self.metrics.reset()
        self.outputs.clear()


class ManyAtOnce(KeepsValidation):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Manual(Momentum):
    """Optimizes by itself, two batches to a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if batch_idx % 2 == 1:
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
            optimizer.zero_grad()


class ManualSchedule(Scheduled):
    """Optimizes by itself, and steps a schedule that may not be stepped more often than the run has steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        schedule.step()


class GAN(Recording):
    """A generator and a critic, each with its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 8)
        self.critic = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        optimizers: Any = self.optimizers()
        generating, criticising = optimizers
        made = self.generator(torch.randn(len(batch[0]), 4))
        self.toggle_optimizer(generating)
        self._step(generating, -self.critic(made).mean(), "generator_loss")
        self.untoggle_optimizer(generating)
        self.toggle_optimizer(criticising)
        difference = self.critic(made.detach()).mean() - self.critic(batch[0]).mean()
        self._step(criticising, difference, "critic_loss")
        self.untoggle_optimizer(criticising)

    def _step(self, optimizer: Any, loss: Tensor, name: str) -> None:
        self.log(name, loss)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        critic = torch.optim.SGD(self.critic.parameters(), lr=0.01, momentum=0.9)
        return torch.optim.Adam(self.generator.parameters(), lr=1e-3), critic


AROUND_A_BATCH = (
    "on_train_batch_start",
    "optimizer_step",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "on_train_batch_end",
)


class Hooked(Momentum):
    """Writes down its hooks, and sees to it that those around a batch run in a trial as they do in a fit."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def on_train_start(self) -> None:
        self.ready = True
        self.record.hooks.append("on_train_start")

    def on_train_epoch_start(self) -> None:
        if not in_trial(self):
            self.record.hooks.append("on_train_epoch_start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.ready, "on_train_start has not been called"
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        self.record.hooks.append("on_train_end")
        if in_trial(self) or not self.record.trial_hooks:
            return
        hooks = [name for name in self.record.hooks if name in AROUND_A_BATCH]
        of_a_batch = hooks[: len(hooks) // len(self.record.batches)]
        assert set(of_a_batch) == set(AROUND_A_BATCH), "hooks have not been called"
        batches = len(self.record.trial_hooks) // len(of_a_batch)
        assert self.record.trial_hooks == of_a_batch * batches, "other hooks in the trial than in the fit"


def written_down(name: str) -> Callable[..., Any]:
    def hook(self: Hooked, *args: Any, **kwargs: Any) -> Any:
        (self.record.trial_hooks if in_trial(self) else self.record.hooks).append(name)
        return getattr(super(Hooked, self), name)(*args, **kwargs)

    return hook


for hook in AROUND_A_BATCH:
    setattr(Hooked, hook, written_down(hook))


class OwnSteps(Momentum):
    """Does in hooks what a trial must do too: changes batches, clips gradients, takes every second step only."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(0.5)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.2, gradient_clip_algorithm="value")

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class SometimesNone(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class LogsNothing(Momentum):
    def log(self, *_: Any, **__: Any) -> None:
        """A barebones Trainer takes no metrics."""


class UsesLogger(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.logger is not None, "no logger"
        self.logger.log_metrics({"by_hand": float(batch_idx)}, step=self.global_step)
        assert Path(str(self.trainer.log_dir)).name == "version_0", "another log_dir"
        return super().training_step(batch, batch_idx)


class WritesIntoBatch(Recording):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(1.01)


class AsksItsTrainer(Scheduled):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        schedule: Any = self.lr_schedulers()
        self.log("lr", schedule.get_last_lr()[0])
        assert isinstance(self.logger, CSVLogger), "another logger"
        assert self.trainer.max_steps == 11, "another max_steps"
        assert self.current_epoch < 2, "more epochs than the fit has"
        self.trainer.save_checkpoint("in_the_trial.ckpt" if in_trial(self) else "in_the_fit.ckpt")
        assert not Path("in_the_trial.ckpt").exists(), "a checkpoint saved in the trial"
        return super().training_step(batch, batch_idx)


class TwoLoaders(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        return sum(self.loss(part) for part in batch.values() if part is not None)


class LooksAtItsLoader(Recording):
    """Keeps the loader's state at every batch, as a checkpoint in the middle of an epoch would."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not in_trial(self):
            loader: Any = self.trainer.train_dataloader
            self.record.loader_states.append(loader.state_dict())


# --------------------------------------------------------------------------------------------------- data


class Noisy(Dataset[tuple[Tensor, ...]]):
    """Rows with noise of the named kinds, of every kind unless told."""

    def __init__(self, *kinds: str) -> None:
        self.rows = data().dataset
        self.own = np.random.default_rng(5)
        self.calls = 0
        self.kinds = kinds or ("python", "numpy", "torch", "own", "counter")

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        features, label = self.rows[index]
        return features + 0.01 * sum(self.noise(kind) for kind in self.kinds), label

    def noise(self, kind: str) -> float:
        if kind == "counter":
            self.calls += 1
            return self.calls % 7
        draw: dict[str, Callable[[], Any]] = {
            "python": random.random,
            "numpy": np.random.rand,
            "torch": lambda: torch.rand(()),
            "own": self.own.random,
        }
        return float(draw[kind]())


class Wrapped(Noisy):
    """Keeps the noise in a data set inside."""

    def __init__(self) -> None:
        self.dataset = Noisy()

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.dataset[index]


class Stream(IterableDataset[tuple[Tensor, ...]]):
    """Rows one after the other, from the start with every iterator, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rows = data().dataset
        return (rows[i] for i in range(256))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 256


class Once(IterableDataset[tuple[Tensor, ...]]):
    """Gives each of its rows once, however often it is asked for an iterator: a pipe, not a file."""

    def __init__(self) -> None:
        rows = data().dataset
        self.rows = (rows[i % 256] for i in range(5000))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.rows


class Queue(IterableDataset[tuple[Tensor, ...]]):
    """Every new iterator goes on where the last one stopped."""

    def __init__(self) -> None:
        rows = data().dataset
        self.rows = iter([rows[i % 256] for i in range(5000)])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield from self.rows


class CountsEpochs(IterableDataset[Any]):
    """Counts its iterators, in a number and in a list, and gives objects that no comparison knows."""

    def __init__(self) -> None:
        self.epoch, self.epochs = 0, [0]

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        self.epochs[0] += 1
        rows: Any = data().dataset
        shift = 0.1 * self.epoch + 0.01 * self.epochs[0]
        return (Pair(rows[i][0] + shift, rows[i][1]) for i in range(256))


@dataclass(frozen=True)
class Pair:
    features: Tensor
    label: Tensor


class Pairs:
    """A batch of a type of the user's own, which compares by identity."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.features = torch.stack([pair.features for pair in pairs])
        self.labels = torch.stack([pair.label for pair in pairs])

    def to(self, device: Any) -> "Pairs":
        return self


class OfPairs(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch.features, batch.labels], batch_idx)


class InPlaceSampler(torch.utils.data.Sampler[int]):
    """Shuffles its own list in place, as bucketing samplers do."""

    def __init__(self) -> None:
        self.order = list(range(256))
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        random.Random(self.epoch).shuffle(self.order)
        return iter(list(self.order))

    def __len__(self) -> int:
        return 256


class AroundASampler(torch.utils.data.Sampler[int]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.base = torch.utils.data.RandomSampler(range(256), generator=generator)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self.base))

    def __len__(self) -> int:
        return 256


class NoisyCollate:
    """A collate_fn that owns a generator, and a list of more."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(1)
        self.more = [np.random.PCG64(2)]

    def __call__(self, rows: list[Any]) -> Any:
        features, labels = torch.utils.data.default_collate(rows)
        return [features + 0.01 * self.own.random() + 0.01 * (self.more[0].random_raw() % 7), labels]


class AsksItsWorker(IterableDataset[tuple[Tensor, ...]]):
    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker: Any = torch.utils.data.get_worker_info()
        rows = data().dataset
        return iter([rows[i] for i in range(worker.id, 256, worker.num_workers)])


class OwnLoader:
    """Any iterable of batches."""

    def __iter__(self) -> Iterator[Any]:
        return iter(data(shuffle=True))


class StatefulLoader:
    """A loader that can be saved in the middle: knows the epoch it is in and where it stands."""

    def __init__(self) -> None:
        self.batches = list(data())
        self.epoch = self.position = 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch, self.position = self.epoch + 1, 0
        for batch in random.Random(self.epoch).sample(self.batches, len(self.batches)):
            self.position += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class StatefulDataLoader(DataLoader[tuple[Tensor, ...]]):
    """Made as torchdata's is: asks the iterator that it has given out last."""

    def __iter__(self) -> Any:
        self._iterator: Any = CountingIterator(super().__iter__())
        return self._iterator

    def state_dict(self) -> dict[str, Any]:
        return {"yielded": self._iterator.yielded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._iterator.yielded = state_dict["yielded"]


class CountingIterator(Iterator[Any]):
    def __init__(self, base: Iterator[Any]) -> None:
        self.base, self.yielded = base, 0

    def __next__(self) -> Any:
        batch = next(self.base)
        self.yielded += 1
        return batch


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return data()

    def val_dataloader(self) -> Any:
        return data(96)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [0.5 * batch[0], batch[1]]


class CountingData(Data):
    """Counts how often it is asked for its loader, and what it hands on; both make its batches larger."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.handed_on = 0

    def train_dataloader(self) -> Any:
        self.asked += 1
        module: Any = self.trainer and self.trainer.lightning_module
        module.record.hooks.append("train_dataloader")  # a hook that may take long
        return super().train_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.handed_on += 1
        return [batch[0] * (1 + 0.01 * self.asked + 0.001 * self.handed_on), batch[1]]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "handed_on": self.handed_on}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


# --------------------------------------------------------------------------------- callbacks and loggers


class Watcher(pl.Callback):
    """Writes down every hook that it is called with, and the batches."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        hook = super().__getattribute__(name)
        if not (name.startswith("on_") or name in ("setup", "teardown")):
            return hook

        def seen(*args: Any, **kwargs: Any) -> Any:
            batch = kwargs.get("batch", args[3] if "batch_end" in name else args[2] if "batch_start" in name else None)
            sums = "" if batch is None else str([float(part.double().sum()) for part in tensors(batch)])
            self.seen.append(f"{name} {sums}")
            return hook(*args, **kwargs)

        return seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}


class CallList(Logger):
    """Writes down every call."""

    name = "calls"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append(f"log_metrics {metrics} {step}")

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.calls.append(f"log_hyperparams {params}")

    def log_graph(self, *_: Any, **__: Any) -> None:
        self.calls.append("log_graph")

    def save(self) -> None:
        self.calls.append("save")

    def finalize(self, status: str) -> None:
        self.calls.append(f"finalize {status}")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.calls.append("after_save_checkpoint")


# ----------------------------------------------------------------------------------------------- scenarios


@dataclass
class Scenario:
    """What is trained: a module, its data and a Trainer; each made anew for every fit."""

    module: Callable[[], Recording] = Recording
    loader: Callable[[], Any] = data
    callbacks: Callable[[Path], list[pl.Callback]] = lambda root: []
    options: Callable[[Path], dict[str, Any]] = lambda root: {}
    points: int = 25  # of the curve of `completing_test`
    resumed: bool = False  # from a checkpoint after the first epoch, so that there is no trial
    val_loader: Callable[[], Any] = lambda: None  # handed to the fit beside the train loader


def shuffled(**arguments: Any) -> Callable[[], Any]:
    return lambda: data(shuffle=True, **arguments)


def shuffled_by_a_generator() -> Any:
    return data(96, shuffle=True, generator=torch.Generator().manual_seed(3))


def two(mode: Literal["min_size", "max_size"]) -> Callable[[], Any]:
    return lambda: CombinedLoader({"a": data(), "b": data(96)}, mode)


def with_options(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda root: options


def with_callback(callback: Callable[[], pl.Callback]) -> Callable[[Path], list[pl.Callback]]:
    return lambda root: [callback()]


def fp16(root: Path) -> dict[str, Any]:
    """A gradient scale that grows every other step, until gradients overflow and it is halved."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def checkpointing(root: Path) -> dict[str, Any]:
    return {"logger": CSVLogger(root, name="csv"), "enable_checkpointing": True, "max_epochs": 3}


SCENARIOS: dict[str, Scenario] = {
    # ---- optimizers and layers
    "SGD": Scenario(),
    "momentum, weight decay, Nesterov": Scenario(Momentum),
    "AdamW": Scenario(Adam),
    "two parameter groups": Scenario(TwoGroups),
    "dropout": Scenario(Dropout),
    "BatchNorm": Scenario(BatchNorm),
    "BatchNorm kept in eval mode": Scenario(FrozenBatchNorm),
    "frozen trunk kept in eval mode": Scenario(FrozenTrunk),
    "trunk unfrozen at the sixth step": Scenario(Unfreezes),
    "LazyLinear": Scenario(Lazy),
    "compiled module": Scenario(Compiled),
    "scripted module": Scenario(Scripted),
    # ---- data
    "shuffling": Scenario(loader=shuffled()),
    "shuffling by an explicit generator": Scenario(loader=lambda: data(shuffle=True, generator=torch.Generator())),
    "sampler that shuffles its list in place": Scenario(loader=lambda: data(sampler=InPlaceSampler())),
    "sampler around a sampler with a generator": Scenario(loader=lambda: data(sampler=AroundASampler())),
    "collate_fn with generators": Scenario(loader=lambda: data(shuffle=True, collate_fn=NoisyCollate())),
    "two workers, fixed order": Scenario(loader=lambda: data(num_workers=2)),
    "two workers, shuffling": Scenario(loader=shuffled(num_workers=2)),
    "two workers, noise in the data set": Scenario(loader=lambda: DataLoader(Noisy(), 32, True, num_workers=2)),
    "two persistent workers, fixed order": Scenario(loader=lambda: data(num_workers=2, persistent_workers=True)),
    "two persistent workers, shuffling": Scenario(loader=shuffled(num_workers=2, persistent_workers=True)),
    "python and numpy noise in the data set": Scenario(loader=lambda: DataLoader(Noisy("python", "numpy"), 32)),
    "torch noise in the data set": Scenario(loader=lambda: DataLoader(Noisy("torch"), 32)),
    "data set with a numpy generator": Scenario(loader=lambda: DataLoader(Noisy("own"), 32)),
    "data set with noise of every kind": Scenario(loader=lambda: DataLoader(Noisy(), 32, shuffle=True)),
    "noise in a wrapped data set": Scenario(loader=lambda: DataLoader(Wrapped(), 32, shuffle=True)),
    "iterable data set without length": Scenario(loader=lambda: DataLoader(Stream(), 32)),
    "iterable data set with length": Scenario(loader=lambda: DataLoader(SizedStream(), 32)),
    "iterable data set that asks its worker": Scenario(loader=lambda: DataLoader(AsksItsWorker(), 32, num_workers=2)),
    "data set that cannot be started over": Scenario(
        loader=lambda: DataLoader(Once(), 32), options=with_options(limit_train_batches=20)
    ),
    "queue": Scenario(loader=lambda: DataLoader(Queue(), 32), options=with_options(limit_train_batches=20)),
    "iterable data set that counts epochs, batches of an own type": Scenario(
        OfPairs, lambda: DataLoader(CountsEpochs(), 32, collate_fn=Pairs)
    ),
    "iterator instead of a loader": Scenario(
        WritesIntoBatch, loader=lambda: itertools.cycle(list(data())), options=with_options(limit_train_batches=20)
    ),
    "loader of the user's own": Scenario(loader=OwnLoader),
    "stateful loader of the user's own": Scenario(LooksAtItsLoader, StatefulLoader),
    "stateful DataLoader": Scenario(LooksAtItsLoader, lambda: StatefulDataLoader(data().dataset, 32)),
    "dict of two loaders": Scenario(TwoLoaders, lambda: {"a": data(), "b": data(96)}),
    "two loaders, until the shorter ends": Scenario(TwoLoaders, two("min_size")),
    "two loaders, until the longer ends": Scenario(TwoLoaders, two("max_size")),
    "data module": Scenario(Validated, Data),
    "data module that counts": Scenario(Validated, CountingData),
    "data module reloaded every epoch": Scenario(
        Validated, CountingData, options=with_options(reload_dataloaders_every_n_epochs=1)
    ),
    # ---- lengths
    "trial longer than an epoch, run longer still": Scenario(Momentum, options=with_options(max_epochs=5)),
    "run of three batches": Scenario(Momentum, partial(data, 96), options=with_options(max_epochs=1)),
    "max_steps": Scenario(Adam, options=with_options(max_steps=11, max_epochs=-1)),
    "limit_train_batches": Scenario(Adam, options=with_options(limit_train_batches=0.5)),
    "resumed after an epoch": Scenario(Validated, options=with_options(max_epochs=3), resumed=True),
    # ---- how steps are taken
    "accumulation 4, last window short": Scenario(
        Momentum, partial(data, 320), options=with_options(accumulate_grad_batches=4)
    ),
    "GradientAccumulationScheduler": Scenario(
        Momentum, data, with_callback(lambda: GradientAccumulationScheduler({0: 2, 1: 4}))
    ),
    "clipping by norm": Scenario(Momentum, options=with_options(gradient_clip_val=0.1)),
    "bf16-mixed": Scenario(Momentum, options=with_options(precision="bf16-mixed")),
    "16-mixed and its gradient scale": Scenario(Momentum, options=fp16),
    "barebones Trainer": Scenario(
        LogsNothing, data, options=with_options(barebones=True, logger=None, log_every_n_steps=None)
    ),
    "training_step returns None": Scenario(SometimesNone, data, points=15),
    "steps by the module's hooks": Scenario(OwnSteps),
    "manual optimization": Scenario(Manual),
    "manual optimization and OneCycleLR": Scenario(ManualSchedule),
    "GAN, two optimizers": Scenario(GAN),
    # ---- schedules and validation
    "schedule and gradient scaler of the module's own": Scenario(OwnScheduler),
    "OneCycleLR": Scenario(Scheduled),
    "ReduceLROnPlateau and validation": Scenario(Validated, options=with_options(max_epochs=4)),
    "outcome of the validation kept": Scenario(KeepsValidation),
    "tensor of inference mode": Scenario(InferenceTensor),
    "inference_mode=False": Scenario(InferenceTensor, options=with_options(inference_mode=False)),
    "validation four times an epoch": Scenario(Validated, options=with_options(val_check_interval=0.25)),
    "validation every second epoch": Scenario(
        ValidatedOn, options=with_options(max_epochs=4, check_val_every_n_epoch=2), val_loader=lambda: data(64)
    ),
    "validation, no sanity check": Scenario(
        ValidatedOn, options=with_options(num_sanity_val_steps=0), val_loader=lambda: data(64)
    ),
    "two validation loaders": Scenario(ValidatedOn, val_loader=lambda: [data(64), data(96)]),
    "validation loader that shuffles by a generator": Scenario(ValidatedOn, val_loader=shuffled_by_a_generator),
    "validation loader that shuffles by a generator, no sanity check": Scenario(
        ValidatedOn, options=with_options(num_sanity_val_steps=0), val_loader=shuffled_by_a_generator
    ),
    "validation data with noise of every kind": Scenario(
        ValidatedOn, val_loader=lambda: DataLoader(Noisy(), 32), options=with_options(limit_val_batches=3)
    ),
    "persistent validation worker": Scenario(
        ValidatedOn,
        val_loader=lambda: DataLoader(Noisy(), 32, num_workers=1, persistent_workers=True),
        options=with_options(limit_val_batches=3),
    ),
    "validation data that cannot be started over": Scenario(
        ValidatedOn, val_loader=lambda: DataLoader(Once(), 32), options=with_options(limit_val_batches=3)
    ),
    "validation on a queue": Scenario(
        ValidatedOn, val_loader=lambda: DataLoader(Queue(), 32), options=with_options(limit_val_batches=3)
    ),
    "validation on a queue, no sanity check": Scenario(
        ValidatedOn,
        val_loader=lambda: DataLoader(Queue(), 32),
        options=with_options(limit_val_batches=3, num_sanity_val_steps=0),
    ),
    "metrics in validation": Scenario(ValidationMetrics, val_loader=lambda: data(96)),
    # ---- state in the module
    "torchmetrics attribute": Scenario(Metric),
    "MetricCollection": Scenario(Metrics),
    "non-persistent buffer": Scenario(HiddenBuffer),
    "counter": Scenario(Counter),
    "outputs collected for the end of the epoch": Scenario(Outputs),
    "plain attributes": Scenario(Attributes),
    "losses added up with their graph": Scenario(AddsUpLosses),
    "gradients of the step before": Scenario(LooksAtGradients),
    "a list with one entry for each epoch": Scenario(OneLevelAnEpoch),
    "module in the hyperparameters": Scenario(KeepsHparams),
    "object of the user's in checkpoints": Scenario(NotesInCheckpoints, options=checkpointing),
    "many of these at once": Scenario(
        ManyAtOnce,
        lambda: DataLoader(Noisy(), 32, shuffle=True),
        options=with_options(accumulate_grad_batches=2, gradient_clip_val=0.5, max_epochs=3),
    ),
    # ---- hooks, callbacks and loggers
    "module that asks its Trainer": Scenario(
        AsksItsTrainer, data, options=lambda root: {"logger": CSVLogger(root, name="csv"), "max_steps": 11}
    ),
    "hooks of the module": Scenario(Hooked),
    "module that logs by hand": Scenario(UsesLogger, options=lambda root: {"logger": CSVLogger(root, name="csv")}),
    "callback that sees every hook": Scenario(
        Validated, data, with_callback(Watcher), lambda root: {"logger": CallList(), "enable_checkpointing": True}
    ),
    "logger that sees every call": Scenario(Validated, options=lambda root: {"logger": CallList()}),
    "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger": Scenario(
        Validated,
        data,
        callbacks=lambda root: [
            EarlyStopping("val_loss", patience=5),
            ModelCheckpoint(root / "checkpoints", monitor="val_loss", save_top_k=2),
            LearningRateMonitor(),
        ],
        options=checkpointing,
    ),
    "BackboneFinetuning": Scenario(
        Backbone, data, with_callback(lambda: BackboneFinetuning(1)), with_options(max_epochs=3)
    ),
    "StochasticWeightAveraging": Scenario(
        BatchNorm, data, with_callback(lambda: StochasticWeightAveraging(0.02, 1)), with_options(max_epochs=4)
    ),
}
for name in ("WeightAveraging", "EMAWeightAveraging"):
    if hasattr(lightning_callbacks, name):  # not before lightning 2.6
        SCENARIOS[name] = Scenario(Validated, data, with_callback(getattr(lightning_callbacks, name)))

# ------------------------------------------------------------------------------------------------ compare


@dataclass
class Fit:
    """A Trainer with its module and data, and what it has come to."""

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
        """The arguments of ``Trainer.fit`` that say what is trained with."""
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
                if not any(name in str(path.relative_to(self.root)) for name in REPORTS)
            ),
            "checkpoints": {str(path.relative_to(self.root)): content(path) for path in self.root.rglob("*.ckpt")},
        }

    def state_of(self, callback: pl.Callback) -> str:
        """What a callback keeps, averages of the weights too; as text, for the paths in it."""
        kept = [callback.state_dict(), *(part.state_dict() for part in parts(callback) if isinstance(part, nn.Module))]
        return f"{type(callback).__name__} {plain(kept)}".replace(str(self.root), "root")


REPORTS = ("lr_range_test", "weight_decay_probe", "tune")  # directories that differ by nature
ATTRIBUTES = ("seen", "average", "counts", "outputs", "ready", "total", "last")


def content(checkpoint: Path) -> Any:
    """What is in a checkpoint, but for the states of callbacks, among which are the finder's."""
    saved = torch.load(checkpoint, weights_only=False)
    return plain({key: value for key, value in saved.items() if key != "callbacks"})


def plain(value: Any) -> Any:
    """Tensors and arrays as lists, all the way down."""
    if is_lazy(value):
        return "uninitialised"
    if hasattr(value, "to_local"):  # a DTensor
        return value.to_local().tolist()
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(type(value))


def states(source: Any, depth: int = 5) -> list[Any]:
    """Numbers, texts and random states in what batches are made by: loaders, samplers, data sets, data modules."""
    if isinstance(source, (bool, int, float, str)):
        return [source]
    if isinstance(source, torch.Generator):
        return [source.get_state().tolist()]
    if isinstance(source, np.random.Generator):
        return [repr(source.bit_generator.state)]
    if isinstance(source, np.random.BitGenerator):
        return [repr(source.state)]
    if depth == 0 or isinstance(source, (type, Tensor, np.ndarray, pl.Trainer, pl.LightningModule)):
        return []
    return [state for part in parts(source) for state in states(part, depth - 1)]


def parts(whole: Any) -> list[Any]:
    if isinstance(whole, (list, tuple)):
        return list(whole)
    named = whole if isinstance(whole, dict) else getattr(whole, "__dict__", {})
    return [part for name, part in named.items() if name != "_iterator"]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key]]


def shape_of(t: Any) -> dict[str, Any]:
    """What of the Trainer a trial substitutes, and the model."""
    module = t.lightning_module
    limits = ("limit_train_batches", "limit_val_batches", "max_epochs", "max_steps", "min_epochs")
    return {
        "callbacks": [id(callback) for callback in t.callbacks],
        "loggers": [id(logger) for logger in t.loggers],
        "limits": {name: getattr(t, name) for name in limits},
        "accumulation": t.accumulate_grad_batches,
        "val_check_batch": getattr(t, "val_check_batch", None),  # not set before the loader is
        "profiler": id(t.profiler),
        "loop": id(t.fit_loop),
        "should_stop": t.should_stop,
        "counters": [t.global_step, t.current_epoch],
        "metrics": plain([t.logged_metrics, t.callback_metrics]),
        "weights": plain(module.state_dict()),
        "buffers": plain(dict(module.named_buffers())),
        "gradients": [None if p.grad is None else plain(p.grad) for p in module.parameters()],
        "frozen": [p.requires_grad for p in module.parameters()],
        "training": [part.training for part in module.modules()],
        "optimizers": [plain(optimizer.state_dict()) for optimizer in t.optimizers],
        "schedulers": [(id(c.scheduler), c.interval, plain(c.scheduler.state_dict())) for c in t.lr_scheduler_configs],
        "scaler": plain(t.precision_plugin.state_dict()),
        "loaders": states(t.train_dataloader),
        "streams": [random.getstate(), plain(np.random.get_state()), torch.get_rng_state().tolist()],
    }
