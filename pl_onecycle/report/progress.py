"""A progress bar in the style that the Trainer has chosen: rich, tqdm or none."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pl_onecycle._lightning import RichProgressBar, Tqdm, TQDMProgressBar, pl, rank_zero_info
from pl_onecycle.sentences import duration

Advance = Callable[[int, float], None]

# The pace is known after this number of steps; the first few are slower and do not count.
SLOW_STEPS, PACE_STEPS = 2, 20
# Less than this is over before anybody has read how long it takes.
WORTH_SAYING = 10.0


@contextmanager
def progress_bar(trainer: pl.Trainer, total: int, description: str, says_time: bool = False) -> Iterator[Advance]:
    """Show how far ``total`` steps have come, as long as the block lasts, on rank zero only.

    Args:
        trainer: Its progress bar callback decides the style; without one, or with a disabled one, nothing is shown.
        total: Steps in all.
        description: What is being done.
        says_time: True also logs about how long all of it takes, once the first steps have shown it.

    Yields:
        A function to call with the steps done and the last loss.
    """
    with _bar(trainer, total, description) as show:
        clock = _Clock(total)

        def advance(done: int, loss: float) -> None:
            show(done, loss)
            if says_time and (seconds := clock.whole_time(done)) is not None:
                rank_zero_info(f"{description}: about {duration(seconds)} in all at most, by its first {done} steps")

        yield advance


class _Clock:
    """Measures the pace of steps as they are done."""

    def __init__(self, total: int) -> None:
        self._total, self._begun = total, time.monotonic()
        self._mark: tuple[int, float] | None = None  # when the pace began to be measured
        self._is_known = False

    def whole_time(self, done: int) -> float | None:
        """Return how many seconds all steps take, once: when that is known and worth saying."""
        if self._is_known or done < SLOW_STEPS:
            return None
        now = time.monotonic()
        first, since = self._mark = self._mark or (done, now)
        if done < first + PACE_STEPS - SLOW_STEPS:
            return None
        self._is_known = True
        whole = now - self._begun + (self._total - done) * (now - since) / (done - first)
        return whole if whole >= WORTH_SAYING else None


@contextmanager
def _bar(trainer: pl.Trainer, total: int, description: str) -> Iterator[Advance]:
    bar = trainer.progress_bar_callback if trainer.is_global_zero else None
    if isinstance(bar, RichProgressBar) and bar.is_enabled:
        with _rich_bar(bar, total, description) as advance:
            yield advance
    elif isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        with Tqdm(total=total, desc=description, leave=False, dynamic_ncols=True) as shown:

            def advance(done: int, loss: float) -> None:
                shown.set_postfix(loss=f"{loss:.3g}", refresh=False)
                shown.update(min(done, total) - shown.n)

            yield advance
    else:
        yield lambda done, loss: None


@contextmanager
def _rich_bar(bar: RichProgressBar, total: int, description: str) -> Iterator[Advance]:
    """A bar of rich's own; Lightning's pauses, as it looks up a callback that the Trainer does not have meanwhile."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    paused = bar.progress if bar.progress is not None and bar.progress.live.is_started else None
    if paused is not None:
        paused.stop()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, TextColumn("loss {task.fields[loss]}"), transient=True) as shown:
            task = shown.add_task(description, total=total, loss="")
            yield lambda done, loss: shown.update(task, completed=min(done, total), loss=f"{loss:.3g}")
    finally:
        if paused is not None:
            paused.start()
