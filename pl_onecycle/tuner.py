"""`OneCycleTuner` and `OneCycleTrainer`: `tune` finds batch size, learning rate and weight decay before training.

Lightning 2 removed ``Trainer.tune``; this one uses the callbacks that find the same values within a fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import rich
import yaml
from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException, TensorBoardLogger, expect_module, expect_trainer, pl
from pl_onecycle.batch_size_test import BatchSizeTest
from pl_onecycle.checks import expect_bool, expect_integer
from pl_onecycle.finder import Finder, RunsFinders
from pl_onecycle.finder_queue import FinderQueue, finders_to_run
from pl_onecycle.module_attributes import BATCH_NAMES, attributes_kept, number_of, set_attributes
from pl_onecycle.page_writer import write_page_of
from pl_onecycle.pictures import SchedulePicture, SweepPicture, TuningPicture, draw
from pl_onecycle.probe import Probe
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.report import Report, curve_table, curves_table, save
from pl_onecycle.run_directory import directory_without_run
from pl_onecycle.sentences import short
from pl_onecycle.trial import rehearsed
from pl_onecycle.tune_result import TuneResult, plain
from pl_onecycle.weight_decay_probe import WeightDecayProbe


class Tunes:
    """The method `tune`, for whatever has a Trainer.

    Attributes:
        config_keys: Keys of a config that are to be written instead of others, which links of a command line set; None
            for a key that no single other one sets.
    """

    config_keys: Mapping[str, str | None] = MappingProxyType({})

    @property
    def _trainer_to_use(self) -> pl.Trainer:
        raise NotImplementedError

    def tune(
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        *,
        lr_range_test: LRRangeTest | bool = True,
        weight_decay_probe: WeightDecayProbe | bool = True,
        batch_size: bool = False,
        max_batch_size: int = 8192,
        again: bool = False,
    ) -> TuneResult:
        """Find batch size, learning rate and weight decay of ``model``, in this order, and train nothing.

        Starts a fit, runs the range test and the probe as callbacks do, then a `MomentumProbe` if the Trainer's
        callbacks include one, and ends the fit. The Trainer's other callbacks receive the hooks of this fit up to
        ``on_train_epoch_start``; loggers receive nothing. Afterwards model, data module, random streams and Trainer are
        restored. The result is printed and written to ``tune/``: ``tuned.yaml`` for `OneCycleCLI`, ``result.json``, the
        curves and a picture. No tracker begins a run, as nothing is trained: ``tune/`` lies in the directory of a
        TensorBoardLogger or CSVLogger, else in the ``save_dir`` of the logger or in ``default_root_dir``, and
        TensorBoard only gets curves and picture.

        With ``apply=False`` a test or probe only suggests: the table shows its value as the reason why there is none in
        the result, and what runs after it does not use it. With ``report=False`` its curves are in no file and no
        logger. Milestones are those of a fit: they are ignored in the Trainer's callbacks.

        Args:
            model: The model; one with `configure_one_cycle` needs no change.
            train_dataloaders: Training data, as for ``Trainer.fit``.
            val_dataloaders: Validation data, as for ``Trainer.fit``; if given, validation loss decides on weight decay.
            datamodule: Data module, as for ``Trainer.fit``, instead of loaders.
            lr_range_test: The test to run; True for the one among the Trainer's callbacks, or a default one if there is
                none; False for no test.
            weight_decay_probe: The probe to run; True for the one among the Trainer's callbacks, or a default one if
                there is none; False for no probe.
            batch_size: True first finds the largest batch size that fits, as `BatchSizeTest` does, in a fit of its own:
                the others search in one that begins with this size. A `BatchSizeTest` of the Trainer runs in fits only.
            max_batch_size: The largest batch size to try.
            again: True runs the range test a second time, with the chosen weight decay.

        Returns:
            The result; ``result.apply(model)`` uses it.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument lies outside its range, or ``lr_range_test`` has milestones.
            MisconfigurationException: There is no training data or no usable optimizer, or ``fast_dev_run`` is set.
        """
        expect_bool("batch_size", batch_size)
        expect_bool("again", again)
        expect_integer("max_batch_size", max_batch_size, minimum=2)
        if isinstance(train_dataloaders, pl.LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        fit = _Fit(self._trainer_to_use, model, train_dataloaders, val_dataloaders, datamodule)
        expect_module(fit.model, "a LightningModule", "model")
        queue = FinderQueue(finders_to_run(fit.trainer, lr_range_test, weight_decay_probe), again)
        if not queue.finders and not batch_size:
            raise ValueError("There is nothing to tune: range test, probe and batch size are all disabled.")
        if fit.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            raise MisconfigurationException("With `fast_dev_run` there is nothing to tune: it trains too few steps.")
        first = FinderQueue({"batch_size_test": BatchSizeTest(max_batch_size)} if batch_size else {}, again=False)
        fit.run(first)
        fit.run(queue, *[test.used for test in first.finders])
        result = _result(fit, [*first.finders, *queue.results.values()], self.config_keys)
        result = replace(result, planned=queue.planned)
        result = replace(result, directory=_save(fit.trainer, result, first.results | queue.results))
        if fit.trainer.is_global_zero:
            rich.print(result)
        return result


class OneCycleTuner(Tunes):
    """Run Smith's recipe for a model, with any Trainer.

    Args:
        trainer: The Trainer to use; it is restored afterwards.

    Example:
        >>> tuner = OneCycleTuner(pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False))

    References:
        arXiv:1803.09820, section 5: the largest batch that fits, a range test, cyclical momentum, weight decay.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        expect_trainer(trainer)
        self.trainer = trainer

    @property
    @override
    def _trainer_to_use(self) -> pl.Trainer:
        return self.trainer


class OneCycleTrainer(Tunes, pl.Trainer):
    """A Lightning Trainer that can also `tune`.

    Example:
        >>> trainer = OneCycleTrainer(max_epochs=30, logger=False, enable_progress_bar=False)
    """

    @property
    @override
    def _trainer_to_use(self) -> pl.Trainer:
        return self


# -------------------------------------------------------------------------------------------- what runs
class _RunQueue(RunsFinders):
    """Runs a queue of finders at the first epoch of a fit."""

    def __init__(self, queue: FinderQueue) -> None:
        self._queue = queue

    @property
    @override
    def finders(self) -> list[Finder[Any]]:
        return self._queue.finders

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._queue.run(trainer)


@dataclass(frozen=True)
class _Fit:
    """The fit that tuning begins and never trains."""

    trainer: pl.Trainer
    to_fit: Any  # as given: `torch.compile` may have wrapped it
    train_dataloaders: Any
    val_dataloaders: Any
    datamodule: pl.LightningDataModule | None

    @property
    def model(self) -> pl.LightningModule:
        """The model inside."""
        module: pl.LightningModule = plain(self.to_fit)
        return module

    @property
    def others(self) -> list[pl.Callback]:
        """The Trainer's callbacks that are no finders."""
        return _without_finders(self.trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector

    def run(self, queue: FinderQueue, batch_size: float | None = None) -> None:
        """Run the finders, if there are any, with the batch size if there is one.

        Raises:
            MisconfigurationException: The fit has no step.
        """
        if not queue.finders:
            return
        data, model = [self.train_dataloaders, self.val_dataloaders, self.datamodule], self.model
        holders, callbacks = [model, self.datamodule], [*self.others, _RunQueue(queue)]
        with attributes_kept(holders, BATCH_NAMES), rehearsed(self.trainer, model, data, callbacks):
            if batch_size is not None:
                for holder in holders:
                    set_attributes(holder, BATCH_NAMES, batch_size)
            users = model.configure_callbacks
            model.configure_callbacks = lambda: _without_finders(users())  # type: ignore[method-assign]
            self.trainer.fit(self.to_fit, *data)
        if not queue.results:
            raise MisconfigurationException(
                "Nothing was tuned: the fit had no training step (no batches, or no epochs)."
            )


def _without_finders(callbacks: pl.Callback | Sequence[pl.Callback]) -> list[pl.Callback]:
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]  # type: ignore[list-item]
    return [callback for callback in callbacks if not isinstance(callback, Finder)]


# ------------------------------------------------------------------------------------------- the result
def _result(fit: _Fit, ran: Sequence[Finder[Any]], config_keys: Mapping[str, str | None]) -> TuneResult:
    values: dict[str, Any] = {"max_lr": None, "weight_decay": None, "batch_size": None, "max_momentum": None}
    before: dict[str, float] = {}
    reasons: dict[str, str] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for finder in ran:  # a second range test comes last
        name = finder.result_name
        if name in reasons and finder.suggestion is None:
            continue
        values[name] = finder.used
        if finder.used is not None and finder.interval is not None:
            intervals[name] = finder.interval
        reasons[name] = _why(finder)
        if finder.before is not None:
            before.setdefault(name, finder.before)
    on_data = number_of(fit.datamodule, BATCH_NAMES) is not None
    return TuneResult(
        **values,
        tuned_for=type(fit.model).__qualname__,
        before=before,
        reasons=reasons,
        on_data=on_data,
        optimizer=ran[-1].optimizer,
        attr_name=next((finder.attr_name for finder in ran if isinstance(finder, LRRangeTest)), ""),
        batch_size_key=config_keys.get("data.batch_size" if on_data else "model.batch_size", ""),
        intervals=intervals,
    )


def _why(finder: Finder[Any]) -> str:
    if finder.value is None or finder.apply:
        return finder.why
    return f"not applied, only suggested: {short(finder.value)} ({finder.why})"


def _save(trainer: pl.Trainer, result: TuneResult, ran: Mapping[str, Finder[Any]]) -> str | None:
    """Write and log all results; return the directory."""
    root = directory_without_run(trainer)
    if not trainer.is_global_zero:
        return None
    shown = {name: finder for name, finder in ran.items() if finder.report}
    tests = {name: finder for name, finder in shown.items() if isinstance(finder, LRRangeTest)}
    probes = {name: finder for name, finder in shown.items() if isinstance(finder, Probe)}
    planned = None if result.planned is None else SchedulePicture.of(result.planned)
    picture = TuningPicture(_last_picture(tests), [probe.picture() for probe in probes.values()], planned)
    sweeps = {name: test.curve for name, test in tests.items() if test.curve is not None}
    tables = {f"{name}.csv": partial(curve_table, curve) for name, curve in sweeps.items()}
    tables |= {f"{name}.csv": partial(curves_table, probe.labelled()) for name, probe in probes.items()}
    found = {"config": result.config(), "before": dict(result.before), "reasons": dict(result.reasons)}
    found["search_space"] = result.search_space()
    text = f"# Values for {result.tuned_for}, to be used by: fit -c ... -c tuned.yaml\n"
    report = Report(
        "Tuning",
        "tune",
        facts=found | {name: finder.facts() for name, finder in shown.items()},
        tables=tables,
        figures={"tune": partial(draw, picture)} if shown or not ran else {},
        texts={"tuned.yaml": text + yaml.safe_dump(result.config(), sort_keys=False)},
        sweeps=sweeps,
        candidates={
            f"{name}/{series}": curve for name, probe in probes.items() for series, curve in probe.labelled().items()
        },
    )
    # Others would begin a run, which trains nothing.
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    saved = save(report, root, loggers).draw(loggers)
    write_page_of(saved, f"Tuning of {result.tuned_for}")
    return saved.folder


def _last_picture(tests: Mapping[str, LRRangeTest]) -> SweepPicture | None:
    return [*tests.values()][-1].picture() if tests else None
