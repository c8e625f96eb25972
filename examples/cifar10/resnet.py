"""The ResNet for CIFAR-10 of He et al., and how it is trained.

References:
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2.
"""

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from images import Batch, augment, normalize
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from pl_onecycle import configure_one_cycle

Schedule = Literal["one_cycle", "stepwise", "constant"]


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a shortcut without parameters (option A).

    Where the number of channels doubles, the shortcut takes every second pixel and adds channels of zeros.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, channels - channels_in
        self.body = nn.Sequential(
            *(nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu(self.body(x) + shortcut)


def resnet(depth: int) -> nn.Sequential:
    """Return the net of ``depth`` = 6 n + 2 layers: n blocks of 16 channels, n of 32 and n of 64.

    Example:
        >>> sum(weights.numel() for weights in resnet(56).parameters())  # 0.85 million in the paper
        853018
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"Expected argument `depth` to be 6 n + 2 with n >= 1 but got {depth}.")
    blocks: list[nn.Module] = []
    channels_in = 16
    for channels in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            blocks.append(Block(channels_in, channels, channels // channels_in))
            channels_in = channels
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


class ResNet(pl.LightningModule):
    """A ResNet for CIFAR-10, trained with SGD.

    Args:
        depth: Number of layers, 6 n + 2; 56 in the publications.
        lr: Peak learning rate of the one cycle, or the first one of the other schedules.
        weight_decay: Weight decay of SGD.
        momentum: Momentum of SGD; the one cycle cycles it, unless ``--one_cycle.cycle_momentum=false``.
        schedule: ``"one_cycle"``; ``"stepwise"``: a tenth after half of the steps and again after three quarters, as
            He et al. do after 32,000 and 48,000 of 64,000; or ``"constant"``.
        augment: Whether to train on random crops and mirror images.
        channels_last: Memory format of the convolutions; faster on most devices.
        compile: Whether to compile the net with ``torch.compile``.
    """

    def __init__(
        self,
        depth: int = 56,
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
        augment: bool = True,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.schedule, self.augment = depth, schedule, augment
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = resnet(depth).to(memory_format=self.memory_format)
        if compile:
            self.net.compile()
        # Checking the labels of each batch would make the host wait for the device.
        self.train_accuracy = MulticlassAccuracy(num_classes=10, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(num_classes=10, average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(normalize(images).contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(augment(images) if self.augment else images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.train_accuracy.update(logits, labels)
        self.log("train_loss", loss)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.val_accuracy.update(logits, labels)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)
        if self.schedule == "one_cycle":
            return configure_one_cycle(self, sgd)
        if self.schedule == "constant":
            return sgd
        steps = int(self.trainer.estimated_stepping_batches)
        drops = torch.optim.lr_scheduler.MultiStepLR(sgd, [steps // 2, steps * 3 // 4], gamma=0.1)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": drops, "interval": "step"}}
