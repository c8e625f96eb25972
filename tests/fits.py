"""Small real fits that the tests share: a net, data and a Trainer, no mocks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import OneCycleScheduler, configure_one_cycle

# What every bad argument raises, with the argument's name.
SENTENCE = r"^Expected argument `{}` to be [^\n]+ but got [^\n]+$"


class SmallNet(pl.LightningModule):
    """A classifier of eight features in three classes; tests override its optimizer and parts of it."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Momentum(SmallNet):
    """SGD with momentum and the schedule that a function of the module and the optimizer returns."""

    def __init__(self, schedule: Any = None, groups: bool = False, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.schedule, self.groups = schedule, groups

    def configure_optimizers(self) -> Any:
        parameters: Any = self.parameters()
        if self.groups:
            first, last = self.net[0].parameters(), self.net[2].parameters()
            parameters = [{"params": first, "lr": self.lr / 10}, {"params": last, "lr": self.lr}]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(self, optimizer), "interval": "step"},
        }


class Fixed(SmallNet):
    """Has the same loss at every step, whatever its weights."""

    def __init__(self, value: float) -> None:
        super().__init__(lr=0.1)
        self.value = value

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        return self.value + 0 * self.loss(batch)


class TwoNets(SmallNet):
    """Two classifiers, each with an optimizer and schedulers of its own, trained by hand as the networks of a GAN."""

    def __init__(self, lr: float = 0.01, scheduled: bool = True) -> None:
        super().__init__(lr)
        self.automatic_optimization = False
        self.scheduled = scheduled
        self.nets = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for net, optimizer in zip(self.nets, optimizers, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss_of(net, batch, optimizer))
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        schedules: Any = self.lr_schedulers() or []
        for schedule in schedules:
            schedule.step()

    def loss_of(self, net: nn.Module, batch: Any, optimizer: Any) -> Any:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.nets[0].parameters(), lr=self.lr, momentum=0.9)
        weight, bias = self.nets[1].parameters()
        groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": self.lr}]
        second = torch.optim.SGD(groups, lr=2 * self.lr, momentum=0.9)
        if not self.scheduled:
            return [first, second]
        halves = schedulers.StepLR(first, 4, gamma=0.5)
        return [first, second], [halves, OneCycleScheduler(second, None, 16)]


class Backbone(SmallNet):
    """A head that is trained from the start on a backbone that `BackboneFinetuning` adds to the optimizer later."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.net = nn.Sequential(self.backbone, nn.ReLU(), self.head)

    def configure_optimizers(self) -> Any:
        head = [weight for weight in self.parameters() if weight.requires_grad]
        return configure_one_cycle(self, torch.optim.SGD(head, lr=0.1, momentum=0.9))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two such copies are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def data(samples: int = 256, batch_size: int = 32, **arguments: Any) -> DataLoader[tuple[Tensor, ...]]:
    """Eight features, the largest of the first three is the class; the same at every call."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(samples, 8, generator=generator)
    return DataLoader(TensorDataset(features, features[:, :3].argmax(1)), batch_size, **arguments)


# Of a Trainer on the CPU without loggers or checkpoints.
QUIET: dict[str, Any] = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


def trainer(callbacks: Sequence[pl.Callback] = (), root: Path | None = None, **arguments: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU without loggers or checkpoints, unless ``arguments`` ask for them."""
    return pl.Trainer(callbacks=list(callbacks), default_root_dir=root, **(QUIET | arguments))


class LRs(pl.Callback):
    """Records what each step of the real run is trained with: one list of lr, momentum and weight decay by group."""

    def __init__(self) -> None:
        self.lr: list[list[float]] = []
        self.momentum: list[list[float]] = []
        self.weight_decay: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        groups = optimizer.param_groups
        self.lr.append([float(group["lr"]) for group in groups])
        self.momentum.append([float(group["betas"][0] if "betas" in group else group["momentum"]) for group in groups])
        self.weight_decay.append([float(group["weight_decay"]) for group in groups])


class AllLRs(pl.Callback):
    """Records what each batch of the real run begins with: the lr of each group of each optimizer."""

    def __init__(self) -> None:
        self.lr: list[list[list[float]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.lr.append([[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers])


class SavesFirstEpoch(pl.Callback):
    """Saves a checkpoint at the end of the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def lines(caplog: pytest.LogCaptureFixture, title: str = "LR range test") -> list[str]:
    """What a finder logs about each of its searches, and about those that are skipped."""
    logged = [record.getMessage() for record in caplog.records]
    return [it for it in logged if it.startswith(title) and not it.startswith(f"{title}: at most ")]


def line(caplog: pytest.LogCaptureFixture, title: str = "LR range test") -> str:
    """The few lines in which a finder logs what it has found; without the seconds, which differ."""
    [logged] = lines(caplog, title)
    assert len(logged.splitlines()) in (1, 3, 4)
    return re.sub(r", [0-9.e-]+ (s|min|h)(?=;|$)", "", logged)
