"""One cycle against a constant and a stepwise learning rate at equal iterations, small enough for a CPU.

Trains ``train.py``'s ResNet-8 on 5,000 images of CIFAR-10, by the same command line as the published runs: at the
learning rate of He et al., 0.1, constant, stepwise and as the peak of one cycle, and again in one cycle whose peak
`LRRangeTest` finds. Prints a table and draws the accuracy after each epoch and the learning rates.

    python examples/cifar10/compare.py        # three seeds: under 4 minutes on two cores
    python examples/cifar10/compare.py --all  # also constant and stepwise at a found learning rate
"""

import argparse
import csv
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from train import main as train

CONFIGS = Path(__file__).parent / "configs"
TEST = ["--trainer.callbacks+=pl_onecycle.LRRangeTest"]
# Name, color, and the command line of `fit`.
Rows = dict[str, tuple[str, list[str]]]
ROWS: Rows = {
    "constant, 0.1": ("#9aa5b1", ["-c", str(CONFIGS / "stepwise.yaml"), "--model.schedule=constant"]),
    "stepwise, 0.1": ("#d98e04", ["-c", str(CONFIGS / "stepwise.yaml")]),
    "one cycle, 0.1": ("#54aeff", ["-c", str(CONFIGS / "one_cycle.yaml"), "--model.lr=0.1"]),
    "one cycle, found": ("#1f6feb", ["-c", str(CONFIGS / "one_cycle.yaml"), *TEST]),
}
MORE_ROWS: Rows = {
    "constant, found": ("#57606a", ["-c", str(CONFIGS / "stepwise.yaml"), "--model.schedule=constant", *TEST]),
    "stepwise, found": ("#d1242f", ["-c", str(CONFIGS / "stepwise.yaml"), *TEST]),
}
Logs = dict[str, list[list[dict[str, str]]]]


def run_all(rows: Rows, seeds: int, common: Sequence[str], out: Path) -> Logs:
    """Train each row with each seed, and return its logged metrics, by row and seed."""
    logs: Logs = {name: [] for name in rows}
    for seed in range(seeds):
        for name, (_, words) in rows.items():
            place = [f"--result.name={file_name(name)}", f"--result.folder={out}", f"--seed_everything={seed}"]
            cli = train(["fit", *words, *common, *place])
            assert isinstance(cli.trainer.logger, CSVLogger)
            metrics = Path(cli.trainer.logger.log_dir) / "metrics.csv"
            logs[name].append(list(csv.DictReader(metrics.read_text().splitlines())))
    return logs


def file_name(row: str) -> str:
    """Return the name of a row's JSON file."""
    return "small_" + row.replace(", ", "_").replace(" ", "_").replace(".", "")


def column(log: Sequence[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a metric was logged, and its values."""
    rows = [(int(row["step"]), float(row[name])) for row in log if row.get(name)]
    return [step for step, _ in rows], [value for _, value in rows]


def draw(rows: Rows, logs: Logs, title: str) -> Figure:
    """Draw the accuracy of each row, mean and range over the seeds, and its learning rates with the first seed."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (color, _) in rows.items():
        curves = [column(log, "val_accuracy") for log in logs[name]]
        steps, values = np.array(curves[0][0]) + 1, np.array([values for _, values in curves]) * 100
        left.plot(steps, values.mean(0), color=color, marker=".", label=name)
        left.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0)
        right.plot(*column(logs[name][0], "lr-SGD"), color=color, label=name)
    left.set(xlabel="optimizer step", ylabel="test accuracy, %", title="Mean of the seeds; shaded: smallest to largest")
    right.set(xlabel="optimizer step", ylabel="learning rate", yscale="log", title="Learning rate, seed 0")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(rows))
    figure.suptitle(title)
    return figure


def show(names: Sequence[str], results: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':20}{'lr':>8}{'test accuracy':>16}{'(min to max)':>18}{'test loss':>12}")
    for name, row in zip(names, results, strict=True):
        accuracy, spread = row["val_accuracy"], "({min:.1%} to {max:.1%})".format(**row["val_accuracy"])
        lr, loss = row["largest_lr"]["mean"], row["val_loss"]["mean"]
        print(f"{name:20}{lr:>8.3g}{accuracy['mean']:>16.1%}{spread:>18}{loss:>12.3f}")
    print("lr: the largest of a run, mean of the seeds. A found one costs at most 300 iterations more.")


def main(
    root: str | None, depth: int, images: int, test_images: int, epochs: int, seeds: int, all_rows: bool, out: Path
) -> list[dict[str, Any]]:
    """Train all rows, print the table and return their JSON files."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what Lightning says of its devices, once a run
    common = [f"--model.depth={depth}", f"--data.train_images={images}", f"--data.test_images={test_images}"]
    common += ["--data.batch_size=64", f"--trainer.max_epochs={epochs}", "--trainer.max_steps=-1"]
    common += ["--model.channels_last=true", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    common += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    common += [] if root is None else [f"--data.root={root}"]
    rows = ROWS | (MORE_ROWS if all_rows else {})
    start = time.perf_counter()
    logs = run_all(rows, seeds, common, out)
    seconds = time.perf_counter() - start

    results = [json.loads((out / f"{file_name(name)}.json").read_text()) for name in rows]
    about = results[0]["about"]
    title = f"{about['net']}, {images:,} images of CIFAR-10, {about['iterations']} iterations, n = {seeds}"
    print(f"\n{title}, {about['copy']} copy, {test_images:,} test images, {seconds:.0f} s in all")
    show(list(rows), results)
    picture = out / "compare.png"
    draw(rows, logs, title).savefig(picture, dpi=150)
    print(f"picture: {picture}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", help="folder of CIFAR-10, see `read_images` in images.py")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--images", type=int, default=5000, help="training images")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", dest="all_rows", action="store_true", help="two rows more")
    parser.add_argument("--out", type=Path, default=Path("demo_runs/cifar10"), help="folder for logs and pictures")
    main(**vars(parser.parse_args()))
