"""What each of two processes does for `test_batch_size_distributed.py`: one of them runs out of memory in a search.

LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.batch_size_processes FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from pl_onecycle import BatchSizeTest, OneCycleTuner, configure_one_cycle
from tests.fits import QUIET, LRs, SmallNet, data
from tests.scenarios import plain

RANK = int(os.environ.get("LOCAL_RANK", 0))
FITS = 16
WHERES = ["forward", "backward", "optimizer step", "everywhere"]


class Net(SmallNet):
    """Fails for large batches at one point of the second step, in the second process or in both."""

    def __init__(self, where: str = "", error: type[Exception] = torch.cuda.OutOfMemoryError) -> None:
        super().__init__()
        self.where, self.error = where, error

    def at(self, where: str, rows: int, batch_idx: int) -> None:
        is_here = self.where == "everywhere" or (RANK == 1 and self.where == where)
        if is_here and rows > FITS and batch_idx == 1:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.rows = rows = len(batch[0])
        self.at("forward", rows, batch_idx)
        hidden = self.net[:2](batch[0])

        def strike(grad: Tensor) -> None:  # the gradients of the last layer have been made
            self.at("backward", rows, batch_idx)

        hidden.register_hook(strike)
        return torch.nn.functional.cross_entropy(self.net[2](hidden), batch[1])

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.at("optimizer step", self.rows, batch_idx)

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9))


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return data(128, self.batch_size, shuffle=True)


def trainer(*callbacks: Any) -> pl.Trainer:
    options: dict[str, Any] = {**QUIET, "max_epochs": 2, "devices": 2, "strategy": "ddp"}
    return pl.Trainer(**options, callbacks=list(callbacks))


def fitted(module: Net, size: int, *callbacks: Any) -> dict[str, Any]:
    """What a fit of a seed comes to."""
    pl.seed_everything(1, verbose=False)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.linspace(-0.5, 0.5, weight.numel()).reshape(weight.shape))
    lrs = LRs()
    trainer(*callbacks, lrs).fit(module, datamodule=Data(size))
    return {"weights": plain(module.state_dict()), "lrs": lrs.lr}


def searched(where: str) -> dict[str, Any]:
    test = BatchSizeTest(64, report=False)
    found = fitted(Net(where), 4, test)
    return {"value": test.value, "tries": list(test.tries.items()), "is alike": found == fitted(Net(), FITS)}


def tuned() -> dict[str, Any]:
    model, datamodule = Net("backward"), Data(4)
    result = OneCycleTuner(trainer()).tune(
        model, datamodule=datamodule, lr_range_test=False, weight_decay_probe=False, batch_size=True, max_batch_size=64
    )
    return {"value": result.batch_size, "now": datamodule.batch_size}


def broken(where: str) -> dict[str, Any]:
    test, module = BatchSizeTest(64, report=False), Net(where, error=KeyError)
    try:
        fitted(module, 4, test)
    except Exception as error:
        return {"said": f"{type(error).__name__}: {error}"}
    return {"said": ""}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) / f"rank{RANK}"
    folder.mkdir()
    os.chdir(folder)
    results: dict[str, Any] = {where: searched(where) for where in WHERES}
    results["tune"] = tuned()
    results |= {f"error in {where}": broken(where) for where in WHERES[:3]}
    Path("results.json").write_text(json.dumps(results))
