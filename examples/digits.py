"""Handwritten digits, twice for the same few epochs: the lr a beginner would type, and the disciplined way.

Trains a small convolutional net on scikit-learn's 1,797 embedded images of digits from one seed, first with plain SGD
at a constant lr of 0.01, then with `LRRangeTest` and `configure_one_cycle`, and prints both test accuracies. The second
run uses momentum, because cycling it is part of the method; ``--momentum 0.9`` adds it to the first run. The seconds
include the range test.

    python examples/digits.py --epochs 4 --out demo_runs
"""

import argparse
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from pl_onecycle import LRRangeTest, configure_one_cycle

BEGINNERS_LR = 0.01


class Digits(pl.LightningDataModule):
    """1,797 grey images of 8 x 8 pixels in ten classes: 1,437 for training, 360 for testing."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        split = train_test_split(images / 16, labels, test_size=360, stratify=labels, random_state=0)
        train_x, test_x = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in split[:2])
        train_y, test_y = (torch.tensor(part) for part in split[2:])
        self.train, self.test = TensorDataset(train_x, train_y), TensorDataset(test_x, test_y)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test, 360)


class ConvNet(pl.LightningModule):
    """Two convolutions with BatchNorm and a linear layer, trained with SGD.

    Args:
        lr: Learning rate; in a one-cycle run, its peak.
        momentum: Momentum of SGD; a one-cycle run cycles it if it is not 0.
        one_cycle: False keeps the lr constant.
    """

    def __init__(self, lr: float = BEGINNERS_LR, momentum: float = 0.9, one_cycle: bool = True) -> None:
        super().__init__()
        self.lr, self.momentum, self.one_cycle = lr, momentum, one_cycle
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 2 * 2, 10)),
        )
        self.accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("test_accuracy", self.accuracy)

    def configure_optimizers(self):  # type: ignore[no-untyped-def]  # either of Lightning's forms
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)
        return configure_one_cycle(self, optimizer) if self.one_cycle else optimizer


@dataclass(frozen=True)
class Run:
    """Result of one training run."""

    name: str
    lr: float
    accuracy: float
    seconds: float


def train(name: str, model: ConvNet, callbacks: list[pl.Callback], epochs: int, out: Path, seed: int) -> Run:
    """Train ``model`` and test it."""
    data = Digits()
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        logger=CSVLogger(out, name=name.replace(" ", "_")),
        accelerator="cpu",
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    pl.seed_everything(seed, verbose=False)
    start = time.perf_counter()
    trainer.fit(model, data)
    seconds = time.perf_counter() - start
    result = trainer.test(model, data, verbose=False)[0]
    return Run(name, model.lr, result["test_accuracy"], seconds)


def main(epochs: int, out: Path, seed: int, momentum: float) -> list[Run]:
    """Train both ways and print the table."""
    # The data are small: loader workers would cost more than they save, and a test set of 360 is one batch.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    pl.seed_everything(seed, verbose=False)
    plain = ConvNet(momentum=momentum, one_cycle=False)
    pl.seed_everything(seed, verbose=False)
    disciplined = ConvNet()
    runs = [
        train("constant lr", plain, [], epochs, out, seed),
        train("range test and one cycle", disciplined, [LRRangeTest()], epochs, out, seed),
    ]
    print(f"\nDigits, {epochs} epochs, SGD, seed {seed}")
    print(f"{'':26}{'lr':>8}{'test accuracy':>16}{'seconds':>10}")
    for run in runs:
        print(f"{run.name:26}{run.lr:>8.3g}{run.accuracy:>16.1%}{run.seconds:>10.1f}")
    pictures = sorted(out.rglob("lr_range_test.png"), key=lambda path: path.stat().st_mtime)
    print(f"picture: {pictures[-1] if pictures else 'none, matplotlib is not installed'}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("demo_runs"), help="folder for logs and pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--momentum", type=float, default=0.0, help="momentum of the run at a constant lr")
    main(**vars(parser.parse_args()))
