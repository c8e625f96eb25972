"""`hindsight`: what a fit showed about its peak, and what to try next, in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pl_onecycle.curves import Array, first_explosion
from pl_onecycle.page.played import Played
from pl_onecycle.page.results import Result

Verdict = Literal["unknown", "running", "survived", "diverged", "flat", "overfitted", "short"]

# Fewer losses say nothing about a run.
MIN_LOSSES = 10
# The loss of the last twentieth of the steps is the level at which a run ends, and so on.
SHARE = 1 / 20
# A run has exploded once its loss rises by this many times its fall so far, as in the range test.
EXPLODED = 4.0
# What to divide the lr by at which a run diverged: half a decade, twice the spacing of the cycles of `verify`.
LOWER_BY = 3.0
# Validation has risen where it ends above its lowest value by this share of its fall, and of that value.
RISEN, RISEN_OF_VALUE = 0.1, 0.02


@dataclass(frozen=True)
class Hindsight:
    """What a run showed.

    Attributes:
        verdict: In a word.
        shown: Sentences that say what happened.
        advice: Sentences that say what to try.
    """

    verdict: Verdict
    shown: tuple[str, ...]
    advice: tuple[str, ...] = ()


def hindsight(played: Played, test: Result | None = None) -> Hindsight:
    """Return what a run showed: whether its loss survived the peak, where it diverged, and what to try.

    Args:
        played: What the run did; validation counts where it was seen at least three times.
        test: The range test of the run, if there was one.

    Example:
        >>> falls = [2.0 - k / 50 for k in range(50)]
        >>> run = Played("SGD", range(50), [0.1] * 50, falls, done=50, ended="completed")
        >>> hindsight(run).verdict
        'survived'
    """
    if not played.ended:
        return Hindsight("running", ("The fit has not ended: this page is written again when it has.",))
    end = _how_it_ended(played)
    loss = np.asarray(played.loss, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(loss))
    if np.isnan(loss).all() or len(loss) < MIN_LOSSES:
        few = "No training loss was seen" if np.isnan(loss).all() else "There are too few losses"
        return Hindsight("unknown", (*end, f"{few}, so that this page cannot judge the run."))
    exploded = _explosion(loss[: bad[0]] if len(bad) else loss)
    if exploded is not None and (len(bad) or not _has_recovered(loss, exploded)):
        return _diverged(played, exploded, "exploded", end, test)
    if len(bad):
        return _diverged(played, int(bad[0]), "was not finite", end, test)
    if _is_flat(loss):
        return _flat(loss, end)
    return _survived(played, loss, end, exploded)


def _how_it_ended(played: Played) -> tuple[str, ...]:
    if played.ended == "completed":
        return ()
    return (f"The fit ended after {played.done} steps with {played.ended}.",)


def _level(losses: Array) -> float:
    return float(np.median(losses))


def _window(losses: Array) -> int:
    return max(round(SHARE * len(losses)), 3)


def _explosion(loss: Array) -> int | None:
    """Return the index at which the loss explodes; single bad batches of a long run do not count."""
    width = max(len(loss) // 200, 1)
    blocks = loss[: len(loss) // width * width].reshape(-1, width).mean(1)
    found = first_explosion(blocks.tolist(), EXPLODED) if len(blocks) else None
    return None if found is None else found * width


def _has_recovered(loss: Array, exploded: int) -> bool:
    before = loss[:exploded]
    return len(before) > 0 and _level(loss[-_window(loss) :]) < _level(before[: _window(loss)])


def _is_flat(loss: Array) -> bool:
    """Return whether no part of the run is below its start by more than chance."""
    width = _window(loss)
    blocks = [loss[k : k + width] for k in range(0, len(loss) - width + 1, width)]
    noise = float(np.median([np.std(block, ddof=1) for block in blocks]))
    lowest = min(map(_level, blocks))
    return _level(blocks[0]) - lowest <= max(4 * noise / math.sqrt(width), 1e-3 * abs(lowest))


def _peak(played: Played) -> tuple[float, int]:
    """Return the largest lr of the run and its step, as planned if there is a plan, else as played."""
    plan = played.plan
    lrs, steps = (played.lr, played.steps) if plan is None else (plan.lr, plan.steps)
    at = int(np.argmax(lrs))
    return float(lrs[at]), int(steps[at])


def _is_constant(played: Played) -> bool:
    return max(played.lr) - min(played.lr) <= 1e-6 * max(played.lr) and played.plan is None


def _diverged(played: Played, at: int, how: str, end: tuple[str, ...], test: Result | None) -> Hindsight:
    (peak, peak_step), step, lr = _peak(played), played.steps[at], played.lr[at]
    where = "before" if step < peak_step else "at" if step == peak_step else "after"
    peaked = "" if _is_constant(played) else f", {where} its peak of {peak:.3g} at step {peak_step}"
    shown = f"The run diverged: the training loss {how} at step {step}, with lr {lr:.3g}{peaked}."
    advice = _lower(min(lr, peak), peak, test)
    if peaked and where == "after":
        advice += ("It diverged on the way down: gradient clipping, or less momentum, may help as well.",)
    return Hindsight("diverged", (shown, *end), advice)


def _lower(lr: float, peak: float, test: Result | None) -> tuple[str, ...]:
    """Return what to try after a divergence at an lr: what the range test suggested, if that is lower."""
    if test is not None and test.value is not None and test.value < lr and not test.is_applied:
        return (f"Train with the max_lr of {test.value:.3g} that the range test suggested: apply=True uses it.",)
    target = lr / LOWER_BY
    advice = f"Try a max_lr of {target:.2g}, {peak / target:.1f} times lower: a third of the lr at which it diverged."
    if test is not None and test.cycles:
        return (advice,)
    return advice, "LRRangeTest(verify=True) tries short cycles around its suggestion before it decides."


def _flat(loss: Array, end: tuple[str, ...]) -> Hindsight:
    start, final = _level(loss[: _window(loss)]), _level(loss[-_window(loss) :])
    shown = (f"The training loss never fell: {start:.3g} at the start, {final:.3g} at the end.", *end)
    return Hindsight(
        "flat",
        shown,
        (
            "Check first that the model can learn these data at all: a single batch should be learnt by heart in a few"
            " hundred steps.",
            "Run LRRangeTest over a wider range, with more steps: if that curve is flat as well, the lr is not the"
            " reason.",
        ),
    )


def _survived(played: Played, loss: Array, end: tuple[str, ...], exploded: int | None) -> Hindsight:
    (peak, peak_step), width = _peak(played), _window(loss)
    start, final = _level(loss[:width]), _level(loss[-width:])
    if played.steps[-1] < peak_step and played.done < peak_step:
        largest = max(played.lr)
        shown = f"The fit ended before its peak of {peak:.3g} at step {peak_step}: it survived lrs up to {largest:.3g}."
        return Hindsight("short", (shown, *end))
    at = int(np.searchsorted(np.asarray(played.steps), peak_step))
    there = _level(loss[max(at - width // 2, 0) : at + width // 2 + 1])
    levels = f"{start:.3g} at the start, {there:.3g} at the peak, {final:.3g} at the end"
    said = (f"The training loss survived the peak of {peak:.3g} at step {peak_step}: {levels}.", *end)
    if _is_constant(played):
        said = (f"The training loss went from {start:.3g} to {final:.3g} with a constant lr of {peak:.3g}.", *end)
    advice: tuple[str, ...] = ()
    if exploded is not None:
        step, lr = played.steps[exploded], played.lr[exploded]
        said += (f"It rose sharply at step {step}, with lr {lr:.3g}, and recovered.",)
        advice += (f"The peak is near the limit: a max_lr of {peak / 2:.2g} may end lower.",)
    risen = _rise_of_validation(played, loss)
    if risen:
        return Hindsight("overfitted", (*said, risen), (*advice, *_AGAINST_OVERFITTING))
    return Hindsight("survived", said, advice)


_AGAINST_OVERFITTING = (
    "Try more weight decay: WeightDecayProbe compares several in short cycles.",
    "Or train for fewer epochs, or with more augmentation: the validation loss was lower earlier.",
)


def _rise_of_validation(played: Played, loss: Array) -> str:
    """Return a sentence if the validation loss rose at the end while the training loss fell, or an empty string."""
    values, steps = np.asarray(played.val_loss, dtype=np.float64), played.val_steps
    if len(values) < 3 or not np.isfinite(values).all():
        return ""
    lowest = int(values.argmin())
    best, rise, fall = float(values[lowest]), float(values[-1] - values[lowest]), float(values[0] - values[lowest])
    at = int(np.searchsorted(np.asarray(played.steps), steps[lowest]))
    width = _window(loss)
    then = _level(loss[max(at - width, 0) : max(at, 1)])
    is_falling = _level(loss[-width:]) < then
    if lowest == len(values) - 1 or rise <= max(RISEN * fall, RISEN_OF_VALUE * abs(best)) or not is_falling:
        return ""
    return (
        f"The validation loss was lowest, {best:.3g}, after step {steps[lowest]}, and rose to {values[-1]:.3g} while"
        " the training loss fell: the model overfits."
    )
