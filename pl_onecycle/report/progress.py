"""A progress bar in the style that the Trainer has chosen: rich, tqdm or none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pl_onecycle._lightning import RichProgressBar, Tqdm, TQDMProgressBar, pl

Advance = Callable[[int, float], None]


@contextmanager
def progress_bar(trainer: pl.Trainer, total: int, description: str) -> Iterator[Advance]:
    """Show how far ``total`` steps have come, as long as the block lasts, on rank zero only.

    Args:
        trainer: Its progress bar callback decides the style; without one, or with a disabled one, nothing is shown.
        total: Steps in all.
        description: What is being done.

    Yields:
        A function to call with the steps done and the last loss.
    """
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
