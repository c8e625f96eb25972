"""The trial is invisible on an accelerator: cases run on the CPU too, as far as they can, and on CUDA where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from pl_onecycle import BatchSizeTest, LRRangeTest, configure_one_cycle
from tests.fits import QUIET, data
from tests.scenarios import Fit, Recording, Scenario, differences

ACCELERATORS = [
    "cpu",
    pytest.param(
        "gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]


class Net(Recording):
    """Draws from the device's own random stream."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.3))

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.AdamW(self.parameters(), lr=1e-2))


class TensorLR(Net):
    """As CUDA graphs need it: the lr is a tensor on the device, and stays the same one."""

    def configure_optimizers(self) -> Any:
        on_gpu = self.device.type == "cuda"
        lr = torch.tensor(1e-2, device=self.device)
        optimizer = torch.optim.Adam(self.parameters(), lr=lr, capturable=on_gpu, foreach=on_gpu)
        self.lr_pointer = lr.data_ptr()
        return configure_one_cycle(self, optimizer)


def scenario(accelerator: str, module: Callable[[], Recording] = Net, **options: Any) -> Scenario:
    chosen = {"accelerator": accelerator, **options}
    return Scenario(module, lambda: data(shuffle=True, pin_memory=accelerator == "gpu"), options=lambda root: chosen)


def device_stream() -> list[float]:
    return torch.rand(3, device="cuda").tolist() if torch.cuda.is_available() else []


def run_twice(case: Scenario, root: Path) -> tuple[list[str], Fit]:
    """What differs between a fit without and one with a test, the random stream of the device included."""
    expected = Fit(case, root / "without").run().outcome() | {"device": device_stream()}
    fit = Fit(case, root / "with", LRRangeTest(1e-5, 1e-2, 25, apply=False))
    return differences(expected, fit.run().outcome() | {"device": device_stream()}), fit


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_trial_is_invisible_in_every_precision(accelerator: str, precision: Any, tmp_path: Path) -> None:
    if (accelerator, precision) == ("cpu", "16-mixed"):
        pytest.skip("Lightning takes bf16 instead of fp16 on the CPU; test_isolation.py has a gradient scaler there")
    differing, fit = run_twice(scenario(accelerator, precision=precision), tmp_path)
    assert differing == []
    assert isinstance(fit.finder, LRRangeTest)
    assert fit.finder.curve is not None
    assert len(fit.finder.curve) == 25  # also where losses are looked at in chunks
    assert len(set(fit.finder.curve.loss)) > 1


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_tensor_lr_stays_the_same_tensor(accelerator: str, tmp_path: Path) -> None:
    differing, fit = run_twice(scenario(accelerator, TensorLR), tmp_path)
    lr = fit.trainer.optimizers[0].param_groups[0]["lr"]
    assert differing == []
    assert isinstance(lr, torch.Tensor)
    assert lr.data_ptr() == fit.module.lr_pointer


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_sweep_that_explodes_ends_and_is_undone(accelerator: str, tmp_path: Path) -> None:
    case = scenario(accelerator)
    expected = Fit(case, tmp_path / "without").run().outcome()
    test = LRRangeTest(1e-3, 1e7, 60, apply=False)
    assert differences(expected, Fit(case, tmp_path / "with", test).run().outcome()) == []
    assert test.curve is not None
    assert test.curve.outcome == "diverged"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device_that_is_really_exhausted() -> None:
    class Greedy(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.empty(len(batch[0]) * (total // 50), dtype=torch.uint8, device=self.device)
            return super().training_step(batch, batch_idx)

    class Rows(pl.LightningDataModule):
        batch_size = 8

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

    test, datamodule = BatchSizeTest(report=False), Rows()
    chosen: dict[str, Any] = {**QUIET, "accelerator": "gpu", "callbacks": [test]}
    pl.Trainer(**chosen).fit(Greedy(), datamodule=datamodule)
    assert test.value == datamodule.batch_size == 32
    assert str(test.tries[64]).startswith("OutOfMemoryError: CUDA out of memory.")
    assert torch.cuda.memory_reserved() < torch.cuda.get_device_properties(0).total_memory * 0.7


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:FSDP is switching to use", "ignore:.*NO_SHARD")  # as there is one process
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: Lightning runs FSDP on GPUs only")
def test_a_trial_is_invisible_under_fsdp_with_one_process(tmp_path: Path) -> None:
    differing, _ = run_twice(scenario("gpu", strategy="fsdp"), tmp_path)
    assert differing == []
