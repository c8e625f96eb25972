"""`tune`: one call before any training, and what is to be had from its result."""

import copy
import csv
import itertools
import json
import math
import pickle
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from pl_onecycle import (
    LRRangeTest,
    OneCycleSettings,
    OneCycleTrainer,
    OneCycleTuner,
    TuneResult,
    WeightDecayProbe,
    configure_one_cycle,
)
from tests.fits import QUIET, LRs, SmallNet, data, trainer
from tests.scenarios import plain

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty"),
]


@pytest.fixture(autouse=True)
def _data_loaders_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning leaves ``DataLoader`` patched where a module has no data, by which later tests would fail."""
    for kind, name in itertools.product((DataLoader, BatchSampler), ("__init__", "__setattr__", "__delattr__")):
        monkeypatch.setattr(kind, name, getattr(kind, name))


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


class WeightDecays(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.seen.append([float(group["weight_decay"]) for group in optimizer.param_groups])


def a_test(**arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, 10.0, 25, **arguments)


def a_probe(**arguments: Any) -> WeightDecayProbe:
    return WeightDecayProbe((1e-1, 1e-3, 0.0), 10, val_batches=1, **arguments)


SHORT: dict[str, Any] = {"lr_range_test": a_test(), "weight_decay_probe": a_probe()}


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time; the tests that look at one ask for it."""

    def draw(*_: Any) -> None:
        raise ModuleNotFoundError

    if "picture" not in request.node.name:
        monkeypatch.setattr("pl_onecycle.tuner.draw_tuning", draw)


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


# ------------------------------------------------------------------------------------------- what is found


def test_tuning_in_one_call_trains_nothing_and_applying_its_result_does_not_either() -> None:
    model, datamodule = Cycled(), Rows()
    before = plain(model.state_dict())
    ours = OneCycleTrainer(**QUIET)
    result = ours.tune(model, datamodule=datamodule, **SHORT)
    assert result.max_lr is not None
    assert result.weight_decay in (1e-1, 1e-3, 0.0)
    result.apply(model, datamodule)
    assert plain(model.state_dict()) == before
    assert ours.global_step == ours.current_epoch == 0


def found_in_a_fit(model: pl.LightningModule) -> tuple[float, float, dict[str, Any]]:
    """What the callbacks find in a fit, and what the fit then comes to."""
    test, probe, lrs = a_test(report=False), a_probe(report=False), LRs()
    pl.seed_everything(3, verbose=False)
    trainer([probe, test, lrs]).fit(model, datamodule=Rows())
    assert test.suggestion is not None
    assert probe.suggestion is not None
    outcome = {"weights": plain(model.state_dict()), "lr": lrs.lr, "momentum": lrs.momentum}
    return test.suggestion.lr, probe.suggestion.value, outcome


def test_tune_and_apply_give_what_the_callbacks_find_in_a_fit_and_the_same_fit() -> None:
    pl.seed_everything(2, verbose=False)
    model = Cycled()
    twin = copy.deepcopy(model)
    max_lr, weight_decay, expected = found_in_a_fit(twin)

    pl.seed_everything(3, verbose=False)
    result = tune(model, datamodule=Rows())
    assert (result.max_lr, result.weight_decay) == (max_lr, weight_decay)
    result.apply(model)
    lrs = LRs()
    trainer([lrs]).fit(model, datamodule=Rows())
    found = {"weights": plain(model.state_dict()), "lr": lrs.lr, "momentum": lrs.momentum}
    assert found == expected


@pytest.mark.parametrize("schedule", ["configure_one_cycle", "OneCycleLR", "none"])
def test_after_apply_the_run_has_the_found_lr_as_its_peak_and_the_found_weight_decay(schedule: str) -> None:
    class Net(Cycled):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-2)
            if schedule == "configure_one_cycle":
                return configure_one_cycle(self, optimizer)
            if schedule == "none":
                return optimizer
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=16, pct_start=0.25)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    model = Net()
    result = tune(model)
    assert result.max_lr is not None
    assert result.max_lr != model.lr
    assert dict(result.before) == {"max_lr": 0.01, "weight_decay": 1e-2}
    result.apply(model)
    lrs, decays = LRs(), WeightDecays()
    trainer([lrs, decays]).fit(model, data())
    assert max(lr for (lr,) in lrs.lr) == pytest.approx(result.max_lr, rel=1e-12)
    assert decays.seen == [[result.weight_decay]] * 16


def test_groups_keep_their_ratios_and_those_without_weight_decay_stay_without() -> None:
    class Net(Cycled):
        def configure_optimizers(self) -> Any:
            slow = {"params": self.net[0].parameters(), "lr": 0.001, "weight_decay": 0.0}
            fast = {"params": self.net[-1].parameters(), "lr": 0.01, "weight_decay": 1e-3}
            return configure_one_cycle(self, torch.optim.SGD([slow, fast], momentum=0.9))

    model = Net()
    TuneResult(0.5, 0.1, None, Net.__qualname__).apply(model)
    lrs, decays = LRs(), WeightDecays()
    trainer([lrs, decays]).fit(model, data())
    assert [max(lr) for lr in zip(*lrs.lr, strict=True)] == pytest.approx([0.05, 0.5], rel=1e-12)
    assert decays.seen == [[0.0, 0.1]] * 16


def test_again_runs_the_range_test_a_second_time_with_the_weight_decay_that_was_chosen(tmp_path: Path) -> None:
    model = Cycled()
    probe = WeightDecayProbe((1e-2,), 10, val_batches=0)  # in ten steps as good as the module's, and larger
    once = tune(model, weight_decay_probe=probe, on=trainer(root=tmp_path))
    twice = tune(model, weight_decay_probe=probe, again=True, on=trainer(root=tmp_path))
    assert once.weight_decay == twice.weight_decay == 1e-2
    folder = Path(str(twice.directory))
    assert (folder / "lr_range_test.csv").read_text() != (folder / "lr_range_test_again.csv").read_text()
    told = json.loads((folder / "result.json").read_text())
    assert told["lr_range_test_again"]["suggestion"]["lr"] == twice.max_lr
    assert told["lr_range_test"]["suggestion"]["lr"] == once.max_lr


def test_again_does_not_run_it_where_the_weight_decay_stays(tmp_path: Path) -> None:
    probe = WeightDecayProbe((1e-3,), 10, val_batches=0)
    result = tune(weight_decay_probe=probe, again=True, on=trainer(root=tmp_path))
    assert result.weight_decay == result.before["weight_decay"] == 1e-3
    assert not (Path(str(result.directory)) / "lr_range_test_again.csv").exists()


@pytest.mark.parametrize("left_out", ["lr_range_test", "weight_decay_probe"])
def test_what_is_left_out_is_none_and_is_not_applied(left_out: str) -> None:
    model = Cycled()
    without: dict[str, Any] = {left_out: False}
    result = tune(model, **without)
    name = {"lr_range_test": "max_lr", "weight_decay_probe": "weight_decay"}[left_out]
    assert getattr(result, name) is None
    assert list(result.reasons) == [it for it in ("max_lr", "weight_decay") if it != name]
    assert name not in result.config()["one_cycle"]


def test_what_finds_nothing_says_why_and_the_rest_is_still_found() -> None:
    model = Cycled()
    result = tune(model, lr_range_test=LRRangeTest(1e-9, 1e-8, 25))  # far too small for anything to be learned
    assert result.max_lr is None
    assert result.weight_decay is not None
    assert result.reasons["max_lr"]
    result.apply(model)
    assert model.lr == 0.01
    lrs = LRs()
    trainer([lrs]).fit(model, data())
    assert max(lrs.lr) == [0.01]


# ------------------------------------------------------------------------------------ which finders are run


def test_the_users_own_settings_in_the_trainer_are_taken_and_his_callbacks_are_left_alone() -> None:
    own, probe = LRRangeTest(1e-4, 5.0, 30, apply=False), WeightDecayProbe((0.5, 0.0), 12, val_batches=0)
    users = trainer([own, probe])
    callbacks = list(users.callbacks)  # type: ignore[attr-defined]
    states = own.state_dict(), probe.state_dict()
    result = OneCycleTuner(users).tune(Cycled(), data(), lr_range_test=True, weight_decay_probe=True)
    assert (own.state_dict(), probe.state_dict()) == states
    assert [id(it) for it in users.callbacks] == [id(it) for it in callbacks]  # type: ignore[attr-defined]
    assert result.weight_decay in (0.5, 0.0, 1e-3)  # the last is the module's own
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 30
    assert facts["weight_decay_probe"]["settings"]["num_steps"] == 12
    assert not own.apply


def test_an_asked_finder_comes_before_that_of_the_trainer_and_is_left_as_it_is() -> None:
    asked = LRRangeTest(1e-4, 5.0, 20, apply=False, milestones=(1,))
    result = tune(on=trainer([LRRangeTest(num_steps=30)]), lr_range_test=asked, weight_decay_probe=False)
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 20
    assert asked.curve is None
    assert (asked.apply, asked.report, asked.milestones) == (False, True, (1,))


# -------------------------------------------------------------------------------------------- batch size


class NoLargerThan(Cycled):
    """Runs out of memory above a batch size; remembers the sizes of batches."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        if len(batch[0]) > self.largest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen.append(len(batch[0]))
        return super().training_step(batch, batch_idx)


seen: list[int] = []


@pytest.mark.parametrize(("fits", "limit", "found"), [(100, 8192, 64), (10_000, 32, 32), (10_000, 100, 64)])
@pytest.mark.filterwarnings("ignore:.*max_trials.*")
def test_the_largest_batch_size_up_to_the_limit_is_found_and_put_back(fits: int, limit: int, found: int) -> None:
    seen.clear()
    model, datamodule = NoLargerThan(fits), Rows(2, samples=512)
    result = tune(model, datamodule=datamodule, batch_size=True, max_batch_size=limit)
    assert result.batch_size == found
    assert max(seen) <= limit
    assert result.before["batch_size"] == 2
    assert (datamodule.batch_size, datamodule.hparams["batch_size"]) == (2, 2)
    assert seen[-1] == found  # the others were found with batches of this size
    assert result.config()["data"] == {"batch_size": found}
    result.apply(model, datamodule)
    assert (datamodule.batch_size, datamodule.hparams["batch_size"]) == (found, found)


@pytest.mark.parametrize("kind", [SmallNet, Cycled], ids=["without validation", "with a validation_step"])
def test_the_batch_size_may_be_the_models(kind: Any) -> None:
    class Net(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 4

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

    model = Net()
    tuner = OneCycleTuner(trainer())
    result = tuner.tune(model, lr_range_test=False, weight_decay_probe=False, batch_size=True, max_batch_size=16)
    assert (result.batch_size, model.batch_size) == (16, 4)
    assert result.config() == {"one_cycle": {"tuned_for": Net.__qualname__}, "model": {"batch_size": 16}}
    result.apply(model)
    assert model.batch_size == 16


def test_a_batch_size_that_nobody_takes_is_told() -> None:
    with pytest.raises(ValueError, match="Expected argument `datamodule` to be one with a `batch_size`"):
        TuneResult(None, None, 64, Cycled.__qualname__).apply(Cycled())


# --------------------------------------------------------------------------------------- nothing is left


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


@pytest.mark.parametrize("again", [False, True], ids=["new Trainer", "Trainer that has fit"])
@pytest.mark.parametrize("batch_size", [False, True], ids=["", "with batch size"])
@pytest.mark.filterwarnings("ignore:.*max_trials.*")
def test_model_data_module_trainer_and_random_streams_are_as_before(again: bool, batch_size: bool) -> None:
    model, datamodule, its = Cycled(), Rows(), trainer()
    if again:
        its.fit(model, datamodule=datamodule)
    before = shape(model, its, datamodule)
    tune(model, on=its, datamodule=datamodule, batch_size=batch_size, max_batch_size=32)
    assert changed(before, shape(model, its, datamodule)) == []


class Stops(Exception):
    """On purpose."""


def stop() -> None:
    raise Stops


@pytest.mark.parametrize("where", ["setup", "configure_optimizers", "training_step", "validation_step"])
@pytest.mark.parametrize("act", [stop, lambda: signal.raise_signal(signal.SIGINT)], ids=["exception", "Ctrl-C"])
def test_an_exception_and_ctrl_c_leave_all_as_before(where: str, act: Callable[[], None]) -> None:
    model, datamodule, its = Cycled(), Rows(), trainer()
    users, calls = getattr(model, where), iter([False, True] if where == "training_step" else [True])

    def struck(*args: Any, **kwargs: Any) -> Any:
        if next(calls, False):
            act()
        return users(*args, **kwargs)

    setattr(model, where, struck)
    before = shape(model, its, datamodule)
    try:
        with pytest.raises((Stops, KeyboardInterrupt, SystemExit)):
            tune(model, on=its, datamodule=datamodule)
        assert changed(before, shape(model, its, datamodule)) == []
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    its.fit(model, datamodule=datamodule)
    assert its.global_step == 16


@pytest.mark.skipif(version("lightning") < "2.6", reason="older versions leave a checkpoint of their search behind")
@pytest.mark.parametrize("act", [stop, lambda: signal.raise_signal(signal.SIGINT)], ids=["exception", "Ctrl-C"])
@pytest.mark.filterwarnings("ignore:.*max_trials.*")
def test_a_search_for_the_batch_size_that_is_ended_leaves_all_as_before_and_no_file(
    act: Callable[[], None], tmp_path: Path
) -> None:
    class Net(Cycled):
        def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
            if len(batch[0]) == 8:
                act()
            return super().training_step(batch, batch_idx)

    model, datamodule, its = Net(), Rows(2), trainer(root=tmp_path)
    before = shape(model, its, datamodule)
    try:
        with pytest.raises((Stops, KeyboardInterrupt, SystemExit)):
            tune(model, on=its, datamodule=datamodule, batch_size=True, max_batch_size=16)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert changed(before, shape(model, its, datamodule)) == []
    assert datamodule.batch_size == 2
    assert list(tmp_path.glob("**/*.ckpt")) + list(tmp_path.glob("**/.*")) == []


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": nn.Linear(1, 1)}, "Expected argument `model` to be a LightningModule but got 'Linear'"),
        ({"batch_size": 1}, "Expected argument `batch_size`"),
        ({"again": "yes"}, "Expected argument `again`"),
        ({"max_batch_size": 2.0}, "Expected argument `max_batch_size`"),
        ({"lr_range_test": 100}, "Expected argument `lr_range_test` to be True, False or of type LRRangeTest"),
        ({"weight_decay_probe": a_test()}, "Expected argument `weight_decay_probe`"),
        ({"lr_range_test": None}, "Expected argument `lr_range_test`"),
    ],
    ids=lambda it: "" if isinstance(it, str) else next(iter(it)),
)
def test_wrong_types_are_told_before_anything_runs(arguments: dict[str, Any], said: str) -> None:
    its, right = trainer(), {"model": Cycled(), "train_dataloaders": data(), **SHORT}
    with pytest.raises(TypeError) as error:
        OneCycleTuner(its).tune(**(right | arguments))
    assert str(error.value).startswith(said)
    assert its.state.status == "initializing"


def test_a_trainer_is_asked_for() -> None:
    with pytest.raises(TypeError, match="Expected argument `trainer` to be a Trainer but got 'Cycled'"):
        OneCycleTuner(Cycled())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_batch_size": 1, "batch_size": True}, "Expected argument `max_batch_size`"),
        ({"lr_range_test": False, "weight_decay_probe": False}, "^There is nothing to tune: range test"),
    ],
    ids=["max_batch_size", "nothing to tune"],
)
def test_values_out_of_range_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tune(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"limit_train_batches": 0}, {"max_epochs": 0}, {"max_steps": 0}, {"fast_dev_run": True}, {}],
    ids=["limit_train_batches=0", "max_epochs=0", "max_steps=0", "fast_dev_run", "no train data"],
)
@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [(Cycled, False), (SmallNet, False), (SmallNet, True)],
    ids=["with a schedule", "without", "without, and with batch size"],
)
@pytest.mark.filterwarnings("ignore:.*is 0.*")
def test_where_there_is_nothing_to_train_with_one_error_says_so_and_all_is_as_before(
    kind: type[pl.LightningModule], batch_size: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    model, its, datamodule = kind(), trainer(root=tmp_path, **options), Rows()
    before = shape(model, its, datamodule)
    source: dict[str, Any] = {"datamodule": datamodule} if options else {}
    with pytest.raises(MisconfigurationException) as error:
        OneCycleTuner(its).tune(model, batch_size=batch_size, max_batch_size=4, **source, **SHORT)
    assert len(str(error.value).splitlines()) == 1
    assert changed(before, shape(model, its, datamodule)) == []
    assert list(tmp_path.glob("tune*")) == []


class Other(Cycled):
    """Another model."""


def test_values_for_another_model_are_refused() -> None:
    model = Other()
    said = "These values were tuned for Cycled, and this model is Other: tune it, or leave them out."
    with pytest.raises(ValueError, match=said):
        TuneResult(0.1, 1e-4, None, "Cycled").apply(model)
    assert model.lr == 0.01
    assert "configure_callbacks" not in vars(model)


# ---------------------------------------------------------------------------------- the applied model


def peak(model: pl.LightningModule) -> float:
    lrs = LRs()
    trainer([lrs], max_epochs=1).fit(model, data())
    return max(lr for (lr,) in lrs.lr)


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_model_travels_with_what_was_applied(travel: Callable[[Any], Any]) -> None:
    model = Cycled()
    TuneResult(0.3, 1e-4, None, "Cycled").apply(model)
    twin = travel(model)
    assert peak(twin) == pytest.approx(0.3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), Cycled.parameters(model), strict=True))
    twin_parameters = {id(parameter) for parameter in twin.parameters()}
    assert twin_parameters.isdisjoint(map(id, model.parameters()))


class Starts(Cycled):
    started: int | None = None

    def on_fit_start(self) -> None:
        self.started = id(self)


def test_the_users_own_on_fit_start_still_runs_and_that_of_a_copy_is_the_copys() -> None:
    model = Starts()
    TuneResult(0.3, None, None, "Starts").apply(model)
    twin = copy.deepcopy(model)
    assert [peak(twin), twin.started, model.started] == [pytest.approx(0.3), id(twin), None]
    assert [peak(model), model.started] == [pytest.approx(0.3), id(model)]


def test_settings_of_the_trainer_still_count_beside_what_was_applied() -> None:
    model = Cycled()
    TuneResult(0.3, None, None, "Cycled").apply(model)
    its = trainer([OneCycleSettings(preset="torch", div_factor=10.0)], max_epochs=1)
    its.fit(model, data())
    (config,) = its.lr_scheduler_configs
    policy = config.scheduler.policy  # type: ignore[union-attr]
    assert (policy.max_lr, policy.anneal_strategy, policy.div_factor) == (0.3, "cos", 10.0)


def test_applied_twice_the_last_counts() -> None:
    model = Cycled()
    TuneResult(0.3, 1e-1, None, "Cycled").apply(model)
    TuneResult(0.2, None, None, "Cycled").apply(model)
    lrs, decays = LRs(), WeightDecays()
    trainer([lrs, decays], max_epochs=1).fit(model, data())
    assert max(lrs.lr) == [0.2]
    assert decays.seen == [[1e-3]] * 8


def test_what_was_applied_holds_for_every_fit_of_the_model_and_for_no_other_model() -> None:
    model, same = Cycled(), Cycled()
    TuneResult(0.3, None, None, "Cycled").apply(model)
    assert [peak(model), peak(model), peak(same)] == pytest.approx([0.3, 0.3, 0.01])


def test_a_model_that_was_tuned_and_applied_can_be_tuned_again() -> None:
    model = Cycled()
    TuneResult(0.3, 1e-2, None, "Cycled").apply(model)
    result = tune(model)
    assert dict(result.before) == {"max_lr": 0.3, "weight_decay": 1e-2}


def test_the_checkpoint_of_an_applied_run_goes_on_with_its_values(tmp_path: Path) -> None:
    model = Cycled()
    TuneResult(0.3, 1e-2, None, "Cycled").apply(model)
    whole = LRs()
    trainer([whole, SavesAfterTheFirstEpoch(tmp_path / "first.ckpt")]).fit(model, data())
    lrs, decays = LRs(), WeightDecays()
    trainer([lrs, decays]).fit(Cycled(), data(), ckpt_path=tmp_path / "first.ckpt")
    assert decays.seen == [[1e-2]] * 8
    assert lrs.lr == whole.lr[8:]


class SavesAfterTheFirstEpoch(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


# ------------------------------------------------------------------------------------- what is shown


RESULT = TuneResult(
    0.125,
    1e-4,
    256,
    "Net",
    {"batch_size": 32, "max_lr": 0.01, "weight_decay": 0.0},
    {"batch_size": "as much as fits", "max_lr": "smith: the loss rose", "weight_decay": "the largest of three"},
    "runs/tune",
)


def test_a_result_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RESULT.max_lr = 0.1  # type: ignore[misc]


def test_a_printed_result_is_a_table_of_what_was_what_is_and_why() -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in str(RESULT).splitlines() if "│" in line]
    assert rows == [
        ["batch_size", "32", "256", "as much as fits"],
        ["max_lr", "0.01", "0.125", "smith: the loss rose"],
        ["weight_decay", "0", "0.0001", "the largest of three"],
    ]
    assert "Tuned Net" in str(RESULT)
    assert "runs/tune" in str(RESULT)


def test_a_large_batch_size_is_shown_as_the_number_that_it_is() -> None:
    result = TuneResult(None, None, 4096, "Net", {"batch_size": 2048}, {"batch_size": "up to 8192"})
    assert "2048" in str(result)
    assert "4096" in str(result)


def test_a_value_that_was_not_found_is_a_dash_and_says_why() -> None:
    result = TuneResult(None, None, None, "Net", {"max_lr": 0.1}, {"max_lr": "the loss never fell"})
    (row,) = [line for line in str(result).splitlines() if "max_lr" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["max_lr", "0.1", "-", "the loss never fell"]


@pytest.mark.parametrize(
    ("result", "config"),
    [
        (
            RESULT,
            {"one_cycle": {"max_lr": 0.125, "weight_decay": 1e-4, "tuned_for": "Net"}, "model": {"batch_size": 256}},
        ),
        (TuneResult(None, 0.0, None, "Net"), {"one_cycle": {"weight_decay": 0.0, "tuned_for": "Net"}}),
        (
            TuneResult(0.1, None, 8, "Net", on_data=True),
            {"one_cycle": {"max_lr": 0.1, "tuned_for": "Net"}, "data": {"batch_size": 8}},
        ),
    ],
    ids=["all", "weight decay 0", "batch size of the data"],
)
def test_the_config_has_what_was_found_and_nothing_else(result: TuneResult, config: dict[str, Any]) -> None:
    assert result.config() == config
    assert yaml.safe_load(yaml.safe_dump(result.config())) == config


def test_files_and_picture_tell_all_and_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    results = [tune(on=trainer(root=tmp_path), batch_size=False) for _ in range(2)]
    assert [Path(str(result.directory)).name for result in results] == ["tune", "tune_1"]
    for result in results:
        folder = tmp_path / Path(str(result.directory)).name
        assert sorted(path.name for path in folder.iterdir()) == [
            *("lr_range_test.csv", "result.json", "tune.png", "tuned.yaml", "weight_decay_probe.csv")
        ]
        assert (folder / "tune.png").read_bytes().startswith(b"\x89PNG")
        text = (folder / "tuned.yaml").read_text()
        assert text.startswith("# Values for Cycled,")
        assert yaml.safe_load(text) == result.config()
        told = json.loads((folder / "result.json").read_text())
        assert told["config"] == result.config()
        assert told["before"] == dict(result.before)
        assert told["reasons"] == dict(result.reasons)
        assert told["lr_range_test"]["suggestion"]["lr"] == result.max_lr
        assert told["weight_decay_probe"]["suggestion"]["value"] == result.weight_decay
        assert set(told["versions"]) == {"python", "torch", "lightning"}
        with (folder / "weight_decay_probe.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["series"] for row in rows} == {"wd=1e-01", "wd=1e-03", "wd=0"}
        assert all(math.isfinite(float(row["train_loss"])) for row in rows)
        assert sum(row["val_loss"] != "" for row in rows if row["series"] == "wd=0") == 10
    assert "Tuned Cycled" in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_costs_the_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"Tuning: the report could not be written"):
        result = tune(on=trainer(root=tmp_path / "file"))
    assert result.max_lr is not None
    assert result.directory is None


def test_loggers_get_nothing_of_tune_and_a_csv_logger_begins_with_the_fit(tmp_path: Path) -> None:
    its = trainer(logger=CSVLogger(tmp_path, name="csv"))
    tune(on=its)
    assert list(tmp_path.rglob("metrics.csv")) == []
    assert list(tmp_path.rglob("hparams.yaml")) == []
    assert [path.name for path in (tmp_path / "csv" / "version_0").iterdir()] == ["tune"]


def test_tensorboard_gets_the_curves_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tb")
    tune(on=trainer(logger=logger))
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {tag.rpartition("/")[0] for tag in tags} == {
        "tune/lr_range_test",
        *(f"tune/weight_decay_probe/wd={value}" for value in ("1e-01", "1e-03", "0")),
    }
    assert len(events.Scalars("tune/weight_decay_probe/wd=0/val_loss")) == 10


def test_a_strategy_that_fits_in_processes_of_its_own_is_refused() -> None:
    its = trainer(strategy="ddp_spawn", devices=2)
    with pytest.raises(
        MisconfigurationException, match=r"^Nothing can be tuned with a strategy that fits in processes"
    ):
        OneCycleTuner(its).tune(Cycled(), data())


def test_what_cannot_be_probed_is_told_before_the_range_test_costs_a_step() -> None:
    class Resilient(Cycled):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            type(self).steps += 1
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.Rprop(self.parameters())

    with pytest.raises(MisconfigurationException, match="an optimizer with weight decay"):
        tune(Resilient())
    assert Resilient.steps == 0
