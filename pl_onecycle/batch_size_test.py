"""`BatchSizeTest`, the callback: attempts with doubled batch sizes -> the largest one that fits into memory."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.checks import expect_integer, plain
from pl_onecycle.curves import Refusal
from pl_onecycle.finder import Finder
from pl_onecycle.module_attributes import BATCH_NAMES, attributes_kept, number_of, set_attributes
from pl_onecycle.report import Report, progress_bar
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.sentences import counted
from pl_onecycle.trial import Attempt, attempt, loaded, use_loaders, warn_of_lost_batches

# Where a loader says no batch size, rows that grow by less than this factor while the size doubles are all there are.
GROWTH = 1.5


@dataclass(frozen=True)
class BatchSize:
    """The largest batch size that fits.

    Attributes:
        value: Rows of a batch, a power of 2.
        reason: Half a sentence for people.
    """

    value: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""
        return asdict(self)


class BatchSizeTest(Finder[BatchSize]):
    """Find the largest batch size that fits into memory at the start of a fit, and train with it.

    Trains a few isolated steps with each power of 2, from the current size upward by doubling, until memory is
    exhausted or the data set has no full batch, and downward if the current size does not fit. For each the user's
    ``train_dataloader`` makes new loaders; it must read the ``batch_size`` of the module, of its data module or of
    their ``hparams``. Where they do not follow, ``setup`` of the data module is called again. Nothing is written to
    disk. An error other than exhausted memory ends the fit, after all is restored. The found size leaves room for a
    copy of the weights, which the trials of other finders need.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, before all other finders of this
    package. Skipped with ``fast_dev_run``; a resumed fit continues with the size in its checkpoint.

    *Changes* the ``batch_size`` of module, data module and hparams, and the loaders of the run. A one-cycle schedule
    from `configure_one_cycle` follows the new number of steps; other schedules stay as long as they were made, as they
    do with Lightning's ``BatchSizeFinder``: `OneCycleTuner.tune` finds the size before they are made.

    *Leaves alone* weights, optimizers, random streams and everything else of the run. Batches that the attempts take
    from a source that cannot be started over are lost, and a warning names its loader.

    Args:
        max_batch_size: The largest batch size to try, >= 2. On a CPU the system may end the process before memory is
            said to be exhausted: choose a size that is known to fit.
        num_steps: Optimizer steps of each attempt, >= 1; more are taken until each optimizer has stepped twice. By
            default 3, as in Lightning.
        apply: False only suggests.
        report: False writes no files.

    Attributes:
        tries: After a run, for each size the reason why it does not fit, or None.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, if there is no ``batch_size`` or the train loader does not follow it.

    Example:
        >>> trainer = pl.Trainer(max_epochs=30, callbacks=[BatchSizeTest(1024)], logger=False)

    References:
        arXiv:1803.09820, section 5: train with the largest batch that fits.
    """

    title = "Batch size test"
    value_name = "batch_size"
    result_name = "batch_size"
    rank = -1
    settings = ("max_batch_size", "num_steps", "apply")

    def __init__(
        self, max_batch_size: int = 8192, num_steps: int = 3, *, apply: bool = True, report: bool = True
    ) -> None:
        super().__init__(optimizer=0, milestones=(), apply=apply, report=report)
        self.max_batch_size = plain(max_batch_size)
        self.num_steps = plain(num_steps)
        expect_integer("max_batch_size", self.max_batch_size, minimum=2)
        expect_integer("num_steps", self.num_steps, minimum=1)
        self._forget()

    # ------------------------------------------------------------------------------------------ state
    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sets_up": self._sets_up}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sets_up = state_dict.get("sets_up", False)
        self._load_answer(BatchSize, state_dict)

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        # Before the loaders are made: the position in an epoch counts batches of the found size.
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        if state.get("suggestion") and self.apply and trainer.state.fn == "fit":
            self._sets_up = state["sets_up"]
            self._write(trainer, state["suggestion"]["value"])

    @override
    def _forget(self) -> None:
        self.tries: dict[int, str | None] = {}
        self._sets_up = False  # whether the data module is set up again for another size

    # ----------------------------------------------------------------------------------------- search
    @override
    def check(self, trainer: pl.Trainer) -> None:
        super().check(trainer)
        if all(number_of(holder, BATCH_NAMES) is None for holder in _holders(trainer)):
            raise MisconfigurationException(
                f"The batch size can only be found where {_names(trainer)} or their `hparams` have a number"
                " `batch_size`, with which `train_dataloader` makes the loader."
            )

    @override
    def _search(self, run: RunOptimizer) -> BatchSize | Refusal:
        most = self.max_batch_size
        size = 1 << int(math.log2(min(max(self._value_before(run), 1), most)))
        self._check_effect(run.trainer, size)
        attempts: dict[int, Attempt] = {}
        with progress_bar(run.trainer, self._most_sizes, self.title) as advance:
            while 1 <= size <= most and size not in attempts:
                attempts[size] = self._try(run.trainer, size, attempts.get(size // 2))
                advance(len(attempts), size)
                size = size * 2 if attempts[size].failure is None else size // 2
        warn_of_lost_batches(run.trainer)
        self.tries = {size: attempts[size].failure for size in sorted(attempts)}
        fitting = [size for size, failure in self.tries.items() if failure is None]
        if not fitting:
            return Refusal(f"not even a batch of {min(self.tries)} fits ({self.tries[min(self.tries)]})")
        best = max(fitting)
        stopped_by = self.tries.get(2 * best)
        why = f"up to {most}" if stopped_by is None else f"as {2 * best} does not: {stopped_by}"
        return BatchSize(best, f"the largest power of 2 that fits, {why}")

    def _check_effect(self, trainer: pl.Trainer, size: int) -> None:
        """Raise MisconfigurationException unless the train loaders follow the batch size."""
        for self._sets_up in (False, True):
            with attributes_kept(_holders(trainer), BATCH_NAMES):
                one, other = (loaded(trainer, partial(self._write, trainer, it)) for it in (size, 2 * size))
            if one != other:
                return
            if getattr(trainer, "datamodule", None) is None:
                break
        raise MisconfigurationException(
            f"The `batch_size` of {_names(trainer)} has no effect on the train loader, which gives the same batches for"
            f" {size} and {2 * size}: make the loader in `train_dataloader`, with that number."
        )

    def _try(self, trainer: pl.Trainer, size: int, before: Attempt | None) -> Attempt:
        with attributes_kept(_holders(trainer), BATCH_NAMES):
            made = attempt(trainer, partial(self._write, trainer, size), self.num_steps)
        if made.rows and before is not None and before.rows and made.rows < GROWTH * before.rows:
            return Attempt(f"its batches have {made.rows} rows, and those of {size // 2} have {before.rows}")
        return made

    def _write(self, trainer: pl.Trainer, size: int) -> list[str]:
        """Set the batch size, and set the data module up with it where it asks for that; return what was set."""
        labels = set_attributes(trainer.lightning_module, BATCH_NAMES, size)
        datamodule = getattr(trainer, "datamodule", None)
        for label in set_attributes(datamodule, BATCH_NAMES, size):
            labels.append(label.replace("module.", "data.").replace("hparams.", "data.hparams."))
        if self._sets_up and datamodule is not None:
            datamodule.setup("fit")
        return labels

    # ------------------------------------------------------------------------------------------- use
    @override
    def _value_before(self, run: RunOptimizer) -> float:
        sizes = [number_of(holder, BATCH_NAMES) for holder in reversed(_holders(run.trainer))]
        return next(size for size in sizes if size is not None)

    @override
    def _use(self, run: RunOptimizer, value: float) -> list[str]:
        if self._value_before(run) == value:
            return self._write(run.trainer, int(value))
        changed: list[str] = []
        use_loaders(run.trainer, lambda: changed.extend(self._write(run.trainer, int(value))))
        return changed

    @override
    def _restore_attributes(self, trainer: pl.Trainer) -> list[str]:
        assert self.value is not None
        return self._write(trainer, int(self.value))

    # ------------------------------------------------------------------------------------------- show
    @property
    def _most_sizes(self) -> int:
        """Largest number of sizes to try."""
        return int(math.log2(self.max_batch_size)) + 1

    @override
    def _cost(self, run: RunOptimizer) -> str:
        return f"{counted(self._most_sizes, 'size')}, {counted(self.num_steps, 'step')} each"

    @override
    def _steps_taken(self) -> int:
        return 0  # a step takes as long as its batch is large

    @override
    def _where(self, run: RunOptimizer, places: list[str]) -> str:
        return f"in {', '.join(places)}"

    @override
    def _description(self, run: RunOptimizer) -> str:
        return f"{counted(len(self.tries), 'size')} tried, {counted(self.num_steps, 'step')} each"

    @override
    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "tries": {str(size): failure for size, failure in self.tries.items()}}

    @override
    def _make_report(self, run: RunOptimizer, changed: list[str]) -> Report:
        return Report(self.title, "batch_size_test", {**self.facts(), "changed": changed}, {}, {})


def _holders(trainer: pl.Trainer) -> list[Any]:
    """Return what may hold the batch size: the module, and the data module if there is one."""
    datamodule = getattr(trainer, "datamodule", None)
    return [trainer.lightning_module] + ([] if datamodule is None else [datamodule])


def _names(trainer: pl.Trainer) -> str:
    return " or ".join(type(holder).__name__ for holder in _holders(trainer))
