"""What the tests of the probes fit: modules with a known best candidate, and short probes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from pl_onecycle import Choice, MomentumProbe, WeightDecayProbe, configure_one_cycle
from pl_onecycle.probe import Probe
from tests import fits
from tests.fits import SmallNet, data, trainer

PROBES = pytest.mark.parametrize("kind", [WeightDecayProbe, MomentumProbe])


class Net(SmallNet):
    """SGD with momentum and a weight decay, validated on what it is trained on."""

    def __init__(self, weight_decay: float = 0.0, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.weight_decay = weight_decay

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)


class OneCycle(Net):
    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers())


class Wanting(Net):
    """Its validation loss falls, by 0.1 a checkup, where the largest decay is 0.5 or the largest momentum 0.97."""

    checkup = 0  # these two are restored after each trial
    highest = 0.0

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        momenta = (group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups)
        self.highest = max(self.highest, *momenta)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self.checkup += 1
            decay = max(group["weight_decay"] for group in self.trainer.optimizers[0].param_groups)
            self.log("val_loss", torch.tensor(2 - 0.1 * self.checkup * (decay == 0.5 or self.highest == 0.97)))


class Staged(Net):
    """The validation loss is a function of the weight decay and of the number of checkups so far."""

    def __init__(self, val_loss_of: Callable[[float, int], float], weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.val_loss_of = val_loss_of
        self.checkup = 0  # restored after each trial

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self.checkup += 1
            decay = self.trainer.optimizers[0].param_groups[0]["weight_decay"]
            self.log("val_loss", torch.tensor(self.val_loss_of(decay, self.checkup)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)


class Costly(Net):
    """Training loses a share of its fall that is a function of the weight decay: 2 - 0.05 (1 - harm) a step."""

    def __init__(self, harm: Callable[[float], float], weight_decay: float = 0.0, kind: Any = torch.optim.SGD) -> None:
        super().__init__(weight_decay)
        self.harm, self.kind = harm, kind
        self.step = 0  # restored after each trial

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.step += 1
        decay = self.trainer.optimizers[0].param_groups[0]["weight_decay"]
        return 0 * super().training_step(batch, batch_idx) + 2 - 0.05 * (1 - self.harm(decay)) * self.step

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return None

    def configure_optimizers(self) -> Any:
        return self.kind(self.parameters(), self.lr, weight_decay=self.weight_decay)


def lowest_at(best: float) -> Callable[[float, int], float]:
    """Falls from 2 by 0.1 a checkup for the best one, by less the more decades another is away."""

    def val_loss_of(decay: float, checkup: int) -> float:
        distance = abs(math.log10(max(decay, 1e-9)) - math.log10(max(best, 1e-9)))
        return 2 - 0.1 * checkup / (1 + distance / 8)

    return val_loss_of


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, {}),
    "AdamW": (torch.optim.AdamW, {}),
}


def grouped(module: SmallNet, kind: Any, *decays: float, **arguments: Any) -> Any:
    """An optimizer with one group for each decay."""
    weights = list(module.parameters())
    parts = [weights[k :: len(decays)] for k in range(len(decays))]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, decays, strict=True)]
    return kind(groups, lr=0.01, **arguments)


def decay_probe(*weight_decays: float, num_steps: int = 10, **arguments: Any) -> WeightDecayProbe:
    return WeightDecayProbe(weight_decays or (1e-2, 0.0), num_steps, **{"report": False, **arguments})


def search_probe(num_steps: int = 10, **arguments: Any) -> WeightDecayProbe:
    return WeightDecayProbe(num_steps=num_steps, **{"report": False, **arguments})


def momentum_probe(*momentums: float, num_steps: int = 10, **arguments: Any) -> MomentumProbe:
    return MomentumProbe(momentums or (0.9, 0.95), num_steps, **{"report": False, **arguments})


def fit(probe: pl.Callback, module: pl.LightningModule | None = None, *others: pl.Callback, **arguments: Any) -> Any:
    """One epoch of 8 batches, validated on three batches of 32."""
    train, val = arguments.pop("train", None) or data(), arguments.pop("val", data(96))
    checkpoint = arguments.pop("ckpt_path", None)
    fitting = trainer([probe, *others], **{"max_epochs": 1, "num_sanity_val_steps": 0, **arguments})
    fitting.fit(module or Net(), train, val, ckpt_path=checkpoint)
    return fitting


def found(probe: Probe) -> Choice:
    assert probe.suggestion is not None
    return probe.suggestion


def line(caplog: pytest.LogCaptureFixture, title: str = "Weight decay probe") -> str:
    """The one line that the probe logs."""
    return fits.line(caplog, title)


def replay(module: Net, decay: float, highest: float, steps: int, val_batches: int) -> tuple[list[float], list[float]]:
    """Train a copy by hand: plain tensors, no torch optimizer, nothing of the package or of Lightning.

    v = m v + g + wd w and w = w - lr v, with lr_k = lo + (hi - lo) k / (N - 1) and m_k = 0.95 - 0.1 k / (N - 1).
    Returns the loss after each step, which is that of the next batch, and the validation loss at each tenth.
    """
    weights = [value.detach().clone().requires_grad_() for value in module.parameters()]
    velocity = [torch.zeros_like(weight) for weight in weights]

    def loss_of(batch: Sequence[Tensor]) -> Tensor:
        first, bias, second, other_bias = weights
        hidden = (batch[0] @ first.T + bias).clamp(min=0)
        return nn.functional.cross_entropy(hidden @ second.T + other_bias, batch[1])

    batches, val = list(data()), list(data(96))[:val_batches]
    losses, val_losses = [], []
    for k in range(steps + 1):
        loss = loss_of(batches[k % len(batches)])
        losses.append(loss.item())
        share = k / (steps - 1)
        lr, momentum = 1e-7 + (highest - 1e-7) * share, 0.95 - 0.1 * share
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, v, gradient in zip(weights, velocity, gradients, strict=True):
                v.mul_(momentum).add_(gradient + decay * weight)
                weight.sub_(lr * v)
        if (k + 1) in {round(steps * tenth / 10) for tenth in range(1, 11)} and val:
            val_losses.append(sum(loss_of(batch).item() for batch in val) / len(val))
    return losses[1:], val_losses
