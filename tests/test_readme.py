"""What the README shows runs as it stands there."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.cli import LightningCLI

from tests.faults import FAULTS
from tests.fits import SmallNet, data
from tests.scenarios import SCENARIOS

ROOT = Path(__file__).parents[1]
README, EXAMPLES = (ROOT / "README.md").read_text(), ROOT / "examples"


class Digitless(pl.LightningDataModule):
    """The shared small data, as a CLI wants it."""

    def train_dataloader(self) -> Any:
        return data()


def block(language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (it,) = [text for text in found if containing in text]
    return str(it)


@pytest.mark.parametrize("name", ["in_a_fit", "tune_first"])
def test_the_python_of_the_readme_is_that_of_the_examples(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text().split('"""\n\n', maxsplit=1)[1]
    assert f"```python\n{code}```" in README
    assert f"examples/{name}.py" in README


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in_a_fit", "tune_first"])
def test_the_python_of_the_readme_runs_and_trains_with_what_it_found(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the README's data come from scikit-learn")
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    with caplog.at_level("INFO"):
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    trainer, said = names["trainer"], caplog.text
    assert trainer.global_step == 5 * 45  # 1,438 images in batches of 32
    (group,) = trainer.optimizers[0].param_groups
    if name == "in_a_fit":
        test, probe = trainer.callbacks[:2]
        assert said.index("LR range test: max_lr ") < said.index("  4 candidates, 100 steps each")
        assert (group["max_lr"], group["weight_decay"]) == (test.suggestion.lr, probe.suggestion.value)
    else:
        result = names["result"]
        assert (group["max_lr"], group["weight_decay"]) == (result.max_lr, result.weight_decay)
        assert "Tuned Net" in capsys.readouterr().out


def test_the_commands_of_the_readme_are_those_of_the_example() -> None:
    shown = (EXAMPLES / "digits_cli.py").read_text()
    for line in block("bash", "digits_cli.py tune").splitlines():
        words = line.split()
        assert " ".join(words[:5]) in shown  # that they run and train with what was found: test_examples.py
        assert words[4] == "examples/configs/digits.yaml"


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


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"\b(?:tests|examples|benchmarks|docs)/[\w/]+\.(?:py|yaml|png)", README)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).is_file()] == []
