"""What can be asked of the range test, and that bad input costs nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.cli import LightningCLI

from pl_onecycle import LRRangeTest
from tests.fits import Momentum, SmallNet, data, trainer


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"min_lr": 1.0, "max_lr": 0.1}, ValueError, id="min above max"),
        pytest.param({"min_lr": 1.0, "max_lr": 1.0}, ValueError, id="min equals max"),
        pytest.param({"min_lr": 0.0}, ValueError, id="zero"),
        pytest.param({"min_lr": -1e-3}, ValueError, id="negative"),
        pytest.param({"min_lr": math.nan}, ValueError, id="NaN"),
        pytest.param({"max_lr": math.nan}, ValueError, id="NaN max"),
        pytest.param({"max_lr": math.inf}, ValueError, id="infinite"),
        pytest.param({"min_lr": "1e-3"}, TypeError, id="string"),
        pytest.param({"num_steps": 1}, ValueError, id="one step"),
        pytest.param({"num_steps": 10.0}, TypeError, id="float steps"),
        pytest.param({"num_steps": True}, TypeError, id="bool steps"),
        pytest.param({"mode": "triangular"}, ValueError, id="mode"),
        pytest.param({"mode": "staircase", "num_stairs": 1}, ValueError, id="one stair"),
        pytest.param({"mode": "staircase", "num_steps": 5, "num_stairs": 6}, ValueError, id="more stairs than steps"),
        pytest.param({"method": "magic"}, ValueError, id="method"),
        pytest.param({"early_stop_threshold": 0.0}, ValueError, id="threshold"),
        pytest.param({"apply": "yes"}, TypeError, id="apply"),
        pytest.param({"optimizer": -1}, ValueError, id="optimizer below zero"),
        pytest.param({"optimizer": "a"}, TypeError, id="optimizer by name"),
        pytest.param({"optimizer": 1.0}, TypeError, id="float optimizer"),
        pytest.param({"optimizer": True}, TypeError, id="bool optimizer"),
        pytest.param({"optimizer": None}, TypeError, id="no optimizer"),
        pytest.param({"milestones": (0,)}, ValueError, id="milestone zero"),
        pytest.param({"milestones": [5, -1]}, ValueError, id="negative milestone"),
        pytest.param({"milestones": [1.5]}, TypeError, id="milestone within an epoch"),
        pytest.param({"milestones": [True]}, TypeError, id="bool milestone"),
        pytest.param({"milestones": ["5"]}, TypeError, id="milestone as a string"),
        pytest.param({"milestones": "5"}, TypeError, id="milestones as a string"),
        pytest.param({"milestones": 5}, TypeError, id="one milestone"),
        pytest.param({"milestones": True}, TypeError, id="bool milestones"),
        pytest.param({"milestones": None}, TypeError, id="no milestones"),
        pytest.param({"milestones": {5}}, TypeError, id="set of milestones"),
        pytest.param({"verify": 2}, ValueError, id="verify an even number"),
        pytest.param({"verify": 4}, ValueError, id="verify a larger even number"),
        pytest.param({"verify": 1}, ValueError, id="verify one"),
        pytest.param({"verify": 0}, ValueError, id="verify zero"),
        pytest.param({"verify": -3}, ValueError, id="verify below zero"),
        pytest.param({"verify": "yes"}, TypeError, id="verify as a string"),
        pytest.param({"verify": 3.0}, TypeError, id="float verify"),
        pytest.param({"verify": None}, TypeError, id="no verify"),
        pytest.param({"verify_steps": 9}, ValueError, id="few steps to verify"),
        pytest.param({"verify_steps": 50.0}, TypeError, id="float steps to verify"),
        pytest.param({"val_every": 0}, ValueError, id="validate never"),
        pytest.param({"val_every": 1.0}, TypeError, id="float val_every"),
        pytest.param({"val_every": True}, TypeError, id="bool val_every"),
        pytest.param({"val_batches": 0}, ValueError, id="no validation batch"),
        pytest.param({"val_batches": "all"}, TypeError, id="val_batches as a string"),
        pytest.param({"monitor": 3}, TypeError, id="monitor a number"),
        pytest.param({"monitor": None}, TypeError, id="monitor nothing"),
        pytest.param({"monitor_mode": "avg"}, ValueError, id="monitor_mode"),
        pytest.param({"monitor_mode": None}, ValueError, id="no monitor_mode"),
    ],
)
def test_bad_arguments_raise_one_sentence(arguments: dict[str, Any], error: type[Exception]) -> None:
    name = list(arguments)[-1]
    with pytest.raises(
        error, match=rf"^Expected argument `({'|'.join(arguments)}|max_lr)` to be [^\n]+ but got "
    ) as caught:
        LRRangeTest(**arguments)
    assert name in str(caught.value) or "max_lr" in str(caught.value)


def test_plot_before_the_test_is_one_clear_error() -> None:
    with pytest.raises(RuntimeError, match="has not run yet"):
        LRRangeTest().plot()


def test_numpy_arguments_are_written_as_numbers(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trainer([LRRangeTest(np.float32(1e-6), num_steps=np.int64(30))], root).fit(Momentum(), data())
    assert json.loads((root / "lr_range_test" / "result.json").read_text())["settings"]["num_steps"] == 30


class SelfContained(SmallNet):
    """A module that brings its data, as LightningCLI needs one without a data module."""

    def train_dataloader(self) -> Any:
        return data()


def test_lightning_cli_reads_optimizer_and_milestones_from_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text("""
trainer:
  {max_epochs: 3, accelerator: cpu, devices: 1, log_every_n_steps: 1, logger: false, enable_checkpointing: false,
   enable_progress_bar: false, enable_model_summary: false, callbacks: [{class_path: pl_onecycle.LRRangeTest,
   init_args: {min_lr: 1.0e-4, num_steps: 40, milestones: [1, 2], optimizer: 0}}]}
""")
    cli = LightningCLI(
        SelfContained,
        save_config_callback=None,
        seed_everything_default=False,
        args=["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path / 'root'}"],
    )
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    [test] = [callback for callback in callbacks if isinstance(callback, LRRangeTest)]
    assert list(test.milestones) == [1, 2]
    assert test.optimizer == 0
    folders = sorted(path.name for path in (tmp_path / "root").iterdir() if path.is_dir())
    assert folders == ["lr_range_test", "lr_range_test_epoch_1", "lr_range_test_epoch_2"]
