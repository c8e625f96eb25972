"""Short cycles at several learning rates around a suggestion -> a weighted mean of these lrs.

Pure maths on numpy. The cycles start from the same weights and see the same batches; each is judged by the loss at its
end. So few steps prefer no single lr clearly, and the best one alone is often best by chance.
"""

from collections.abc import Mapping

import numpy as np

from pl_onecycle.choice import level
from pl_onecycle.curve import LossCurve
from pl_onecycle.suggestion import Suggestion

# How many there are unless asked otherwise, and the decades between neighbours: half a decade to either side is how far
# a suggestion is off in most cases, see benchmarks/suggestion.py.
CYCLES, SPACING = 5, 0.25
# A candidate that is worse than the best one by this multiple of the median excess weighs e times less. On the tasks of
# that benchmark that were looked at, 0.6 to 1.2 did about as well.
SOFTNESS = 0.8


def candidates(lr: float, count: int) -> list[float]:
    """Return ``count`` learning rates a quarter of a decade apart, ``lr`` in their middle.

    Args:
        lr: The suggestion to verify, > 0.
        count: How many, odd.

    Example:
        >>> [round(candidate, 4) for candidate in candidates(0.1, 3)]
        [0.0562, 0.1, 0.1778]
    """
    return [lr * 10 ** (SPACING * (k - count // 2)) for k in range(count)]


def verified(found: Suggestion, curves: Mapping[float, LossCurve], judged_by: str = "val_loss") -> Suggestion | str:
    """Return the suggestion that short cycles speak for, or why there is none.

    With L the level at which each ends, see `level`, by what was monitored where all cycles have that and else by the
    training loss, its lr is the geometric mean of the candidates, weighted by

        exp(-(L - L_min) / s),  s = 0.8 median(L - L_min)

    or by those with L = L_min alone where s = 0. Cycles that have diverged weigh nothing. The interval is from the
    lowest to the highest candidate with L - L_min <= s.

    Args:
        found: What is verified; its method is kept.
        curves: By learning rate.
        judged_by: Name of what their `val_loss` holds, for the reason.

    Returns:
        The suggestion; a reason where no cycle came through.

    Example:
        >>> ends = {0.01: 1.0, 0.1: 0.5, 1.0: 1.0}
        >>> curves = {lr: LossCurve([lr] * 5, [2.0, 1.5, end, end, end]) for lr, end in ends.items()}
        >>> round(verified(Suggestion(0.01, "smith", "by hand"), curves).lr, 3)
        0.1
    """
    left = {lr: curve for lr, curve in curves.items() if curve.outcome == "completed" and _is_finite(curve)}
    if not left:
        return f"none of {len(curves)} short cycles around the {found.lr:.3g} of {found.method} came through"
    is_monitored = all(curve.val_loss for curve in left.values())
    ends = np.array([level(curve, "validation loss" if is_monitored else "training loss") for curve in left.values()])
    excess = ends - ends.min()
    scale = SOFTNESS * float(np.median(excess))
    weights = np.exp(-excess / scale) if scale > 0 else (excess == 0).astype(float)
    lrs = np.array(list(left))
    good = lrs[excess <= scale]
    lr = float(np.exp(np.average(np.log(lrs), weights=weights)))
    best, by = lrs[ends.argmin()], judged_by if is_monitored else "training loss"
    reason = f"{found.lr:.3g} on the curve; weighted mean of {len(curves)} short cycles, best {best:.3g} by {by}"
    return Suggestion(lr, found.method, reason, min(float(good.min()), lr), max(float(good.max()), lr))


def _is_finite(curve: LossCurve) -> bool:
    return len(curve) > 0 and len(curve.finite_loss) == len(curve) and bool(np.isfinite(curve.val_loss).all())
