"""The learning rates that a module holds are scaled as the peak is, where its code uses them and they can be set."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import LRRangeTest, OneCycleSettings, TuneResult, configure_one_cycle
from pl_onecycle.module_attributes import scale_attributes
from tests.fits import LRs, SmallNet, data, line, trainer


class Base(SmallNet):
    """Its optimizers have the lr of `rates`, by group."""

    def __init__(self) -> None:
        super().__init__()
        del self.lr

    def configure_optimizers(self) -> Any:
        first, last = self.net[0].parameters(), self.net[2].parameters()
        one, other = self.rates()
        groups = [{"params": first, "lr": one}, {"params": last, "lr": other}]
        return configure_one_cycle(self, torch.optim.SGD(groups, momentum=0.9))

    def rates(self) -> tuple[float, float]:
        raise NotImplementedError


class LinearScaling(Base):
    def __init__(self, lr: float = 0.4, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()

    def rates(self) -> tuple[float, float]:
        lr = self.hparams["lr"] * self.hparams["batch_size"] / 256
        return lr, lr


class Head(Base):
    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate

    def rates(self) -> tuple[float, float]:
        return self.learning_rate, 10 * self.learning_rate


class Nested(Base):
    def __init__(self, optim: Any = None, lr: float = 3.0) -> None:
        super().__init__()
        self.save_hyperparameters()

    def rates(self) -> tuple[float, float]:
        hparams: Any = self.hparams
        return hparams.optim["lr"], hparams.optim["lr"]


class TwoNames(Base):
    def __init__(self, max_lr: float = 0.02, backbone_lr: float = 0.005, min_lr: float = 1e-5) -> None:
        super().__init__()
        self.save_hyperparameters()

    def rates(self) -> tuple[float, float]:
        hparams: Any = self.hparams
        return self.hparams["backbone_lr"], hparams.get("max_lr") + 0 * self.hparams["min_lr"]


class ByName(Base):
    """Reads its config in a way that cannot be seen."""

    def __init__(self, settings: Any = None, lr: float = 3.0) -> None:
        super().__init__()
        self.save_hyperparameters()

    def rates(self) -> tuple[float, float]:
        rate = vars(self)["_hparams"]["settings"]["rate"]
        return rate, rate / 2


MODULES: dict[str, tuple[Callable[[], Base], str, list[str]]] = {
    "linear scaling": (LinearScaling, "", ["hparams.lr"]),
    "head at ten times": (Head, "", ["hparams.learning_rate", "module.learning_rate"]),
    "nested": (lambda: Nested(optim={"lr": 0.01}), "", ["hparams.optim.lr"]),
    "nested by name": (lambda: Nested(optim={"lr": 0.01}), "optim.lr", ["hparams.optim.lr"]),
    "other names": (TwoNames, "", ["hparams.backbone_lr", "hparams.max_lr"]),
    "named": (lambda: ByName(settings={"rate": 0.01}), "hparams.settings.rate", ["hparams.settings.rate"]),
}
by_module = pytest.mark.parametrize(("make", "name", "labels"), MODULES.values(), ids=MODULES)


def peak_of(module: pl.LightningModule, *callbacks: pl.Callback, **arguments: Any) -> float:
    lrs = LRs()
    trainer([*callbacks, lrs]).fit(module, data(), **arguments)
    return max(max(rates) for rates in lrs.lr)


# ----------------------------------------------------------------------------------------------- meaning
@by_module
def test_the_next_fit_peaks_at_the_found_lr_without_a_test(
    make: Callable[[], Base], name: str, labels: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, test, lrs = make(), LRRangeTest(attr_name=name, report=False), LRs()
    fit = trainer([test, lrs])
    with caplog.at_level(logging.INFO):
        fit.fit(module, data())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    assert test.value is not None
    assert all(label in line(caplog) for label in labels)
    assert module.hparams.get("lr") in (None, 3.0) or "hparams.lr" in labels  # one that is not used stays
    assert max(max(rates) for rates in lrs.lr) == pytest.approx(test.value, rel=1e-9)
    again = type(module).load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    for next_module in (again, module):
        assert peak_of(next_module) == pytest.approx(test.value, rel=1e-9)


@by_module
def test_a_value_that_is_applied_again_and_again_is_scaled_once(
    make: Callable[[], Base], name: str, labels: list[str]
) -> None:
    module = make()
    for _ in range(3):
        assert peak_of(module, OneCycleSettings(max_lr=0.5)) == pytest.approx(0.5, rel=1e-9)
    if not name:
        assert peak_of(module) == pytest.approx(0.5, rel=1e-9)
    tuned = make()
    TuneResult(0.5, None, None, type(tuned).__qualname__).apply(tuned)
    assert [peak_of(tuned) for _ in range(2)] == pytest.approx([0.5, 0.5], rel=1e-9)


def test_an_attribute_that_the_optimizer_does_not_follow_is_scaled_once() -> None:
    class Baked(SmallNet):
        def __init__(self, lr: float = 0.03) -> None:
            super().__init__(lr)
            self.save_hyperparameters()
            self.make = lambda weights: torch.optim.SGD(weights, lr=lr, momentum=0.9)

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, self.make(self.parameters()))

    module = Baked()
    for _ in range(3):
        assert peak_of(module, OneCycleSettings(max_lr=0.5)) == pytest.approx(0.5)
        assert module.hparams["lr"] == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:The one-cycle schedule was saved for 8 steps:UserWarning")
def test_a_second_fit_of_a_trainer_and_a_resumed_one_scale_once(tmp_path: Path) -> None:
    module, test, lrs = LinearScaling(), LRRangeTest(report=False), LRs()
    fit = trainer([test, lrs], max_epochs=1)
    fit.fit(module, data())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    found, value = test.value, module.hparams["lr"]
    assert found is not None
    assert value == pytest.approx(found * 16)
    for resumed in (LinearScaling(), module):
        trainer([LRRangeTest(report=False)]).fit(
            resumed, data(), ckpt_path=str(tmp_path / "a.ckpt"), weights_only=False
        )
        assert resumed.hparams["lr"] == value
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    assert module.hparams["lr"] == value


# ------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["optimizer_lr", "hparams.lr", "net.lr", "hparams.optim.rate", "net"])
def test_a_name_that_leads_nowhere_is_an_error_before_the_first_step(name: str) -> None:
    said = r"^Expected argument `attr_name` to be the name of a number in SmallNet or its hparams but got '"
    with pytest.raises(MisconfigurationException, match=said + name):
        trainer([LRRangeTest(attr_name=name)]).fit(SmallNet(), data())


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match=r"^Expected argument `attr_name` to be the name of an attribute but got 3"):
        LRRangeTest(attr_name=3)  # type: ignore[arg-type]


def test_a_name_without_hparams_leads_to_both() -> None:
    class Both(SmallNet):
        def __init__(self, optim: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.optim = SimpleNamespace(lr=0.2)

    net = Both({"lr": 0.1})
    assert scale_attributes(net, "optim.lr", 0.1, 0.5) == ["hparams.optim.lr", "module.optim.lr"]
    assert (net.hparams["optim"]["lr"], net.optim.lr) == (0.5, pytest.approx(1.0))


@pytest.mark.parametrize("lr", [0.01, None])
def test_what_no_code_of_the_module_reads_is_not_claimed(lr: Any) -> None:
    class Hard(SmallNet):
        def __init__(self, lr: Any, learning_rate: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.lr = lr

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    net = Hard(lr, lr)
    assert scale_attributes(net, "", 0.05, 0.5) == []
    assert (net.lr, net.hparams["lr"], net.hparams["learning_rate"]) == (lr, lr, lr)


def build(module: Any) -> Any:
    return torch.optim.SGD(module.parameters(), lr=module.learning_rate)


def test_what_the_module_hands_to_others_may_be_used() -> None:
    class Handed(SmallNet):
        learning_rate = 0.05

        def configure_optimizers(self) -> Any:
            return build(self)

    net = Handed()
    assert scale_attributes(net, "", 0.05, 0.5) == ["module.lr", "module.learning_rate"]
    assert net.learning_rate == 0.5


# ---------------------------------------------------------------------------------------------- refusals
@dataclass(frozen=True)
class Frozen:
    lr: float = 0.01


class ReadOnly(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return {"lr": 0.01}[name]

    def __iter__(self) -> Any:
        return iter(["lr"])

    def __len__(self) -> int:
        return 1


class Typed(dict[str, Any]):
    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(value, int):
            raise TypeError(f"{name} is an integer\nand no float")
        super().__setitem__(name, value)


class Rounds(dict[str, Any]):
    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, round(value))


class Raises:
    @property
    def lr(self) -> float:
        raise RuntimeError("there is no lr yet")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Frozen(), "refuses to be written (FrozenInstanceError: cannot assign to field 'lr')"),
        (ReadOnly(), "refuses to be written (TypeError: 'ReadOnly' object does not support item assignment)"),
        (Typed(lr=1), "refuses to be written (TypeError: lr is an integer)"),
        (Rounds(lr=1), "refuses to be written (it made "),
        (Raises(), "cannot be read (RuntimeError: there is no lr yet)"),
    ],
    ids=["frozen", "read-only", "typed", "rounds", "raises"],
)
def test_a_config_that_refuses_costs_a_sentence(config: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    class Configured(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.config = config

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9))

    test = LRRangeTest(attr_name="config.lr", report=False)
    with caplog.at_level(logging.INFO):
        peak = peak_of(Configured(), test)
    assert peak == test.value
    what, note, *_ = line(caplog).splitlines()
    assert what.endswith(" for SGD, 1 group, OneCycleScheduler")
    assert note.startswith(f"  not in module.config.lr, which {said}")


def test_a_property_that_follows_another_attribute_is_no_refusal() -> None:
    class Follows(SmallNet):
        def __init__(self) -> None:
            pl.LightningModule.__init__(self)
            self.base_lr = 0.01
            self.net = torch.nn.Sequential(torch.nn.Linear(8, 3))

        @property
        def lr(self) -> float:  # type: ignore[override]
            return 2 * self.base_lr

    net = Follows()
    assert scale_attributes(net, "", 0.02, 0.5) == ["module.base_lr"]
    assert net.lr == pytest.approx(0.5)


class Overrides(LinearScaling):
    """Replaces a method that reads `hparams.lr` by one that reads another."""

    def __init__(self, lr: float = 0.4, base_lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()

    def rates(self) -> tuple[float, float]:
        return self.hparams["base_lr"], self.hparams["base_lr"]


def test_what_only_a_replaced_method_reads_is_not_claimed() -> None:
    assert scale_attributes(Overrides(), "", 0.01, 0.5) == ["hparams.base_lr"]
