"""Kinds of fits in which a trial must be invisible, and what to compare of a fit with a trial and one without.

Shared by `trial/test_isolation.py`, which crosses them with the ways in which a trial goes wrong (`faults.py`), and by
`benchmarks/isolation.py`, which puts Lightning's own finder through the same.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
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
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from tests.fits import data
from tests.scenarios import hooks, nets, sources, validated, watchers
from tests.scenarios.compare import differences, plain, shape_of
from tests.scenarios.fit import Fit, Scenario
from tests.scenarios.record import Marker, Record, Recording, in_trial

__all__ = [
    "SCENARIOS",
    "Fit",
    "Marker",
    "Record",
    "Recording",
    "Scenario",
    "differences",
    "in_trial",
    "plain",
    "shape_of",
]


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
    "momentum, weight decay, Nesterov": Scenario(nets.Momentum),
    "AdamW": Scenario(nets.Adam),
    "two parameter groups": Scenario(nets.TwoGroups),
    "dropout": Scenario(nets.Dropout),
    "BatchNorm": Scenario(nets.BatchNorm),
    "BatchNorm kept in eval mode": Scenario(nets.FrozenBatchNorm),
    "frozen trunk kept in eval mode": Scenario(nets.FrozenTrunk),
    "trunk unfrozen at the sixth step": Scenario(nets.Unfreezes),
    "LazyLinear": Scenario(nets.Lazy),
    "compiled module": Scenario(nets.Compiled),
    "scripted module": Scenario(nets.Scripted),
    # ---- data
    "shuffling": Scenario(loader=shuffled()),
    "shuffling by an explicit generator": Scenario(loader=lambda: data(shuffle=True, generator=torch.Generator())),
    "sampler that shuffles its list in place": Scenario(loader=lambda: data(sampler=sources.InPlaceSampler())),
    "sampler around a sampler with a generator": Scenario(loader=lambda: data(sampler=sources.AroundASampler())),
    "collate_fn with generators": Scenario(loader=lambda: data(shuffle=True, collate_fn=sources.NoisyCollate())),
    "two workers, fixed order": Scenario(loader=lambda: data(num_workers=2)),
    "two workers, shuffling": Scenario(loader=shuffled(num_workers=2)),
    "two workers, noise in the data set": Scenario(loader=lambda: DataLoader(sources.Noisy(), 32, True, num_workers=2)),
    "two persistent workers, fixed order": Scenario(loader=lambda: data(num_workers=2, persistent_workers=True)),
    "two persistent workers, shuffling": Scenario(loader=shuffled(num_workers=2, persistent_workers=True)),
    "python and numpy noise in the data set": Scenario(loader=lambda: DataLoader(sources.Noisy("python", "numpy"), 32)),
    "torch noise in the data set": Scenario(loader=lambda: DataLoader(sources.Noisy("torch"), 32)),
    "data set with a numpy generator": Scenario(loader=lambda: DataLoader(sources.Noisy("own"), 32)),
    "data set with noise of every kind": Scenario(loader=lambda: DataLoader(sources.Noisy(), 32, shuffle=True)),
    "noise in a wrapped data set": Scenario(loader=lambda: DataLoader(sources.Wrapped(), 32, shuffle=True)),
    "iterable data set without length": Scenario(loader=lambda: DataLoader(sources.Stream(), 32)),
    "iterable data set with length": Scenario(loader=lambda: DataLoader(sources.SizedStream(), 32)),
    "iterable data set that asks its worker": Scenario(
        loader=lambda: DataLoader(sources.AsksItsWorker(), 32, num_workers=2)
    ),
    "data set that cannot be started over": Scenario(
        loader=lambda: DataLoader(sources.Once(), 32), options=with_options(limit_train_batches=20)
    ),
    "queue": Scenario(loader=lambda: DataLoader(sources.Queue(), 32), options=with_options(limit_train_batches=20)),
    "iterable data set that counts epochs, batches of an own type": Scenario(
        hooks.OfPairs, lambda: DataLoader(sources.CountsEpochs(), 32, collate_fn=sources.Pairs)
    ),
    "iterator instead of a loader": Scenario(
        hooks.WritesIntoBatch,
        loader=lambda: itertools.cycle(list(data())),
        options=with_options(limit_train_batches=20),
    ),
    "records of an open file": Scenario(loader=lambda: DataLoader(sources.Records(), 32)),
    "file read on from epoch to epoch": Scenario(loader=lambda: DataLoader(sources.Lines(), 32)),
    "file read on by a persistent worker": Scenario(
        loader=lambda: DataLoader(sources.Lines(), 32, num_workers=1, persistent_workers=True)
    ),
    "file read line by line": Scenario(
        loader=lambda: DataLoader(sources.LineByLine(), 32), options=with_options(limit_train_batches=20)
    ),
    "everlasting iterator": Scenario(
        nets.Dropout, lambda: sources.Everlasting(data().dataset, 32, shuffle=True), options=with_options(max_epochs=5)
    ),
    "everlasting iterator, two workers": Scenario(
        loader=lambda: sources.Everlasting(data().dataset, 32, shuffle=True, num_workers=2)
    ),
    "everlasting iterator, two persistent workers": Scenario(
        loader=lambda: sources.Everlasting(data().dataset, 32, shuffle=True, num_workers=2, persistent_workers=True)
    ),
    "everlasting generator": Scenario(loader=lambda: sources.Forever(data().dataset, 32, shuffle=True)),
    "loader around a loader, one batch ahead": Scenario(loader=lambda: sources.AheadOfTime(data(shuffle=True))),
    "data set around a loader with workers": Scenario(loader=lambda: DataLoader(sources.KeepsInnerWorkers(), 32)),
    "queue between processes": Scenario(loader=lambda: DataLoader(sources.SharedQueue(), 32, num_workers=1)),
    "sampler that continues": Scenario(loader=lambda: data(sampler=sources.Continues())),
    "loader of the user's own": Scenario(loader=sources.OwnLoader),
    "stateful loader of the user's own": Scenario(hooks.ReadsItsLoader, sources.StatefulLoader),
    "stateful DataLoader": Scenario(hooks.ReadsItsLoader, lambda: sources.StatefulDataLoader(data().dataset, 32)),
    "dict of two loaders": Scenario(hooks.TwoLoaders, lambda: {"a": data(), "b": data(96)}),
    "two loaders, until the shorter ends": Scenario(hooks.TwoLoaders, two("min_size")),
    "two loaders, until the longer ends": Scenario(hooks.TwoLoaders, two("max_size")),
    "data module": Scenario(validated.Validated, sources.Data),
    "data module that counts": Scenario(validated.Validated, sources.CountingData),
    "data module reloaded every epoch": Scenario(
        validated.Validated, sources.CountingData, options=with_options(reload_dataloaders_every_n_epochs=1)
    ),
    # ---- lengths
    "trial longer than an epoch, run longer still": Scenario(nets.Momentum, options=with_options(max_epochs=5)),
    "run of three batches": Scenario(nets.Momentum, partial(data, 96), options=with_options(max_epochs=1)),
    "max_steps": Scenario(nets.Adam, options=with_options(max_steps=11, max_epochs=-1)),
    "limit_train_batches": Scenario(nets.Adam, options=with_options(limit_train_batches=0.5)),
    "resumed after an epoch": Scenario(validated.Validated, options=with_options(max_epochs=3), resumed=True),
    # ---- how steps are taken
    "accumulation 4, last window short": Scenario(
        nets.Momentum, partial(data, 320), options=with_options(accumulate_grad_batches=4)
    ),
    "GradientAccumulationScheduler": Scenario(
        nets.Momentum, data, with_callback(lambda: GradientAccumulationScheduler({0: 2, 1: 4}))
    ),
    "clipping by norm": Scenario(nets.Momentum, options=with_options(gradient_clip_val=0.1)),
    "bf16-mixed": Scenario(nets.Momentum, options=with_options(precision="bf16-mixed")),
    "16-mixed and its gradient scale": Scenario(nets.Momentum, options=fp16),
    "barebones Trainer": Scenario(
        hooks.LogsNothing, data, options=with_options(barebones=True, logger=None, log_every_n_steps=None)
    ),
    "training_step returns None": Scenario(hooks.SometimesNone, data, points=15),
    "steps by the module's hooks": Scenario(hooks.OwnSteps),
    "manual optimization": Scenario(hooks.Manual),
    "manual optimization and OneCycleLR": Scenario(hooks.ManualSchedule),
    "GAN, two optimizers": Scenario(hooks.GAN),
    # ---- schedules and validation
    "schedule and gradient scaler of the module's own": Scenario(nets.OwnScheduler),
    "OneCycleLR": Scenario(nets.Scheduled),
    "ReduceLROnPlateau and validation": Scenario(validated.Validated, options=with_options(max_epochs=4)),
    "outcome of the validation kept": Scenario(validated.KeepsValidation),
    "tensor of inference mode": Scenario(validated.InferenceTensor),
    "inference_mode=False": Scenario(validated.InferenceTensor, options=with_options(inference_mode=False)),
    "validation four times an epoch": Scenario(validated.Validated, options=with_options(val_check_interval=0.25)),
    "validation every second epoch": Scenario(
        validated.ValidatedOn,
        options=with_options(max_epochs=4, check_val_every_n_epoch=2),
        val_loader=lambda: data(64),
    ),
    "validation, no sanity check": Scenario(
        validated.ValidatedOn, options=with_options(num_sanity_val_steps=0), val_loader=lambda: data(64)
    ),
    "two validation loaders": Scenario(validated.ValidatedOn, val_loader=lambda: [data(64), data(96)]),
    "validation loader that shuffles by a generator": Scenario(
        validated.ValidatedOn, val_loader=shuffled_by_a_generator
    ),
    "validation loader that shuffles by a generator, no sanity check": Scenario(
        validated.ValidatedOn, options=with_options(num_sanity_val_steps=0), val_loader=shuffled_by_a_generator
    ),
    "validation data with noise of every kind": Scenario(
        validated.ValidatedOn,
        val_loader=lambda: DataLoader(sources.Noisy(), 32),
        options=with_options(limit_val_batches=3),
    ),
    "persistent validation worker": Scenario(
        validated.ValidatedOn,
        val_loader=lambda: DataLoader(sources.Noisy(), 32, num_workers=1, persistent_workers=True),
        options=with_options(limit_val_batches=3),
    ),
    "validation data that cannot be started over": Scenario(
        validated.ValidatedOn,
        val_loader=lambda: DataLoader(sources.Once(), 32),
        options=with_options(limit_val_batches=3),
    ),
    "validation on a queue": Scenario(
        validated.ValidatedOn,
        val_loader=lambda: DataLoader(sources.Queue(), 32),
        options=with_options(limit_val_batches=3),
    ),
    "validation on a queue, no sanity check": Scenario(
        validated.ValidatedOn,
        val_loader=lambda: DataLoader(sources.Queue(), 32),
        options=with_options(limit_val_batches=3, num_sanity_val_steps=0),
    ),
    "metrics in validation": Scenario(validated.ValidationMetrics, val_loader=lambda: data(96)),
    # ---- state in the module
    "torchmetrics attribute": Scenario(nets.Metric),
    "MetricCollection": Scenario(nets.Metrics),
    "non-persistent buffer": Scenario(nets.HiddenBuffer),
    "counter": Scenario(nets.Counter),
    "outputs collected for the end of the epoch": Scenario(nets.Outputs),
    "plain attributes": Scenario(nets.Attributes),
    "losses added up with their graph": Scenario(nets.AddsUpLosses),
    "gradients of the step before": Scenario(nets.ReadsGradients),
    "a list with one entry for each epoch": Scenario(nets.OneLevelAnEpoch),
    "module in the hyperparameters": Scenario(nets.KeepsHparams),
    "object of the user's in checkpoints": Scenario(nets.NotesInCheckpoints, options=checkpointing),
    "many of these at once": Scenario(
        validated.ManyAtOnce,
        lambda: DataLoader(sources.Noisy(), 32, shuffle=True),
        options=with_options(accumulate_grad_batches=2, gradient_clip_val=0.5, max_epochs=3),
    ),
    # ---- hooks, callbacks and loggers
    "module that asks its Trainer": Scenario(
        hooks.AsksItsTrainer, data, options=lambda root: {"logger": CSVLogger(root, name="csv"), "max_steps": 11}
    ),
    "hooks of the module": Scenario(hooks.Hooked),
    "module that logs by hand": Scenario(
        hooks.UsesLogger, options=lambda root: {"logger": CSVLogger(root, name="csv")}
    ),
    "callback that sees every hook": Scenario(
        validated.Validated,
        data,
        with_callback(watchers.Watcher),
        lambda root: {"logger": watchers.CallList(), "enable_checkpointing": True},
    ),
    "logger that sees every call": Scenario(validated.Validated, options=lambda root: {"logger": watchers.CallList()}),
    "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger": Scenario(
        validated.Validated,
        data,
        callbacks=lambda root: [
            EarlyStopping("val_loss", patience=5),
            ModelCheckpoint(root / "checkpoints", monitor="val_loss", save_top_k=2),
            LearningRateMonitor(),
        ],
        options=checkpointing,
    ),
    "BackboneFinetuning": Scenario(
        nets.Backbone, data, with_callback(lambda: BackboneFinetuning(1)), with_options(max_epochs=3)
    ),
    "StochasticWeightAveraging": Scenario(
        nets.BatchNorm, data, with_callback(lambda: StochasticWeightAveraging(0.02, 1)), with_options(max_epochs=4)
    ),
}


for name in ("WeightAveraging", "EMAWeightAveraging"):
    if hasattr(lightning_callbacks, name):  # not before lightning 2.6
        SCENARIOS[name] = Scenario(validated.Validated, data, with_callback(getattr(lightning_callbacks, name)))
