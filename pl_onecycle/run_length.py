"""`FollowsRun`: compare the plans of one-cycle schedules with the run that they are in, and replan what differs.

A run's length is known for sure only while it runs: a callback changes the loader, data grow, an optimizer that is
stepped by hand has a pace of its own, a wall clock ends it. At the start of each epoch, and in between where the pace
must be measured, the steps that are left in the run are compared with those left in the plan.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from typing_extensions import override

from pl_onecycle._lightning import (
    GradientAccumulationScheduler,
    MisconfigurationException,
    Timer,
    pl,
    rank_zero_info,
)
from pl_onecycle.played_schedule import parts
from pl_onecycle.scheduler import OneCycleScheduler

# A difference of a step or two is rounding, or a step that a gradient scaler has skipped, and is left alone.
ROUNDING_STEPS = 2
# A difference of less than this share of the steps that are left is replanned without a line in the log.
LOGGED_SHARE = 0.1
# A plan by the clock aims at this share of the time that is left, so that the last value is reached before time is up.
TIME_SHARE = 0.98
# The pace by the clock is measured again after this share of the time that is left.
PACE_SHARE = 0.01
# A plan by a measured pace is changed when it is off by more than this share of the steps that are left.
PACE_TOLERANCE = 0.03


def steps_left(trainer: pl.Trainer, batches_done: int = 0) -> float:
    """Return how many optimizer steps the Trainer has left by its epochs and ``max_steps``; infinite without either.

    With manual optimization, one step for each batch.

    Args:
        trainer: A Trainer whose train loader is set up.
        batches_done: Batches of the current epoch that are done.
    """
    by_steps = math.inf if trainer.max_steps == -1 else max(trainer.max_steps - trainer.global_step, 0)
    if not _has_epochs(trainer):
        return by_steps
    batches, first = trainer.num_training_batches, trainer.current_epoch
    left = [batches - batches_done, *[batches] * (max(int(trainer.max_epochs or 1), 1) - first - 1)]
    by_epochs = sum(math.ceil(count / accumulation_in(trainer, first + k)) for k, count in enumerate(left))
    return min(by_epochs, by_steps)


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many batches of the current epoch are done: none between two epochs."""
    epochs, done = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current.completed
    # Otherwise the batches are those of the last epoch.
    is_within = epochs.started > epochs.completed  # type: ignore[attr-defined]  # of the tracker's own class
    return done if is_within and done < trainer.num_training_batches else 0


def timer_of(trainer: pl.Trainer) -> Timer | None:
    """Return the Trainer's timer with a limit, which ``max_time`` makes, or None."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def _has_epochs(trainer: pl.Trainer) -> bool:
    """Return whether epochs end the run."""
    return trainer.max_epochs not in (None, -1) and math.isfinite(trainer.num_training_batches)


def accumulation_in(trainer: pl.Trainer, epoch: int) -> int:
    """Return how many batches of an epoch make an optimizer step."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    changes = next((it for it in callbacks if isinstance(it, GradientAccumulationScheduler)), None)
    return trainer.accumulate_grad_batches if changes is None else changes.get_accumulate_grad_batches(epoch)


@dataclass(frozen=True)
class _Mark:
    """Where a run was when the pace of a schedule began to be measured."""

    step: int  # of the schedule
    global_step: int
    batches: int
    seconds: float


class FollowsRun(pl.Callback):
    """Replans the one-cycle schedules of a Trainer that follow its run, see `configure_one_cycle`.

    *Runs at* ``on_train_epoch_start``; where the pace must be measured also after batches: with manual optimization
    after 1, 2, 4, 8, ... of them, with a wall clock after each hundredth of the time that is left.

    *Changes* nothing but those schedules, and the interval of their configs: they are stepped every step.

    Raises:
        MisconfigurationException: In ``fit``, if such a schedule is inside another one, which decides on its steps.
    """

    def __init__(self) -> None:
        self._batches = 0  # of this fit
        self._due = math.inf  # when the pace is measured again, if a clock may end this fit
        self._marks: WeakKeyDictionary[OneCycleScheduler, _Mark] = WeakKeyDictionary()

    def __reduce__(self) -> Any:
        """Copy and pickle as a new one: what it has measured belongs to one run."""
        return type(self), ()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if any(_follows(inner) for inner in parts(config.scheduler) if inner is not config.scheduler):
                raise MisconfigurationException(
                    f"A one-cycle schedule inside a {type(config.scheduler).__name__} cannot take its length from the"
                    " run: pass `total_steps=`."
                )
            if _follows(config.scheduler):
                _step_every_step(config, says_so=pl_module.automatic_optimization)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._batches, self._due = 0, math.inf if timer_of(trainer) is None else time.monotonic()
        self._marks.clear()
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if trainer.fit_loop.restarting and 0 < done < trainer.num_training_batches:  # within an epoch: none starts
            self._compare(trainer, done)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._compare(trainer, 0)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        is_power_of_two = self._batches & (self._batches - 1) == 0
        by_hand = not pl_module.automatic_optimization
        now = time.monotonic()
        if now >= self._due or (by_hand and is_power_of_two):
            self._compare(trainer, batch_idx + 1)
            timer = timer_of(trainer)
            self._due = math.inf if timer is None else now + PACE_SHARE * (timer.time_remaining() or 0.0)

    def _compare(self, trainer: pl.Trainer, batches_done: int) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if not _follows(schedule):
                continue
            _step_every_step(config, says_so=trainer.lightning_module.automatic_optimization)
            now = _Mark(schedule.last_epoch, trainer.global_step, self._batches, time.monotonic())
            left, tolerance = _measure(trainer, self._marks.setdefault(schedule, now), now, batches_done)
            planned = schedule.run_steps - schedule.last_epoch
            if planned <= 0 and left < LOGGED_SHARE * now.step:  # it has ended; too little is left for another cycle
                continue
            if math.isfinite(left) and abs(left - planned) > max(ROUNDING_STEPS, tolerance * left):
                _replan(schedule, math.floor(left + 1e-9), planned)


def _follows(scheduler: Any) -> TypeGuard[OneCycleScheduler]:
    return isinstance(scheduler, OneCycleScheduler) and scheduler.follows_run


def _step_every_step(config: Any, says_so: bool) -> None:
    """Let Lightning step the schedule of a config after every optimizer step."""
    given = (config.interval, config.frequency)
    config.interval, config.frequency = "step", 1
    if says_so and given != ("step", 1):
        rank_zero_info(
            f"One-cycle schedule: stepped after every optimizer step, not by interval {given[0]!r} and frequency"
            f" {given[1]}, as it takes its length from the run."
        )


def _measure(trainer: pl.Trainer, start: _Mark, now: _Mark, batches_done: int) -> tuple[float, float]:
    """Return the steps that a schedule has left, infinite where that cannot be known yet, and what share may be off."""
    left, tolerance = steps_left(trainer, batches_done), 0.0
    own_steps = now.step - start.step
    if not trainer.lightning_module.automatic_optimization and now.batches > start.batches:
        left, tolerance = math.inf, PACE_TOLERANCE
        if own_steps > 0 and trainer.max_steps != -1:
            left = own_steps * (trainer.max_steps - now.global_step) / max(now.global_step - start.global_step, 1)
        if own_steps > 0 and _has_epochs(trainer):
            batches = (
                trainer.num_training_batches * (int(trainer.max_epochs or 1) - trainer.current_epoch) - batches_done
            )
            left = min(left, own_steps * batches / (now.batches - start.batches))
    timer = timer_of(trainer)
    if timer is not None and own_steps > 0:
        by_time = TIME_SHARE * (timer.time_remaining() or 0.0) * own_steps / max(now.seconds - start.seconds, 1e-9)
        by_time = max(by_time - ROUNDING_STEPS, 0)
        left, tolerance = (by_time, PACE_TOLERANCE) if by_time < left else (left, tolerance)
    return left, tolerance


def _replan(schedule: OneCycleScheduler, left: int, planned: int) -> None:
    step = schedule.last_epoch
    if schedule.replan(step + left) and abs(left - planned) > LOGGED_SHARE * left:
        rank_zero_info(
            f"One-cycle schedule: {planned} steps were planned from step {step} on, and the run has {left}; the cycle"
            f" now ends with step {schedule.run_steps - 1}."
        )
