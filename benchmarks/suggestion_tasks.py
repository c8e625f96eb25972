"""Sixteen small training tasks on data of scikit-learn, for judging learning-rate suggestions.

The list consists of pairs of similar tasks: those at an even index are half "A", those at an odd index half "B". Every
data set, split and added noise is fixed: a seed changes only the initial weights (and, in the oracle, the batch order),
so that scores of different seeds are comparable. The batch axis of every model's output is its first one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.optim import Optimizer

Data = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter], float], Optimizer]


@dataclass(frozen=True)
class Task:
    """A model, its data, its optimizer and its loss.

    Attributes:
        name: Data, model and optimizer, one word each.
        kind: ``"cls"``: judged by validation accuracy; ``"loss"``: judged by validation loss.
        loss: (output, target) -> scalar, in training and in validation.
        batch_size: Samples per step; an incomplete last batch of an epoch is dropped.
        steps: Optimizer steps of the one-cycle run that judges a learning rate.
        cycle_momentum: Whether that run also cycles momentum (SGD with momentum) or the first beta (Adam family).
        build_model: Returns the untrained, or pre-trained, model.
        build_optimizer: (parameters, lr) -> optimizer.
        load_data: Returns the training and the validation tensors.
        half: The part of the benchmark that it belongs to.
    """

    name: str
    kind: Literal["cls", "loss"]
    loss: Loss
    batch_size: int
    steps: int
    cycle_momentum: bool
    build_model: Callable[[], nn.Module]
    build_optimizer: OptimizerFactory
    load_data: Callable[[], Data]
    half: Literal["A", "B", "C"] = "C"

    def model(self, seed: int) -> nn.Module:
        """Return a fresh model; seed torch's global generator, which dropout and sampling use."""
        torch.manual_seed(seed)
        return self.build_model()

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return a fresh optimizer of all parameters."""
        return self.build_optimizer(model.parameters(), lr)

    def data(self, seed: int) -> Data:
        """Return (x_train, y_train, x_val, y_val), the same for every seed."""
        return self.load_data()


def batches(x: Tensor, y: Tensor, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield complete mini-batches forever, reshuffled every epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator)
        for chosen in torch.split(order[: len(x) // batch_size * batch_size], batch_size):
            yield x[chosen], y[chosen]


# --------------------------------------------------------------------------------------------- data
def split(x: Tensor, y: Tensor, num_train: int, seed: int = 0) -> Data:
    """Split samples at random, the same way each time."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, val = order[:num_train], order[num_train:]
    return x[train], y[train], x[val], y[val]


def floats(array: Any) -> Tensor:
    """Return an array as a tensor of 32-bit floats."""
    return torch.as_tensor(np.asarray(array, dtype=np.float32))


def normalize(x: Tensor) -> Tensor:
    """Shift and scale each feature to mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


@cache
def digits() -> Data:
    """Images in [0, 16] of shape (N, 1, 8, 8) and their classes."""
    bunch = datasets.load_digits()
    return split(floats(bunch.images).unsqueeze(1), torch.as_tensor(bunch.target), 900)


def scaled(images: Tensor) -> Tensor:
    """Shift and scale digits, which are in [0, 16], to about mean 0 and standard deviation 1."""
    return (images - 5) / 6


@cache
def _digit_vectors() -> Data:
    x, y, x_val, y_val = digits()
    return scaled(x).flatten(1), y, scaled(x_val).flatten(1), y_val


@cache
def noisy_digits(share: float) -> Data:
    """Digits with this share of the training labels drawn at random; validation labels are clean."""
    x, y, x_val, y_val = digits()
    rng = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(y), generator=rng) < share
    y = torch.where(wrong, torch.randint(10, y.shape, generator=rng), y)
    return scaled(x), y, scaled(x_val), y_val


@cache
def _digit_rows() -> Data:
    """The eight rows of a digit as a sequence of eight vectors."""
    x, y, x_val, y_val = digits()
    return scaled(x).squeeze(1), y, scaled(x_val).squeeze(1), y_val


@cache
def _digits_to_themselves(noise: float, scale: float = 1.0) -> Data:
    """A digit with noise -> the same with the same noise, more than a bottleneck carries; target times ``scale``."""
    x, _, x_val, _ = digits()
    rng = torch.Generator().manual_seed(2)
    noisy, noisy_val = (v + noise * torch.randn(v.shape, generator=rng) for v in (x.flatten(1), x_val.flatten(1)))
    return scaled(noisy), noisy * scale, scaled(noisy_val), noisy_val * scale


@cache
def _digit_halves() -> Data:
    """Upper half of a digit -> the ink counts of its lower half."""
    x, _, x_val, _ = digits()
    return (
        scaled(x[:, :, :4]).flatten(1),
        x[:, :, 4:].flatten(1),
        scaled(x_val[:, :, :4]).flatten(1),
        x_val[:, :, 4:].flatten(1),
    )


def _overlay(images: Tensor, labels: Tensor, count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(images), (2, count), generator=rng)
    present = F.one_hot(labels[first], 10) | F.one_hot(labels[second], 10)
    both = torch.maximum(images[first], images[second])
    return scaled(both + noise * torch.randn(both.shape, generator=rng)), present.float()


@cache
def _overlaid_digits(noise: float) -> Data:
    """Two digits drawn over each other, with noise -> which of the ten are present."""
    x, y, x_val, y_val = digits()
    return *_overlay(x, y, 4000, noise, 3), *_overlay(x_val, y_val, 2000, noise, 4)


@cache
def _turned_digits(num_train: int) -> Data:
    """A digit rotated by 0 to 3 quarter turns -> their number."""
    x, _, x_val, _ = digits()
    images, turns = _quarter_turns(scaled(x))
    images, turns, _, _ = split(images, turns, num_train, 5)
    return images, turns, *_quarter_turns(scaled(x_val))


def _quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    turned = torch.cat([torch.rot90(images, k, (-2, -1)) for k in range(4)])
    return turned, torch.arange(4).repeat_interleave(len(images))


@cache
def _photo(index: int) -> Tensor:
    """China (0) or flower (1), normalized, of shape (3, 427, 640)."""
    image = floats(datasets.load_sample_images().images[index]).movedim(-1, 0)
    return (image - image.mean()) / image.std()


def _tiles(photo: Tensor, size: int) -> Tensor:
    """Cut a photo into tiles without overlap, so that training and validation share no pixel."""
    channels = photo.shape[0]
    tiles = photo.unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, size, size)


@cache
def _whose_tile(noise: float) -> Data:
    """A grey 8 x 8 tile with noise -> its photo."""
    photos = [_tiles(_photo(index).mean(0, keepdim=True), 8) for index in (0, 1)]
    tiles, labels = torch.cat(photos), torch.arange(2).repeat_interleave(len(photos[0]))
    rng = torch.Generator().manual_seed(6)
    return split(tiles + noise * torch.randn(tiles.shape, generator=rng), labels, 3000, 6)


@cache
def _noisy_tiles(index: int, noise: float, num_train: int) -> Data:
    """A grey 8 x 8 tile with noise -> the tile with different, weaker noise, as a vector."""
    clean = _tiles(_photo(index).mean(0, keepdim=True), 8)
    rng = torch.Generator().manual_seed(7)
    noisy, target = (clean + std * torch.randn(clean.shape, generator=rng) for std in (noise, 0.3))
    return split(noisy, target.flatten(1), num_train, 8)


@cache
def _photo_entries(noise: float) -> Data:
    """(row, column) of a quarter-size photo -> its brightness there, with noise."""
    grey = _photo(0).mean(0)[::4, ::4]
    rows, columns = grey.shape
    index = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    rng = torch.Generator().manual_seed(9)
    return split(index, (grey + noise * torch.randn(grey.shape, generator=rng)).reshape(-1, 1), 11000, 10)


@cache
def _diabetes() -> Data:
    bunch = datasets.load_diabetes()
    return split(normalize(floats(bunch.data)), normalize(floats(bunch.target)).unsqueeze(1), 242, 11)


@cache
def _friedman(scale: float) -> Data:
    """Friedman's first function, ten inputs of which five matter, noisy targets times ``scale``."""
    x, y = datasets.make_friedman1(5000, 10, noise=4.0, random_state=12)
    return split(normalize(floats(x)), (floats(y) - 14.4).unsqueeze(1) * scale, 3000, 13)


@cache
def _swiss_roll(classes: int) -> Data:
    """A point in the plane of the rolled-up sheet -> its section of the sheet, in classes of equal size."""
    x, along = datasets.make_swiss_roll(4000, noise=0.8, random_state=14)
    rank = torch.as_tensor(along).argsort().argsort()
    return split(normalize(floats(x[:, [0, 2]])), rank * classes // len(rank), 1500, 15)


_LOADERS = ("digits", "iris", "wine", "breast_cancer", "diabetes", "linnerud")


@cache
def texts() -> tuple[tuple[Tensor, ...], int]:
    """Scikit-learn's descriptions of its data sets as character numbers, and the size of the alphabet."""
    texts = [getattr(datasets, f"load_{name}")().DESCR.lower() for name in _LOADERS]
    numbers = {character: k for k, character in enumerate(sorted(set("".join(texts))))}
    return tuple(torch.tensor([numbers[c] for c in text]) for text in texts), len(numbers)


def _windows(text: Tensor, length: int, stride: int, block: int) -> tuple[Tensor, Tensor]:
    """Windows for training and for validation: every fourth block is held out and no window crosses blocks."""
    parts = [part.unfold(0, length, stride) for part in torch.split(text, block) if len(part) >= length]
    train = [part for k, part in enumerate(parts) if k % 4 != 3]
    val = [part for k, part in enumerate(parts) if k % 4 == 3]
    return torch.cat(train), torch.cat([*val, parts[0][:0]])


@cache
def next_characters(length: int) -> Data:
    """Return stretches of text -> the same, one character further."""
    train, val = zip(*(_windows(text, length + 1, 8, 320) for text in texts()[0]), strict=True)
    x, x_val = torch.cat(train), torch.cat(val)
    return x[:, :-1], x[:, 1:], x_val[:, :-1], x_val[:, 1:]


@cache
def _whose_words(length: int, buckets: int) -> Data:
    """The hashed three-letter groups of a stretch of text -> its description."""
    groups = [(text[:-2] * 97 + text[1:-1] * 193 + text[2:] * 389) % buckets for text in texts()[0]]
    train, val = zip(*(_windows(group, length, 3, 200) for group in groups), strict=True)
    labels, labels_val = ([torch.full((len(w),), k) for k, w in enumerate(part)] for part in (train, val))
    return torch.cat(train), torch.cat(labels), torch.cat(val), torch.cat(labels_val)


# ------------------------------------------------------------------------------------------- models
def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Return linear layers of these sizes, all but the last one with an activation."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), activation()]
    return nn.Sequential(*layers[: -2 if norm else -1])


class _ResidualMLP(nn.Module):
    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)  # the targets are tiny: a default head would start a hundred times too large
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


class _RowTransformer(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.encoder(self.stem(rows) + self.position).mean(1))  # type: ignore[no-any-return]


class _CharacterGRU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        alphabet = texts()[1]
        self.embedding = nn.Embedding(alphabet, 16)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, alphabet)

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(characters))[0])  # type: ignore[no-any-return]


def _autoencoder() -> nn.Module:
    return nn.Sequential(mlp(64, 64, 8, activation=nn.GELU), mlp(8, 64, 64, activation=nn.GELU))


class _DigitVAE(nn.Module):
    """Return pixel logits, latent means and latent log variances, concatenated; sample only in training."""

    latent = 6

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(64, 96, 2 * self.latent, activation=nn.ReLU)
        self.decoder = mlp(self.latent, 96, 64, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return torch.cat([self.decoder(z), mean, log_variance], 1)


def _bag_of_groups() -> nn.Module:
    bag = nn.EmbeddingBag(2048, 16, mode="sum")
    nn.init.normal_(bag.weight, std=0.1)
    return nn.Sequential(bag, mlp(16, 32, 6))


class _Factorization(nn.Module):
    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, rank + 1), nn.Embedding(columns, rank + 1)
        for table in (self.rows, self.columns):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, index: Tensor) -> Tensor:
        row, column = self.rows(index[:, 0]), self.columns(index[:, 1])
        return ((row[:, 1:] * column[:, 1:]).sum(1) + row[:, 0] + column[:, 0]).unsqueeze(1)  # type: ignore[no-any-return]


def conv(fan_in: int, fan_out: int, norm: Callable[[int], nn.Module] = lambda _: nn.Identity()) -> list[nn.Module]:
    """Return a convolution of 3 x 3 with its norm and a ReLU."""
    return [nn.Conv2d(fan_in, fan_out, 3, padding=1), norm(fan_out), nn.ReLU()]


def _batch_norm_net() -> nn.Module:
    layers = [*conv(1, 12, nn.BatchNorm2d), nn.MaxPool2d(2), *conv(12, 24, nn.BatchNorm2d), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, 10))


def _group_norm_net() -> nn.Module:
    norm = partial(nn.GroupNorm, 4)
    layers = [*conv(1, 12, norm), nn.MaxPool2d(2), *conv(12, 24, norm), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, 2))


def _plain_conv_net(outputs: int) -> nn.Sequential:
    layers = [*conv(1, 12), nn.MaxPool2d(2), *conv(12, 24), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, outputs))


def _denoiser() -> nn.Sequential:
    layers = [nn.Conv2d(1, 12, 3, padding=1), nn.GELU(), nn.Conv2d(12, 12, 3, padding=1), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 1, 3, padding=1), nn.Flatten())


def _deep_elu_net(classes: int) -> nn.Module:
    model = mlp(2, *[32] * 7, classes, activation=nn.ELU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)  # with torch's default the signal would vanish over eight layers
    return model


# ------------------------------------------------------------------------------------- pre-training
def pretrain(model: nn.Module, data: Data, loss: Loss, lr: float, steps: int) -> dict[str, Tensor]:
    """Train a model with Adam; return its weights."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _, (x, y) in zip(range(steps), batches(*data[:2], 32, 17), strict=False):
        optimizer.zero_grad()
        loss(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.state_dict()


@cache
def _digit_weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):  # a task's first model must equal its later ones
        torch.manual_seed(16)
        x, y, x_val, y_val = digits()
        data = scaled(x), y, scaled(x_val), y_val
        return pretrain(_plain_conv_net(10), data, F.cross_entropy, 3e-3, 250)


@cache
def _china_weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(18)
        return pretrain(_denoiser(), _noisy_tiles(0, 0.3, 3000), F.mse_loss, 3e-3, 300)


def _with_new_head() -> nn.Module:
    model = _plain_conv_net(4)
    body = {name: weight for name, weight in _digit_weights().items() if not name.startswith(f"{len(model) - 1}.")}
    model.load_state_dict(body, strict=False)
    return model


def _pretrained_denoiser() -> nn.Module:
    model = _denoiser()
    model.load_state_dict(_china_weights())
    return model


# ------------------------------------------------------------------------------------------- losses
def _squared_hinge(output: Tensor, target: Tensor) -> Tensor:
    return F.multi_margin_loss(output, target, p=2)


def _smoothed_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, label_smoothing=0.1)


def sequence_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy over samples and positions."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def _negative_elbo(output: Tensor, target: Tensor) -> Tensor:
    logits, mean, log_variance = torch.split(output, [64, _DigitVAE.latent, _DigitVAE.latent], 1)
    error = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
    return (error + divergence) / len(target)


def _summed_squares(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, summed over a sample's outputs, mean over the samples."""
    return F.mse_loss(output, target, reduction="sum") / len(target)


def _poisson(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target, full=True)  # full: a positive loss, so that 1% is meaningful


# --------------------------------------------------------------------------------------- optimizers
def optimizer(kind: type[Optimizer], **options: Any) -> OptimizerFactory:
    """Return a factory of optimizers of one kind."""
    return lambda parameters, lr: kind(parameters, lr=lr, **options)  # type: ignore[call-arg]


_SGD = torch.optim.SGD
MOMENTUM = optimizer(_SGD, momentum=0.9)
_NESTEROV = optimizer(_SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)

# --------------------------------------------------------------------------------------------- tasks
# fmt: off
_PAIRS = [
    Task("digits_linear_hinge_sgd", "cls", _squared_hinge, 16, 150, False,
         partial(nn.Linear, 64, 10), optimizer(_SGD), _digit_vectors),
    Task("diabetes_tanh_huber_sgd", "loss", F.huber_loss, 8, 200, False,
         partial(mlp, 10, 32, 16, 1, activation=nn.Tanh), optimizer(_SGD), _diabetes),
    Task("noisy_digits_batchnorm_nesterov", "cls", F.cross_entropy, 64, 160, True,
         _batch_norm_net, _NESTEROV, partial(noisy_digits, 0.3)),
    Task("photo_tiles_groupnorm_sgd", "cls", F.cross_entropy, 64, 200, True,
         _group_norm_net, MOMENTUM, partial(_whose_tile, 0.4)),
    Task("digit_rows_transformer_adamw", "cls", _smoothed_cross_entropy, 32, 150, True,
         partial(_RowTransformer, 32, 2), optimizer(torch.optim.AdamW, weight_decay=0.05), _digit_rows),
    Task("characters_gru_adam", "loss", sequence_cross_entropy, 16, 200, True,
         partial(_CharacterGRU, 48), optimizer(torch.optim.Adam), partial(next_characters, 24)),
    Task("digits_vae_adam", "loss", _negative_elbo, 64, 250, True,
         _DigitVAE, optimizer(torch.optim.Adam), partial(_digits_to_themselves, 0.0, 1 / 16)),
    Task("digits_autoencoder_sum_adamw", "loss", _summed_squares, 32, 250, True,
         _autoencoder, optimizer(torch.optim.AdamW), partial(_digits_to_themselves, 5.0)),
    Task("friedman_residual_tiny_rmsprop", "loss", F.mse_loss, 64, 200, False,
         partial(_ResidualMLP, 10, 32, 2), torch.optim.RMSprop, partial(_friedman, 0.004)),
    Task("text_bag_adagrad", "cls", F.cross_entropy, 64, 200, False,
         _bag_of_groups, torch.optim.Adagrad, partial(_whose_words, 48, 2048)),
    Task("overlaid_digits_multilabel_sgd", "loss", F.binary_cross_entropy_with_logits, 32, 250, True,
         partial(_plain_conv_net, 10), MOMENTUM, partial(_overlaid_digits, 4.0)),
    Task("digit_halves_poisson_nadam", "loss", _poisson, 32, 200, True,
         partial(mlp, 32, 64, 64, 32, activation=nn.GELU, norm=True), torch.optim.NAdam, _digit_halves),
    Task("photo_factorization_adamax", "loss", F.mse_loss, 128, 250, True,
         partial(_Factorization, 107, 160, 6), torch.optim.Adamax, partial(_photo_entries, 0.3)),
    Task("swiss_roll_deep_elu_rmsprop_momentum", "cls", F.cross_entropy, 32, 150, False,
         partial(_deep_elu_net, 10), optimizer(torch.optim.RMSprop, momentum=0.9), partial(_swiss_roll, 10)),
    Task("finetune_denoiser_radam", "loss", F.mse_loss, 16, 200, True,
         _pretrained_denoiser, torch.optim.RAdam, partial(_noisy_tiles, 1, 0.8, 1500)),
    Task("finetune_turned_digits_sgd", "cls", F.cross_entropy, 32, 150, True,
         _with_new_head, MOMENTUM, partial(_turned_digits, 400)),
]
# fmt: on
TASKS = [replace(task, half="B" if k % 2 else "A") for k, task in enumerate(_PAIRS)]
