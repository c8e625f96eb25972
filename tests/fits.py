"""Small real fits that the tests share: a net, data and a Trainer, no mocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


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
    """Records what each batch of the real run is trained with: one list of lr and of momentum for each group."""

    def __init__(self) -> None:
        self.lr: list[list[float]] = []
        self.momentum: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        groups = optimizer.param_groups
        self.lr.append([float(group["lr"]) for group in groups])
        self.momentum.append([float(group["betas"][0] if "betas" in group else group["momentum"]) for group in groups])
