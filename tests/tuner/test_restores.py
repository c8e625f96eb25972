"""`tune` leaves nothing behind, also where it fails."""

import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pl_onecycle import OneCycleTuner
from tests.fits import SmallNet, data, trainer
from tests.scenarios import sources
from tests.tuner.made import ALLOWED, SHORT, Cycled, Rows, a_test, changed, shape, tune

pytestmark = ALLOWED


@pytest.mark.parametrize("again", [False, True], ids=["new Trainer", "Trainer that has fit"])
@pytest.mark.parametrize("batch_size", [False, True], ids=["", "with batch size"])
def test_model_data_module_trainer_and_random_streams_are_as_before(again: bool, batch_size: bool) -> None:
    model, datamodule, its = Cycled(), Rows(), trainer()
    if again:
        its.fit(model, datamodule=datamodule)
    before = shape(model, its, datamodule)
    tune(model, on=its, datamodule=datamodule, batch_size=batch_size, max_batch_size=32)
    assert changed(before, shape(model, its, datamodule)) == []


@pytest.mark.parametrize(
    ("build", "lost"),
    [
        (lambda: DataLoader(sources.Queue(), 32), ["DataLoader"]),
        (lambda: sources.AheadOfTime(data()), ["AheadOfTime"]),
        (lambda: DataLoader(sources.Lines(), 32), []),
        (lambda: sources.Everlasting(data().dataset, 32), []),
    ],
    ids=["queue", "one batch ahead", "open file", "everlasting iterator"],
)
def test_a_loader_whose_batches_tune_has_used_up_is_named(build: Callable[[], Any], lost: list[str]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        tune(SmallNet(), build(), on=trainer(limit_train_batches=5), weight_decay_probe=False)
    said = [str(it.message) for it in seen if "a fit begins after the batches" in str(it.message)]
    assert [it.split(" cannot be started over")[0] for it in said] == lost


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


@pytest.mark.parametrize("act", [stop, lambda: signal.raise_signal(signal.SIGINT)], ids=["exception", "Ctrl-C"])
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
def test_wrong_types_raise_before_anything_runs(arguments: dict[str, Any], said: str) -> None:
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
def test_values_out_of_range_raise(arguments: dict[str, Any], said: str) -> None:
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


def test_a_strategy_that_fits_in_processes_of_its_own_is_refused() -> None:
    its = trainer(strategy="ddp_spawn", devices=2)
    with pytest.raises(
        MisconfigurationException, match=r"^Nothing can be tuned with a strategy that fits in processes"
    ):
        OneCycleTuner(its).tune(Cycled(), data())


def test_an_optimizer_that_cannot_be_probed_is_an_error_before_the_range_test_takes_a_step() -> None:
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
