"""Handwritten digits from the command line: tune, then train with the found values.

The net and the images of ``digits.py``, with part of the training images held out for validation. ``tune`` finds the
peak learning rate and the weight decay, prints a table and writes them to ``tuned.yaml``; its last line names the
file. With it as the last config, ``fit`` trains with exactly these values: ``metrics.csv`` holds the learning
rate, momentum and weight decay of every step.

    python examples/digits_cli.py tune -c examples/configs/digits.yaml
    python examples/digits_cli.py fit -c examples/configs/digits.yaml -c digits_runs/.../tuned.yaml
    python examples/digits_cli.py test -c examples/configs/digits.yaml --ckpt_path digits_runs/.../epoch=3-step=152.ckpt
"""

import warnings
from typing import Any

import torch
from digits import BEGINNERS_LR, ConvNet, Digits
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import configure_one_cycle
from pl_onecycle.cli import OneCycleCLI


class ValidatedDigits(Digits):
    """The digits, with the last 237 of the 1,437 training images held out for validation.

    Args:
        batch_size: Images per training batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__(batch_size)

    def setup(self, stage: str) -> None:
        super().setup(stage)  # shuffles the images
        images, labels = self.train.tensors
        self.train, self.val = TensorDataset(images[:1200], labels[:1200]), TensorDataset(images[1200:], labels[1200:])

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, 237)


class ValidatedConvNet(ConvNet):
    """The net of ``digits.py`` with a weight decay and a validation loss.

    Args:
        lr: Peak learning rate, unless tuned.
        momentum: Momentum of SGD; cycled.
        weight_decay: Weight decay of SGD, unless tuned.
    """

    def __init__(self, lr: float = BEGINNERS_LR, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(lr, momentum)
        self.weight_decay = weight_decay

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        groups = self.parameters()
        sgd = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return configure_one_cycle(self, sgd)


class DigitsCLI(OneCycleCLI):
    """The CLI of this model and data; logs go to ``--trainer.default_root_dir``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")


if __name__ == "__main__":
    # The data are small: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    DigitsCLI(ValidatedConvNet, ValidatedDigits)
