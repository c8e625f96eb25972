"""Verify a suggestion: short cycles at several learning rates around it -> a weighted mean of these lrs.

Pure maths on numpy. The cycles start from the same weights and see the same batches; each is judged by the loss at its
end. Short cycles do not clearly prefer a single lr, and the best one alone is often best by chance.
"""

from collections.abc import Mapping

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.rounds import Round, compared
from pl_onecycle.curves.suggestion import Suggestion
from pl_onecycle.curves.thresholds import NEARLY, SOFTNESS, SPACING


def candidates(lr: float, count: int) -> list[float]:
    """Return ``count`` learning rates a quarter of a decade apart, ``lr`` in their middle.

    Args:
        lr: The suggestion to verify, > 0.
        count: Number of learning rates, odd.

    Example:
        >>> [round(candidate, 4) for candidate in candidates(0.1, 3)]
        [0.0562, 0.1, 0.1778]
    """
    return [lr * 10 ** (SPACING * (k - count // 2)) for k in range(count)]


def verified(found: Suggestion, curves: Mapping[float, LossCurve], judged_by: str = "val_loss") -> Suggestion | Refusal:
    """Return the suggestion that short cycles support, or why there is none.

    L is the level at which a cycle ends, see `level`: of the monitored quantity if all cycles have it, else of the
    training loss. The lr of the suggestion is the geometric mean of the candidates, weighted by

        exp(-(L - L_min) / s),  s = 1.2 median(L - L_min)

    or only of those with L = L_min if s = 0. Diverged cycles have no weight. The interval is from the
    lowest to the highest candidate with L - L_min <= 0.8 median(L - L_min).

    Args:
        found: The suggestion to verify; its method is kept.
        curves: Curves of the cycles, by learning rate.
        judged_by: Name of the quantity in their `val_loss`, for the reason.

    Returns:
        The suggestion, or a reason if no cycle completed with finite losses.

    Example:
        >>> ends = {0.01: 1.0, 0.1: 0.5, 1.0: 1.0}
        >>> curves = {lr: LossCurve([lr] * 5, [2.0, 1.5, end, end, end]) for lr, end in ends.items()}
        >>> round(verified(Suggestion(0.01, "smith", "by hand"), curves).lr, 3)
        0.1
    """
    ends = compared_cycles(curves)
    if ends is None:
        tried = f"{len(curves)} short cycles around the {found.lr:.3g} of {found.method}"
        return Refusal(f"none of {tried} completed with finite losses")
    margins = ends.margins
    lrs = np.array([lr for lr in curves if lr in margins])
    excess = np.array([margins[lr] for lr in lrs])
    middle = float(np.median(excess))
    scale = SOFTNESS * middle
    weights = np.exp(-excess / scale) if scale > 0 else (excess == 0).astype(float)
    good = lrs[excess <= NEARLY * middle]
    lr = float(np.exp(np.average(np.log(lrs), weights=weights)))
    best, by = lrs[excess.argmin()], judged_by if ends.kind == "validation loss" else ends.kind
    reason = f"{found.lr:.3g} on the curve; weighted mean of {len(curves)} short cycles, best {best:.3g} by {by}"
    return Suggestion(lr, found.method, reason, min(float(good.min()), lr), max(float(good.max()), lr))


def compared_cycles(curves: Mapping[float, LossCurve]) -> Round | None:
    """Return the levels at which short cycles end, or None if none completed with finite losses.

    Args:
        curves: Curves of the cycles, by learning rate; diverged ones have no level.

    Example:
        >>> curves = {lr: LossCurve([lr] * 5, [2.0, 1.5, lr, lr, lr]) for lr in (0.5, 0.25)}
        >>> compared_cycles(curves).levels
        {0.25: 0.25, 0.5: 0.5}
    """
    left = {lr: curve for lr, curve in curves.items() if curve.outcome == "completed" and _is_finite(curve)}
    is_monitored = all(curve.val_loss for curve in left.values())
    return compared(left, "validation loss" if is_monitored else "training loss") if left else None


def _is_finite(curve: LossCurve) -> bool:
    return len(curve) > 0 and len(curve.finite_loss) == len(curve) and bool(np.isfinite(curve.val_loss).all())
