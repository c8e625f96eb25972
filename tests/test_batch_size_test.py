"""`BatchSizeTest` in a fit: what it finds, what the fit then trains with, and what it refuses."""

import functools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle import BatchSizeTest, LRRangeTest, OneCycleTuner, configure_one_cycle
from tests.fits import SENTENCE, LRs, SmallNet, data, line, same, trainer, weights_of
from tests.scenarios import sources
from tests.tuner.made import ALLOWED

pytestmark = ALLOWED
seen: list[int] = []  # sizes of batches, in the order in which they were trained with


class Net(SmallNet):
    """Runs out of memory above a batch size."""

    def __init__(self, fits: int = 40, batch_size: int | None = None) -> None:
        super().__init__()
        self.fits = fits
        self.net.insert(1, nn.Dropout(0.1))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        if len(batch[0]) > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen.append(len(batch[0]))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9))


class Rows(pl.LightningDataModule):
    """Has an attribute."""

    def __init__(self, batch_size: int = 4, **loader: Any) -> None:
        super().__init__()
        self.batch_size, self.loader, self.setups = batch_size, loader, 0

    @property
    def size(self) -> int:
        return self.batch_size

    def setup(self, stage: str) -> None:
        self.setups += 1

    def train_dataloader(self) -> Any:
        return data(256, self.size, shuffle=True, **self.loader)

    def val_dataloader(self) -> Any:
        return data(96, self.size)


class InHparams(Rows):
    """Has an hparam only, next to things that no file can hold."""

    def __init__(self, batch_size: int = 4, collate: Any = None, **loader: Any) -> None:
        super().__init__(0, **loader)
        del self.batch_size
        self.save_hyperparameters("batch_size")
        self.hparams["collate"] = collate  # `save_hyperparameters` would copy it

    @property
    def size(self) -> int:
        return int(self.hparams["batch_size"])


class PerDevice(InHparams):
    """As in the hydra template: the size of a device is computed in ``setup``."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.trainer is not None
        self.per_device = self.hparams["batch_size"] // self.trainer.world_size

    @property
    def size(self) -> int:
        return int(self.per_device)


class Validated(Net):
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


KINDS = [Rows, InHparams, PerDevice]


def fitted(datamodule: Any, *callbacks: Any, module: Any = None, **options: Any) -> dict[str, Any]:
    """What a fit of a seed comes to."""
    pl.seed_everything(3, verbose=False)
    seen.clear()
    module, lrs = module or Validated(), LRs()
    its = trainer([*callbacks, lrs], **({"max_epochs": 3} | options))
    its.fit(module, datamodule=datamodule)
    return {
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "lrs": lrs.lr,
        "steps": its.global_step,
        "batches": (its.num_training_batches, its.num_val_batches),
        "val_loss": float(its.callback_metrics.get("val_loss", 0)),
        "streams": torch.get_rng_state().tolist(),
    }


# -------------------------------------------------------------------------------------------------------- what it finds
WORKERS: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}


@pytest.mark.parametrize(
    ("kind", "workers", "sanity"),
    [
        *((kind, {}, 0) for kind in KINDS),
        (Rows, {}, 2),
        (PerDevice, {}, 2),
        (Rows, WORKERS, 0),
        (PerDevice, WORKERS, 2),
    ],
)
def test_the_fit_is_that_of_the_found_size_from_the_start(kind: Any, workers: Any, sanity: int) -> None:
    test = BatchSizeTest()
    found = fitted(kind(4, **workers), test, num_sanity_val_steps=sanity)
    assert seen[-24:] == [32] * 24
    assert test.value == 32
    expected = fitted(kind(32, **workers), num_sanity_val_steps=sanity)
    assert len(expected["lrs"]) == 24
    without = [] if not workers else ["weights", "val_loss", "streams"]  # workers draw the order when they start
    assert {key: it for key, it in found.items() if key not in without} == {
        key: it for key, it in expected.items() if key not in without
    }


@pytest.mark.parametrize(
    ("fits", "begins", "limit", "found", "tried"),
    [
        (40, 4, 8192, 32, {4: True, 8: True, 16: True, 32: True, 64: False}),
        (40, 50, 8192, 32, {32: True, 64: False}),
        (40, 256, 8192, 32, {32: True, 64: False, 128: False, 256: False}),
        (1000, 64, 8192, 256, {64: True, 128: True, 256: True, 512: False}),
        (1000, 1000, 8192, 256, {256: True, 512: False}),
        (1000, 4, 16, 16, {4: True, 8: True, 16: True}),
        (1000, 64, 16, 16, {16: True}),
        (1, 4, 8, 1, {1: True, 2: False, 4: False}),
    ],
)
def test_it_is_the_largest_power_of_two_that_fits_the_data_and_the_limit(
    fits: int, begins: int, limit: int, found: int, tried: dict[int, bool]
) -> None:
    test, datamodule = BatchSizeTest(limit), Rows(begins)
    fitted(datamodule, test, module=Net(fits), max_epochs=1)
    assert test.value == datamodule.batch_size == found
    assert {size: failure is None for size, failure in test.tries.items()} == tried
    assert set(seen[-256 // found :]) == {found}
    assert len(set(seen)) == sum(tried.values())


@pytest.mark.parametrize(
    ("exhaust", "said"),
    [
        (lambda: torch.empty(2**60, dtype=torch.uint8), "RuntimeError: [enforce fail"),
        (lambda: np.empty(2**60, dtype=np.uint8), "MemoryError: Unable to allocate"),
        (lambda: bytearray(2**62), "MemoryError"),
    ],
    ids=["torch", "numpy", "python"],
)
def test_memory_of_the_host_that_is_really_exhausted(exhaust: Callable[[], Any], said: str) -> None:
    class Greedy(Net):
        def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
            if len(batch[0]) > 40:
                exhaust()
            return super().training_step(batch, batch_idx)

    test = BatchSizeTest(report=False)
    fitted(Rows(16), test, module=Greedy(1000), max_epochs=1)
    assert test.value == 32
    assert str(test.tries[64]).startswith(said)


@pytest.mark.parametrize(
    ("error", "message"),
    [(ValueError, "out of range"), (RuntimeError, "shapes cannot be multiplied"), (KeyboardInterrupt, "")],
)
def test_another_error_ends_the_fit_and_the_size_is_restored(error: Any, message: str) -> None:
    class Wrong(Net):
        def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
            if len(batch[0]) > 10:
                raise error(message)
            return super().training_step(batch, batch_idx)

    datamodule, module = PerDevice(4), Wrong()
    before = weights_of(module)
    with pytest.raises((error, SystemExit)):
        fitted(datamodule, BatchSizeTest(), module=module)
    assert (datamodule.hparams["batch_size"], datamodule.per_device) == (4, 4)
    assert same(before, weights_of(module))


class FromQueue(Rows):
    """Takes its batches from what gives each once."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.queue = sources.Queue()

    def train_dataloader(self) -> Any:
        return DataLoader(self.queue, self.batch_size)


@pytest.mark.parametrize("size", [8, 32], ids=["another size", "the same size"])
def test_batches_that_are_lost_are_warned_of(size: int) -> None:
    test = BatchSizeTest(report=False)
    with pytest.warns(UserWarning, match="DataLoader cannot be started over, and a fit begins after the batches"):
        fitted(FromQueue(size), test, module=Net(), max_steps=3, max_epochs=1)
    assert test.value == 32


@pytest.mark.parametrize("fits", [0])
def test_where_nothing_fits_it_says_so_and_training_continues(fits: int, caplog: pytest.LogCaptureFixture) -> None:
    test, datamodule = BatchSizeTest(), Rows(4)
    with caplog.at_level("INFO"), pytest.raises(torch.cuda.OutOfMemoryError):
        fitted(datamodule, test, module=Net(fits))
    said = line(caplog, "Batch size test")
    what, why, how = said.splitlines()
    assert what == "Batch size test: no suggestion, batch_size stays 4"
    assert why.startswith("  not even a batch of 1 fits (OutOfMemoryError: CUDA out of memory.")
    assert how.startswith("  3 sizes tried, 3 steps each; see ")


@pytest.mark.parametrize(
    ("options", "found"),
    [({"limit_train_batches": 0.25}, 64), ({"limit_train_batches": 1}, 256), ({"overfit_batches": 2}, 256)],
    ids=["a quarter", "one batch", "overfit"],
)
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_a_limit_of_batches_leaves_at_least_one(options: dict[str, Any], found: int) -> None:
    test = BatchSizeTest()
    pl.seed_everything(0, verbose=False)
    trainer([test], **options).fit(Net(1000), datamodule=Rows(4))
    assert test.value == found


class Chunks(IterableDataset[Any]):
    """Makes whole batches of 300 rows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        rows = torch.randn(300, 8)
        for part in rows.split(self.size):
            yield part, part[:, :3].argmax(1)


@pytest.mark.parametrize(("fits", "found"), [(40, 32), (1000, 256)])
def test_whole_batches_of_a_stream_are_measured(fits: int, found: int) -> None:
    class Stream(Rows):
        def train_dataloader(self) -> Any:
            return DataLoader(Chunks(self.batch_size), batch_size=None)

    test = BatchSizeTest()
    trainer([test], max_steps=10).fit(Net(fits), datamodule=Stream(8))
    assert test.value == found


class OnlyFull(Rows):
    """A stream whose loader drops what is not a full batch, and does not say how long it is."""

    def train_dataloader(self) -> Any:
        return DataLoader(Chunks40(), self.batch_size, drop_last=True)


class Chunks40(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(data(40).dataset)


def test_a_size_without_a_batch_does_not_fit() -> None:
    test = BatchSizeTest(256, report=False)
    trainer([test], max_steps=3).fit(Net(1000), datamodule=OnlyFull())
    assert test.value == 32
    assert test.tries[64] == "there was no full batch to train with"


def test_it_runs_before_the_other_finders_whose_batches_have_the_size(tmp_path: Path) -> None:
    sizes: list[int] = []
    sweep = LRRangeTest(1e-4, 1.0, 20, report=False)
    users = sweep._search

    def search(run: Any) -> Any:
        sizes.append(len(seen))
        return users(run)

    sweep._search = search  # type: ignore[method-assign]
    test = BatchSizeTest()
    its = trainer([sweep, test], root=tmp_path, max_epochs=1)
    seen.clear()
    its.fit(Net(), datamodule=Rows(4))
    assert set(seen[sizes[0] :]) == {32}
    (file,) = tmp_path.rglob("batch_size_test/result.json")
    facts = json.loads(file.read_text())
    assert facts["suggestion"]["value"] == 32
    assert facts["changed"] == ["data.batch_size"]
    assert list(facts["tries"]) == ["4", "8", "16", "32", "64"]


def test_only_suggested_the_run_is_as_without(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = fitted(Rows(4), BatchSizeTest(apply=False))
    what = "Batch size test: suggests batch_size 32 (×8); not applied, batch_size stays 4"
    assert line(caplog, "Batch size test").splitlines()[0] == what
    assert found == fitted(Rows(4))


def test_weights_and_all_else_that_training_has_are_as_before() -> None:
    start, after = [], []

    class Remembers(LRs):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            after.append((weights_of(pl_module), [dict(it.state) for it in trainer.optimizers], trainer.global_step))

    module = Net()
    start.append(weights_of(module))
    trainer([BatchSizeTest(), Remembers()], max_epochs=1).fit(module, datamodule=Rows(4))
    weights, states, step = after[0]
    assert same(start[0], weights)
    assert (states, step) == ([{}], 0)


# ------------------------------------------------------------------------------------------------ a fit after it
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fit_continues_with_the_found_size(kind: Any, tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=12, save_top_k=-1)
    fitted(kind(4), BatchSizeTest(), saves, enable_checkpointing=True)
    path = str(next(tmp_path.glob("*step=12.ckpt")))
    seen.clear()
    test, lrs = BatchSizeTest(), LRs()
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=12, save_top_k=-1)
    its = trainer([test, saves, lrs], max_epochs=3, enable_checkpointing=True)
    its.fit(Net(), datamodule=kind(4), ckpt_path=path)
    assert seen == [32] * 12
    assert lrs.lr[-1] == [pytest.approx(1e-7)]
    assert test.value == 32


@pytest.mark.parametrize("is_new", [False, True], ids=["the same data", "new data"])
def test_another_fit_of_the_trainer_uses_the_size_again(is_new: bool) -> None:
    module, datamodule, test = Net(), Rows(4), BatchSizeTest()
    its = trainer([test], max_epochs=1)
    its.fit(module, datamodule=datamodule)
    its.fit_loop.max_epochs = 2
    seen.clear()
    its.fit(module, datamodule=Rows(4) if is_new else datamodule)
    assert seen == [32] * 8


# ----------------------------------------------------------------------------------------------- what it refuses
class Unused(Rows):
    """Has a number that its loader does not read."""

    @property
    def size(self) -> int:
        return 32


class Owns(Net):
    """Has a number and a loader of its own."""

    batch_size = 32

    def train_dataloader(self) -> Any:
        return data(256, 32)


@pytest.mark.parametrize("by", ["fit", "tune"])
@pytest.mark.parametrize("limit", [8192, 16])
@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        (Net, lambda: {"datamodule": Unused(32)}, "The `batch_size` of Net or Unused has no effect"),
        (Owns, dict, "The `batch_size` of Owns has no effect"),
        (Owns, lambda: {"train_dataloaders": data()}, "The `batch_size` of Owns has no effect"),
        (Net, lambda: {"train_dataloaders": data()}, "The batch size can only be found where Net or their"),
    ],
    ids=["data module", "module", "loader next to a number", "loader"],
)
def test_a_number_that_has_no_effect_is_one_clear_error(
    module: Any, source: Callable[[], Any], said: str, limit: int, by: str
) -> None:
    seen.clear()
    searches = {
        "fit": lambda: trainer([BatchSizeTest(limit)]).fit(module(), **source()),
        "tune": lambda: OneCycleTuner(trainer()).tune(module(), **source(), batch_size=True, max_batch_size=limit),
    }
    with pytest.raises(MisconfigurationException) as error:
        searches[by]()
    assert str(error.value).startswith(said)
    assert len(str(error.value).splitlines()) == 1
    assert seen == []


@pytest.mark.parametrize("number", [None, True, "64"])
def test_what_is_no_number_of_rows(number: Any) -> None:
    class Odd(Net):
        batch_size = number

    with pytest.raises(MisconfigurationException, match="can only be found where Odd or their `hparams` have a number"):
        trainer([BatchSizeTest()]).fit(Odd(), data())


@pytest.mark.parametrize("arguments", [{"max_batch_size": 1}, {"num_steps": 0}])
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=SENTENCE.format(next(iter(arguments)))):
        BatchSizeTest(**arguments)


# ------------------------------------------------------------------------------------------ what hparams may hold
class Keeps(Net):
    """Keeps what it is given in its hparams."""

    def __init__(self, thing: Any, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters("batch_size")
        self.hparams["thing"] = thing  # `save_hyperparameters` would copy it


THINGS: dict[str, Callable[[], Any]] = {
    "module": lambda: nn.Linear(1, 1),
    "partial": lambda: functools.partial(torch.optim.Adam, lr=1e-3),
    "lambda": lambda: lambda rows: rows,
    "open file": lambda: Path(__file__).open(),  # noqa: SIM115
    "lock": threading.Lock,
    "generator": lambda: (it for it in range(3)),
}


@pytest.mark.parametrize("in_data", [False, True], ids=["of the module", "of the data module"])
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.filterwarnings("ignore:Attribute 'thing' removed from hparams because it cannot be pickled")
def test_tune_with_anything_in_hparams_leaves_no_file_but_its_own(thing: str, in_data: bool, tmp_path: Path) -> None:
    kept = THINGS[thing]()
    module = Net() if in_data else Keeps(kept)
    datamodule = InHparams(4, collate=kept if in_data else None)
    its = trainer(root=tmp_path)
    before = weights_of(module)
    result = OneCycleTuner(its).tune(
        module, datamodule=datamodule, lr_range_test=False, weight_decay_probe=False, batch_size=True
    )
    assert result.batch_size == 32
    assert dict(result.before) == {"batch_size": 4}
    assert datamodule.hparams["batch_size"] == 4
    assert same(before, weights_of(module))
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in written if not path.startswith("tune/")} == set()
    result.apply(module, datamodule)
    seen.clear()
    its.fit(module, datamodule=datamodule)
    assert set(seen) == {32}
    if thing == "open file":
        kept.close()
