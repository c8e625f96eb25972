"""What the command line says: its purpose, its version, short errors, and the command that follows a `tune`."""

import shlex
import sys
from importlib.metadata import version

import lightning.pytorch as pl
import pytest

import pl_onecycle

pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")

from pl_onecycle.cli import main
from tests.test_cli import SHORT, TRAINER, Data, Run, WithoutOptimizer, found, run

__all__ = ["run"]  # the fixture


def says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What ``pl-onecycle`` prints before it ends, and its errors."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pl-onecycle", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    return said.out, said.err


def test_help_begins_with_the_purpose_and_the_two_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = says(monkeypatch, capsys, "--help")
    lines = out.splitlines()
    assert lines[2].startswith("Find batch size, learning rate and weight decay by short trials, and train with them")
    assert lines[4:6] == [
        "  pl-onecycle tune --model my_package.Net --data my_package.Data",
        "  pl-onecycle fit -c .../tune/config.yaml -c .../tune/tuned.yaml",
    ]
    assert "--version" in out


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says(monkeypatch, capsys, "--version")[0] == f"pl-onecycle {version('pl-onecycle')}\n"
    assert pl_onecycle.__version__ == version("pl-onecycle")


def test_help_of_a_script_names_the_script(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    assert "\n  train.py tune -c config.yaml\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("--help", parser_kwargs={"description": "Train my net."})
    assert capsys.readouterr().out.splitlines()[2] == "Train my net."


def test_an_error_is_three_lines(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("tune", "--modle=Net")
    assert end.value.code == 2
    usage, _, error = capsys.readouterr().err.splitlines()
    assert usage == "usage: train.py tune [-c CONFIG] [options]"
    assert error.startswith("error: ")
    assert "--modle" in error


@pytest.mark.parametrize("subcommand", ["fit", "tune"])
def test_a_model_without_optimizer_costs_one_sentence(
    run: Run, subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(subcommand, *TRAINER, classes=(WithoutOptimizer, Data))
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: WithoutOptimizer has no optimizer: return one from its `configure_optimizers`, or pass --optimizer,"
        " e.g. --optimizer=AdamW."
    )


def test_without_the_flag_for_an_optimizer_it_is_not_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("fit", *TRAINER, classes=(WithoutOptimizer, Data), auto_configure_optimizers=False)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: WithoutOptimizer has no optimizer: return one from its `configure_optimizers`."


@pytest.mark.filterwarnings("ignore:The `.*dataloader` does not have many workers")
def test_to_validate_needs_no_optimizer(run: Run) -> None:
    class Validated(WithoutOptimizer):
        def validation_step(self, batch: object, batch_idx: int) -> None:
            """Nothing to learn."""

    class Held(Data):
        val_dataloader = Data.train_dataloader

    assert isinstance(run("validate", *TRAINER, classes=(Validated, Held)).model, pl.LightningModule)


def test_the_last_line_of_tune_is_the_command_that_trains_with_its_values(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    result, directory = found(run("tune", *TRAINER, *SHORT))
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    config, tuned = (str(directory / name) for name in ("config.yaml", "tuned.yaml"))
    assert words == ["python", "train.py", "fit", "-c", config, "-c", tuned]
    recorder = run(*words[2:]).recorder
    assert max(recorder.lrs) == result.max_lr
    assert set(recorder.decays) == {result.weight_decay}
