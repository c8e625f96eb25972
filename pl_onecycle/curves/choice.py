"""Choose one of several candidates by their curves, or return why none can be chosen.

Pure maths on numpy. All curves come from the same weights, batches and random numbers, so that only the candidate
makes them differ. Each is judged by the level at which it ends.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import Array, noise_of
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.thresholds import (
    CHECKUPS,
    END_SHARE,
    HOPELESS_CHECKUPS,
    HOPELESS_SHARE,
    MATTERS,
    MIN_END_POINTS,
    MIN_POINTS,
    SURE_MARGIN,
)


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, and why.

    Attributes:
        value: The candidate.
        judged_by: The loss that decided: ``"validation loss"`` or ``"training loss"``.
        margin: How much lower the best candidate ends than the next one, in units of that loss; None without a next
            one.
        noise: Largest margin that could be chance or is too small to matter, in units of that loss; None without a next
            one.
        within_noise: Whether ``value`` is one of several candidates that cannot be told apart.
        reason: Half a sentence for people.
    """

    value: float
    judged_by: str
    margin: float | None
    noise: float | None
    within_noise: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""
        return asdict(self)


def choose(
    curves: Mapping[float, LossCurve],
    name: str = "candidate",
    of_equals: Callable[[Sequence[float]], float] = max,
) -> Choice | Refusal:
    """Choose the candidate whose curve ends lowest, or return why none can be chosen.

    The level L of a curve is the mean of the last fifth of its losses, at least three. As all candidates see the
    same batches, two of them are compared by the differences d of their losses. A candidate is clearly worse than the
    one with the lowest level where

        L - L_lowest > max(4 e, 0.03 s)

    with e the standard error of the mean of d in that last fifth, from the standard deviation of d about its trend in
    the last two fifths, and s the span of the lowest curve, from its highest to its lowest loss. These are excluded, in
    this order: candidates that have diverged or were dropped; if some have a finite validation loss throughout,
    candidates without one, and candidates whose validation loss is clearly worse; of the rest, which validation cannot
    tell apart, candidates whose training loss is clearly worse. ``of_equals`` chooses among those that are left.

    Args:
        curves: Curves by candidate.
        name: Name of the candidates, for the reason.
        of_equals: Chooses among the candidates that cannot be told apart, at least one; the largest by default.

    Example:
        >>> lr = [0.1] * 10
        >>> curves = {1e-3: LossCurve(lr, [2 - k / 10 for k in range(10)]), 0.0: LossCurve(lr, [2.0] * 10)}
        >>> choose(curves).value
        0.001

    References:
        arXiv:1803.09820, section 4.4. Differs: Smith compares the curves by eye. The constants are chosen so
        that weight decays 1 % apart, whose runs differ only by chance, are rarely told apart:
        ``benchmarks/weight_decay.py``.
    """
    left = {value: curve for value, curve in curves.items() if curve.outcome in ("completed", "stopped")}
    left = {value: curve for value, curve in left.items() if len(curve.finite_loss) == len(curve)}
    if not left:
        return Refusal(
            f"all {len(curves)} candidates have {' or '.join(sorted({it.outcome for it in curves.values()}))}"
        )
    left = {value: curve for value, curve in left.items() if len(curve) >= MIN_POINTS}
    if not left:
        return Refusal(f"the candidates ended after fewer than {MIN_POINTS} steps")
    left = {value: curve for value, curve in left.items() if _is_validated(curve)} or left
    validated = all(_is_validated(curve) for curve in left.values())
    reasons: list[str] = []
    for kind in ("validation loss", "training loss")[not validated :]:
        compared = _compared(left, kind)
        reasons.append(_summary_of(compared, kind, name))
        left = {value: left[value] for value, (margin, noise) in compared.items() if margin <= noise}
        if len(left) == 1:
            break
    chosen = of_equals(tuple(left))
    margin, noise = [*compared.values(), (None, None)][1]
    reason = ", and ".join(reasons)
    if len(left) > 1:
        seen = "validation and training loss" if validated else kind
        reason = f"within noise: {_names(left)} cannot be told apart by {seen}, and {chosen:g} is taken"
    return Choice(chosen, kind, margin, noise, len(left) > 1, reason)


def _is_validated(curve: LossCurve) -> bool:
    return len(curve.val_loss) >= MIN_END_POINTS and all(map(math.isfinite, curve.val_loss))


def level(curve: LossCurve, kind: str) -> float:
    """Return the level at which a curve ends: the mean of the last fifth of its losses, at least three if it has them.

    Args:
        curve: A curve with at least one loss of that kind.
        kind: ``"validation loss"`` or ``"training loss"``.

    Example:
        >>> level(LossCurve([0.1] * 4, [9.0, 3.0, 2.0, 1.0]), "training loss")
        2.0
    """
    return float(_end(_judged(curve, kind)).mean())


def _compared(curves: Mapping[float, LossCurve], kind: str) -> dict[float, tuple[float, float]]:
    """Return by candidate, from the lowest level up, its margin above the lowest and the noise of that margin."""
    judged = {value: _judged(curve, kind) for value, curve in curves.items()}
    levels = {value: level(curve, kind) for value, curve in curves.items()}
    order = sorted(levels, key=lambda value: (levels[value], -value))
    best = order[0]
    return {value: (levels[value] - levels[best], _noise(judged[best], judged[value])) for value in order}


def _summary_of(compared: Mapping[float, tuple[float, float]], kind: str, name: str) -> str:
    if len(compared) == 1:
        return "the only candidate that neither diverged nor fell behind"
    (best, _), (second, (margin, noise)) = list(compared.items())[:2]
    lowest = f"{kind} lowest with {name} {best:g}, by {margin:.2g} against {second:g}"
    return f"{lowest}, {'less' if margin <= noise else 'more'} than the noise of {noise:.2g}"


def _names(values: Iterable[float]) -> str:
    *most, last = (f"{value:g}" for value in sorted(values))
    return f"{', '.join(most)} and {last}" if most else last


def _judged(curve: LossCurve, kind: str) -> Array:
    return np.asarray(curve.val_loss if kind == "validation loss" else curve.loss, dtype=np.float64)


def _end(losses: Array) -> Array:
    return losses[-max(round(END_SHARE * len(losses)), MIN_END_POINTS) :]


def _noise(best: Array, other: Array) -> float:
    """Return the largest difference between the ends that could be chance or is too small to matter."""
    shared = min(len(best), len(other))
    difference = other[:shared] - best[:shared]
    end = len(_end(difference))
    # Two runs begin alike and drift apart, so the noise is that of the later part.
    error = noise_of(difference[-2 * end :]) / float(np.sqrt(end))
    return max(SURE_MARGIN * error, MATTERS * float(np.ptp(best)))


def is_hopeless(curve: LossCurve, others: Mapping[float, LossCurve]) -> bool:
    """Return whether ``curve``, which is not yet complete, is so far behind that its trial can end early.

    That is, at each of its last three checkups, a tenth of the steps apart, it is behind the one of ``others`` that
    ends lowest by more than half of that one's progress so far, and by more than its noise. A checkup uses the
    validation loss if there is one, else the mean training loss since the checkup before.

    Args:
        curve: The curve so far.
        others: Curves of the candidates tried before; only completed ones count.

    Example:
        >>> lr = [0.1] * 100
        >>> best = LossCurve(lr, [2 - k / 100 for k in range(100)])
        >>> is_hopeless(LossCurve(lr[:50], [2.0] * 50), {0.0: best}), is_hopeless(best, {0.0: best})
        (True, False)
    """
    complete = [other for other in others.values() if other.outcome == "completed"]
    if not complete:
        return False
    validated = any(map(_is_validated, complete))
    if validated:
        complete = [*filter(_is_validated, complete)]
    kind = "validation loss" if validated else "training loss"
    best = min(complete, key=lambda other: _end(_judged(other, kind)).mean())
    mine, theirs = _checkup_losses(curve, validated, len(best)), _checkup_losses(best, validated, len(best))
    start = theirs[0] if validated else best.start
    noise = noise_of(_judged(best, kind)) / (1 if validated else np.sqrt(len(best) / CHECKUPS))
    behind = [
        there - here > max(HOPELESS_SHARE * (max(start, here) - min(theirs[: k + 1])), SURE_MARGIN * noise)
        for k, (there, here) in enumerate(zip(mine, theirs, strict=False))
    ]
    return len(behind) >= HOPELESS_CHECKUPS and all(behind[-HOPELESS_CHECKUPS:])


def _checkup_losses(curve: LossCurve, validated: bool, whole: int) -> list[float]:
    if validated:
        return list(curve.val_loss)
    size = max(whole // CHECKUPS, 1)
    return [float(np.mean(curve.loss[k : k + size])) for k in range(0, len(curve) - size + 1, size)]
