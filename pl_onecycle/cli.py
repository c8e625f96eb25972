"""`OneCycleCLI`: a LightningCLI that tunes, and that trains with what was found. `main` is ``pl-onecycle``.

Sits on top of everything: flags and files -> `OneCycleSettings` and the arguments of `OneCycleTrainer.tune`. Lightning
and jsonargparse do the parsing; names, types, defaults and help texts are those of the signatures and docstrings.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle.checks import expect
from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings import OneCycleSettings
from pl_onecycle.tune_result import TuneResult
from pl_onecycle.tuner import OneCycleTrainer


class OneCycleCLI(LightningCLI):
    """A LightningCLI with the subcommand ``tune``, whose result ``fit`` takes as one more config file.

    ``tune`` runs `OneCycleTrainer.tune` and writes, beside its other files, the ``config.yaml`` that it ran with.
    ``--lr_range_test.*`` and ``--weight_decay_probe.*`` set what it runs, ``--lr_range_test=false`` leaves one out.
    ``--one_cycle.*`` are the arguments of `OneCycleSettings`: peak and weight decay, and the shape of the
    schedule that `configure_one_cycle` makes. In ``fit`` the callbacks come as Lightning's own do, as in
    ``--trainer.callbacks+=LRRangeTest --trainer.callbacks.num_steps=200``.

    An ``--optimizer`` that the command line makes gets the schedule of `configure_one_cycle`, stepped every step and
    as long as the run, or else the ``--lr_scheduler`` that is asked for. One config file serves all subcommands: what
    only another one of them knows is passed over in files, while as a flag it is an error.

    Args:
        model_class: The LightningModule class, or a callable that returns one; None lets ``--model`` name it.
        datamodule_class: The LightningDataModule class, or a callable that returns one; None lets ``--data`` name it.
        save_config_callback: Saves the config of a run; None saves none, also not that of ``tune``.
        save_config_kwargs: Its further arguments.
        trainer_class: `OneCycleTrainer`, a subclass, or a callable that returns one.
        arguments: All others of LightningCLI, as ``trainer_defaults`` or ``run``.

    Attributes:
        tune_result: After ``tune``, its `TuneResult`.

    Raises:
        TypeError: ``trainer_class`` cannot tune.

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
        super().__init__(
            model_class, datamodule_class, save_config_callback, save_config_kwargs, trainer_class, **arguments
        )

    # ---------------------------------------------------------------------------------------- parsing
    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Name the subcommands, and the arguments of each that are not flags."""
        not_flags = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        return {**LightningCLI.subcommands(), "tune": not_flags}

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Not in `add_arguments_to_parser`, which is the user's to override.
        super().add_default_arguments_to_parser(parser)
        parser.add_lightning_class_args(OneCycleSettings, "one_cycle")

    @override
    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        if add_subcommands:
            self._share_config_files()

    def _share_config_files(self) -> None:
        """Let a subcommand pass over what a config file holds for the others."""
        own = self._subcommand_method_arguments  # Lightning has no public list of them
        for name, parser in self._subcommand_parsers.items():
            for key in sorted(set().union(*own.values()) - set(own[name])):
                with suppress(argparse.ArgumentError):  # the user's own argument has this name
                    parser.add_argument(
                        f"--{key}",
                        action=_OfAnotherSubcommand,
                        type=_nothing,
                        default=argparse.SUPPRESS,
                        help=argparse.SUPPRESS,  # jsonargparse leaves such arguments out of saved configs, too
                    )

    # ------------------------------------------------------------------------------------------- fit
    @staticmethod
    @override
    def configure_optimizers(
        lightning_module: pl.LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """Give an optimizer made by the command line its one-cycle schedule, or the ``lr_scheduler`` made there."""
        if lr_scheduler is None:
            return configure_one_cycle(lightning_module, optimizer)
        if isinstance(lr_scheduler, OneCycleScheduler):  # Lightning would step it once an epoch
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
        return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)

    # ------------------------------------------------------------------------------------------ tune
    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        saver = self.save_config_callback
        if self.subcommand == "tune":  # it saves where fits do, and a later fit would refuse to overwrite that
            self.save_config_callback = None
        try:
            return super().instantiate_trainer(**kwargs)
        finally:
            self.save_config_callback = saver

    def tune(self, **arguments: Any) -> None:
        """Run the subcommand: tune, save the config beside the result, and say how to train with it."""
        self.tune_result = self.trainer.tune(**arguments)  # type: ignore[attr-defined]  # it can: see the constructor
        directory = self.tune_result.directory
        if directory is None:  # on other processes than rank zero, or where nothing could be written
            return
        if self.save_config_callback is not None:
            parser = self._subcommand_parsers["tune"]  # saved as Lightning saves that of a fit
            path = os.path.join(directory, "config.yaml")
            parser.save(self.config["tune"], path, skip_none=False, overwrite=True, multifile=False)
        tuned = os.path.join(directory, "tuned.yaml")
        print(f"Tuned values: {tuned}\nTo train with them, end the command line of `fit` with: -c {tuned}")


class _OfAnotherSubcommand(argparse.Action):
    """An argument that config files may have, and the command line may not."""

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
    """Any value, read as none."""


def main() -> None:
    """Run ``pl-onecycle``: any model and data class by import path, also from the working directory.

    pl-onecycle tune --model my_package.Net --data my_package.Data
    """
    sys.path.insert(0, os.getcwd())  # a console script has its own directory there
    OneCycleCLI()
