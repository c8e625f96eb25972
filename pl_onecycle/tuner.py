"""`tune`: find batch size, learning rate and weight decay in one call, before training.

Lightning 2 removed ``Trainer.tune``; this one uses the callbacks that find the same values within a fit.
"""

import copy
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import rich
import yaml
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import set_attributes
from pl_onecycle.checks import expect, expect_bool, expect_integer
from pl_onecycle.finder import Finder
from pl_onecycle.isolation import rehearsed
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.tune_result import BATCH_NAMES, TuneResult, plain
from pl_onecycle.weight_decay_probe import WeightDecayProbe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyFinder = TypeVar("AnyFinder", LRRangeTest, WeightDecayProbe)


class OneCycleTuner:
    """Run Smith's recipe for a model, with any Trainer.

    Args:
        trainer: The Trainer to use; it is restored afterwards.

    Example:
        >>> tuner = OneCycleTuner(pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False))

    References:
        arXiv:1803.09820, section 5: the largest batch that fits, a range test, cyclical momentum, weight decay.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        expect(isinstance(trainer, pl.Trainer), "trainer", "a Trainer", type(trainer).__name__, TypeError)
        self.trainer = trainer

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

        Starts a fit, runs the range test and the probe as callbacks do, and ends the fit. The Trainer's other callbacks
        receive the hooks of this fit up to ``on_train_epoch_start``; loggers receive nothing. Afterwards model, data
        module, random streams and Trainer are restored. The result is printed and written to ``tune/`` in the logger's
        directory, or ``default_root_dir``: ``tuned.yaml`` for `OneCycleCLI`, ``result.json``, the curves and a picture.

        Args:
            model: The model; one with `configure_one_cycle` needs no change.
            train_dataloaders: Training data, as for ``Trainer.fit``.
            val_dataloaders: Validation data, as for ``Trainer.fit``; if given, validation loss decides on weight decay.
            datamodule: Data module, as for ``Trainer.fit``, instead of loaders.
            lr_range_test: The test to run; True for the one among the Trainer's callbacks, or a default one if there is
                none; False for no test.
            weight_decay_probe: The probe to run; True for the one among the Trainer's callbacks, or a default one if
                there is none; False for no probe.
            batch_size: True first finds the largest batch size that fits, with Lightning's ``BatchSizeFinder``.
            max_batch_size: The largest batch size to try.
            again: True runs the range test a second time, with the chosen weight decay.

        Returns:
            The result; ``result.apply(model)`` uses it.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument lies outside its range.
            MisconfigurationException: There is no training data or no usable optimizer, or ``fast_dev_run`` is set.
        """
        to_fit, model = model, plain(model)
        expect(isinstance(model, pl.LightningModule), "model", "a LightningModule", type(model).__name__, TypeError)
        expect_bool("batch_size", batch_size)
        expect_bool("again", again)
        expect_integer("max_batch_size", max_batch_size, minimum=2)
        if isinstance(train_dataloaders, pl.LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        test = self._copied(LRRangeTest, "lr_range_test", lr_range_test)
        probe = self._copied(WeightDecayProbe, "weight_decay_probe", weight_decay_probe)
        second = None if test is None or probe is None or not again else _SecondTest(test, probe)
        finders = [finder for finder in (test, probe, second) if finder is not None]
        if len({finder.optimizer for finder in finders}) > 1:
            raise ValueError("Expected `lr_range_test` and `weight_decay_probe` to be for the same optimizer.")
        if not finders and not batch_size:
            raise ValueError("There is nothing to tune: range test, probe and batch size are all disabled.")
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            raise MisconfigurationException("With `fast_dev_run` there is nothing to tune: it trains too few steps.")
        others = _without_finders(self._callbacks)
        data = [train_dataloaders, val_dataloaders, datamodule]
        size = self._largest_batch(model, datamodule, others, max_batch_size) if batch_size else None
        if finders:
            with rehearsed(self.trainer, model, data, [*others, *finders]):
                if size is not None:
                    set_attributes(model, BATCH_NAMES, size)
                    set_attributes(datamodule, BATCH_NAMES, size)
                users = model.configure_callbacks
                model.configure_callbacks = lambda: _without_finders(users())  # type: ignore[method-assign]
                self.trainer.fit(to_fit, train_dataloaders, val_dataloaders, datamodule)
            if finders[0].before is None:
                raise MisconfigurationException(
                    "Nothing was tuned: the fit had no training step (no batches, or no epochs)."
                )
        result = _result(model, datamodule, size, max_batch_size, test, probe, second)
        result = replace(result, directory=self._write(result, test, probe, second))
        if self.trainer.is_global_zero:
            rich.print(result)
        return result

    @property
    def _callbacks(self) -> list[pl.Callback]:
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        return callbacks

    def _copied(self, kind: type[AnyFinder], name: str, asked: AnyFinder | bool) -> AnyFinder | None:
        """Return a copy of the finder to run, which applies its result for the next one and writes no own report."""
        expect(isinstance(asked, (bool, kind)), name, f"True, False or of type {kind.__name__}", asked, TypeError)
        if asked is False:
            return None
        there = next((callback for callback in self._callbacks if isinstance(callback, kind)), None)
        finder = copy.deepcopy(asked if isinstance(asked, kind) else there or kind())
        finder.apply, finder.report, finder.milestones = True, False, ()
        return finder

    def _largest_batch(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None,
        others: list[pl.Callback],
        largest: int,
    ) -> int:
        """Let Lightning double the batch size until it does not fit or reaches the largest allowed."""
        trials = int(math.log2(largest))  # 2, 4, ...; every version of Lightning has this limit
        with rehearsed(self.trainer, model, [datamodule], others):
            # Lightning would require validation data even if there are none.
            model.validation_step = partial(pl.LightningModule.validation_step, model)  # type: ignore[method-assign]
            size = Tuner(self.trainer).scale_batch_size(model, datamodule=datamodule, max_trials=trials)
        assert size is not None  # without `fast_dev_run`
        # Older versions double once more without a trial; all versions stop at the size of the data.
        return 1 << int(math.log2(min(size, largest)))

    def _write(
        self,
        result: TuneResult,
        test: LRRangeTest | None,
        probe: WeightDecayProbe | None,
        second: LRRangeTest | None,
    ) -> str | None:
        """Write and log all results; return the directory."""
        root = self.trainer.log_dir or self.trainer.default_root_dir  # all ranks: `log_dir` is broadcast
        report.claim_directories(self.trainer.loggers)
        if not self.trainer.is_global_zero:
            return None
        sweeps = {"lr_range_test": test, "lr_range_test_again": second}
        ran = {name: sweep for name, sweep in sweeps.items() if sweep is not None}
        swept = {name: sweep.curve for name, sweep in ran.items() if sweep.curve is not None}
        curves = {} if probe is None else probe.labelled()
        facts = {name: ran[name].facts() for name in swept}
        tables = {f"{name}.csv": report.curve_table(curve) for name, curve in swept.items()}
        if probe is not None:
            facts["weight_decay_probe"] = probe.facts()
            tables["weight_decay_probe.csv"] = report.curves_table(curves)
        found = {"config": result.config(), "before": dict(result.before), "reasons": dict(result.reasons)}
        text = f"# Values for {result.tuned_for}, to be used by: fit -c ... -c tuned.yaml\n"
        text += yaml.safe_dump(result.config(), sort_keys=False)
        folder = None

        def draw() -> "Figure":
            name = next(reversed(swept), None)
            curve, suggestion = (None, None) if name is None else (swept[name], ran[name].suggestion)
            label = "" if name is None else ran[name].label
            if probe is None:
                return report.draw_tuning(curve, suggestion, "", {}, None, True, label)
            over_lr = probe.mode == "rise"
            return report.draw_tuning(curve, suggestion, probe.title, curves, probe.chosen, over_lr, label)

        def write(figure: "Figure | None") -> str:
            nonlocal folder
            folder = report.write_folder(
                root, "tune", {**found, **facts}, tables, {"tune": figure}, {"tuned.yaml": text}
            )
            return folder

        def log(tag: str) -> None:
            for name, curve in swept.items():
                report.log_curve(self.trainer.loggers, f"{tag}/{name}", curve)
            report.log_curves(self.trainer.loggers, f"{tag}/weight_decay_probe", curves)

        report.publish("Tuning", draw, write, log)
        return folder


def _without_finders(callbacks: Any) -> list[pl.Callback]:
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [callback for callback in callbacks if not isinstance(callback, Finder)]


def _result(
    model: pl.LightningModule,
    datamodule: pl.LightningDataModule | None,
    size: int | None,
    largest: int,
    test: LRRangeTest | None,
    probe: WeightDecayProbe | None,
    second: LRRangeTest | None,
) -> TuneResult:
    before: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    if size is not None:
        before["batch_size"] = next(b for b in map(_batch_size_of, (datamodule, model)) if b is not None)
        reasons["batch_size"] = f"the largest power of 2 that fits, up to {largest}"
    max_lr = decay = None
    if test is not None:
        best = second if second is not None and second.suggestion is not None else test
        max_lr = None if best.suggestion is None else best.suggestion.lr
        before["max_lr"], reasons["max_lr"] = test.before, best.why
    if probe is not None:
        decay = None if probe.suggestion is None else probe.suggestion.value
        before["weight_decay"], reasons["weight_decay"] = probe.before, probe.why
    on_data = _batch_size_of(datamodule) is not None
    known = {name: value for name, value in before.items() if value is not None}
    index = next((finder.optimizer for finder in (test, probe) if finder is not None), 0)
    name = type(model).__qualname__
    return TuneResult(max_lr, decay, size, name, known, reasons, on_data=on_data, optimizer=index)


def _batch_size_of(holder: Any) -> int | None:
    own = getattr(holder, "batch_size", None)
    return getattr(holder, "hparams", {}).get("batch_size") if own is None else own


class _SecondTest(LRRangeTest):
    """A second range test, which runs only if the probe changed the weight decay."""

    rank = 9

    def __init__(self, test: LRRangeTest, probe: WeightDecayProbe) -> None:
        vars(self).update(vars(copy.deepcopy(test)))
        self._probe = probe

    @override
    def find(self, trainer: pl.Trainer) -> None:
        choice = self._probe.suggestion
        if choice is not None and choice.value != self._probe.before:
            super().find(trainer)


class OneCycleTrainer(pl.Trainer):
    """A Lightning Trainer that can also `tune`.

    Example:
        >>> trainer = OneCycleTrainer(max_epochs=30, logger=False, enable_progress_bar=False)
    """

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
        """Find batch size, learning rate and weight decay of a model, and train nothing; see `OneCycleTuner.tune`.

        Args:
            model: The model; one with `configure_one_cycle` needs no change.
            train_dataloaders: Training data, as for ``fit``.
            val_dataloaders: Validation data, as for ``fit``; if given, validation loss decides on weight decay.
            datamodule: Data module, as for ``fit``, instead of loaders.
            lr_range_test: The test to run; True for the one among the Trainer's callbacks, or a default one if there is
                none; False for no test.
            weight_decay_probe: The probe to run; True for the one among the Trainer's callbacks, or a default one if
                there is none; False for no probe.
            batch_size: True first finds the largest batch size that fits, with Lightning's ``BatchSizeFinder``.
            max_batch_size: The largest batch size to try.
            again: True runs the range test a second time, with the chosen weight decay.

        Returns:
            The result; ``result.apply(model)`` uses it.
        """
        return OneCycleTuner(self).tune(
            model,
            train_dataloaders,
            val_dataloaders,
            datamodule,
            lr_range_test=lr_range_test,
            weight_decay_probe=weight_decay_probe,
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            again=again,
        )
