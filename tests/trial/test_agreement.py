"""`Agreement`: which exceptions of a step the learning rate has caused."""

import math
import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from tests.trial.made import SWEEP, GivenLoss, curve_of, lr_of


class Jump:
    """Five small steps, then five that bring a weight beyond what a number can hold."""

    total_steps = 10

    def lr(self, step: float) -> float:
        return 1e-3 if step < 5 else 1e38

    def momentum(self, step: float) -> None:
        return None


def steep(weight: Tensor) -> Tensor:
    """10 w^4, whose slope at 1 times 1e38 is infinite."""
    return (10 * weight**4).sum()


class Guarded(pl.LightningModule):
    """A weight at 1 whose loss may raise, where it is not finite."""

    def __init__(self, guard: Callable[[Tensor], Tensor], by_hand: bool = False) -> None:
        super().__init__()
        self.guard, self.automatic_optimization = guard, not by_hand
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.guard(self.weight)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def binary_cross_entropy(weight: Tensor) -> Tensor:
    share = torch.sigmoid(weight - weight)  # a half, or NaN of an infinite weight, which raises
    return nn.functional.binary_cross_entropy(share, torch.tensor([0.5])) + steep(weight)


def own_check(weight: Tensor) -> Tensor:
    if not torch.isfinite(weight).all():
        raise FloatingPointError("the weights have exploded")
    return steep(weight)


GUARDS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], str]] = {
    "binary cross entropy": (binary_cross_entropy, {}, "RuntimeError: all elements of input should be between 0 and 1"),
    "own check": (own_check, {}, "FloatingPointError: the weights have exploded"),
    "anomaly detection": (
        lambda weight: steep(weight) * (1 + weight - weight).sum(),
        {"detect_anomaly": True},
        r"RuntimeError: Function '\w+' returned nan values",
    ),
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
@pytest.mark.parametrize(("guard", "options", "said"), GUARDS.values(), ids=GUARDS)
@pytest.mark.filterwarnings("ignore:.*Error detected in .*:UserWarning")
def test_an_exception_that_comes_of_values_that_are_not_finite_ends_the_sweep_as_diverged(
    guard: Callable[[Tensor], Tensor], options: dict[str, Any], said: str, by_hand: bool
) -> None:
    module = Guarded(guard, by_hand)
    with pytest.warns(UserWarning, match=f"^A trial has diverged and ended in {said}"):
        curve = curve_of(module, Jump(), early_stop_threshold=None, max_epochs=1, **options)
    assert curve.outcome == "diverged"
    assert curve.lr == (1e-3,) * 5 + (1e38,)
    # The loss falls, and the step with 1e38 has none.
    assert list(curve.loss[:5]) == sorted(curve.loss[:5], reverse=True)
    assert repr(curve.loss[5:]) == "(nan,)"
    # The fit has continued from where it was: eight steps of lr 0.01.
    weight = torch.tensor([1.0], requires_grad=True)
    for _ in range(8):
        [gradient] = torch.autograd.grad(guard(weight), [weight])
        weight = (weight - 0.01 * gradient).detach().requires_grad_()
    assert module.weight.item() == pytest.approx(weight.item(), rel=1e-6)
    assert module.trainer.global_step == 8


class Broken(Exception):
    """What goes wrong for another reason."""


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("fault", [Broken("disk full"), RuntimeError("shapes"), KeyboardInterrupt()], ids=repr)
def test_an_exception_of_another_cause_is_the_users(
    fault: BaseException, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning would leave Ctrl-C ignored

    class Fails(GivenLoss):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.calls == at:
                raise fault
            return super().training_step(batch, batch_idx)

    module = Fails(lambda call: 1.0)
    with pytest.raises((type(fault), SystemExit)):
        curve_of(module, SWEEP)
    assert lr_of(module.trainer.optimizers[0]) == 0.1


def test_an_exception_of_weights_that_were_not_finite_from_the_first_is_the_users() -> None:
    module = Guarded(own_check)
    module.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="have exploded"):
        curve_of(module, SWEEP)
