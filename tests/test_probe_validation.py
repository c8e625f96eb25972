"""A probe validates each candidate on the same few batches, or judges by the training loss."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle.probe import Probe
from tests.fits import LRs, SmallNet, data
from tests.probes import Net, decay_probe, fit, found, line, replay


class Returning(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)


class ReturningDict(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": 1}


class Epochwise(Net):
    """Logs when all batches are through, as modules with torchmetrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.losses.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.losses).mean())
        self.losses.clear()


class Custom(Net):
    """Its own metric, and a loss of another value."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", torch.tensor(7.0))
        self.log("valid/nll", self.loss(batch))
        return torch.tensor(9.0)


@pytest.mark.parametrize(
    ("kind", "monitor"),
    [
        (Net, "val_loss"),
        (Returning, "val_loss"),
        (ReturningDict, "val_loss"),
        (Epochwise, "val_loss"),
        (Custom, "valid/nll"),
        (Returning, "not there"),
    ],
)
def test_validation_loss_is_the_mean_over_the_first_batches(kind: type[Net], monitor: str) -> None:
    module = kind()
    twin = Net()
    twin.load_state_dict(module.state_dict())
    probe = decay_probe(0.03, 0.0, val_batches=2, monitor=monitor)
    fit(probe, module)
    for decay, curve in probe.curves.items():
        _, expected = replay(twin, decay, 0.1, 10, 2)
        assert list(curve.val_loss) == pytest.approx(expected, rel=1e-5)
        assert list(curve.val_steps) == list(range(1, 11))


class Named(Net):
    """Logs its validation loss under a name of its own, next to other metrics, and returns another one."""

    def __init__(self, name: str, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/nll", loss, on_step=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val/acc", torch.tensor(0.5))
        self.log("val/extra_loss", torch.tensor(5.0))
        self.log(self.name, self.loss(batch))
        return torch.tensor(9.0)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.config is None:
            return optimizer
        plateau = self.config.get("mode")
        schedule = (
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=plateau, patience=99)
            if plateau
            else torch.optim.lr_scheduler.StepLR(optimizer, 99)
        )
        config = {"scheduler": schedule, "monitor": self.config["monitor"]}
        return {"optimizer": optimizer, "lr_scheduler": config}


def early(monitor: str, **arguments: Any) -> pl.Callback:
    return EarlyStopping(monitor, patience=99, **arguments)


@pytest.mark.parametrize(
    ("name", "callbacks", "config"),
    [
        *(
            (name, (), None)
            for name in ("val/loss", "valid_loss", "validation/loss", "Loss/Val", "eval_loss", "dev.loss")
        ),
        ("valid/nll", (early("valid/nll"),), None),
        ("ppl", (ModelCheckpoint(monitor="ppl"),), None),
        ("val/dice_loss", (early("val/acc"), early("val/dice_loss")), None),
        ("mse", (), {"monitor": "mse", "mode": "min"}),
        ("my_loss", (), {"monitor": "my_loss"}),
        ("val/ce", (early("val/acc", mode="max"), early("train/nll"), ModelCheckpoint(monitor="val/ce")), None),
        ("valid_loss", (early("val/extra_loss"),), None),
    ],
)
def test_the_validation_loss_is_recognized_by_its_name_or_by_what_the_run_minimizes(
    name: str, callbacks: Any, config: Any, tmp_path: Path
) -> None:
    module = Named(name, config)
    twin = Net()
    twin.load_state_dict(module.state_dict())
    probe = decay_probe(0.03, 0.0, val_batches=2)
    fit(probe, module, *callbacks, root=tmp_path, enable_checkpointing=True)
    for decay, curve in probe.curves.items():
        _, expected = replay(twin, decay, 0.1, 10, 2)
        assert list(curve.val_loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "callbacks", "config", "asked"),
    [
        ("val/nll", (), None, "val_loss"),
        ("val/nll", (early("val/nll", mode="max"),), None, "val_loss"),
        ("val/nll", (), {"monitor": "val/nll", "mode": "max"}, "val_loss"),
        ("val/nll", (early("train/nll"),), None, "val_loss"),
        ("val_acc", (early("val_acc"),), None, "val_loss"),  # the default mode
        ("val/f1", (early("val/f1"),), None, "val_loss"),
        ("Accuracy", (), {"monitor": "Accuracy", "mode": "min"}, "val_loss"),
        ("val/loss", (early("val/loss"),), None, "other"),  # asked for by name: no other takes its place
    ],
)
def test_what_is_no_loss_of_validation_is_not_taken_for_one(name: str, callbacks: Any, config: Any, asked: str) -> None:
    probe = decay_probe(val_batches=2, monitor=asked)
    fit(probe, Named(name, config), *callbacks)
    assert list(probe.curves[0.0].val_loss) == [9.0] * 10  # what the step returns


def test_val_loss_itself_comes_first() -> None:
    class Both(Named):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            self.log("val_loss", torch.tensor(7.0))
            return super().validation_step(batch, batch_idx)

    probe = decay_probe(val_batches=2)
    fit(probe, Both("val/loss"), early("val/loss"))
    assert list(probe.curves[0.0].val_loss) == [7.0] * 10


def test_a_recognized_loss_is_the_mean_over_its_loaders() -> None:
    class Two(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val/loss", torch.tensor([1.0, 4.0][dataloader_idx]))

    probe = decay_probe(val_batches=2)
    fit(probe, Two(), val=[data(96), data(96)])
    assert list(probe.curves[0.0].val_loss) == [2.5] * 10


@pytest.mark.parametrize("returned", [False, True])
def test_several_validation_loaders_count_alike(returned: bool) -> None:
    class Two(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            loss = torch.tensor([1.0, 4.0][dataloader_idx])
            if not returned:
                self.log("val_loss", loss)
            return loss

    probe = decay_probe(val_batches=2)
    fit(probe, Two(), val=[data(96), data(96)])
    assert list(probe.curves[0.0].val_loss) == [2.5] * 10


def test_a_loader_with_fewer_batches_is_used_up() -> None:
    seen: list[int] = []

    class Counted(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    fit(decay_probe(1e-4, val_batches=50), Counted(), val=data(64))
    assert seen == [0, 1] * 11  # ten checkups, and the epoch's own


def test_a_shuffled_validation_loader_gives_the_same_batches_each_time() -> None:
    seen: list[Tensor] = []

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch[0].clone())

    with pytest.warns(UserWarning, match="Your `val_dataloader`'s sampler has shuffling enabled"):
        fit(decay_probe(val_batches=1), Seen(), val=data(96, shuffle=True))
    assert len(seen) == 20 + 3
    assert all(torch.equal(batch, seen[0]) for batch in seen[:20])


def test_the_trainers_limit_on_validation_counts() -> None:
    seen: list[int] = []

    class Counted(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    fit(decay_probe(1e-4, val_batches=3), Counted(), limit_val_batches=2)
    assert seen == [0, 1] * 11


class Numbers(IterableDataset[Tensor]):
    """Goes on where it was, so that it cannot be started over."""

    def __init__(self) -> None:
        self.rows = iter(torch.arange(512.0))

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.rows


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("once", [False, True], ids=["data set", "stream"])
def test_the_runs_own_validation_sees_what_it_sees_without_a_probe(sanity: int, once: bool) -> None:
    seen: list[float] = []

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(float(batch[0] if once else batch[0][0, 0]))
            self.log("val_loss", torch.tensor(1.0))

    runs = []
    for callback in (decay_probe(val_batches=2), pl.Callback()):
        seen.clear()
        loader: Any = DataLoader(Numbers(), 4) if once else data(96, batch_size=16)
        fit(callback, Seen(), val=loader, num_sanity_val_steps=sanity, limit_val_batches=3, max_epochs=2)
        assert len(seen) == (2 * 10 * 2 if isinstance(callback, Probe) else 0) + sanity + 2 * 3
        runs.append((seen[:sanity], seen[-6:]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("accumulate", [2, 3])
def test_with_accumulated_batches_a_checkup_follows_a_step(accumulate: int) -> None:
    probe = decay_probe(1e-4, 0.0)
    fit(probe, accumulate_grad_batches=accumulate)
    for curve in probe.curves.values():
        assert list(curve.val_steps) == list(range(1, 11))
        assert len(curve) == 10


def test_validation_in_a_probe_is_in_evaluation_mode_and_without_gradients() -> None:
    modes: set[tuple[bool, bool]] = set()

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            modes.add((self.training, torch.is_grad_enabled()))
            return super().validation_step(batch, batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.training
            return super().training_step(batch, batch_idx)

    fit(decay_probe(), Seen())
    assert modes == {(False, False)}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("arguments", [{"val": None}, {"limit_val_batches": 0}], ids=["no loader", "limit of zero"])
def test_without_validation_the_training_loss_decides_and_that_is_said(
    arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, Net(), **arguments)
    assert found(probe).judged_by == "training loss"
    assert all(list(curve.val_loss) == [] for curve in probe.curves.values())
    assert line(caplog).endswith(", judged by training loss, as there is no validation loss")


def test_a_module_without_validation_step_is_probed_by_training_loss(caplog: pytest.LogCaptureFixture) -> None:
    class NoStep(SmallNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, NoStep(), val=None)
    assert found(probe).judged_by == "training loss"
    assert line(caplog).endswith(", judged by training loss, as there is no validation loss")


def test_validation_that_is_not_asked_for_is_left_out_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(val_batches=0)
    with caplog.at_level("INFO"):
        fit(probe)
    assert found(probe).judged_by == "training loss"
    assert all(list(curve.val_loss) == [] for curve in probe.curves.values())
    assert "judged by training loss" in line(caplog)


def test_validation_that_ties_is_not_called_missing(caplog: pytest.LogCaptureFixture) -> None:
    """Where validation cannot tell candidates apart and training can, the line must not deny that there was any."""

    class Blind(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", torch.tensor(1.0))

    probe = decay_probe(3.0, 0.0, num_steps=20)
    with caplog.at_level("INFO"):
        fit(probe, Blind())
    assert (found(probe).value, found(probe).judged_by) == (0.0, "training loss")
    assert "validation loss lowest with" in line(caplog)
    assert "judged by training loss" not in line(caplog)


def test_a_validation_loss_that_is_nan_does_not_end_the_fit() -> None:
    class Blind(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", torch.tensor(math.nan))

    probe, lrs = decay_probe(), LRs()
    fit(probe, Blind(), lrs)
    assert len(lrs.lr) == 8
