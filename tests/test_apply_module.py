"""Found learning rates and weight decays reach the groups and the module's attributes and hparams."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam

from pl_onecycle.apply import apply_max_lr, apply_weight_decay
from pl_onecycle.module_attributes import LR_NAMES, set_attributes
from pl_onecycle.scheduler import OneCycleScheduler
from tests.fits import SmallNet
from tests.schedules import sgd

OLD, FOUND = 0.02, 0.37


class Net(SmallNet):
    """`SmallNet` whose arguments are its hparams."""

    def __init__(self, lr: Any = OLD, learning_rate: Any = OLD) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.learning_rate = lr, learning_rate


def applied_to(module: torch.nn.Module) -> list[str]:
    return apply_max_lr(FOUND, sgd(OLD), [], module)


def test_learning_rates_that_the_module_uses_follow_and_others_do_not() -> None:
    net = Net()  # `SmallNet.configure_optimizers` reads `self.lr`
    assert applied_to(net) == ["1 parameter group", "hparams.lr", "module.lr"]
    assert (net.lr, net.learning_rate) == (FOUND, OLD)
    assert dict(net.hparams) == {"lr": FOUND, "learning_rate": OLD}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, FOUND), (1, FOUND / OLD), (0.25, 0.25 * FOUND / OLD), (np.float32(0.5), 0.5 * FOUND / OLD)],
    ids=["None", "integer", "ten times", "numpy"],
)
def test_a_number_is_scaled_as_the_peak_is(value: Any, expected: float) -> None:
    net = Net(lr=value)
    assert applied_to(net) == ["1 parameter group", "hparams.lr", "module.lr"]
    assert net.lr == net.hparams["lr"] == pytest.approx(expected, rel=1e-12)


def test_a_zero_is_not_what_the_optimizer_trains_with() -> None:
    net = Net(lr=0.0)
    assert applied_to(net) == ["1 parameter group"]
    assert net.lr == 0


@pytest.mark.parametrize("value", [True, "auto", [0.1], {"base": 0.1}], ids=["bool", "string", "list", "dict"])
def test_anything_else_of_that_name_is_left_alone(value: Any) -> None:
    net = Net(lr=value, learning_rate=value)
    assert applied_to(net) == ["1 parameter group"]
    assert (net.lr, net.learning_rate) == (value, value)
    assert dict(net.hparams) == {"lr": value, "learning_rate": value}


def test_a_read_only_property_is_left_alone() -> None:
    class Scaled(pl.LightningModule):
        base = OLD

        @property
        def lr(self) -> float:
            return 2 * self.base

    net = Scaled()
    [groups, refusal] = applied_to(net)
    assert groups == "1 parameter group"
    assert refusal.startswith("not in module.lr, which refuses to be written (AttributeError: ")
    assert net.lr == 2 * OLD


def test_a_property_with_a_setter_follows() -> None:
    class Scaled(pl.LightningModule):
        base = OLD

        @property
        def lr(self) -> float:
            return 2 * self.base

        @lr.setter
        def lr(self, value: float) -> None:
            self.base = value / 2

    net = Scaled()
    assert applied_to(net) == ["1 parameter group", "module.lr"]
    assert (net.lr, net.base) == (2 * FOUND, FOUND)  # it was twice the peak


def test_a_module_without_learning_rates_gets_none() -> None:
    net = torch.nn.Linear(1, 1)
    assert applied_to(net) == ["1 parameter group"]
    assert not hasattr(net, "lr")
    assert not hasattr(net, "learning_rate")


def test_attributes_can_be_set_alone_and_are_named() -> None:
    net = Net(learning_rate="auto")
    assert set_attributes(net, LR_NAMES, FOUND) == ["hparams.lr", "module.lr"]
    assert (net.lr, net.hparams["lr"]) == (FOUND, FOUND)
    assert (net.learning_rate, net.hparams["learning_rate"]) == ("auto", "auto")


def test_every_place_is_returned_in_order() -> None:
    optimizer = sgd(OLD, OLD)
    one_cycle = OneCycleScheduler(optimizer, None, 12)
    assert apply_max_lr(FOUND, optimizer, [one_cycle], SmallNet()) == [
        "2 parameter groups",
        "OneCycleScheduler",
        "module.lr",
    ]


# -------------------------------------------------------------------------------------------------------- weight decay
class Decayed(SmallNet):
    def __init__(self, weight_decay: Any = 1e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight_decay = weight_decay

    def configure_optimizers(self) -> Any:
        decays = (self.weight_decay, self.hparams["weight_decay"])
        weights = [torch.nn.Parameter(torch.ones(1)) for _ in decays]
        groups = [{"params": [it], "weight_decay": decay} for it, decay in zip(weights, decays, strict=True)]
        return torch.optim.SGD(groups, lr=self.lr)


@pytest.mark.parametrize("kind", [SGD, Adam, torch.optim.AdamW], ids=lambda kind: kind.__name__)
def test_weight_decay_goes_to_the_decayed_groups_and_to_the_module(kind: Any) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "weight_decay": decay} for decay in (1e-4, 1e-5, 0.0)]
    optimizer, net = kind(groups, lr=0.1), Decayed()
    assert apply_weight_decay(0.5, optimizer, net) == [
        "2 parameter groups",
        "hparams.weight_decay",
        "module.weight_decay",
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, pytest.approx(0.05), 0.0]
    assert (net.weight_decay, net.hparams["weight_decay"]) == (0.5, 0.5)
    assert net.lr == 0.01


@pytest.mark.parametrize("held", ["auto", True, [1e-4]], ids=repr)
def test_a_weight_decay_attribute_that_is_no_number_is_left_alone(held: Any) -> None:
    net = Decayed(held)
    assert apply_weight_decay(0.5, sgd(OLD), net) == ["1 parameter group"]
    assert net.weight_decay == net.hparams["weight_decay"] == held


class Short(SmallNet):
    wd: float | None = 1e-4

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=self.wd or 0.0)


@pytest.mark.parametrize("held", [1e-4, None, 0.0])
def test_a_decay_by_its_short_name_follows_too(held: float | None) -> None:
    net = Short()
    net.wd = held
    assert apply_weight_decay(0.5, net.configure_optimizers(), net) == ["1 parameter group", "module.wd"]
    assert net.configure_optimizers().param_groups[0]["weight_decay"] == net.wd == 0.5


class Doubled(Decayed):
    """Its attribute is a base, of which a group decays by twice as much."""

    def configure_optimizers(self) -> Any:
        first, last = self.net[0].parameters(), self.net[2].parameters()
        groups = [{"params": first}, {"params": last, "weight_decay": 2 * self.weight_decay}]
        return SGD(groups, lr=self.lr, weight_decay=self.hparams["weight_decay"])


def test_a_decay_that_is_a_base_is_scaled_as_the_largest_is() -> None:
    net = Doubled()
    optimizer = net.configure_optimizers()
    assert apply_weight_decay(0.5, optimizer, net) == [
        "2 parameter groups",
        "hparams.weight_decay",
        "module.weight_decay",
    ]
    assert (net.weight_decay, net.hparams["weight_decay"]) == (0.25, 0.25)
    for groups in (optimizer.param_groups, net.configure_optimizers().param_groups):
        assert [group["weight_decay"] for group in groups] == [0.25, 0.5]


def test_a_decay_that_the_module_does_not_use_is_not_claimed() -> None:
    class Unused(SmallNet):
        weight_decay = 1e-4

    net = Unused()
    assert apply_weight_decay(0.5, sgd(OLD), net) == ["1 parameter group"]
    assert net.weight_decay == 1e-4


def test_without_a_module_weight_decay_goes_to_the_groups_alone() -> None:
    optimizer = sgd(OLD, OLD)
    assert apply_weight_decay(0.5, optimizer) == ["2 parameter groups"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("value", "error"),
    [(-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("0", TypeError), (True, TypeError)],
    ids=repr,
)
def test_a_bad_weight_decay_is_refused_before_anything_changes(value: Any, error: type[Exception]) -> None:
    optimizer, net = sgd(OLD), Decayed()
    with pytest.raises(error, match=r"^Expected argument `weight_decay` to be a finite number >= 0 but got "):
        apply_weight_decay(value, optimizer, net)
    assert (optimizer.param_groups[0]["weight_decay"], net.weight_decay) == (0, 1e-4)
