"""What the README shows runs as it stands there."""

import re
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.cli import LightningCLI

from tests.faults import FAULTS
from tests.fits import SmallNet, data
from tests.scenarios import SCENARIOS

README = (Path(__file__).parents[1] / "README.md").read_text()


class Digitless(pl.LightningDataModule):
    """The shared small data, as a CLI wants it."""

    def train_dataloader(self) -> Any:
        return data()


def block(language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (it,) = [text for text in found if containing in text]
    return str(it)


@pytest.mark.slow
def test_the_python_of_the_readme_runs_and_says_what_it_found(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sklearn", reason="the README's data come from scikit-learn")
    names: dict[str, Any] = {}
    with caplog.at_level("INFO"):
        exec(compile(block("python", "LRRangeTest()"), "README.md", "exec"), names)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("LR range test (")]
    assert len(said) == 1
    assert "set in 1 parameter group, OneCycleScheduler" in said[0]
    assert names["trainer"].global_step == 5 * 57  # 1,797 images in batches of 32


def test_the_flags_of_the_readme_put_the_callback_into_any_lightning_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    words = block("bash", "--trainer.callbacks+=").split()
    assert words[:3] == ["python", "train.py", "fit"]
    quiet = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    quiet += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words[2:], *quiet, "--trainer.enable_checkpointing=false"])
    cli = LightningCLI(SmallNet, Digitless, save_config_callback=None, seed_everything_default=0)
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    (test,) = [it for it in callbacks if type(it).__name__ == "LRRangeTest"]
    assert test.num_steps == 200
    assert len(test.curve) > 100
    assert cli.model.lr == test.suggestion.lr


def test_the_table_of_fits_and_faults_names_all_that_are_tested_and_no_others() -> None:
    start = README.index("| fits, and their tests")
    rows = [row.split("|") for row in README[start:].partition("\n\n")[0].splitlines()[2:]]
    named = [[name.strip() for cell in re.findall(r"\*([^*]+)\*", row[1]) for name in cell.split(";")] for row in rows]
    assert sorted(name for names in named for name in names) == sorted([*SCENARIOS, *FAULTS])
    assert [row[2].strip() for row in rows] == [f"{len(names)} of {len(names)}" for names in named]
