"""CIFAR-10 in memory as bytes, drawn in whole batches, which are augmented and converted on the device.

A batch is one indexing of one tensor, 1.6 MB for 512 images, so that the loader is never the limit.
"""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images: red, green and blue
PAD = 4  # pixels on each side before the random crop (He et al., arXiv:1512.03385, section 4.2)
Batch = tuple[Tensor, Tensor]


# ------------------------------------------------------------------------------------------ reading
def find_root(root: str | None) -> Path:
    """Return ``root``, or ``$CIFAR10_DATA``, or ``cifar10`` in the folder of ``torch.hub``."""
    return Path(root or os.environ.get("CIFAR10_DATA") or Path(torch.hub.get_dir()) / "cifar10")


def is_jpeg_copy(root: Path) -> bool:
    """Return whether ``root`` holds the set as JPEG files in ``train.npz`` and ``test.npz``: slightly lossy."""
    return (root / "train.npz").exists()


@lru_cache(maxsize=4)
def read_images(root: Path, part: str, count: int) -> Batch:
    """Return images as uint8 of shape (n, 3, 32, 32) and their labels: all, or a fixed random draw of ``count``.

    Args:
        root: Folder of ``train.npz`` and ``test.npz``, each with JPEG files end to end in ``jpeg``, their start
            positions in ``offset`` and the classes in ``label``; or of torchvision's copy, downloaded if missing.
        part: ``"train"`` or ``"test"``.
        count: Number of images.
    """
    if is_jpeg_copy(root):
        with np.load(root / f"{part}.npz") as arrays:
            jpeg, offset, labels = arrays["jpeg"], arrays["offset"], arrays["label"]
        chosen = _draw(len(labels), count)
        files = (jpeg[offset[i] : offset[i + 1]].tobytes() for i in chosen)
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    else:
        whole = CIFAR10(root, train=part == "train", download=True)
        chosen = _draw(len(whole.data), count)
        pixels, labels = whole.data[chosen], np.asarray(whole.targets)
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(labels[chosen].astype(np.int64))


def _draw(total: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(total)[:count]


# ------------------------------------------------------------------------------------------- loading
class ImagesInMemory(Dataset[Batch]):
    """Images and labels that a loader takes a whole batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these images; DataLoader prefers this method where a data set has it."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen]


def _as_it_is(batch: Any) -> Any:
    return batch


class Cifar10(pl.LightningDataModule):
    """CIFAR-10 for training, and its test images for validation.

    Args:
        root: Folder with the images, see `read_images`; downloaded to it if necessary. None: ``$CIFAR10_DATA``, or
            ``cifar10`` in the folder of ``torch.hub``.
        batch_size: Images per training batch.
        train_images: Number of training images, a fixed random draw if it is below 50,000.
        test_images: The same of the 10,000 test images.
        held_out: Number of the training images that validate in place of the test images, for searches that must not
            see these.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 512,
        train_images: int = 50_000,
        test_images: int = 10_000,
        held_out: int = 0,
    ) -> None:
        super().__init__()
        self.root = find_root(root)
        self.batch_size, self.held_out = batch_size, held_out
        self.train_images, self.test_images = train_images, test_images

    @property
    def copy(self) -> str:
        """Which copy of the set this is, as a result must say."""
        return "JPEG (slightly lossy)" if is_jpeg_copy(self.root) else "torchvision"

    def setup(self, stage: str) -> None:
        images, labels = read_images(self.root, "train", self.train_images)
        kept = len(images) - self.held_out
        self.train = ImagesInMemory(images[:kept], labels[:kept])
        is_held_out = self.held_out > 0
        validating = (images[kept:], labels[kept:]) if is_held_out else read_images(self.root, "test", self.test_images)
        self.val = ImagesInMemory(*validating)

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.train, self.batch_size, shuffle=True, collate_fn=_as_it_is)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.val, 1000, collate_fn=_as_it_is)


# -------------------------------------------------------------------------------------- on the device
def normalize(images: Tensor) -> Tensor:
    """Return bytes as floats with mean 0 and standard deviation 1 in each colour."""
    mean, std = (torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def augment(images: Tensor) -> Tensor:
    """Pad each image of a batch with black, cut out a random window of the old size, and mirror half of them.

    All windows of the batch are one indexing. Its result lies in memory as channels-last.

    Args:
        images: Bytes of shape (n, 3, height, width).
    """
    count, _, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (PAD, PAD, PAD, PAD))
    top, left = torch.randint(2 * PAD + 1, (2, count, 1), device=device)
    rows, columns = top + torch.arange(height, device=device), left + torch.arange(width, device=device)
    is_mirrored = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(is_mirrored, columns.flip(1), columns)
    image = torch.arange(count, device=device)
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
