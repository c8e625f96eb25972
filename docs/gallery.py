"""Make the pictures and log lines of the documentation: one small real fit on handwritten digits for each.

Each entry trains for an epoch from seed 0 and leaves the picture that the callback writes and what it logs, as
``NAME.png`` and ``NAME.txt``. ``demo`` is the fit of ``make demo``; its picture and lines stand in the README.

    python docs/gallery.py                     # all of them, into docs/gallery; under a minute
    python docs/gallery.py noisy --out FOLDER  # one, elsewhere
"""

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from digits import ConvNet, Digits
from digits_cli import ValidatedConvNet, ValidatedDigits

from pl_onecycle import LRRangeTest, WeightDecayProbe, configure_one_cycle

HERE = Path(__file__).parent
Fit = tuple[pl.LightningModule, pl.LightningDataModule, pl.Callback]


# ------------------------------------------------------------------------------------- nets and data
class AdamWNet(ConvNet):
    """The net of the demo with AdamW at its default learning rate."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.AdamW(self.parameters(), lr=self.lr))


class NoNorm(ConvNet):
    """A net without BatchNorm, which a large learning rate makes diverge at once."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


class NaNLoss(ConvNet):
    """A net whose loss takes the logarithm of zero."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + (0 * batch[0]).log().sum() * 0


class OtherParameters(ConvNet):
    """A net whose optimizer has been given parameters that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        nothing: Tensor = 0 * self.unused(batch[0].flatten(1)).sum()
        return super().training_step(batch, batch_idx) + nothing

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.SGD(self.unused.parameters(), lr=self.lr, momentum=0.9))


class OwnLR(ConvNet):
    """A net that writes its learning rate in each step, as a hand-made warm-up does."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.lr


class RandomLabels(Digits):
    """The digits in small batches, with labels that say nothing about the images."""

    def __init__(self) -> None:
        super().__init__(batch_size=4)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        images, labels = self.train.tensors
        self.train = TensorDataset(images, labels[torch.randperm(len(labels))])


# ---------------------------------------------------------------------------------------------- fits
ENTRIES: dict[str, Callable[[], Fit]] = {
    "demo": lambda: (ConvNet(), Digits(), LRRangeTest()),
    "adamw": lambda: (AdamWNet(), Digits(), LRRangeTest()),
    "diverged": lambda: (NoNorm(), Digits(), LRRangeTest()),
    "controlled": lambda: (ConvNet(), Digits(batch_size=8), LRRangeTest()),
    "noisy": lambda: (NoNorm(), Digits(batch_size=1), LRRangeTest()),
    "verified": lambda: (ValidatedConvNet(), ValidatedDigits(), LRRangeTest(verify=True)),
    "fixed": lambda: (ConvNet(), Digits(), LRRangeTest(1e-5, 1.0, num_steps=100)),
    "refused_noise": lambda: (NoNorm(), RandomLabels(), LRRangeTest()),
    "refused_flat": lambda: (OtherParameters(), Digits(), LRRangeTest()),
    "refused_nan": lambda: (NaNLoss(), Digits(), LRRangeTest()),
    "refused_own_lr": lambda: (OwnLR(), Digits(), LRRangeTest()),
    "decay_noise": lambda: (ValidatedConvNet(0.05), ValidatedDigits(), WeightDecayProbe()),
    "decay_clear": lambda: (ValidatedConvNet(0.05), ValidatedDigits(), WeightDecayProbe((1.0, 1e-1, 1e-2))),
}


@contextmanager
def lines_of_the_package() -> Iterator[list[str]]:
    """Collect what the package logs."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "pl_onecycle" in record.pathname:
                lines.append(record.getMessage())

    names = [name for name in logging.root.manager.loggerDict if "lightning" in name or "pl_onecycle" in name]
    loggers = [logger for logger in map(logging.getLogger, names) if logger.handlers or not logger.propagate]
    before = [(logger, logger.handlers[:]) for logger in loggers or [logging.getLogger()]]
    for logger, _ in before:
        logger.handlers = [Collect()]
    try:
        yield lines
    finally:
        for logger, handlers in before:
            logger.handlers = handlers


def make(name: str, out: Path) -> None:
    """Train one entry and leave its picture and its lines in a folder."""
    pl.seed_everything(0, verbose=False)
    net, data, callback = ENTRIES[name]()
    pl.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as root, lines_of_the_package() as lines:
        trainer = pl.Trainer(
            max_epochs=4 if name == "demo" else 1,
            callbacks=[callback],
            default_root_dir=root,
            accelerator="cpu",
            logger=pl.loggers.CSVLogger(root),
            log_every_n_steps=10,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(net, data)
        pictures = [path for path in Path(root).rglob("*.png")]
        shutil.copy(pictures[0], out / f"{name}.png")
        said = "\n".join(dict.fromkeys(lines)).replace(f"{root}/", "")
    (out / f"{name}.txt").write_text(f"{said}\n")
    print(f"{name}: {said}\n")


def main(names: list[str], out: Path) -> None:
    """Make the entries that are named, or all."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    out.mkdir(parents=True, exist_ok=True)
    for name in names or ENTRIES:
        make(name, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(ENTRIES)}")
    parser.add_argument("--out", type=Path, default=HERE / "gallery")
    arguments = parser.parse_args()
    main(arguments.names, arguments.out)
