"""The command line: flags and files reach the objects, and what `tune` found is what `fit` trains with."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, configure_one_cycle
from tests.fits import LRs, SmallNet, data

pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")

from pl_onecycle.cli import OneCycleCLI
from pl_onecycle.tuner import TuneResult

QUIET = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
TRAINER = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", *(f"--trainer.{name}=false" for name in QUIET)]
SHORT = ["--lr_range_test.num_steps=40", "--weight_decay_probe.weight_decays=[1e-2,1e-3]"]
SHORT += ["--weight_decay_probe.num_steps=10"]


class Net(SmallNet):
    """The shared net under one cycle."""

    def __init__(self, lr: float = 0.01, weight_decay: float = 0.0) -> None:
        super().__init__(lr)
        self.weight_decay = weight_decay

    def configure_optimizers(self) -> Any:
        groups = self.parameters()
        sgd = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return configure_one_cycle(self, sgd, pct_annihilation=0.2)


class WithoutOptimizer(SmallNet):
    """Leaves the optimizer to the command line."""

    configure_optimizers = pl.LightningModule.configure_optimizers


class Named(Net):
    """Its optimizer trains with a third of what it holds, and reads that in a way that cannot be seen."""

    def __init__(self, base: float = 0.03) -> None:
        super().__init__()
        self.optim = {"base": base}

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=vars(self)["optim"]["base"] / 3, momentum=0.9, weight_decay=0.0)
        return configure_one_cycle(self, sgd)


class OtherNet(Net):
    """Another model."""


class Data(pl.LightningDataModule):
    """The shared small data: 256 samples."""

    def __init__(self, batch_size: int = 32, samples: int = 256) -> None:
        super().__init__()
        self.batch_size, self.samples = batch_size, samples

    def train_dataloader(self) -> Any:
        return data(self.samples, self.batch_size)


class Recorder(LRs):
    """Records the size of each batch, too; `lrs` and `decays` are those of the first group."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch_sizes.append(len(batch[0]))

    @property
    def lrs(self) -> list[float]:
        return [lrs[0] for lrs in self.lr]

    @property
    def decays(self) -> list[float]:
        return [decays[0] for decays in self.weight_decay]


class RecordingCLI(OneCycleCLI):
    """Has a `Recorder` in every Trainer that fits."""

    def __init__(self, *classes: Any, **arguments: Any) -> None:
        self.recorder = Recorder()
        super().__init__(*classes, trainer_defaults={"callbacks": [self.recorder]}, **arguments)

    @property
    def scheduler(self) -> Any:
        (config,) = self.trainer.lr_scheduler_configs
        return config.scheduler


Run = Callable[..., RecordingCLI]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line, for `Net` and `Data` unless other classes are given."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # pictures take longer than all the rest

    def run(
        *words: str, classes: tuple[Any, ...] = (Net, Data), kind: type[RecordingCLI] = RecordingCLI, **arguments: Any
    ) -> RecordingCLI:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        return kind(*classes, seed_everything_default=0, **arguments)

    return run


def of(cli: RecordingCLI, key: str) -> Any:
    """The object that the flags ``--key.*`` became."""
    return cli.config_init[cli.subcommand][key]


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def found(cli: RecordingCLI) -> tuple[TuneResult, Path]:
    """What ``tune`` came to, and where it is written."""
    assert cli.tune_result is not None
    assert cli.tune_result.directory is not None
    return cli.tune_result, Path(cli.tune_result.directory)


# ------------------------------------------------------------------------------------------------ tune
def test_flags_reach_what_tune_runs_and_its_result_is_theirs(run: Run) -> None:
    modes = ["--lr_range_test.mode=staircase", "--lr_range_test.num_stairs=8", "--weight_decay_probe.mode=cycle"]
    result, directory = found(run("tune", *TRAINER, *SHORT, *modes))
    written = json.loads((directory / "result.json").read_text())
    test, probe = written["lr_range_test"], written["weight_decay_probe"]
    assert {"num_steps": 40, "mode": "staircase", "num_stairs": 8, "min_lr": 1e-7}.items() <= test["settings"].items()
    expected = {"weight_decays": [1e-2, 1e-3], "num_steps": 10, "mode": "cycle", "val_batches": 4}
    assert {name: probe["settings"][name] for name in expected} == expected
    assert (test["suggestion"]["lr"], probe["suggestion"]["value"]) == (result.max_lr, result.weight_decay)
    assert result.weight_decay in {1e-2, 1e-3}


def test_fit_trains_at_exactly_what_tune_has_written_for_classes_by_import_path(run: Run) -> None:
    words = [*TRAINER, "--model=tests.test_cli.Net", "--data=tests.test_cli.Data"]
    sized = ["--batch_size=true", "--max_batch_size=16"]
    result, directory = found(run("tune", *words, *SHORT, *sized, classes=()))
    assert read(directory / "tuned.yaml") == {
        "one_cycle": {"max_lr": result.max_lr, "weight_decay": result.weight_decay, "tuned_for": "Net"},
        "data": {"batch_size": 16},
    }
    recorder = run("fit", *words, "-c", str(directory / "tuned.yaml"), classes=()).recorder
    assert max(recorder.lrs) == result.max_lr
    assert set(recorder.decays) == {result.weight_decay}
    assert set(recorder.batch_sizes) == {16}


def test_the_name_of_the_learning_rate_goes_from_the_test_to_the_fit(run: Run) -> None:
    words = [*TRAINER, *SHORT, "--weight_decay_probe=false", "--lr_range_test.attr_name=optim.base"]
    result, directory = found(run("tune", *words, classes=(Named, Data)))
    assert read(directory / "tuned.yaml")["one_cycle"] == {
        "max_lr": result.max_lr,
        "attr_name": "optim.base",
        "tuned_for": "Named",
    }
    cli = run("fit", *TRAINER, "-c", str(directory / "tuned.yaml"), classes=(Named, Data))
    assert result.max_lr is not None
    assert max(cli.recorder.lrs) == pytest.approx(result.max_lr)
    assert cli.model.optim["base"] == pytest.approx(3 * result.max_lr)


def test_tune_says_where_its_result_is_and_leaves_its_config_there_only(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = run("tune", *TRAINER, *SHORT, "--weight_decay_probe=false")
    _, directory = found(cli)
    assert f"-c {directory / 'tuned.yaml'}\n" in capsys.readouterr().out
    assert [path.parent for path in Path.cwd().rglob("config.yaml")] == [directory.absolute()]
    assert read(directory / "config.yaml")["lr_range_test"]["init_args"]["num_steps"] == 40


def test_tune_saves_no_config_where_the_cli_is_to_save_none(run: Run) -> None:
    _, directory = found(run("tune", *TRAINER, *SHORT, "--weight_decay_probe=false", save_config_callback=None))
    assert (directory / "tuned.yaml").exists()
    assert not list(Path.cwd().rglob("config.yaml"))


@pytest.mark.parametrize("left_out", ["lr_range_test", "weight_decay_probe"])
def test_false_leaves_a_part_of_tune_out(run: Run, left_out: str) -> None:
    short = [word for word in SHORT if left_out not in word]
    result, directory = found(run("tune", *TRAINER, *short, f"--{left_out}=false"))
    assert (result.max_lr is None) == (left_out == "lr_range_test")
    assert (result.weight_decay is None) == (left_out == "weight_decay_probe")
    values = {"max_lr": result.max_lr, "weight_decay": result.weight_decay, "tuned_for": "Net"}
    assert read(directory / "tuned.yaml")["one_cycle"] == {k: v for k, v in values.items() if v is not None}


def test_tune_takes_the_settings_of_the_callbacks_that_a_fit_would_run(run: Run) -> None:
    callback = ["--trainer.callbacks+=LRRangeTest", "--trainer.callbacks.num_steps=50"]
    _, directory = found(run("tune", *TRAINER, *callback, "--weight_decay_probe=false"))
    written = json.loads((directory / "result.json").read_text())
    assert written["lr_range_test"]["settings"]["num_steps"] == 50


def test_a_trainer_that_cannot_tune_is_refused() -> None:
    with pytest.raises(TypeError, match="Expected argument `trainer_class` to be a subclass of OneCycleTrainer"):
        OneCycleCLI(Net, Data, trainer_class=pl.Trainer)


# ------------------------------------------------------------------------------------------- one_cycle
@pytest.mark.parametrize("optimizer", [[], ["--optimizer=SGD", "--optimizer.lr=0.3"]], ids=["module's", "CLI's"])
@pytest.mark.filterwarnings("ignore:.*configure_optimizers` will be overridden by.*")
def test_one_cycle_flags_shape_the_schedule(run: Run, optimizer: list[str]) -> None:
    shape = ["--one_cycle.preset=torch", "--one_cycle.pct_start=0.5", "--one_cycle.div_factor=4"]
    cli = run("fit", *TRAINER, *shape, "--one_cycle.max_lr=0.2", *optimizer)
    # torch's peak is at step pct_start * total - 1 of 2 epochs of 256 / 32 batches, and its start at max_lr / 4
    assert cli.recorder.lrs[0] == pytest.approx(0.2 / 4)
    assert cli.recorder.lrs.index(max(cli.recorder.lrs)) == 0.5 * 16 - 1
    assert max(cli.recorder.lrs) == 0.2


def test_an_optimizer_of_the_command_line_is_scheduled_step_by_step_over_the_whole_run(run: Run) -> None:
    lengths = ["--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=3"]
    adam = ["--optimizer=torch.optim.AdamW", "--optimizer.lr=0.02", "--optimizer.weight_decay=0.1"]
    cli = run("fit", *TRAINER, *lengths, *adam, classes=(WithoutOptimizer, Data))
    (config,) = cli.trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, OneCycleScheduler)
    assert (config.interval, config.frequency) == ("step", 1)
    assert config.scheduler.total_steps == cli.trainer.estimated_stepping_batches == 3 * 8 / 2
    assert max(cli.recorder.lrs) == 0.02
    assert len(set(cli.recorder.lrs)) > 8  # not one for each epoch
    assert set(cli.recorder.decays) == {0.1}


def test_a_tuned_optimizer_of_the_command_line_trains_at_exactly_those_values(run: Run) -> None:
    words = [*TRAINER, "--optimizer=SGD", "--optimizer.lr=0.01", "--optimizer.momentum=0.9"]
    result, directory = found(run("tune", *words, *SHORT, classes=(WithoutOptimizer, Data)))
    recorder = run("fit", *words, "-c", str(directory / "tuned.yaml"), classes=(WithoutOptimizer, Data)).recorder
    assert max(recorder.lrs) == result.max_lr
    assert set(recorder.decays) == {result.weight_decay}


@pytest.mark.parametrize(
    ("scheduler", "lrs"),
    [
        ("{class_path: StepLR, init_args: {step_size: 1, gamma: 0.5}}", [0.1] * 8 + [0.05] * 8),  # 8 steps an epoch
        (
            "{class_path: OneCycleScheduler, init_args: {max_lr: 0.4, total_steps: 16}}",
            [OneCyclePolicy(0.4, 16).lr(step) for step in range(16)],
        ),
    ],
    ids=["by epoch", "by step"],
)
def test_a_scheduler_of_the_command_line_is_respected(run: Run, scheduler: str, lrs: list[float]) -> None:
    words = ["--optimizer=SGD", "--optimizer.lr=0.1", f"--lr_scheduler={scheduler}"]
    recorder = run("fit", *TRAINER, *words, classes=(WithoutOptimizer, Data)).recorder
    assert recorder.lrs == pytest.approx(lrs)


def test_a_cli_that_does_not_run_has_the_settings_too(run: Run) -> None:
    cli = run(*TRAINER, "--one_cycle.max_lr=0.3", run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert max(cli.recorder.lrs) == 0.3


# --------------------------------------------------------------------------------------------- configs
def test_short_names_put_the_callbacks_into_fit(run: Run) -> None:
    cli = run("fit", *TRAINER, "--trainer.callbacks+=LRRangeTest", "--trainer.callbacks.num_steps=50")
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    (test,) = [it for it in callbacks if isinstance(it, LRRangeTest)]
    assert test.num_steps == 50
    assert max(cli.recorder.lrs) == test.suggestion.lr  # type: ignore[union-attr]


@pytest.mark.parametrize("subcommand", ["fit", "tune"])
def test_a_printed_config_is_read_as_what_it_was_printed_from(
    run: Run, subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAINER, "--one_cycle.preset=fastai", "--one_cycle.max_lr=1e-2", "--model.lr=0.5"]
    words += (
        [*SHORT, "--weight_decay_probe.refine=true"] if subcommand == "tune" else ["--trainer.callbacks+=LRRangeTest"]
    )
    printed = []
    for arguments in (words, ["-c", "printed.yaml"]):
        with pytest.raises(SystemExit) as end:
            run(subcommand, *arguments, "--print_config")
        assert end.value.code == 0
        printed.append(capsys.readouterr().out)
        Path("printed.yaml").write_text(printed[0])
    assert printed[0] == printed[1]
    config = read(Path("printed.yaml"))
    assert (config["one_cycle"]["preset"], config["one_cycle"]["max_lr"]) == ("fastai", 0.01)
    assert config["model"]["lr"] == 0.5
    if subcommand == "tune":
        assert config["weight_decay_probe"]["init_args"]["weight_decays"] == [0.01, 0.001]
        assert config["weight_decay_probe"]["init_args"]["refine"] is True
        assert set(config["lr_range_test"]["init_args"]) == set(inspect.signature(LRRangeTest).parameters)
        assert config["again"] is False  # the default of the signature


def test_the_saved_config_of_a_fit_gives_the_same_fit(run: Run) -> None:
    words = ["--one_cycle.pct_start=0.25", "--one_cycle.weight_decay=0.01", "--data.batch_size=16"]
    first = run("fit", *TRAINER, *words).recorder
    Path("config.yaml").rename("first.yaml")
    again = run("fit", "-c", "first.yaml").recorder
    assert again.lr == first.lr
    assert again.decays == first.decays == [0.01] * 32
    assert read(Path("config.yaml")) == read(Path("first.yaml"))


def test_the_config_of_one_subcommand_serves_the_others(run: Run) -> None:
    result, directory = found(run("tune", *TRAINER, *SHORT, "--model.lr=0.02", "--again=true"))
    recorder = run("fit", "-c", str(directory / "config.yaml"), "-c", str(directory / "tuned.yaml")).recorder
    assert max(recorder.lrs) == result.max_lr
    assert set(recorder.decays) == {result.weight_decay}
    saved = read(Path("config.yaml"))
    assert saved["model"]["lr"] == 0.02
    assert saved.keys().isdisjoint({"lr_range_test", "weight_decay_probe", "batch_size", "again"})
    for subcommand in ("validate", "tune"):  # a fit's file has a `ckpt_path`
        with pytest.raises(SystemExit) as end:
            run(subcommand, "-c", "config.yaml", "-c", str(directory / "config.yaml"), "--print_config")
        assert end.value.code == 0


def test_flat_sections_of_a_file_are_enough_and_the_last_file_counts(run: Run) -> None:
    Path("a.yaml").write_text(
        """
        one_cycle: {max_lr: 0.5, weight_decay: 0.1, pct_start: 0.5}
        lr_range_test: {num_steps: 25}
        weight_decay_probe: false
        """
    )
    Path("tuned.yaml").write_text("one_cycle: {max_lr: 0.04, tuned_for: Net}\ndata: {batch_size: 16}")
    recorder = run("fit", *TRAINER, "-c", "a.yaml", "-c", "tuned.yaml").recorder
    assert max(recorder.lrs) == 0.04
    assert set(recorder.decays) == {0.1}
    assert recorder.lrs.index(0.04) == 0.5 * 32  # 2 epochs of 256 / 16 batches
    assert set(recorder.batch_sizes) == {16}
    cli = run("tune", *TRAINER, "-c", "a.yaml", "--lr_range_test.max_lr=1.0")
    assert (of(cli, "lr_range_test").num_steps, of(cli, "lr_range_test").max_lr) == (25, 1.0)
    assert of(cli, "weight_decay_probe") is False


def test_values_tuned_for_another_model_are_refused(run: Run) -> None:
    Path("tuned.yaml").write_text("one_cycle: {max_lr: 0.04, tuned_for: Net}")
    with pytest.raises(MisconfigurationException, match="Net"):
        run("fit", *TRAINER, "-c", "tuned.yaml", classes=(OtherNet, Data))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["fit", "--one_cycle.max_lrs=1"], "--one_cycle.max_lrs"),
        (["fit", "--lr_range_test.num_steps=9"], "--lr_range_test.num_steps"),
        (["fit", "--again=false"], "--again"),
        (["tune", "--lr_range_test.steps=9"], "'steps'"),
        (["tune", "--ckpt_path=a.ckpt"], "--ckpt_path"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_unknown_flag_is_named_in_an_error(
    run: Run, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(words[0], *TRAINER, *words[1:])
    assert end.value.code == 2
    assert named in capsys.readouterr().err.rpartition("error:")[2]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fit", "--help"], "--one_cycle.pct_start"),
        (["--help"], "tune"),
        (["tune", "--help"], "--lr_range_test.help"),
        (["tune", "--lr_range_test.help"], "in that number of optimizer steps, >= 2. A shorter loader starts over."),
        (["tune", "--lr_range_test.help"], "(type: int, default: 10)"),
        (["tune", "--weight_decay_probe.help"], "or candidates >= 0, none twice"),
    ],
    ids=" ".join,
)
def test_help_is_the_docstrings(run: Run, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 0
    assert text in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_console_script_takes_classes_of_the_working_directory() -> None:
    Path("my_package.py").write_text(
        textwrap.dedent(
            """
            from tests.test_cli import Data, WithoutOptimizer

            class Net(WithoutOptimizer):
                pass
            """
        )
    )
    script = Path("bin", "pl-onecycle")  # as an installer writes it: in a directory of its own
    script.parent.mkdir()
    script.write_text("import sys\nfrom pl_onecycle.cli import main\nsys.exit(main())\n")
    words = ["--model", "my_package.Net", "--data", "my_package.Data", "--optimizer", "SGD", "--optimizer.lr=0.1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(script), "tune", *words, *TRAINER, *SHORT, "--weight_decay_probe=false"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "tuned.yaml" in done.stdout
    (tuned,) = Path.cwd().rglob("tuned.yaml")
    assert read(tuned)["one_cycle"]["tuned_for"] == "Net"
