"""Fine-tuning with Lightning's `BackboneFinetuning`: one cycle for the head, and one more for all at the unfreeze.

Pretrains the net of ``digits.py`` on the digits 0 to 4, and fine-tunes it on 5 to 9. First only a new head trains, with
the backbone frozen. Then the backbone joins as a second parameter group with a tenth of the head's learning rate;
`LRRangeTest` runs again from the weights of that moment (``milestones``), and a new cycle begins. Prints and draws
the learning rates of both groups, whose ratio is kept at each step, and the validation accuracy.

    python examples/finetune.py  # three seeds: under a minute on two cores
"""

import argparse
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import lightning.pytorch as pl
import torch
from digits import ConvNet, Digits
from lightning.pytorch.callbacks import BackboneFinetuning
from matplotlib.figure import Figure
from measured import add_run
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle

RATIO = 10.0  # of the head's learning rate to that of the backbone
HEAD, BACKBONE = "#0072B2", "#D55E00"


# --------------------------------------------------------------------------------------------- data
class HalfOfDigits(Digits):
    """Five of the ten classes, with the test images for validation.

    Args:
        first: The first class; it has label 0 here.
        batch_size: Images per training batch.
    """

    def __init__(self, first: int, batch_size: int = 32) -> None:
        super().__init__(batch_size)
        self.first = first

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train, self.val = self._half_of(self.train), self._half_of(self.test)

    def _half_of(self, whole: TensorDataset) -> TensorDataset:
        images, labels = whole.tensors
        chosen = (labels >= self.first) & (labels < self.first + 5)
        return TensorDataset(images[chosen], labels[chosen] - self.first)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, 360)


# ----------------------------------------------------------------------------------------- training
class FineTuned(pl.LightningModule):
    """A pretrained backbone with a new head, which records learning rates and accuracies.

    Args:
        pretrained: The net whose layers, without the last one, are the backbone.
        head_epochs: Epochs with a frozen backbone.
        lr: Learning rate where the range test finds none.
    """

    def __init__(self, pretrained: ConvNet, head_epochs: int, lr: float = 0.01) -> None:
        super().__init__()
        old_head = pretrained.net[-1]
        assert isinstance(old_head, nn.Linear)
        self.backbone, self.head = pretrained.net[:-1], nn.Linear(old_head.in_features, 5)
        self.head_epochs, self.lr = head_epochs, lr
        self.accuracy = MulticlassAccuracy(num_classes=5, average="micro")
        self.lrs: list[list[float]] = []  # of each step: one for each parameter group
        self.accuracies: list[tuple[int, float]] = []  # step, and that of the validation after it

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.lrs.append([float(group["lr"]) for group in self.trainer.optimizers[0].param_groups])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.accuracy(self.head(self.backbone(batch[0])), batch[1])
        self.log("val_accuracy", self.accuracy)

    def on_validation_epoch_end(self) -> None:
        self.accuracies.append((self.trainer.global_step, float(self.accuracy.compute())))

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.head.parameters(), lr=self.lr, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches) * self.head_epochs // int(self.trainer.max_epochs or 1)
        return configure_one_cycle(self, sgd, total_steps=steps)  # one cycle for the head alone


class Unfreezes(BackboneFinetuning):
    """`BackboneFinetuning` that only unfreezes; its own plan for the backbone would overwrite the schedule's."""

    def finetune_function(self, pl_module: pl.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == self.unfreeze_backbone_at_epoch:
            super().finetune_function(pl_module, epoch, optimizer)


class BeginsSecondCycle(pl.Callback):
    """At the unfreeze, plan another cycle for the rest of the run; the range test then moves its peak."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, FineTuned)
        if trainer.current_epoch == pl_module.head_epochs:
            schedule_of(trainer).replan(int(trainer.estimated_stepping_batches))


def schedule_of(trainer: pl.Trainer) -> OneCycleScheduler:
    """Return the schedule of a run."""
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(schedule, OneCycleScheduler)
    return schedule


def fit(model: pl.LightningModule, first: int, epochs: int, callbacks: list[pl.Callback], seed: int) -> pl.Trainer:
    """Train on the five classes from ``first`` on, and return the Trainer."""
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, HalfOfDigits(first))
    return trainer


def pretrain(epochs: int, seed: int) -> ConvNet:
    """Return a net that knows the digits 0 to 4."""
    pl.seed_everything(seed, verbose=False)
    net = ConvNet()
    fit(net, 0, epochs, [LRRangeTest(report=False)], seed)
    return net


@dataclass(frozen=True)
class Run:
    """What a run of fine-tuning has shown.

    Attributes:
        lrs: Of each step, the learning rates of the head and, once it is unfrozen, of the backbone.
        accuracies: Optimizer steps and validation accuracy after each epoch.
        unfrozen_at: First step with two groups.
        cycle_begins_at: First step of the second cycle, by its schedule.
        refused: Whether the second range test suggests nothing, so that the first peak stays.
        why: Why it does, or what it suggests.
    """

    lrs: list[list[float]]
    accuracies: list[tuple[int, float]]
    unfrozen_at: int
    cycle_begins_at: int
    refused: bool
    why: str

    @property
    def peaks(self) -> tuple[float, float]:
        """The head's largest learning rate before the unfreeze and after it."""
        head = [lrs[0] for lrs in self.lrs]
        return max(head[: self.unfrozen_at]), max(head[self.unfrozen_at :])

    @property
    def ratios(self) -> list[float]:
        """The head's learning rate as a multiple of the backbone's, at each step with both."""
        return [head / backbone for head, backbone in self.lrs[self.unfrozen_at :]]

    @property
    def measured(self) -> dict[str, Any]:
        """What is kept of the run."""
        frozen = [accuracy for step, accuracy in self.accuracies if step <= self.unfrozen_at]
        return {
            "peak_frozen": self.peaks[0],
            "peak_unfrozen": self.peaks[1],
            "least_ratio": min(self.ratios),
            "largest_ratio": max(self.ratios),
            "accuracy_frozen": frozen[-1],
            "accuracy": self.accuracies[-1][1],
            "unfrozen_at": self.unfrozen_at,
            "cycle_begins_at": self.cycle_begins_at,
            "refused": self.refused,
            "why": self.why,
        }


def fine_tune(head_epochs: int, epochs: int, seed: int) -> Run:
    """Pretrain, fine-tune, and return what the run has shown."""
    model = FineTuned(pretrain(head_epochs, seed), head_epochs)
    test = LRRangeTest(milestones=(head_epochs,), report=False)
    unfreezes = Unfreezes(head_epochs, backbone_initial_ratio_lr=1 / RATIO)
    trainer = fit(model, 5, epochs, [unfreezes, BeginsSecondCycle(), test], seed)  # the test last: it tests both groups
    unfrozen_at = [len(lrs) for lrs in model.lrs].index(2)
    begins = trainer.global_step - schedule_of(trainer).policy.total_steps
    return Run(model.lrs, model.accuracies, unfrozen_at, begins, test.suggestion is None, test.why)


# ------------------------------------------------------------------------------------------- results
def draw(runs: list[Run]) -> Figure:
    """Draw the learning rates of the first run, and the validation accuracy of all."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    first = runs[0]
    start = first.unfrozen_at
    above.plot([lrs[0] for lrs in first.lrs], color=HEAD, label="head")
    backbone = [lrs[1] for lrs in first.lrs[start:]]
    above.plot(range(start, len(first.lrs)), backbone, color=BACKBONE, label=f"backbone: head / {RATIO:g}")
    above.set(ylabel="learning rate", yscale="log", ylim=(min(first.peaks) / RATIO / 100, 2 * max(first.peaks)))
    for seed, run in enumerate(runs):
        steps, accuracies = zip(*run.accuracies, strict=True)
        below.plot(steps, [100 * it for it in accuracies], marker=".", alpha=0.8, label=f"seed {seed}")
    below.set(xlabel="optimizer step", ylabel="validation accuracy, %")
    above.set_title("Learning rates, seed 0", fontsize="medium")
    below.set_title("Digits 5 to 9, after each epoch", fontsize="medium")
    for panel in (above, below):
        panel.axvline(start, color="#57606a", linestyle="--", linewidth=1, label="unfreeze, test, new cycle")
        panel.grid(alpha=0.3)
    above.legend(loc="lower left", fontsize="small")
    below.legend(loc="lower right", fontsize="small")
    return figure


def main(head_epochs: int, epochs: int, seeds: int, out: Path) -> list[Run]:
    """Fine-tune with each seed, print the table, write the numbers and draw."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # The data are small: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*have no `validation_step`.*")  # in pretraining
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    runs = [fine_tune(head_epochs, epochs, seed) for seed in range(seeds)]
    about = {"head_epochs": head_epochs, "epochs": epochs, "ratio": RATIO, "steps": len(runs[0].lrs)}
    print(f"Digits 5 to 9 after 0 to 4: {head_epochs} of {epochs} epochs with a frozen backbone")
    columns = f"{'peak of the head':>24}{'ratio of the groups':>26}{'unfrozen':>10}{'2nd cycle':>11}{'accuracy':>20}"
    print(f"{'':8}{columns}")
    for seed, run in enumerate(runs):
        row = run.measured
        add_run(out / "finetune.json", about, {"seed": seed, **row})
        peaks = f"{row['peak_frozen']:.3g}, then {row['peak_unfrozen']:.3g}"
        ratios = f"{row['least_ratio']:.6f} to {row['largest_ratio']:.6f}"
        accuracy = f"{row['accuracy_frozen']:.1%}, then {row['accuracy']:.1%}"
        steps = f"{run.unfrozen_at:>10}{run.cycle_begins_at:>11}"
        print(f"seed {seed:<3}{peaks:>24}{ratios:>26}{steps}{accuracy:>20}")
    print("unfrozen, 2nd cycle: the optimizer step at which each begins")
    for seed, run in enumerate(runs):
        print(f"second test of seed {seed}: {run.why}")
    out.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(out / "finetune.png", dpi=150)
    print(f"picture: {out / 'finetune.png'}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-epochs", type=int, default=4, help="epochs with a frozen backbone")
    parser.add_argument("--epochs", type=int, default=12, help="epochs in all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("demo_runs/finetune"), help="folder for numbers and picture")
    main(**vars(parser.parse_args()))
