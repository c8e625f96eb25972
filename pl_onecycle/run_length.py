"""`FollowsRun`: compare the plans of one-cycle schedules with the run that they are in, and replan what differs.

A run's length is known for sure only while it runs: a callback changes the loader, data grow, an optimizer that is
stepped by hand has a pace of its own, a wall clock ends it. At the start of each epoch, and in between where the pace
must be measured, the steps that are left in the run are compared with those left in the plan.
"""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary, WeakSet

from typing_extensions import override

from pl_onecycle._lightning import (
    GradientAccumulationScheduler,
    MisconfigurationException,
    Timer,
    pl,
    rank_zero_info,
    rank_zero_warn,
)
from pl_onecycle.played_schedule import parts
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.sentences import counted

# A difference of a step or two is rounding, or a step that a gradient scaler has skipped, and is left alone.
ROUNDING_STEPS = 2
# A schedule that has not been stepped after this many batches, while its optimizer has, is warned of.
LATE_BATCHES = 16
# A difference of less than this share of the steps that are left is replanned without a line in the log.
LOGGED_SHARE = 0.1
# A plan by the clock leaves this share of the whole time, so that the last value is reached before time is up.
SPARE_TIME = 0.02
# The pace by the clock is measured again after this share of the time that is left. It does not count the first batches
# of a fit, which take longer, and is the median of the batches as long as they are few: a pause among a few batches
# would end the cycle at once.
PACE_SHARE = 0.01
SLOW_BATCHES, LEAST_BATCHES, FEW_BATCHES = 2, 5, 100
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


def epochs_left(trainer: pl.Trainer) -> float:
    """Return how often the Trainer will see its training data, by its epochs and ``max_steps``; 1 if that is unknown.

    Args:
        trainer: A Trainer whose train loader is set up.
    """
    steps, batches = steps_left(trainer), trainer.num_training_batches
    if not (math.isfinite(steps) and math.isfinite(batches) and batches > 0):
        return 1.0
    return steps * accumulation_in(trainer, trainer.current_epoch) / batches


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


class _BatchClock:
    """Measures the seconds that a batch of a fit takes.

    Attributes:
        counted: How many batches it has measured.
    """

    def __init__(self) -> None:
        self.counted = -SLOW_BATCHES
        self._few: list[float] = []
        self._begun = self._last = time.monotonic()

    def count(self) -> None:
        """Count a batch that has just ended."""
        now = time.monotonic()
        self.counted += 1
        if self.counted <= 0:
            self._begun = now
        elif self.counted <= FEW_BATCHES:
            self._few.append(now - self._last)
        self._last = now

    @property
    def seconds(self) -> float:
        """Seconds of a batch; call it once a batch is counted."""
        is_few = self.counted <= FEW_BATCHES
        return max(statistics.median(self._few) if is_few else (self._last - self._begun) / self.counted, 1e-9)


class FollowsRun(pl.Callback):
    """Replans the one-cycle schedules of a Trainer that follow its run, see `configure_one_cycle`.

    *Runs at* ``on_train_epoch_start``; where the pace must be measured also after batches: with manual optimization
    after 1, 2, 4, 8, ... of them, with a wall clock after each of the first hundred, and then after each hundredth of
    the time that is left.

    *Changes* nothing but those schedules, and the interval of their configs: they are stepped every step.

    Raises:
        MisconfigurationException: In ``fit``, if such a schedule is inside another one, which decides on its steps.
    """

    def __init__(self) -> None:
        self._batches = 0  # of this fit
        self._due = math.inf  # when the pace is measured again, if a clock may end this fit
        self._clock = _BatchClock()
        self._marks: WeakKeyDictionary[OneCycleScheduler, _Mark] = WeakKeyDictionary()
        self._warned: WeakSet[OneCycleScheduler] = WeakSet()  # that they are not stepped

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
        self._clock = _BatchClock()
        self._warned.clear()
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
        if self._due < math.inf:
            self._clock.count()
        is_power_of_two = self._batches & (self._batches - 1) == 0
        by_hand = not pl_module.automatic_optimization
        now = time.monotonic()
        if now >= self._due or (by_hand and is_power_of_two):
            self._compare(trainer, batch_idx + 1)
            timer = timer_of(trainer)
            if timer is not None and self._clock.counted >= FEW_BATCHES:  # before, each batch tells more
                self._due = now + PACE_SHARE * (timer.time_remaining() or 0.0)

    def _compare(self, trainer: pl.Trainer, batches_done: int) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if not _follows(schedule):
                continue
            _step_every_step(config, says_so=trainer.lightning_module.automatic_optimization)
            now = _Mark(schedule.last_epoch, trainer.global_step, self._batches)
            start = self._marks.setdefault(schedule, now)
            self._warn_if_not_stepped(schedule, start, now)
            by_steps, tolerance = _by_steps(trainer, start, now, batches_done)
            by_time = self._by_time(trainer, start, now)
            left, tolerance = (by_time, PACE_TOLERANCE) if by_time < by_steps else (by_steps, tolerance)
            planned = schedule.run_steps - schedule.last_epoch
            if planned <= 0 and left < LOGGED_SHARE * now.step:  # it has ended; too little is left for another cycle
                continue
            # Before the first step nothing is rounding; a pace that is measured has a tolerance of its own.
            by_hand = not trainer.lightning_module.automatic_optimization
            rounding = 0.5 if by_hand or schedule.last_epoch == 0 else ROUNDING_STEPS
            if math.isfinite(left) and abs(left - planned) > max(rounding, tolerance * left):
                _replan(schedule, math.floor(left + 1e-9), planned, is_measured=tolerance > 0)

    def _by_time(self, trainer: pl.Trainer, start: _Mark, now: _Mark) -> float:
        """Return the steps that a schedule has left by the clock; infinite without one, or if unknown."""
        timer, clock = timer_of(trainer), self._clock
        if timer is None or clock.counted < 1:
            return math.inf
        elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
        if remaining > elapsed and clock.counted < LEAST_BATCHES:  # it is early
            return math.inf
        if trainer.lightning_module.automatic_optimization:
            steps = 1 / accumulation_in(trainer, trainer.current_epoch)
        else:
            steps = (now.step - start.step) / max(now.batches - start.batches, 1)
        by_time = (remaining - SPARE_TIME * (elapsed + remaining)) / clock.seconds * steps
        return max(by_time - ROUNDING_STEPS, 0) if steps > 0 else math.inf

    def _warn_if_not_stepped(self, schedule: OneCycleScheduler, start: _Mark, now: _Mark) -> None:
        is_late = now.batches - start.batches >= LATE_BATCHES and now.step == start.step
        if is_late and schedule.is_behind and schedule not in self._warned:
            self._warned.add(schedule)
            rank_zero_warn(
                f"One-cycle schedule: it is not stepped, although its optimizer is, and holds its first lr after"
                f" {now.batches - start.batches} batches: with manual optimization call"
                " `self.lr_schedulers()` and step each after its optimizer."
            )


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


def _by_steps(trainer: pl.Trainer, start: _Mark, now: _Mark, batches_done: int) -> tuple[float, float]:
    """Return the steps that a schedule has left without a clock, infinite if unknown, and what share may be off."""
    if trainer.lightning_module.automatic_optimization or now.batches == start.batches:
        return steps_left(trainer, batches_done), 0.0
    own_steps, left = now.step - start.step, math.inf
    if own_steps > 0 and trainer.max_steps != -1:
        left = own_steps * (trainer.max_steps - now.global_step) / max(now.global_step - start.global_step, 1)
    if own_steps > 0 and _has_epochs(trainer):
        batches = trainer.num_training_batches * (int(trainer.max_epochs or 1) - trainer.current_epoch) - batches_done
        left = min(left, own_steps * batches / (now.batches - start.batches))
    return left, PACE_TOLERANCE


def _replan(schedule: OneCycleScheduler, left: int, planned: int, is_measured: bool) -> None:
    step = schedule.last_epoch
    if schedule.replan(step + left) and abs(left - planned) > LOGGED_SHARE * left:
        has = f"about {left} at the measured pace" if is_measured else f"{left}"
        rank_zero_info(
            f"One-cycle schedule: {counted(max(planned, 0), 'step')} were planned from step {step} on, and the run has"
            f" {has}; the cycle now ends with step {schedule.run_steps - 1}."
        )
