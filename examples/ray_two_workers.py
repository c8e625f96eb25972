"""Find learning rate and weight decay with two Ray workers, on handwritten digits.

The workers are two processes on this machine or, in a cluster, on any of its machines. What is found is among the
metrics in Ray's result: Ray's own callback reports ``trainer.callback_metrics``, to which the finders add it; after
``tune`` a report has it, with the folder of the files. Needs ``pip install 'pl-onecycle[examples,ray]'``.

    python examples/ray_two_workers.py
    python examples/ray_two_workers.py --tune
"""

import argparse
from pathlib import Path

import lightning as L
import ray
from in_a_fit import Net, loaders
from ray.train import Checkpoint, Result, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer

from pl_onecycle import LRRangeTest, OneCycleTuner, WeightDecayProbe


def train(config):
    """Train in one of the workers."""
    L.seed_everything(0)  # the workers split the digits alike, and begin with the same weights
    net, (train_data, val_data) = Net(), loaders()
    finders = [] if config["tune"] else [LRRangeTest(), WeightDecayProbe()]
    trainer = L.Trainer(
        max_epochs=config["epochs"],
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[*finders, RayTrainReportCallback()],
        default_root_dir=config["out"],  # a worker starts in a folder of Ray's
        enable_checkpointing=False,  # Ray's callback saves them
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer = prepare_trainer(trainer)
    if config["tune"]:
        found = OneCycleTuner(trainer).tune(net, train_data, val_data)
        found.apply(net)
        files = None if found.directory is None else Checkpoint.from_directory(found.directory)
        values = {"found/max_lr": found.max_lr, "found/weight_decay": found.weight_decay}
        ray.train.report(values, checkpoint=files)
    trainer.fit(net, train_data, val_data)


def main(tune: bool, epochs: int, out: Path) -> Result:
    """Train in two workers and print the metrics that Ray has."""
    workers = TorchTrainer(
        train,
        train_loop_config={"tune": tune, "epochs": epochs, "out": str(out.absolute() / "fits")},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(out.absolute())),
    )
    result = workers.fit()
    for _, metrics in result.best_checkpoints:
        print({name: metrics[name] for name in sorted(metrics)})
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="find the values before the fit")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("demo_runs"), help="folder for logs, pictures and checkpoints")
    main(**vars(parser.parse_args()))
