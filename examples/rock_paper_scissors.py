"""Rock, paper, scissors by MobileNetV2: the super-convergence article's three runs, and a fourth that finds its values.

A simple convolutional net and a head on a frozen MobileNetV2, with dropout 0.5 and an L2 penalty of 0.01, are trained
with Adam at a learning rate of 0.001; the head again with the article's schedule (in 6 epochs from 0.001 to 0.002, then
half of the way back each epoch), and again with `LRRangeTest`, `WeightDecayProbe` and one cycle, which search on
training images that are held out. Prints a table and draws the accuracy on the test images after each epoch.

The extractor has torchvision's ImageNet weights if they can be downloaded; if not, the script first trains it on
CIFAR-10 for a short time, and says so: its features are then far weaker. As it is frozen and the images are not
augmented, each image passes through it once.

    python examples/rock_paper_scissors.py                                    # 64 x 64 pixels
    python examples/rock_paper_scissors.py --size 128                         # the article's size

The set is downloaded if ``--data.root`` has no folders ``train`` and ``test`` (Laurence Moroney, CC BY 2.0).
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import matplotlib

matplotlib.use("Agg")
import torch
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.models import mobilenet_v2
from torchvision.transforms import v2

from pl_onecycle import LRRangeTest, OneCycleTrainer, WeightDecayProbe, configure_one_cycle

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "cifar10"))
from images import Cifar10, augment
from measured import add_run

URL = "https://storage.googleapis.com/download.tensorflow.org/data"
FOLDERS = {"train": "rps", "test": "rps-test-set"}  # in the archives of these names
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, for which torchvision's weights are made
BATCH, EPOCHS, LR, PEAK = 64, 24, 1e-3, 2e-3  # the article's
L2 = 2 * 0.01  # its penalty is 0.01 |w|^2, whose gradient is 0.02 w
Schedule = Literal["constant", "exp_decay", "one_cycle"]
Data = tuple[Tensor, Tensor]


# -------------------------------------------------------------------------------------------- images
def read_images(root: Path, part: str, size: int) -> Data:
    """Return the images of ``"train"`` or ``"test"``, normalized, of shape (n, 3, size, size), and their labels."""
    folder = next((root / name for name in (part, FOLDERS[part]) if (root / name).is_dir()), None)
    if folder is None:
        download_and_extract_archive(f"{URL}/{FOLDERS[part]}.zip", str(root))
        folder = root / FOLDERS[part]
    to_tensor = v2.Compose(
        [v2.PILToTensor(), v2.Resize((size, size)), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    images = ImageFolder(str(folder), to_tensor)
    return torch.stack([image for image, _ in images]), torch.tensor(images.targets)


class InMemory(pl.LightningDataModule):
    """Images or features in memory, with others for validation."""

    def __init__(self, train: Data, val: Data) -> None:
        super().__init__()
        self.train, self.val = TensorDataset(*train), TensorDataset(*val)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, BATCH, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, 128)


def held_out(data: Data) -> InMemory:
    """Return nine tenths of the training data, with the last tenth of a fixed shuffle for validation."""
    order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(0))
    train, val = order[: -len(order) // 10], order[-len(order) // 10 :]
    return InMemory((data[0][train], data[1][train]), (data[0][val], data[1][val]))


# ---------------------------------------------------------------------------------------------- nets
def simple_cnn(size: int) -> nn.Sequential:
    """Return four convolutions with pooling, and two dense layers."""
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    flat = 128 * (size // 16) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, 3))


def head() -> nn.Sequential:
    """Return the trained part of the MobileNetV2 runs."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(1280, 3))


class Classifier(pl.LightningModule):
    """A net trained with Adam.

    Args:
        net: The net, from images or features to logits.
        lr: Learning rate; its peak if it has a schedule.
        weight_decay: L2 penalty of the weights; biases have none.
        schedule: ``"constant"``, ``"exp_decay"``, the article's, or ``"one_cycle"``.
        classes: Number of classes.
    """

    def __init__(
        self, net: nn.Module, lr: float, weight_decay: float = 0.0, schedule: Schedule = "constant", classes: int = 3
    ) -> None:
        super().__init__()
        self.net, self.lr, self.weight_decay, self.schedule = net, lr, weight_decay, schedule
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", self.accuracy)

    def configure_optimizers(self) -> Any:
        weights = [tensor for tensor in self.parameters() if tensor.ndim > 1]
        biases = [tensor for tensor in self.parameters() if tensor.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        adam = torch.optim.Adam(groups, lr=self.lr)
        if self.schedule == "constant":
            return adam
        if self.schedule == "one_cycle":
            return configure_one_cycle(self, adam)
        epochs = self.trainer.max_epochs or 1
        steps_per_epoch = int(self.trainer.estimated_stepping_batches) // epochs
        return configure_one_cycle(
            self, adam, preset="exp_decay", rampup_epochs=6, exp_decay=0.5, steps_per_epoch=steps_per_epoch
        )


# ----------------------------------------------------------------------------------------- extractor
class OnCifar10(Classifier):
    """MobileNetV2 trained on CIFAR-10, whose batches are bytes."""

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return super().training_step((_normalized(augment(batch[0])), batch[1]), batch_idx)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        super().validation_step((_normalized(batch[0]), batch[1]), batch_idx)


def _normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def extractor(weights: str, cifar10_root: str | None, steps: int, seed: int, out: Path) -> tuple[nn.Module, str]:
    """Return MobileNetV2 without its head, and where its weights come from.

    Args:
        weights: ``"imagenet"``, ``"cifar10"``, or ``"auto"`` for the first that is available.
        cifar10_root: Folder of CIFAR-10, see ``cifar10/images.py``.
        steps: Optimizer steps of 128 images on CIFAR-10.
        seed: Seed of this training.
        out: Folder that keeps its result.
    """
    if weights != "cifar10":
        try:
            return mobilenet_v2(weights="DEFAULT").features.eval(), "ImageNet weights"
        except OSError as error:  # urllib's errors are of this kind
            if weights == "imagenet":
                raise
            print(f"ImageNet weights cannot be downloaded ({error}): MobileNetV2 is trained on CIFAR-10 first.")
    net = mobilenet_v2(num_classes=10)
    kept = out / f"mobilenet_v2_cifar10_{steps}_steps_seed{seed}.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept))
    else:
        pl.seed_everything(seed, verbose=False)
        net = mobilenet_v2(num_classes=10).to(memory_format=torch.channels_last)
        model = OnCifar10(net, LR, schedule="one_cycle", classes=10)
        # In 150 steps a net this deep has hardly begun to learn, and a test would suggest a tenth of what it can take.
        test = LRRangeTest(1e-6, 1.0, num_steps=max(steps // 2, 1))
        trainer = pl.Trainer(**quiet(out, "pretraining"), max_steps=steps, max_epochs=-1, callbacks=[test])
        data = Cifar10(cifar10_root, batch_size=128, test_images=2000)
        trainer.fit(model, data)
        there = trainer.validate(model, data, verbose=False)[0]["val_accuracy"]
        print(f"MobileNetV2 after {steps} steps on CIFAR-10: {there:.1%} of 2,000 test images")
        torch.save(net.state_dict(), kept)
    return net.features.eval(), f"trained here on CIFAR-10 for {steps} steps of 128 images"


@torch.no_grad()
def features(frozen: nn.Module, data: Data) -> Data:
    """Return what the frozen extractor makes of the images, of shape (n, 1280), with their labels."""
    return torch.cat([frozen(images).mean((2, 3)) for images in torch.split(data[0], BATCH)]), data[1]


# ---------------------------------------------------------------------------------------------- runs
class KeepsCurve(pl.Callback):
    """Keep accuracy and loss on the test images after each epoch."""

    def __init__(self) -> None:
        self.accuracy: list[float] = []
        self.loss: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.accuracy.append(float(trainer.callback_metrics["val_accuracy"]))
        self.loss.append(float(trainer.callback_metrics["val_loss"]))


@dataclass
class Run:
    """Result of one training run."""

    name: str
    lr: float
    weight_decay: float
    seconds: float = 0.0
    curve: KeepsCurve = field(default_factory=KeepsCurve)

    @property
    def epochs_to_90(self) -> int:
        """The first epoch after which 90 % of the final accuracy is reached."""
        accuracy = self.curve.accuracy
        return next(epoch for epoch, value in enumerate(accuracy, 1) if value >= 0.9 * accuracy[-1])


def quiet(out: Path, name: str) -> dict[str, Any]:
    """Return the arguments that all Trainers share."""
    arguments = {"logger": CSVLogger(out, name=name), "num_sanity_val_steps": 0, "log_every_n_steps": 10}
    return arguments | {f"enable_{name}": False for name in ("checkpointing", "model_summary", "progress_bar")}


def train(name: str, model: Classifier, train: Data, test: Data, epochs: int, out: Path) -> Run:
    """Train ``model``; a one-cycle model is tuned first, on a tenth of the training data that is held out."""
    run = Run(name, model.lr, model.weight_decay)
    trainer = OneCycleTrainer(**quiet(out, name.replace(", ", "_").replace(" ", "_")), max_epochs=epochs)
    start = time.perf_counter()
    if model.schedule == "one_cycle":
        result = trainer.tune(
            model, held_out(train), lr_range_test=LRRangeTest(), weight_decay_probe=WeightDecayProbe()
        )
        result.apply(model)
    trainer.callbacks.append(run.curve)  # type: ignore[attr-defined]  # set by a connector
    trainer.fit(model, InMemory(train, test))
    run.seconds = time.perf_counter() - start
    run.lr, run.weight_decay = model.lr, model.weight_decay
    return run


def draw(runs: list[Run], title: str) -> Figure:
    """Draw accuracy and loss on the test images after each epoch."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, color in zip(runs, ("#9aa5b1", "#d98e04", "#d1242f", "#1f6feb"), strict=True):
        epochs = range(1, len(run.curve.accuracy) + 1)
        left.plot(epochs, [100 * value for value in run.curve.accuracy], color=color, marker=".", label=run.name)
        right.plot(epochs, run.curve.loss, color=color, marker=".", label=run.name)
    left.set(xlabel="epoch", ylabel="test accuracy, %")
    right.set(xlabel="epoch", ylabel="test loss")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    figure.suptitle(title, fontsize="medium")
    return figure


def show(runs: list[Run], title: str, seconds: float) -> None:
    """Print the table."""
    print(f"\n{title}, {seconds:.0f} s in all")
    print(f"{'':34}{'lr':>9}{'decay':>9}{'test accuracy':>15}{'test loss':>11}{'epochs to 90 %':>16}{'seconds':>9}")
    for run in runs:
        accuracy, loss = run.curve.accuracy[-1], run.curve.loss[-1]
        numbers = f"{run.lr:>9.3g}{run.weight_decay:>9.2g}{accuracy:>15.1%}{loss:>11.3f}{run.epochs_to_90:>16}"
        print(f"{run.name:34}{numbers}{run.seconds:>9.1f}")


def main(
    root: Path,
    cifar10_root: str | None,
    size: int,
    epochs: int,
    weights: str,
    pretrain_steps: int,
    seed: int,
    out: Path,
) -> list[Run]:
    """Train all four and show them."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    warnings.filterwarnings("ignore", ".*Palette images with Transparency.*")
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    images, test_images = read_images(root, "train", size), read_images(root, "test", size)
    frozen, origin = extractor(weights, cifar10_root, pretrain_steps, seed, out)
    train_features, test_features = features(frozen, images), features(frozen, test_images)
    made: dict[str, tuple[Callable[[], Classifier], Data, Data]] = {
        "simple CNN": (lambda: Classifier(simple_cnn(size), LR), images, test_images),
        "MobileNetV2": (lambda: Classifier(head(), LR, L2), train_features, test_features),
        "MobileNetV2, article's schedule": (
            lambda: Classifier(head(), PEAK, L2, "exp_decay"),
            *(train_features, test_features),
        ),
        "MobileNetV2, found, one cycle": (
            lambda: Classifier(head(), LR, L2, "one_cycle"),
            *(train_features, test_features),
        ),
    }
    runs = []
    for name, (make, data, test) in made.items():
        pl.seed_everything(seed, verbose=False)
        runs.append(train(name, make(), data, test, epochs, out))
    title = f"Rock, paper, scissors, {size} x {size} pixels, MobileNetV2 {origin}, seed {seed}"
    show(runs, title, time.perf_counter() - start)
    about = {
        "size": size,
        "batch_size": BATCH,
        "epochs": epochs,
        "extractor": origin,
        "test_images": len(test_images[1]),
    }
    for run in runs:
        numbers = {"accuracy": run.curve.accuracy[-1], "loss": run.curve.loss[-1], "seconds": round(run.seconds, 1)}
        numbers |= {"lr": run.lr, "weight_decay": run.weight_decay, "epochs_to_90": float(run.epochs_to_90)}
        file = f"rock_paper_scissors_{run.name}.json".replace(", ", "_").replace(" ", "_").replace("'", "")
        add_run(out / file, about | {"run": run.name}, {"seed": seed, **numbers})
    draw(runs, title).savefig(out / "rock_paper_scissors.png", dpi=150)
    print(f"picture: {out / 'rock_paper_scissors.png'}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(torch.hub.get_dir()) / "rock-paper-scissors"
    parser.add_argument("--data.root", dest="root", type=Path, default=default, help="folder of the images")
    parser.add_argument(
        "--cifar10.root", dest="cifar10_root", help="folder of CIFAR-10; default $CIFAR10_DATA, or that of torch.hub"
    )
    parser.add_argument("--size", type=int, default=64, help="width and height of the images; the article's: 128")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--weights", choices=["auto", "imagenet", "cifar10"], default="auto", help="of MobileNetV2")
    parser.add_argument("--pretrain-steps", type=int, default=800, help="on CIFAR-10, without ImageNet weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo_runs/rock_paper_scissors"))
    main(**vars(parser.parse_args()))
