"""Modules that validate, and train with what they have kept of it."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.fits import data
from tests.scenarios.nets import BatchNorm
from tests.scenarios.record import in_trial, tensors


class Validated(BatchNorm):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def val_dataloader(self) -> Any:
        return data(64)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class KeepsValidation(Validated):
    """Trains with what it has kept of the validation."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + 0.01 * float(self.last.sum()))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.last = self.net(batch[0]).mean(0)
        super().validation_step(batch, batch_idx)


class InferenceTensor(KeepsValidation):
    """Keeps a tensor of inference mode, which is written to in that mode only.

    Whatever the Trainer's ``inference_mode``, Lightning validates without it within a fit.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.inference_mode():
            self.last.mul_(0.9)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        with torch.inference_mode():
            self.last = self.last * 1


class ValidatedOn(KeepsValidation):
    """Validates on the loaders that the fit is given, of which there may be several, and remembers on what."""

    val_dataloader = pl.LightningModule.val_dataloader

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        if not in_trial(self):
            sums = [float(part.double().sum()) for part in tensors(batch)]
            self.record.validated.append([float(dataloader_idx), float(batch_idx), *sums])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class ValidationMetrics(ValidatedOn):
    """One metric that Lightning resets, a collection that the module does, and losses in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")
        self.metrics = MetricCollection([MulticlassAccuracy(num_classes=3), MulticlassF1Score(num_classes=3)])
        self.outputs: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy)
        self.metrics.update(self.net(batch[0]), batch[1])
        self.outputs.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log_dict({name: 2 * value for name, value in self.metrics.compute().items()})
        self.log("val_worst", torch.stack(self.outputs).max())

    def on_train_epoch_end(self) -> None:  # so that they last longer than a validation
        self.metrics.reset()
        self.outputs.clear()


class ManyAtOnce(KeepsValidation):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)
