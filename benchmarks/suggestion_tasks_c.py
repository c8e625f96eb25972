"""Half C: eight more tasks for judging learning-rate suggestions, of kinds that the other halves have few of.

They were written before any figure of them was seen, and were not used to choose a method. The same rules as in
`suggestion_tasks.py` hold: data, splits and added noise are fixed, and a seed changes only weights and batch order.
"""

from functools import cache, partial

import torch
import torch.nn.functional as F
from sklearn import datasets
from suggestion_tasks import (
    MOMENTUM,
    Data,
    Task,
    conv,
    digits,
    floats,
    mlp,
    next_characters,
    noisy_digits,
    normalize,
    optimizer,
    pretrain,
    scaled,
    sequence_cross_entropy,
    split,
    texts,
)
from torch import Tensor, nn


# --------------------------------------------------------------------------------------------- data
@cache
def _noisy_vectors(share: float) -> Data:
    """Digits as vectors, with this share of the training labels drawn at random."""
    x, y, x_val, y_val = noisy_digits(share)
    return x.flatten(1), y, x_val.flatten(1), y_val


@cache
def _vectors(noise: float) -> Data:
    """Digits as vectors, with noise."""
    x, y, x_val, y_val = digits()
    rng = torch.Generator().manual_seed(20)
    noisy, noisy_val = (scaled(v.flatten(1) + noise * torch.randn(len(v), 64, generator=rng)) for v in (x, x_val))
    return noisy, y, noisy_val, y_val


@cache
def _impedance(scale: float) -> Data:
    """Friedman's second function with noise, target normalized and then times ``scale``."""
    x, y = datasets.make_friedman2(3000, noise=100.0, random_state=21)
    return split(normalize(floats(x)), normalize(floats(y)).unsqueeze(1) * scale, 2000, 22)


def _pasted(images: Tensor, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Put each digit somewhere on a noisy canvas of 16 x 16 -> which pixels are ink, as vectors."""
    rng = torch.Generator().manual_seed(seed)
    canvas = torch.zeros(len(images), 1, 16, 16)
    places = torch.randint(9, (len(images), 2), generator=rng).tolist()
    for image, blank, (row, column) in zip(images, canvas, places, strict=True):
        blank[:, row : row + 8, column : column + 8] = image
    noisy = canvas + noise * torch.randn(canvas.shape, generator=rng)
    return scaled(noisy), (canvas > 6).float().flatten(1)


@cache
def _ink(noise: float) -> Data:
    x, _, x_val, _ = digits()
    return *_pasted(x, noise, 23), *_pasted(x_val, noise, 24)


@cache
def _two_views(noise: float) -> Data:
    """A digit twice, each time moved by up to a pixel, with noise -> nothing but the pair, of shape (N, 2, 64)."""
    x, y, x_val, y_val = digits()
    rng = torch.Generator().manual_seed(25)

    def views(images: Tensor) -> Tensor:
        both = torch.stack([images, images], 1).squeeze(2)
        moves = torch.randint(-1, 2, (len(images), 2, 2), generator=rng).tolist()
        for pair, two in zip(both, moves, strict=True):
            for k, (row, column) in enumerate(two):
                pair[k] = torch.roll(pair[k], (row, column), (0, 1))
        return scaled(both + noise * torch.randn(both.shape, generator=rng)).flatten(2)

    return views(x), y, views(x_val), y_val


@cache
def _columns(noise: float) -> Data:
    """The eight columns of a digit with noise as a sequence of eight vectors."""
    x, y, x_val, y_val = _vectors(noise)
    return x.view(-1, 8, 8).mT.contiguous(), y, x_val.view(-1, 8, 8).mT.contiguous(), y_val


@cache
def _inverted_digits(num_train: int, noise: float) -> Data:
    """A few digits, white on black instead of black on white, with noise."""
    x, y, x_val, y_val = digits()
    rng = torch.Generator().manual_seed(26)
    noisy, noisy_val = (scaled(16 - v + noise * torch.randn(v.shape, generator=rng)) for v in (x, x_val))
    return noisy[:num_train], y[:num_train], noisy_val, y_val


# ------------------------------------------------------------------------------------------- models
def _zero_headed(*sizes: int) -> nn.Module:
    model = mlp(*sizes, activation=nn.Tanh)
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]  # the targets are tiny
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    return model


class _UNet(nn.Module):
    """Return one logit a pixel, as a vector; half the resolution on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*conv(1, width, nn.BatchNorm2d))
        self.middle = nn.Sequential(nn.MaxPool2d(2), *conv(width, 2 * width, nn.BatchNorm2d), nn.Upsample(None, 2))
        self.up = nn.Sequential(*conv(3 * width, width, nn.BatchNorm2d), nn.Conv2d(width, 1, 1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.up(torch.cat([fine, self.middle(fine)], 1))  # type: ignore[no-any-return]


class _TwinEncoder(nn.Module):
    """Return the embeddings of both views, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = mlp(64, 128, 64, width)

    def forward(self, pair: Tensor) -> Tensor:
        return self.net(pair).flatten(1)  # type: ignore[no-any-return]


class _LSTM(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, columns: Tensor) -> Tensor:
        return self.head(self.lstm(columns)[0][:, -1])  # type: ignore[no-any-return]


class _PostNormGPT(nn.Module):
    """A character transformer with its norms behind the sums, which is usually trained with a warm-up."""

    def __init__(self, width: int, depth: int, length: int) -> None:
        super().__init__()
        alphabet = texts()[1]
        self.embedding = nn.Embedding(alphabet, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, alphabet)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embedding(characters) + self.position
        return self.head(self.encoder(x, self.mask, is_causal=True))  # type: ignore[no-any-return]


def _batch_norm_net() -> nn.Sequential:
    layers = [*conv(1, 8, nn.BatchNorm2d), nn.MaxPool2d(2), *conv(8, 16, nn.BatchNorm2d), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 4, 10))


@cache
def _digit_weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):  # a task's first model must equal its later ones
        torch.manual_seed(27)
        x, y, x_val, y_val = digits()
        return pretrain(_batch_norm_net(), (scaled(x), y, scaled(x_val), y_val), F.cross_entropy, 3e-3, 250)


def _pretrained_net() -> nn.Module:
    model = _batch_norm_net()
    model.load_state_dict(_digit_weights())
    return model


# ------------------------------------------------------------------------------------------- losses
def _cross_entropy_and_dice(output: Tensor, target: Tensor) -> Tensor:
    ink = output.sigmoid()
    dice = 1 - (2 * (ink * target).sum(1) + 1) / (ink.sum(1) + target.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(output, target) + dice.mean()


def _contrast(output: Tensor, target: Tensor) -> Tensor:
    """Return how badly the other view of each image is found among those of all images of the batch."""
    one, other = (F.normalize(view, dim=1) for view in output.chunk(2, 1))
    similar, own = one @ other.T / 0.2, torch.arange(len(one))
    return (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2


# --------------------------------------------------------------------------------------------- tasks
# fmt: off
TASKS_C = [
    Task("digits_batch4_sgd", "cls", F.cross_entropy, 4, 300, True,
         partial(mlp, 64, 48, 10), MOMENTUM, partial(_vectors, 2.0)),
    Task("impedance_tiny_adam", "loss", F.mse_loss, 32, 250, True,
         partial(_zero_headed, 4, 48, 48, 1), optimizer(torch.optim.Adam), partial(_impedance, 1e-2)),
    Task("wrong_labels_adamw", "cls", F.cross_entropy, 32, 200, True,
         partial(mlp, 64, 96, 10, norm=True), optimizer(torch.optim.AdamW, weight_decay=0.1),
         partial(_noisy_vectors, 0.5)),
    Task("ink_unet_sgd", "loss", _cross_entropy_and_dice, 16, 120, True,
         partial(_UNet, 6), MOMENTUM, partial(_ink, 3.0)),
    Task("two_views_contrastive_adam", "loss", _contrast, 64, 200, True,
         partial(_TwinEncoder, 32), optimizer(torch.optim.Adam), partial(_two_views, 2.0)),
    Task("digit_columns_lstm_rmsprop", "cls", F.cross_entropy, 32, 200, False,
         partial(_LSTM, 32), torch.optim.RMSprop, partial(_columns, 2.0)),
    Task("characters_postnorm_adamw", "loss", sequence_cross_entropy, 16, 200, True,
         partial(_PostNormGPT, 32, 3, 24), optimizer(torch.optim.AdamW, betas=(0.9, 0.98), weight_decay=0.1),
         partial(next_characters, 24)),
    Task("finetune_inverted_adamw", "cls", F.cross_entropy, 32, 150, True,
         _pretrained_net, optimizer(torch.optim.AdamW), partial(_inverted_digits, 300, 3.0)),
]
# fmt: on
