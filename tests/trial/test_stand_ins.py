"""What stands in for the user's loops, validation batches and loggers in a trial."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger

from pl_onecycle.trial.stand_ins import Validation, muted, trial_loop, unused_loop
from tests.fits import SmallNet, data, trainer
from tests.trial.made import in_fit


def test_a_mute_logger_is_like_its_own_and_writes_nothing(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv")
    mute: Any = muted(logger)
    mute.log_metrics({"loss": 1.0}, step=0)
    mute.experiment.add_scalar("loss", 1.0)
    mute.save()
    mute.finalize("success")
    assert isinstance(mute, CSVLogger)
    assert (mute.name, mute.version, mute.log_dir) == (logger.name, logger.version, logger.log_dir)
    assert not (tmp_path / "csv").exists()
    assert muted(mute) is mute
    logger.log_metrics({"loss": 1.0}, step=0)  # the user's still writes
    logger.save()
    assert [path.name for path in tmp_path.rglob("*.csv")] == ["metrics.csv"]


def counts(loop: Any) -> list[Any]:
    parts = [loop, loop.epoch_loop, loop.epoch_loop.automatic_optimization, loop.epoch_loop.manual_optimization]
    return [part.state_dict() for part in parts] + [loop.epoch_loop.global_step]


def test_a_fresh_loop_continues_the_counts_without_touching_those_of_the_user() -> None:
    def compare(trainer: pl.Trainer) -> None:
        users, loop = trainer.fit_loop, trial_loop(trainer)
        before = counts(users)
        assert trainer.global_step == 8
        assert counts(loop) == before
        loop.epoch_progress.increment_ready()
        loop.epoch_loop.batch_progress.increment_ready()
        loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.increment_ready()
        loop.epoch_loop.manual_optimization.optim_step_progress.increment_ready()
        assert counts(users) == before
        assert loop._combined_loader is users._combined_loader
        assert (loop.max_epochs, loop.max_batches, loop.epoch_loop.max_steps) == (2, 8, 99)

    in_fit(compare, SmallNet(), epoch=1, max_steps=99)


def test_a_new_fit_loop_has_the_limits_of_the_user_and_counts_nothing() -> None:
    limits: dict[str, Any] = {"min_epochs": 1, "max_epochs": 3, "min_steps": 2, "max_steps": 5}

    def compare(fitting: pl.Trainer) -> None:
        loop = unused_loop(fitting)
        assert counts(loop) == counts(trainer(**limits).fit_loop)
        assert [loop.min_epochs, loop.max_epochs, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps] == [1, 3, 2, 5]

    in_fit(compare, SmallNet(), data(96), epoch=1, **limits)


class Validated(SmallNet):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))


def batches_of(trainer: pl.Trainer, count: int) -> list[list[list[Any]]]:
    """What two validations of a trial are given, where the first writes into its batches; by loader."""
    validation, loop = Validation(trainer, count), trial_loop(trainer)
    validation.set_up(trainer, loop)
    given = []
    for _ in range(2):
        loaders = loop.epoch_loop.val_loop._combined_loader.flattened  # type: ignore[union-attr]
        given.append([[batch[0].clone() for batch in loader] for loader in loaders])
        for batch in loaders[0]:
            batch[0].fill_(7)
    assert torch.equal(torch.stack(given[0][0]), torch.stack(given[1][0]))
    validation.give_back()
    return given[0]


def test_each_validation_of_a_trial_has_the_same_first_batches() -> None:
    loaders = [data(128), data(96, 16)]
    first, second = in_fit(lambda trainer: batches_of(trainer, 2), Validated(), data(), loaders)
    for given, loader in ((first, loaders[0]), (second, loaders[1])):
        expected = [batch[0] for batch, _ in zip(loader, range(2), strict=False)]
        assert torch.equal(torch.stack(given), torch.stack(expected))


def test_a_validation_has_no_more_batches_than_the_fit() -> None:
    given = in_fit(lambda trainer: batches_of(trainer, 9), Validated(), data(), data(128), limit_val_batches=3)
    assert [len(batches) for batches in given] == [3]


def test_without_validation_there_are_no_loaders() -> None:
    assert in_fit(lambda trainer: Validation(trainer, 2).loaders, SmallNet()) == []
    assert in_fit(lambda trainer: Validation(trainer, 0).loaders, Validated(), data(), data(64)) == []
