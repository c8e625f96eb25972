"""Kinds of fits in which a trial must be invisible, and what to compare of a fit with a trial and one without.

Shared by `test_isolation.py`, which crosses them with the ways in which a trial ends, and by `benchmarks/isolation.py`,
which puts Lightning's own finder through the same.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics.classification import MulticlassAccuracy

from tests.fits import SmallNet, data, trainer

# ---------------------------------------------------------------------------------------------- scenarios


class Recording(SmallNet):
    """Remembers the batches it is trained with, outside what a trial could restore."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        # Lightning's own attribute tells a real batch from one of the trial: only there is the test's callback alone.
        if not in_trial(self):
            self.record.batches.append([float(part.double().sum()) for part in tensors(batch)])
            self.record.steps.append((self.trainer.current_epoch, self.trainer.global_step, batch_idx))
        return super().training_step(batch, batch_idx)


@dataclass
class Record:
    """What a real run saw; an object of no type that a trial restores."""

    batches: list[list[float]] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)


def in_trial(module: pl.LightningModule) -> bool:
    callbacks = module.trainer.callbacks  # type: ignore[attr-defined]
    return not any(isinstance(callback, Marker) for callback in callbacks)


def tensors(batch: Any) -> list[Tensor]:
    parts = batch.values() if isinstance(batch, dict) else batch
    return [part for item in parts for part in (item if isinstance(item, (list, tuple)) else (item,))]


class Marker(pl.Callback):
    """A user's callback; a trial has none. Looks at the Trainer right before the trial."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = self.before or shape_of(trainer)


class Momentum(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)


class Adam(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


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


class Attributes(Recording):
    """State in plain attributes: a number, a tensor, an array, a list that is reduced and cleared, a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.average = torch.zeros(1)
        self.counts = np.zeros(3)
        self.outputs: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.counts += np.bincount(batch[1].numpy(), minlength=3)
        noise = torch.randn(batch[0].shape, generator=self.generator)
        loss = super().training_step([batch[0] + 0.01 * self.seen / (1 + self.seen) * noise, batch[1]], batch_idx)
        self.average.mul_(0.9).add_(0.1 * loss.detach())
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean_output", torch.stack(self.outputs).mean())
        self.outputs.clear()


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


class Hooked(Recording):
    """Writes down its hooks in the real run and counts them always."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def on_train_start(self) -> None:
        self.ready = True
        self.record.hooks.append("train_start")

    def on_train_end(self) -> None:
        self.record.hooks.append("train_end")

    def on_train_epoch_start(self) -> None:
        if not in_trial(self):
            self.record.hooks.append("epoch_start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.ready  # a trial comes after on_train_start
        return super().training_step(batch, batch_idx)


class SometimesNone(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class UsesLogger(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.logger is not None
        self.logger.log_metrics({"by_hand": float(batch_idx)}, step=self.global_step)
        assert Path(str(self.trainer.log_dir)).name == "version_0"
        return super().training_step(batch, batch_idx)


class WritesIntoBatch(Recording):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(1.01)


class LogsLR(Scheduled):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        schedule: Any = self.lr_schedulers()
        self.log("lr", schedule.get_last_lr()[0])
        assert isinstance(self.logger, CSVLogger)
        assert self.trainer.max_steps == 11
        assert self.current_epoch < 2
        self.trainer.save_checkpoint("in_the_trial.ckpt" if in_trial(self) else "in_the_fit.ckpt")
        assert not Path("in_the_trial.ckpt").exists()
        return super().training_step(batch, batch_idx)


class AddsUpLosses(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.total += loss  # with its graph
        return loss


class Scripted(Recording):
    def __init__(self) -> None:
        super().__init__()
        plain = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
        self.net: nn.Module = torch.jit.script(plain)  # type: ignore[assignment]


class OneLevelAnEpoch(Recording):
    """Runs out of levels where an epoch more is begun than the fit has."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = iter([1.0, 0.5])

    def on_train_epoch_end(self) -> None:
        next(self.levels)


class TwoLoaders(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch["a"]) + self.loss(batch["b"])
        if not in_trial(self):
            self.record.batches.append([float(part.double().sum()) for part in tensors(batch)])
        return loss


class Noisy(Dataset[tuple[Tensor, ...]]):
    """A data set with randomness of every kind, and a counter."""

    def __init__(self) -> None:
        self.rows = data().dataset
        self.own = np.random.default_rng(5)
        self.calls = 0

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.calls += 1
        features, label = self.rows[index]
        shift = random.random() + np.random.rand() + float(torch.rand(1)) + self.own.random() + self.calls % 7
        return features + 0.01 * shift, label


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


class Once(IterableDataset[tuple[Tensor, ...]]):
    """Gives each of its rows once, however often it is asked for an iterator: a pipe, not a file."""

    def __init__(self) -> None:
        rows = data().dataset
        self.rows = (rows[i % 256] for i in range(5000))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.rows


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


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def train_dataloader(self) -> Any:
        self.asked += 1
        return data(shuffle=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * (1 + 0.01 * self.asked), batch[1]]


@dataclass
class Scenario:
    """What is trained: a module, its data and a Trainer; each made anew for every fit."""

    module: Callable[[], Recording] = Recording
    loader: Callable[[], Any] = data
    callbacks: Callable[[Path], list[pl.Callback]] = lambda root: []
    options: Callable[[Path], dict[str, Any]] = lambda root: {}
    points: int = 25  # of the curve of `completing_test`


def shuffled(**arguments: Any) -> Callable[[], Any]:
    return lambda: data(shuffle=True, **arguments)


def with_options(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda root: options


SCENARIOS: dict[str, Scenario] = {
    "SGD": Scenario(),
    "momentum, weight decay, Nesterov": Scenario(Momentum),
    "AdamW": Scenario(Adam),
    "dropout": Scenario(Dropout),
    "BatchNorm": Scenario(BatchNorm),
    "BatchNorm kept in eval mode": Scenario(FrozenBatchNorm),
    "shuffling": Scenario(loader=shuffled()),
    "shuffling by an explicit generator": Scenario(loader=lambda: data(shuffle=True, generator=torch.Generator())),
    "sampler that shuffles its list in place": Scenario(loader=lambda: data(sampler=InPlaceSampler())),
    "two workers": Scenario(loader=shuffled(num_workers=2)),
    "two persistent workers": Scenario(loader=shuffled(num_workers=2, persistent_workers=True)),
    "data set with noise of every kind": Scenario(loader=lambda: DataLoader(Noisy(), 32, shuffle=True)),
    "noise in a wrapped data set": Scenario(loader=lambda: DataLoader(Wrapped(), 32, shuffle=True)),
    "iterable data set without length": Scenario(loader=lambda: DataLoader(Stream(), 32)),
    "data set that cannot be started over": Scenario(
        loader=lambda: DataLoader(Once(), 32), options=with_options(limit_train_batches=20)
    ),
    "iterator instead of a loader": Scenario(
        WritesIntoBatch, loader=lambda: itertools.cycle(list(data())), options=with_options(limit_train_batches=20)
    ),
    "sampler around a sampler with a generator": Scenario(loader=lambda: data(sampler=AroundASampler())),
    "collate_fn with generators": Scenario(loader=lambda: data(shuffle=True, collate_fn=NoisyCollate())),
    "iterable data set that asks its worker": Scenario(loader=lambda: DataLoader(AsksItsWorker(), 32, num_workers=2)),
    "dict of two loaders": Scenario(TwoLoaders, lambda: {"a": data(shuffle=True), "b": data(96, shuffle=True)}),
    "loader of the user's own": Scenario(loader=OwnLoader),
    "data module": Scenario(loader=Data),
    "data module reloaded every epoch": Scenario(
        loader=Data, options=with_options(reload_dataloaders_every_n_epochs=1)
    ),
    "accumulation 4, last window short": Scenario(
        Momentum, shuffled(samples=320), options=with_options(accumulate_grad_batches=4)
    ),
    "clipping by norm": Scenario(Momentum, options=with_options(gradient_clip_val=0.1)),
    "bf16-mixed": Scenario(Momentum, shuffled(), options=with_options(precision="bf16-mixed")),
    "OneCycleLR": Scenario(Scheduled, shuffled()),
    "ReduceLROnPlateau and validation": Scenario(Validated, shuffled(), options=with_options(max_epochs=4)),
    "validation four times an epoch": Scenario(Validated, shuffled(), options=with_options(val_check_interval=0.25)),
    "max_steps": Scenario(Adam, shuffled(), options=with_options(max_steps=11, max_epochs=-1)),
    "limit_train_batches": Scenario(Adam, shuffled(), options=with_options(limit_train_batches=0.5)),
    "torchmetrics attribute": Scenario(Metric, shuffled()),
    "non-persistent buffer": Scenario(HiddenBuffer, shuffled()),
    "plain attributes": Scenario(Attributes, shuffled()),
    "losses added up with their graph": Scenario(AddsUpLosses, shuffled()),
    "scripted module": Scenario(Scripted, shuffled()),
    "a list with one entry for each epoch": Scenario(OneLevelAnEpoch, shuffled()),
    "module that asks its Trainer": Scenario(
        LogsLR, shuffled(), options=lambda root: {"logger": CSVLogger(root, name="csv"), "max_steps": 11}
    ),
    "hooks of the module": Scenario(Hooked, shuffled()),
    "training_step returns None": Scenario(SometimesNone, shuffled(), points=15),
    "module that logs by hand": Scenario(UsesLogger, options=lambda root: {"logger": CSVLogger(root, name="csv")}),
    "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger": Scenario(
        Validated,
        shuffled(),
        callbacks=lambda root: [
            EarlyStopping("val_loss", patience=5),
            ModelCheckpoint(root / "checkpoints", monitor="val_loss", save_top_k=2),
            LearningRateMonitor(),
        ],
        options=lambda root: {"logger": CSVLogger(root, name="csv"), "enable_checkpointing": True, "max_epochs": 3},
    ),
}

# ------------------------------------------------------------------------------------------------ compare


@dataclass
class Fit:
    """A Trainer with its module and data, and what it has come to."""

    scenario: Scenario
    root: Path
    finder: pl.Callback | None = None

    def __post_init__(self) -> None:
        self.root.mkdir()
        pl.seed_everything(7, verbose=False)
        self.module, self.loader = self.scenario.module(), self.scenario.loader()
        finders = [] if self.finder is None else [self.finder]
        callbacks = [*self.scenario.callbacks(self.root), Marker(), *finders]
        self.trainer = trainer(callbacks, self.root, **self.scenario.options(self.root))

    def run(self) -> "Fit":
        pl.seed_everything(8, verbose=False)
        is_module = isinstance(self.loader, pl.LightningDataModule)
        self.trainer.fit(self.module, **{"datamodule" if is_module else "train_dataloaders": self.loader})
        return self

    def outcome(self) -> dict[str, Any]:
        """Everything that must not depend on a trial, as values that compare with ==."""
        module, trainer = self.module, self.trainer
        metrics = [trainer.logged_metrics, trainer.callback_metrics, trainer.progress_bar_metrics]
        progress = trainer.fit_loop.epoch_loop.state_dict()
        return {
            "weights": {name: value.tolist() for name, value in module.state_dict().items()},
            "buffers": {name: value.tolist() for name, value in module.named_buffers()},
            "training": [part.training for part in module.modules()],
            "optimizers": [plain(optimizer.state_dict()) for optimizer in trainer.optimizers],
            "schedulers": [plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
            "metrics": plain(metrics),
            "counters": [trainer.global_step, trainer.current_epoch, trainer.fit_loop.total_batch_idx, plain(progress)],
            "streams": [random.random(), np.random.rand(), torch.rand(1).item()],
            "attributes": plain({k: v for k, v in vars(module).items() if k in ATTRIBUTES}),
            "batches": module.record.batches,
            "steps": module.record.steps,
            "hooks": module.record.hooks,
            "rows": {str(p.relative_to(self.root)): p.read_text() for p in self.root.rglob("metrics.csv")},
            "files": sorted(
                str(path.relative_to(self.root)) for path in self.root.rglob("*") if "lr_range_test" not in str(path)
            ),
        }


ATTRIBUTES = ("seen", "average", "counts", "outputs", "ready", "total")


def plain(value: Any) -> Any:
    """Tensors and arrays as lists, all the way down."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(type(value))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key]]


def shape_of(t: Any) -> dict[str, Any]:
    """What of the Trainer a trial substitutes, and the model."""
    module = t.lightning_module
    limits = ("limit_train_batches", "limit_val_batches", "max_epochs", "max_steps", "min_epochs", "val_check_batch")
    return {
        "callbacks": [id(callback) for callback in t.callbacks],
        "loggers": [id(logger) for logger in t.loggers],
        "limits": {name: getattr(t, name) for name in limits},
        "profiler": id(t.profiler),
        "loop": id(t.fit_loop),
        "should_stop": t.should_stop,
        "counters": [t.global_step, t.current_epoch],
        "metrics": plain([t.logged_metrics, t.callback_metrics]),
        "weights": plain(module.state_dict()),
        "buffers": plain(dict(module.named_buffers())),
        "gradients": [None if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "training": [part.training for part in module.modules()],
        "streams": [random.getstate(), plain(np.random.get_state()), torch.get_rng_state().tolist()],
    }
