"""A small character GPT on Shakespeare, from the command line: AdamW, bf16, gradient accumulation, one cycle.

Weight decay is for the matrices only: biases, norms and embeddings are a parameter group with 0, which `LRRangeTest`
and `WeightDecayProbe` leave at 0. ``tune`` finds peak learning rate and weight decay and writes them to ``tuned.yaml``;
with it as the last config, ``fit`` trains with exactly these values.

    python examples/shakespeare.py tune
    python examples/shakespeare.py fit -c demo_runs/shakespeare/logs/version_0/tune/tuned.yaml
    python examples/shakespeare.py tune --model.width=384 --model.depth=6 --model.heads=6 --data.block=256

The text, 1.1 MB, is downloaded; ``--data.root=FOLDER`` names where it is or goes. ``compare_shakespeare.py`` compares
with the usual schedule.
"""

import string
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import configure_one_cycle
from pl_onecycle.cli import OneCycleCLI

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
CHARACTERS = "\n !$&',-.3:;?" + string.ascii_letters  # all of the text
WARM_UP = 0.05  # of the steps, in the usual schedule
Schedule = Literal["one_cycle", "cosine"]


# --------------------------------------------------------------------------------------------- data
class Shakespeare(pl.LightningDataModule):
    """Windows of the text, and of each character the next; the last tenth of the text is for validation.

    Args:
        root: Folder of ``tinyshakespeare.txt``, or None for one in the folder of ``torch.hub``.
        block: Characters of a window.
        batch_size: Windows per training batch.
        val_windows: Windows for validation, evenly spaced.
    """

    def __init__(self, root: str | None = None, block: int = 64, batch_size: int = 8, val_windows: int = 256) -> None:
        super().__init__()
        self.path = Path(root or Path(torch.hub.get_dir()) / "shakespeare") / "tinyshakespeare.txt"
        self.block, self.batch_size, self.val_windows = block, batch_size, val_windows

    def prepare_data(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(self.path))

    def setup(self, stage: str) -> None:
        known = {character: number for number, character in enumerate(CHARACTERS)}
        text = torch.tensor([known[character] for character in self.path.read_text() if character in known])
        split = len(text) * 9 // 10
        self.train, self.val = self._windows(text[:split]), self._windows(text[split:])

    def _windows(self, text: Tensor) -> TensorDataset:
        count = (len(text) - 1) // self.block
        size = count * self.block
        return TensorDataset(text[:size].view(count, self.block), text[1 : size + 1].view(count, self.block))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        every = max(len(self.val) // self.val_windows, 1)
        chosen = TensorDataset(*(part[::every][: self.val_windows] for part in self.val.tensors))
        return DataLoader(chosen, 64)


# ------------------------------------------------------------------------------------------------ net
class GPT(pl.LightningModule):
    """A decoder of the GPT-2 kind that predicts the next character, trained with AdamW.

    Args:
        width: Size of an embedding; a multiple of ``heads``.
        depth: Number of layers.
        heads: Attention heads of a layer.
        block: Characters that the net sees; the command line passes that of the data.
        dropout: Share of the activations that is dropped.
        lr: Peak learning rate, unless tuned.
        weight_decay: Weight decay of the matrices, unless tuned.
        schedule: ``"one_cycle"``, or ``"cosine"``: linear warm-up in 5 % of the steps, then down to a tenth.
    """

    def __init__(
        self,
        width: int = 96,
        depth: int = 2,
        heads: int = 4,
        block: int = 64,
        dropout: float = 0.0,
        lr: float = 3e-4,
        weight_decay: float = 0.1,
        schedule: Schedule = "one_cycle",
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.schedule = lr, weight_decay, schedule
        self.character, self.place = nn.Embedding(len(CHARACTERS), width), nn.Embedding(block, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(CHARACTERS))
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)  # as in GPT-2
        self.mask: Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(block), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits of the next character at each place."""
        length = characters.shape[1]
        hidden = self.character(characters) + self.place.weight[:length]
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.mask[:length, :length], is_causal=True)
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]).flatten(0, 1).float(), batch[1].flatten())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def _groups(self) -> list[dict[str, Any]]:
        """Return the matrices, which decay, and all other parameters, which do not."""
        embeddings = {self.character.weight, self.place.weight}
        decay = [it for it in self.parameters() if it.dim() > 1 and it not in embeddings]
        rest = [it for it in self.parameters() if it.dim() == 1 or it in embeddings]
        return [{"params": decay, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def configure_optimizers(self) -> Any:
        adam = AdamW(self._groups(), lr=self.lr, betas=(0.9, 0.95))
        if self.schedule == "one_cycle":
            return configure_one_cycle(self, adam)
        schedule = cosine(adam, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(optimizer: Optimizer, steps: int) -> SequentialLR:
    """Return the usual schedule: linear warm-up, then a cosine down to a tenth."""
    warm_up = max(round(WARM_UP * steps), 1)
    rise = LinearLR(optimizer, 1 / warm_up, total_iters=max(warm_up - 1, 1))
    lr = float(optimizer.param_groups[0]["initial_lr"])
    fall = CosineAnnealingLR(optimizer, max(steps - warm_up, 1), eta_min=lr / 10)
    return SequentialLR(optimizer, [rise, fall], [warm_up])


# -------------------------------------------------------------------------------------- command line
class ShakespeareCLI(OneCycleCLI):
    """The CLI of this model and data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.block", "model.block")


def defaults() -> Iterator[tuple[str, Any]]:
    """Yield what the Trainer does unless the command line says otherwise."""
    place = {"save_dir": "demo_runs/shakespeare", "name": "logs"}
    yield "logger", {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": place}
    yield "callbacks", [LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)]
    yield "precision", "bf16-mixed"
    yield "accumulate_grad_batches", 2
    yield "gradient_clip_val", 1.0
    yield "max_steps", 800
    yield "val_check_interval", 100  # batches: every 50 optimizer steps
    yield "check_val_every_n_epoch", None
    yield "log_every_n_steps", 10


def main(args: Sequence[str] | None = None) -> ShakespeareCLI:
    """Run the command line, or these arguments."""
    # The text is in memory: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")  # compare_shakespeare.py has its own
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    return ShakespeareCLI(
        GPT,
        Shakespeare,
        seed_everything_default=0,
        trainer_defaults=dict(defaults()),
        args=None if args is None else list(args),
    )


if __name__ == "__main__":
    main()
