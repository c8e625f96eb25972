"""ResNet-56 on CIFAR-10 from the command line: one file in ``configs`` for each published run.

The nets, batches, learning rates and weight decays are those of the publications; ``tune.yaml`` has none, and
``tune`` writes what it finds to ``tuned.yaml``, with which ``fit`` trains:

    python examples/cifar10/train.py fit -c examples/cifar10/configs/one_cycle.yaml
    python examples/cifar10/train.py tune -c examples/cifar10/configs/tune.yaml
    python examples/cifar10/train.py fit -c examples/cifar10/configs/one_cycle.yaml -c .../tuned.yaml

On a GPU add ``--trainer.precision=bf16-mixed --model.channels_last=true --model.compile=true``. With
``--ckpt_path=last`` a run that was cut off continues after its last whole epoch, with the schedule of the whole run.
Each run adds its result to a JSON file in ``demo_runs``.
"""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from images import Cifar10
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from resnet import ResNet

from pl_onecycle.cli import OneCycleCLI

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what examples share
from measured import add_run


class SavesResult(pl.Callback):
    """Add what a run measured to the JSON file of its row.

    Args:
        name: Name of the row, and of its file.
        folder: Folder of the file.
        seed: Seed of the run; the command line passes ``--seed_everything``.
    """

    def __init__(self, name: str = "run", folder: str = "demo_runs/cifar10", seed: int = 0) -> None:
        self.name, self.folder, self.seed = name, folder, seed
        self.seconds = 0.0  # of training, before the checkpoint that the run continues from
        self.largest_lr = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter() - self.seconds

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self.largest_lr = max(self.largest_lr, float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ResNet)
        data: Cifar10 = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        about = {
            "net": f"ResNet-{pl_module.depth}",
            "schedule": pl_module.schedule,
            "batch_size": data.batch_size,
            "iterations": trainer.global_step,
            "copy": data.copy,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "precision": trainer.precision,
        }
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "found" not in name}
        run = {
            "seed": self.seed,
            "largest_lr": self.largest_lr,
            "weight_decay": float(trainer.optimizers[0].param_groups[0]["weight_decay"]),
            **metrics,
            "seconds": round(time.perf_counter() - self.started, 1),
        }
        add_run(Path(self.folder) / f"{self.name}.json", about, run)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": time.perf_counter() - self.started, "largest_lr": self.largest_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.largest_lr = state_dict["seconds"], state_dict["largest_lr"]


def found_by_tune(directory: Path) -> dict[str, Any]:
    """Return what a ``tune`` has found, and its cost in optimizer steps and seconds, off its ``result.json``."""
    result = json.loads((directory / "result.json").read_text())
    sweeps, probe = result["lr_range_test"], result["weight_decay_probe"]
    steps = sweeps["steps"] + sum(len(curve["loss"]) for curve in probe["curves"].values())
    found = {name: value for name, value in result["config"]["one_cycle"].items() if name != "tuned_for"}
    return {**found, "steps": steps, "seconds": sweeps["seconds"] + probe["seconds"], "why": result["reasons"]}


def checkpoint_folder(folder: str, name: str, seed: int) -> str:
    """Return where the checkpoints of a run lie, the same whenever it is started again."""
    return f"{folder}/checkpoints/{name}_seed{seed}"


class Cifar10CLI(OneCycleCLI):
    """The CLI of this model and data, with a checkpoint after each epoch and a result after the last."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(SavesResult, "result")
        parser.link_arguments("seed_everything", "result.seed")
        parser.link_arguments("result.folder", "trainer.logger.init_args.save_dir")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {"checkpoint.save_last": True, "checkpoint.save_top_k": 1, "checkpoint.enable_version_counter": False}
        )
        places = ("result.folder", "result.name", "seed_everything")
        parser.link_arguments(places, "checkpoint.dirpath", compute_fn=checkpoint_folder)

    def after_tune(self) -> None:
        """Add what was found to a JSON file next to those of the runs."""
        assert self.tune_result is not None
        assert isinstance(self.model, ResNet)
        assert isinstance(self.datamodule, Cifar10)
        if self.tune_result.directory is None:
            return
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        [saver] = (it for it in callbacks if isinstance(it, SavesResult))
        about = {"net": f"ResNet-{self.model.depth}", "batch_size": self.datamodule.batch_size}
        about |= {"copy": self.datamodule.copy, "train_images": self.datamodule.train_images - self.datamodule.held_out}
        run = {"seed": saver.seed, **found_by_tune(Path(self.tune_result.directory))}
        add_run(Path(saver.folder) / "tune.json", about, run)


def main(args: Sequence[str] | None = None) -> Cifar10CLI:
    """Run the command line, or these arguments."""
    # The images are in memory: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")  # compare.py has words of its own
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": ".", "name": "logs"}}
    monitor = LearningRateMonitor("step", log_momentum=True)
    return Cifar10CLI(
        ResNet,
        Cifar10,
        seed_everything_default=0,
        trainer_defaults={"logger": logger, "callbacks": [monitor]},
        args=None if args is None else list(args),
    )


if __name__ == "__main__":
    main()
