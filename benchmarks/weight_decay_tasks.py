"""Twenty-four small training tasks on real data, for judging weight decays.

Groups "A" and "B" are for development. Group "C" is kept apart: it was written before the last rule, which was not
chosen by it. Data are those of scikit-learn, and of a folder with ``cifar10-jpeg``, ``rock-paper-scissors`` and
``tinyshakespeare.txt``; a task whose data are missing is left out. Data and split are fixed: a seed changes the initial
weights and the batch order.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import datasets
from suggestion_tasks import Data, Loss, Task
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

# Coupled decay is a part of the gradient, which Adam divides by its size; decoupled decay shrinks the weights itself.
COUPLED = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
DECOUPLED = (0.0, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class DecayTask:
    """A model, its data and its optimizer at a learning rate that trains it well.

    Attributes:
        name: Data, model and optimizer.
        group: ``"A"``, ``"B"`` or ``"C"``.
        kind: ``"cls"``: judged by validation accuracy; ``"loss"``: by validation loss.
        loss: (output, target) -> scalar.
        batch_size: Samples per step.
        steps: Optimizer steps of the one-cycle run that judges a decay.
        optimizer_kind: SGD with momentum 0.9, Adam or AdamW.
        lr: Peak of the cycle, near the suggestion of a range test.
        own: The weight decay that a user would have.
        build_model: Returns the untrained model.
        load_data: Returns training and validation tensors; of a folder if it is not scikit-learn's.
        needs: What the folder must hold, or an empty string.
    """

    name: str
    group: Literal["A", "B", "C"]
    kind: Literal["cls", "loss"]
    loss: Loss
    batch_size: int
    steps: int
    optimizer_kind: type[Optimizer]
    lr: float
    own: float
    build_model: Callable[[], nn.Module]
    load_data: Callable[..., Data]
    needs: str = ""

    @property
    def grid(self) -> tuple[float, ...]:
        """The decays whose full runs are stored."""
        return DECOUPLED if self.optimizer_kind is AdamW else COUPLED

    def has_data(self, shared: Path | None) -> bool:
        """Return whether its data are there."""
        return not self.needs or (shared is not None and (shared / self.needs).exists())

    def at(self, weight_decay: float, shared: Path | None) -> Task:
        """Return the task with a weight decay; its data lie in ``shared`` if they are not scikit-learn's."""
        options: dict[str, Any] = {"momentum": 0.9} if self.optimizer_kind is SGD else {}
        kind: Any = self.optimizer_kind
        data = partial(self.load_data, shared) if self.needs else self.load_data
        return Task(
            *(self.name, self.kind, self.loss, self.batch_size, self.steps, True, self.build_model),
            build_optimizer=lambda parameters, lr: kind(parameters, lr=lr, weight_decay=weight_decay, **options),
            load_data=data,
        )


# --------------------------------------------------------------------------------------------- data
def _part(x: Tensor, y: Tensor, train: int, val: int, seed: int = 0) -> Data:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, second = order[:train], order[train : train + val]
    return x[first], y[first], x[second], y[second]


def _float(array: Any) -> Tensor:
    return torch.as_tensor(np.asarray(array, dtype=np.float32))


def _table(x: Any, y: Any, train: int) -> Data:
    """Normalized inputs by the training set; targets of a regression normalized, too."""
    x_train, y_train, x_val, y_val = _part(_float(x), torch.as_tensor(y), train, len(x))
    mean, std = x_train.mean(0), x_train.std(0).clamp_min(1e-6)
    if y_train.is_floating_point():
        middle, scale = y_train.mean(), y_train.std()
        y_train, y_val = (((part - middle) / scale).float().unsqueeze(1) for part in (y_train, y_val))
    return (x_train - mean) / std, y_train, (x_val - mean) / std, y_val


@cache
def _digits(train: int, noise: float = 0.0) -> Data:
    """Images of shape (N, 1, 8, 8); this share of the training labels is drawn at random."""
    bunch = datasets.load_digits()
    x, y, x_val, y_val = _part((_float(bunch.images).unsqueeze(1) - 5) / 6, torch.as_tensor(bunch.target), train, 800)
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(y), generator=generator) < noise
    return x, torch.where(wrong, torch.randint(10, y.shape, generator=generator), y), x_val, y_val


@cache
def _digits_to_themselves(train: int) -> Data:
    """A digit -> the same, as a vector."""
    x, _, x_val, _ = _digits(train)
    return x, x.flatten(1), x_val, x_val.flatten(1)


@cache
def _wine(train: int) -> Data:
    bunch = datasets.load_wine()
    return _table(bunch.data, bunch.target, train)


@cache
def _diabetes(train: int) -> Data:
    bunch = datasets.load_diabetes()
    return _table(bunch.data, bunch.target, train)


@cache
def _cancer(train: int) -> Data:
    bunch = datasets.load_breast_cancer()
    return _table(bunch.data, bunch.target, train)


@cache
def _noisy_tiles(photo: int, noise: float, train: int) -> Data:
    """A grey 8 x 8 tile of a photo with noise -> the tile."""
    image = _float(datasets.load_sample_images().images[photo]).mean(2)
    image = (image - image.mean()) / image.std()
    clean = image.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 1, 8, 8)
    noisy = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return _part(noisy, clean, train, 1000)


@cache
def _cifar(train: int, val: int, shared: Path) -> Data:
    """Images of CIFAR-10, halved to 16 x 16."""
    parts: list[Tensor] = []
    for name, count in (("train", train), ("test", val)):
        with np.load(shared / "cifar10-jpeg" / f"{name}.npz") as arrays:
            jpeg, offset, label = arrays["jpeg"], arrays["offset"], arrays["label"]
        chosen = np.random.default_rng(0).permutation(len(label))[:count]
        files = (jpeg[offset[i] : offset[i + 1]].tobytes() for i in chosen)
        images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        x = (_float(images).movedim(-1, 1) / 255 - 0.47) / 0.25
        parts += [F.avg_pool2d(x, 2), torch.as_tensor(label[chosen].astype(np.int64))]
    return parts[0], parts[1], parts[2], parts[3]


@cache
def _hands(train: int, shared: Path) -> Data:
    """Rock, paper or scissors, grey, halved to 14 x 14; other hands in validation."""
    parts: list[Tensor] = []
    for name, count in (("train", train), ("test", 372)):
        folder = shared / "rock-paper-scissors" / name
        files = [(path, k) for k, kind in enumerate(sorted(folder.iterdir())) for path in sorted(kind.iterdir())]
        chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:count]]
        images = np.stack([np.asarray(Image.open(path).convert("L")) for path, _ in chosen])
        x = F.avg_pool2d((_float(images).unsqueeze(1) / 255 - 0.8) / 0.25, 2)
        parts += [x, torch.tensor([k for _, k in chosen])]
    return parts[0], parts[1], parts[2], parts[3]


@cache
def _characters(train: int, context: int, shared: Path) -> Data:
    """A stretch of Shakespeare -> its next character; validation on later text."""
    text = (shared / "tinyshakespeare.txt").read_text()
    numbers = {character: k for k, character in enumerate(sorted(set(text)))}
    known = torch.tensor([numbers[character] for character in text])
    windows = known.unfold(0, context + 1, 3)
    x, val = windows[:train], windows[200_000:204_000]
    return x[:, :-1], x[:, -1], val[:, :-1], val[:, -1]


# ------------------------------------------------------------------------------------------- models
def _mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), activation()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def _conv_net(size: int, *channels: int, outputs: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), *([nn.BatchNorm2d(fan_out)] if norm else []), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    left = size // 2 ** (len(channels) - 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * left**2, outputs))


def _denoiser() -> nn.Sequential:
    first, last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
    return nn.Sequential(first, nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.GELU(), last)


def _character_net(context: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Embedding(65, 16), _mlp(16 * context, width, width, 65))


class _RowTransformer(nn.Module):
    """The eight rows of a digit as a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.stem(images[:, 0]) + self.position).mean(1))  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------- tasks
_CIFAR, _HANDS, _TEXT = "cifar10-jpeg", "rock-paper-scissors", "tinyshakespeare.txt"
# fmt: off
TASKS = [
    DecayTask("cifar_batchnorm_sgd", "B", "cls", F.cross_entropy, 64, 500, SGD, 0.05, 1e-4,
              partial(_conv_net, 16, 3, 16, 32, 48, outputs=10, norm=True), partial(_cifar, 3000, 2000), _CIFAR),
    DecayTask("hands_conv_sgd", "B", "cls", F.cross_entropy, 30, 800, SGD, 0.05, 0.0,
              partial(_conv_net, 14, 1, 12, 24, outputs=3, norm=False), partial(_hands, 240), _HANDS),
    DecayTask("few_digits_mlp_adam", "B", "cls", F.cross_entropy, 25, 800, Adam, 5e-3, 0.0,
              partial(_mlp, 64, 96, 96, 10), partial(_digits, 100)),
    DecayTask("characters_mlp_adamw", "B", "loss", F.cross_entropy, 64, 1500, AdamW, 5e-3, 1e-2,
              partial(_character_net, 8, 128), partial(_characters, 8000, 8), _TEXT),
    DecayTask("cancer_mlp_sgd", "B", "loss", F.cross_entropy, 20, 1500, SGD, 0.1, 1e-4,
              partial(_mlp, 30, 64, 64, 2), partial(_cancer, 200)),
    DecayTask("diabetes_layernorm_adamw", "B", "loss", F.mse_loss, 16, 800, AdamW, 3e-3, 1e-2,
              partial(_mlp, 10, 48, 48, 1, norm=True), partial(_diabetes, 242)),
    DecayTask("noisy_digits_batchnorm_adamw", "B", "cls", F.cross_entropy, 64, 600, AdamW, 1e-2, 1e-2,
              partial(_conv_net, 8, 1, 16, 32, outputs=10, norm=True), partial(_digits, 900, 0.4)),
    DecayTask("photo_denoiser_adam", "B", "loss", F.mse_loss, 32, 800, Adam, 1e-2, 0.0,
              _denoiser, partial(_noisy_tiles, 0, 0.5, 3000)),
    DecayTask("cifar_batchnorm_adamw", "A", "cls", F.cross_entropy, 64, 500, AdamW, 5e-3, 1e-2,
              partial(_conv_net, 16, 3, 16, 32, 48, outputs=10, norm=True), partial(_cifar, 3000, 2000), _CIFAR),
    DecayTask("cifar_plain_sgd", "A", "cls", F.cross_entropy, 50, 600, SGD, 0.05, 0.0,
              partial(_conv_net, 16, 3, 16, 32, outputs=10, norm=False), partial(_cifar, 1000, 2000), _CIFAR),
    DecayTask("digits_batchnorm_sgd", "A", "cls", F.cross_entropy, 32, 500, SGD, 0.05, 1e-4,
              partial(_conv_net, 8, 1, 12, 24, outputs=10, norm=True), partial(_digits, 900)),
    DecayTask("noisy_digits_mlp_sgd", "A", "cls", F.cross_entropy, 32, 1500, SGD, 0.1, 0.0,
              partial(_mlp, 64, 128, 128, 10), partial(_digits, 600, 0.3)),
    DecayTask("few_digit_rows_transformer_adamw", "A", "cls", F.cross_entropy, 32, 500, AdamW, 5e-3, 1e-2,
              partial(_RowTransformer, 32), partial(_digits, 300)),
    DecayTask("hands_batchnorm_adam", "A", "cls", F.cross_entropy, 32, 400, Adam, 1e-2, 1e-4,
              partial(_conv_net, 14, 1, 12, 24, outputs=3, norm=True), partial(_hands, 600), _HANDS),
    DecayTask("characters_mlp_sgd", "A", "loss", F.cross_entropy, 64, 2000, SGD, 0.2, 1e-4,
              partial(_character_net, 6, 96), partial(_characters, 60_000, 6), _TEXT),
    DecayTask("diabetes_tanh_adam", "A", "loss", F.mse_loss, 16, 800, Adam, 5e-3, 0.0,
              partial(_mlp, 10, 48, 48, 1, activation=nn.Tanh), partial(_diabetes, 150)),
    DecayTask("cifar_plain_adam", "C", "cls", F.cross_entropy, 50, 500, Adam, 3e-3, 0.0,
              partial(_conv_net, 16, 3, 16, 32, outputs=10, norm=False), partial(_cifar, 2000, 1000), _CIFAR),
    DecayTask("hands_mlp_adamw", "C", "cls", F.cross_entropy, 32, 500, AdamW, 2e-3, 1e-2,
              partial(_mlp, 196, 64, 64, 3), partial(_hands, 300), _HANDS),
    DecayTask("digits_autoencoder_adam", "C", "loss", F.mse_loss, 32, 800, Adam, 5e-3, 0.0,
              partial(_mlp, 64, 64, 16, 64, 64, activation=nn.GELU), partial(_digits_to_themselves, 900)),
    DecayTask("more_characters_mlp_sgd", "C", "loss", F.cross_entropy, 64, 1000, SGD, 0.2, 1e-4,
              partial(_character_net, 5, 64), partial(_characters, 16_000, 5), _TEXT),
    DecayTask("wine_mlp_sgd", "C", "loss", F.cross_entropy, 20, 600, SGD, 0.05, 0.0,
              partial(_mlp, 13, 32, 32, 3), partial(_wine, 90)),
    DecayTask("flower_denoiser_adamw", "C", "loss", F.mse_loss, 32, 600, AdamW, 5e-3, 1e-2,
              _denoiser, partial(_noisy_tiles, 1, 0.7, 2000)),
    DecayTask("noisy_digits_batchnorm_sgd", "C", "cls", F.cross_entropy, 32, 500, SGD, 0.05, 1e-4,
              partial(_conv_net, 8, 1, 12, 24, outputs=10, norm=True), partial(_digits, 900, 0.2)),
    DecayTask("cifar_batchnorm_adam", "C", "cls", F.cross_entropy, 64, 400, Adam, 5e-3, 0.0,
              partial(_conv_net, 16, 3, 16, 32, outputs=10, norm=True), partial(_cifar, 2000, 1000), _CIFAR),
]
# fmt: on
