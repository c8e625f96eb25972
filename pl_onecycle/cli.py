"""`OneCycleCLI`: a LightningCLI that tunes, and trains with the values found. `main` is ``pl-onecycle``.

The top layer: flags and files -> `OneCycleSettings` and the arguments of `OneCycleTrainer.tune`. Lightning and
jsonargparse do the parsing; names, types, defaults and help texts come from the signatures and docstrings.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle._lightning import (
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerTypeUnion,
    SaveConfigCallback,
    pl,
    rank_zero_warn,
)
from pl_onecycle.checks import expect
from pl_onecycle.commands import run_command
from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings_callback import OneCycleSettings
from pl_onecycle.tune_result import TuneResult
from pl_onecycle.tuner import OneCycleTrainer

PURPOSE = """Find batch size, learning rate and weight decay by short trials, and train with them in one cycle.

  %(prog)s tune {options}
  %(prog)s fit -c .../tune/config.yaml -c .../tune/tuned.yaml

`tune` trains nothing; its last line is the command with which `fit` trains with what it has found."""


class OneCycleCLI(LightningCLI):
    """A LightningCLI with the subcommand ``tune``, whose result ``fit`` accepts as an additional config file.

    ``tune`` runs `OneCycleTrainer.tune` and writes the ``config.yaml`` of its run next to the other files.
    ``--lr_range_test.*`` and ``--weight_decay_probe.*`` configure test and probe; ``--lr_range_test=false`` disables
    the test. A found batch size that a link of the parser sets is written where the link takes it from.

    ``--one_cycle.*`` are the arguments of `OneCycleSettings`: peak and weight decay, and the shape of the schedule from
    `configure_one_cycle`. In ``fit`` the callbacks are added like Lightning's own, e.g. by
    ``--trainer.callbacks+=LRRangeTest --trainer.callbacks.num_steps=200``.

    An ``--optimizer`` from the command line gets the schedule of `configure_one_cycle`, stepped every step and as long
    as the run, or the given ``--lr_scheduler``. One config file serves all subcommands: an argument of another
    subcommand is ignored in files, but is an error as a flag.

    Args:
        model_class: The LightningModule class, or a callable that returns one; None takes it from ``--model``.
        datamodule_class: The LightningDataModule class, or a callable that returns one; None takes it from ``--data``.
        save_config_callback: Callback that saves the config of a run; None saves no config, also not in ``tune``.
        save_config_kwargs: Additional arguments of this callback.
        trainer_class: `OneCycleTrainer`, a subclass, or a callable that returns one.
        arguments: All other arguments of LightningCLI, e.g. ``trainer_defaults`` or ``run``.

    Attributes:
        tune_result: After ``tune``, its `TuneResult`.

    Raises:
        TypeError: ``trainer_class`` has no ``tune``.

    Example:
        >>> def cli():  # python train.py tune -c a.yaml; python train.py fit -c a.yaml -c .../tune/tuned.yaml
        ...     OneCycleCLI(pl.LightningModule, pl.LightningDataModule)
    """

    def __init__(
        self,
        model_class: type[pl.LightningModule] | Callable[..., pl.LightningModule] | None = None,
        datamodule_class: type[pl.LightningDataModule] | Callable[..., pl.LightningDataModule] | None = None,
        save_config_callback: type[SaveConfigCallback] | None = SaveConfigCallback,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: type[pl.Trainer] | Callable[..., pl.Trainer] = OneCycleTrainer,
        **arguments: Any,
    ) -> None:
        can_tune = not isinstance(trainer_class, type) or hasattr(trainer_class, "tune")
        expect(can_tune, "trainer_class", "a subclass of OneCycleTrainer", trainer_class, TypeError)
        self.tune_result: TuneResult | None = None
        self._sources: dict[str, str | None] = {}  # of linked arguments; None where several, or a function, make one
        super().__init__(
            model_class, datamodule_class, save_config_callback, save_config_kwargs, trainer_class, **arguments
        )

    # ---------------------------------------------------------------------------------------- parsing
    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, each with its arguments that are not flags."""
        not_flags = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        return {**LightningCLI.subcommands(), "tune": not_flags}

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Not in `add_arguments_to_parser`: users override it.
        super().add_default_arguments_to_parser(parser)
        parser.add_lightning_class_args(OneCycleSettings, "one_cycle")
        parser.link_arguments = partial(self._link_arguments, parser.link_arguments)  # type: ignore[method-assign]

    def _link_arguments(
        self,
        link: Callable[..., None],
        source: str | tuple[str, ...],
        target: str,
        compute_fn: Callable[..., Any] | None = None,
        apply_on: str = "parse",
    ) -> None:
        """Link arguments, and remember what sets the target, as a config may not set it."""
        link(source, target, compute_fn, apply_on)
        one = source if isinstance(source, str) else source[0] if len(source) == 1 else None
        is_plain = one is not None and compute_fn is None
        self._sources[target.replace(".init_args.", ".")] = str(one).replace(".init_args.", ".") if is_plain else None

    @override
    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(
            add_subcommands, {"description": PURPOSE.format(options="-c config.yaml")} | main_kwargs, subparser_kwargs
        )
        if add_subcommands:
            self._share_config_files()
            # A command is a line of its own, and an error is not below the usage of a hundred flags.
            kinds = (argparse.RawDescriptionHelpFormatter, self.parser.formatter_class)
            self.parser.formatter_class = type("HelpFormatter", kinds, {})
            for name, parser in self._subcommand_parsers.items():
                parser.usage = f"{self.parser.prog} {name} [-c CONFIG] [options]"

    def _share_config_files(self) -> None:
        """Let a subcommand ignore the arguments of the others in a config file."""
        own = self._subcommand_method_arguments  # Lightning has no public list of them
        for name, parser in self._subcommand_parsers.items():
            for key in sorted(set().union(*own.values()) - set(own[name])):
                with suppress(argparse.ArgumentError):  # the user's own argument has this name
                    parser.add_argument(
                        f"--{key}",
                        action=_OfAnotherSubcommand,
                        type=_nothing,
                        default=argparse.SUPPRESS,
                        help=argparse.SUPPRESS,  # jsonargparse also leaves such arguments out of saved configs
                    )

    # ------------------------------------------------------------------------------------------- fit
    @staticmethod
    @override
    def configure_optimizers(
        lightning_module: pl.LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """Return an optimizer from the command line with its one-cycle schedule, or with the given ``lr_scheduler``."""
        if lr_scheduler is None:
            return configure_one_cycle(lightning_module, optimizer)
        if isinstance(lr_scheduler, OneCycleScheduler):  # Lightning would step it once per epoch
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
        return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)

    def _expect_optimizer(self) -> None:
        """End with one sentence where the model has no optimizer to train or tune with."""
        made = getattr(self.model.configure_optimizers, "__func__", None)
        if made is not pl.LightningModule.configure_optimizers or self.subcommand not in ("fit", "tune"):
            return
        ways = ["return one from its `configure_optimizers`"]
        ways += ["pass --optimizer, e.g. --optimizer=AdamW"] if self.auto_configure_optimizers else []
        parser = self._subcommand_parsers[self.subcommand]
        parser.error(f"{type(self.model).__name__} has no optimizer: {', or '.join(ways)}.")

    # ------------------------------------------------------------------------------------------ tune
    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self._expect_optimizer()
        saver = self.save_config_callback
        if self.subcommand == "tune":  # it saves to the directory of fits, and a later fit would refuse to overwrite it
            self.save_config_callback = None
        try:
            return super().instantiate_trainer(**kwargs)
        finally:
            self.save_config_callback = saver

    def tune(self, **arguments: Any) -> None:
        """Run the subcommand: tune, save the config next to the result, and print how to train with it."""
        self.trainer.config_keys = self._sources  # type: ignore[attr-defined]
        result: TuneResult = self.trainer.tune(**arguments)  # type: ignore[attr-defined]  # the constructor checks it
        self.tune_result, directory = result, result.directory
        if result.batch_size is not None and result.batch_size_key is None:
            rank_zero_warn(
                f"The found batch size {result.batch_size} is not in tuned.yaml, as a function or several arguments"
                " make it: set those so that they make this number."
            )
        if directory is None:  # on processes other than rank zero, or if nothing could be written
            return
        tuned = os.path.join(directory, "tuned.yaml")
        print(f"Tuned values: {tuned}")
        if self.save_config_callback is None:
            print(f"To train with them, end the command line of `fit` with: -c {tuned}")
            return
        parser = self._subcommand_parsers["tune"]  # saved like the config of a fit
        path = os.path.join(directory, "config.yaml")
        parser.save(self.config["tune"], path, skip_none=False, overwrite=True, multifile=False)
        print(f"To train with them:\n{shlex.join([*_program(), 'fit', '-c', path, '-c', tuned])}")


class _OfAnotherSubcommand(argparse.Action):
    """An argument that is allowed in config files, but not on the command line."""

    @override
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"unrecognized arguments: {option_string}")


def _nothing(value: Any) -> None:
    """Parse any value as None."""


def _program() -> list[str]:
    """Return the words that have started this program."""
    path = sys.argv[0]
    return ["python", path] if path.endswith(".py") else [os.path.basename(path)]


def main() -> None:
    """Run ``pl-onecycle`` for any model and data class by import path, also from the working directory.

    pl-onecycle tune --model my_package.Net --data my_package.Data

    ``pl-onecycle report`` and ``pl-onecycle plot`` show results that are there already.
    """
    if run_command(sys.argv[1:]):
        return
    sys.path.insert(0, os.getcwd())  # for a console script the first entry is its own directory
    purpose = PURPOSE.format(options="--model my_package.Net --data my_package.Data")
    OneCycleCLI(parser_kwargs={"description": purpose, "version": version("pl-onecycle")})
