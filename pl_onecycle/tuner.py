"""`tune`: batch size, learning rate and weight decay in one call, before any training.

Lightning 2 removed ``Trainer.tune``; here it is again, with the callbacks that find the same values within a fit.
"""

import copy
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import rich
import yaml
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import set_attributes
from pl_onecycle.checks import expect, expect_bool, expect_integer
from pl_onecycle.finder import Finder
from pl_onecycle.isolation import rehearsed
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.settings import OneCycleSettings, check_model
from pl_onecycle.weight_decay_probe import WeightDecayProbe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyFinder = TypeVar("AnyFinder", LRRangeTest, WeightDecayProbe)

_BATCH_NAMES = ("batch_size",)


@dataclass(frozen=True)
class TuneResult:
    """What tuning came to. Printed, it is a small table.

    Attributes:
        max_lr: The peak learning rate to use, for the group with the largest one; None where none was found.
        weight_decay: The weight decay to use; None where none was found.
        batch_size: The largest batch size that fits; None where it was not asked for.
        tuned_for: Name of the model's class.
        before: What the model had instead, by name.
        reasons: For each value that was looked for, why it is what it is, or why there is none.
        directory: Where the files are; None where they could not be written, or on other processes than rank zero.
        on_data: Whether the batch size is the data module's, and not the model's.
        optimizer: Index of the optimizer that was tuned, in the order of ``configure_optimizers``.
    """

    max_lr: float | None
    weight_decay: float | None
    batch_size: int | None
    tuned_for: str
    before: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    on_data: bool = False
    optimizer: int = 0

    def apply(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None) -> None:
        """Let every fit of ``model`` from now on train with the values found; nothing is trained here.

        The learning rate becomes the peak of whatever schedule the fit has, as `LRRangeTest` makes it. ``batch_size``
        of the model and its ``hparams`` is set here, where it exists; ``lr``, ``learning_rate``, ``weight_decay`` and
        ``wd`` follow when a fit begins.

        Args:
            model: The model that was tuned, or another of its class.
            datamodule: Gets the batch size.

        Raises:
            ValueError: The values were tuned for another model, or there is a batch size that nobody takes.

        Example:
            >>> result = TuneResult(max_lr=0.1, weight_decay=1e-4, batch_size=None, tuned_for="Net")
            >>> result.apply(pl.LightningModule())
            Traceback (most recent call last):
            ...
            ValueError: These values were tuned for Net, and this model is LightningModule: tune it, or leave them out.
        """
        model = _plain(model)
        check_model(model, self.tuned_for)
        if self.batch_size is not None:
            taken = [set_attributes(holder, _BATCH_NAMES, self.batch_size) for holder in (model, datamodule)]
            expect(any(taken), "datamodule", "one with a `batch_size`, as the tuned one", datamodule)
        settings = OneCycleSettings(self.max_lr, self.weight_decay, optimizer=self.optimizer, tuned_for=self.tuned_for)
        users = model.on_fit_start
        own = users.users if isinstance(users, _Applied) else users
        model.on_fit_start = _Applied(model, own, settings)  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """Return the values as a config of `OneCycleCLI`, as it stands in ``tuned.yaml``."""
        found = {"max_lr": self.max_lr, "weight_decay": self.weight_decay}
        values: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        values |= {"optimizer": self.optimizer} if self.optimizer else {}
        config: dict[str, Any] = {"one_cycle": {**values, "tuned_for": self.tuned_for}}
        if self.batch_size is not None:
            config["data" if self.on_data else "model"] = {"batch_size": self.batch_size}
        return config

    def __rich__(self) -> Table:
        where = None if self.directory is None else f"{self.directory}/tuned.yaml"
        table = Table(title=f"Tuned {self.tuned_for}", caption=where, caption_justify="left")
        for heading in ("", "before", "found", "why"):
            table.add_column(heading)
        for name, reason in self.reasons.items():
            before, found = self.before.get(name), getattr(self, name)
            cells = (_short(value) for value in (before, found))
            table.add_row(name, *cells, reason)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        console.print(self)
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(model: Any) -> Any:
    """The module inside one that ``torch.compile`` has made."""
    return getattr(model, "_orig_mod", model)


def _without_finders(callbacks: Any) -> list[pl.Callback]:
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [callback for callback in callbacks if not isinstance(callback, Finder)]


class _Applied:
    """A module's ``on_fit_start`` that applies settings after its own; can be copied and pickled with the module."""

    def __init__(self, model: pl.LightningModule, users: Callable[[], None], settings: OneCycleSettings) -> None:
        self.model, self.users, self.settings = model, users, settings

    def __call__(self) -> None:
        self.users()
        self.settings.on_fit_start(self.model.trainer, self.model)


class OneCycleTuner:
    """Answers Smith's recipe for a model, with any Trainer.

    Args:
        trainer: It is as new afterwards.

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

        Runs what the callbacks would run at the start of a fit, and leaves. The Trainer's other callbacks see that
        fit's hooks up to ``on_train_epoch_start``; loggers see none of it. Afterwards model, data module, random
        streams and Trainer are as before. The result is printed and written to ``tune/`` under the logger's directory,
        or ``default_root_dir``: ``tuned.yaml`` for `OneCycleCLI`, ``result.json``, the curves and a picture.

        Args:
            model: The model; one with `configure_one_cycle` needs no change.
            train_dataloaders: As for ``Trainer.fit``, and so are the next two.
            val_dataloaders: Where there are any, weight decay is chosen by the validation loss.
            datamodule: Instead of loaders.
            lr_range_test: A test to run, or True for that among the Trainer's callbacks, if any, else the default one;
                False leaves it out.
            weight_decay_probe: A probe to run, or True for that among the Trainer's callbacks, if any, else the default
                one; False leaves it out.
            batch_size: True first finds the largest batch size that fits, by Lightning's ``BatchSizeFinder``.
            max_batch_size: The largest batch size to try.
            again: True runs the range test a second time, with the weight decay that was chosen.

        Returns:
            The result, to be used by ``result.apply(model)``.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument lies outside its range.
            MisconfigurationException: There are no training data, or no usable optimizer, or ``fast_dev_run`` is set.
        """
        to_fit, model = model, _plain(model)
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
            raise ValueError("There is nothing to tune: range test, probe and batch size are all left out.")
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            raise MisconfigurationException("With `fast_dev_run` there is nothing to tune: it trains too few steps.")
        others = _without_finders(self._callbacks)
        data = [train_dataloaders, val_dataloaders, datamodule]
        size = self._largest_batch(model, datamodule, others, max_batch_size) if batch_size else None
        if finders:
            with rehearsed(self.trainer, model, data, [*others, *finders]):
                if size is not None:
                    set_attributes(model, _BATCH_NAMES, size)
                    set_attributes(datamodule, _BATCH_NAMES, size)
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
        """A finder to run here, which is applied so that the next one builds on it, and not reported by itself."""
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
        """Let Lightning double the batch size until it does not fit, or is the largest allowed."""
        trials = int(math.log2(largest))  # 2, 4, ...; a limit that every version of Lightning knows
        with rehearsed(self.trainer, model, [datamodule], others):
            # Lightning would ask for validation data also where there are none.
            model.validation_step = partial(pl.LightningModule.validation_step, model)  # type: ignore[method-assign]
            size = Tuner(self.trainer).scale_batch_size(model, datamodule=datamodule, max_trials=trials)
        assert size is not None  # without `fast_dev_run`
        # Older versions double once more without trying it; all of them end at the size of the data.
        return 1 << int(math.log2(min(size, largest)))

    def _write(
        self,
        result: TuneResult,
        test: LRRangeTest | None,
        probe: WeightDecayProbe | None,
        second: LRRangeTest | None,
    ) -> str | None:
        """Write and log all that was found; return the directory."""
        root = self.trainer.log_dir or self.trainer.default_root_dir  # all ranks must ask
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
            if probe is None:
                return report.draw_tuning(curve, suggestion, "", {}, None, True)
            return report.draw_tuning(curve, suggestion, probe.title, curves, probe.chosen, probe.mode == "rise")

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
    """The range test once more, where the probe has changed the weight decay."""

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
            train_dataloaders: As for ``fit``, and so are the next two.
            val_dataloaders: Where there are any, weight decay is chosen by the validation loss.
            datamodule: Instead of loaders.
            lr_range_test: A test to run, or True for that among the Trainer's callbacks, if any, else the default one;
                False leaves it out.
            weight_decay_probe: A probe to run, or True for that among the Trainer's callbacks, if any, else the default
                one; False leaves it out.
            batch_size: True first finds the largest batch size that fits, by Lightning's ``BatchSizeFinder``.
            max_batch_size: The largest batch size to try.
            again: True runs the range test a second time, with the weight decay that was chosen.

        Returns:
            The result, to be used by ``result.apply(model)``.
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
