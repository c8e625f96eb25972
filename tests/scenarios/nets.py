"""Modules: optimizers, layers, and state of many kinds."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.scenarios.record import Recording


class Momentum(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)


class Adam(Recording):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class TwoGroups(Recording):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters(), "lr": 0.01}, {"params": self.net[-1].parameters(), "lr": 0.1}]
        return torch.optim.SGD(groups, momentum=0.9)


class Dropout(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.3))


class BatchNorm(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


class FrozenBatchNorm(BatchNorm):
    def on_train_start(self) -> None:
        self.net[1].eval()


class FrozenTrunk(BatchNorm):
    """Trains a head on a trunk whose weights and statistics stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.net[:2].requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenTrunk":
        super().train(mode)
        self.net[:2].eval()
        return self

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[-1].parameters(), lr=0.05, momentum=0.9)


class Unfreezes(FrozenTrunk):
    """Trains its trunk too from the sixth step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 5:
            self.net[:2].requires_grad_(True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Lazy(Momentum):
    """Learns the shape of its first layer from its first batch, and draws that layer's weights then."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0] = nn.LazyLinear(16)


class Compiled(Momentum):
    def __init__(self) -> None:
        super().__init__()
        self.net: Any = torch.compile(self.net, backend="eager")


class Scripted(Recording):
    def __init__(self) -> None:
        super().__init__()
        plain = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
        self.net: nn.Module = torch.jit.script(plain)  # type: ignore[assignment]


class Backbone(Recording):
    """What `BackboneFinetuning` asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        return self.loss([self.backbone(batch[0]), batch[1]])

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=0.05, momentum=0.9)


class HiddenBuffer(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)  # bound again at every step
        return super().training_step([batch[0] - self.mean, batch[1]], batch_idx)


class Metric(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=3, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return super().training_step(batch, batch_idx)


class Metrics(Recording):
    """A collection whose two metrics share their counts, logged at the end of the epoch over all it has seen."""

    def __init__(self) -> None:
        super().__init__()
        parts = [MulticlassAccuracy(num_classes=3), MulticlassF1Score(num_classes=3)]
        self.metrics = MetricCollection(parts, prefix="train_")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.metrics.update(self.net(batch[0]), batch[1])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


class Counter(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        return super().training_step([batch[0] * (1 + 1e-4 * self.seen), batch[1]], batch_idx)


class Outputs(Recording):
    """Collects its losses in a list, and reduces and clears it at the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean_output", torch.stack(self.outputs).mean())
        self.outputs.clear()


class Attributes(Outputs):
    """State in plain attributes of many kinds: a number, a tensor, an array, a list, a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.average = torch.zeros(1)
        self.counts = np.zeros(3)
        self.generator = torch.Generator().manual_seed(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.counts += np.bincount(batch[1].numpy(), minlength=3)
        noise = torch.randn(batch[0].shape, generator=self.generator)
        loss = super().training_step([batch[0] + 0.01 * self.seen / (1 + self.seen) * noise, batch[1]], batch_idx)
        self.average.mul_(0.9).add_(0.1 * loss.detach())
        return loss


class ReadsGradients(Momentum):
    """Trains with what the last step has left of its gradients."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        norm = sum(float(part.grad.norm()) for part in self.parameters() if part.grad is not None)
        return super().training_step(batch, batch_idx) / (1 + norm)


class AddsUpLosses(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.total += loss  # with its graph
        return loss


class OneLevelAnEpoch(Recording):
    """Runs out of levels where an epoch more is begun than the fit has."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = iter([1.0, 0.5])

    def on_train_epoch_end(self) -> None:
        next(self.levels)


class KeepsHparams(Recording):
    def __init__(self) -> None:
        super().__init__()
        head = nn.Linear(3, 3)
        self.save_hyperparameters({"head": head, "width": 3}, logger=False)
        self.net.append(head)


class Note:
    """A class of the user's, which no safe unpickler knows."""


class NotesInCheckpoints(Momentum):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["note"] = Note()


class OwnScheduler(Momentum):
    """Steps a schedule of its own by hand, and keeps a gradient scaler."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.own = torch.optim.lr_scheduler.StepLR(optimizer, 3, 1.0)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return optimizer

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.own.step()
        self.scaler.scale(torch.ones(1))
        self.scaler.update(self.scaler.get_scale() * 2)
        self.average = self.own.last_epoch + self.scaler.get_scale()


class Scheduled(Momentum):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
