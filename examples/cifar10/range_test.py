"""The range test of ResNet-56 on CIFAR-10 with batches of 512 images, which the one-cycle article shows.

The article reads its own curve as usable up to a learning rate of about 1, and trains with a peak of 0.8. Here
`LRRangeTest` reads it; the picture has both readings. 150 steps fit on a CPU.

    python examples/cifar10/range_test.py
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import lightning.pytorch as pl
from images import Cifar10
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from resnet import ResNet
from train import add_run

from pl_onecycle import LRRangeTest
from pl_onecycle.curves import find_trough

USABLE_UP_TO, PEAK = 1.0, 0.8  # the article's


class EndsFit(pl.Callback):
    """End a fit after its first step, as only the test before it is wanted."""

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        trainer.should_stop = True


def draw(test: LRRangeTest, title: str) -> Figure:
    """Draw the curve with the plugin's reading and the article's."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    ax = figure.subplots()
    test.plot(ax)
    ax.set_xlim(right=max(ax.get_xlim()[1], 2 * USABLE_UP_TO))
    ax.axvspan(ax.get_xlim()[0], USABLE_UP_TO, color="#2da44e", alpha=0.08, linewidth=0)
    ax.axvline(USABLE_UP_TO, color="#2da44e", linestyle="--", label="article: usable up to about 1")
    ax.axvline(PEAK, color="#2da44e", linestyle=":", label="article: peak of the run, 0.8")
    if (own := ax.get_legend()) is not None:
        own.remove()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title)
    return figure


def main(
    root: str | None,
    depth: int,
    batch_size: int,
    images: int,
    num_steps: int | None,
    precision: Literal["32-true", "bf16-mixed"],
    seed: int,
    out: Path,
) -> LRRangeTest:
    """Run the test, print what it found, and draw."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    pl.seed_everything(seed, verbose=False)
    test = LRRangeTest(num_steps=num_steps)
    trainer = pl.Trainer(
        max_epochs=95,
        limit_val_batches=0,
        callbacks=[test, EndsFit()],
        precision=precision,
        logger=CSVLogger(out, name="range_test"),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    data = Cifar10(root, batch_size, images)
    start = time.perf_counter()
    trainer.fit(ResNet(depth, channels_last=True), data)
    seconds = round(time.perf_counter() - start, 1)
    found = test.suggestion
    about = {"net": f"ResNet-{depth}", "batch_size": batch_size, "train_images": images, "copy": data.copy}
    run = {"seed": seed, "steps": test.steps, "seconds": seconds, "why": test.why, "precision": precision}
    if found is not None:
        run |= {"max_lr": found.lr, "interval_low": found.low, "interval_high": found.high}
    if found is not None and test.curve is not None:
        run |= dict(zip(("trough_low", "trough_high"), find_trough(test.curve).ends, strict=True))
    add_run(out / "range_test.json", about, run)
    if test.curve is not None:
        picture = out / "range_test.png"
        draw(test, f"LR range test of ResNet-{depth}, CIFAR-10, batch {batch_size}, {test.steps} steps").savefig(
            picture, dpi=150
        )
        print(f"picture: {picture}")
    suggested = "none" if found is None else f"{found.lr:.3g}"
    print(f"max_lr {suggested} after {test.steps} steps and {seconds:.0f} s; {test.why}")
    return test


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", help="folder of CIFAR-10, see `read_images` in images.py")
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--images", type=int, default=50_000, help="training images")
    parser.add_argument("--num-steps", type=int, help="steps of one sweep; default: as many as the curve needs, <= 150")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo_runs/cifar10"), help="folder for JSON and picture")
    main(**vars(parser.parse_args()))
