"""Choose one of several candidates by their curves, or return why none can be chosen.

Pure maths on numpy. All curves come from the same weights, batches and random numbers, so that only the candidate
makes them differ. Each is judged by the level at which it ends.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import noise_of
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.rounds import Round, end_of, is_validated, judged, rounds
from pl_onecycle.curves.thresholds import CHECKUPS, HOPELESS_CHECKUPS, HOPELESS_SHARE, SURE_MARGIN
from pl_onecycle.pictures import card


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

    def __repr__(self) -> str:
        return f"Choice({self.value:g}, by {self.judged_by}{', within noise' if self.within_noise else ''})"

    def _repr_html_(self) -> str:
        return card(f"{self.value:g}", self.reason)

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
    done = rounds(curves)
    if isinstance(done, Refusal):
        return done
    last, left = done[-1], done[-1].left
    chosen = of_equals(tuple(left))
    margin, noise = next_margin(last)
    reason = ", and ".join(_summary_of(one, name) for one in done)
    if len(left) > 1:
        seen = "validation and training loss" if len(done) > 1 else last.kind
        reason = f"within noise: {_names(left)} cannot be told apart by {seen}, and {chosen:g} is taken"
    return Choice(chosen, last.kind, margin, noise, len(left) > 1, reason)


def next_margin(one: Round) -> tuple[float | None, float | None]:
    """Return how far above the lowest level the next one lies, and its noise; None and None without a next one."""
    return [*zip(one.margins.values(), one.noise.values(), strict=True), (None, None)][1]


def _summary_of(one: Round, name: str) -> str:
    if len(one.levels) == 1:
        return "the only candidate that neither diverged nor fell behind"
    best, second = [*one.levels][:2]
    margin, noise = one.margins[second], one.noise[second]
    lowest = f"{one.kind} lowest with {name} {best:g}, by {margin:.2g} against {second:g}"
    return f"{lowest}, {'less' if margin <= noise else 'more'} than the noise of {noise:.2g}"


def _names(values: Iterable[float]) -> str:
    *most, last = (f"{value:g}" for value in sorted(values))
    return f"{', '.join(most)} and {last}" if most else last


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
    validated = any(map(is_validated, complete))
    if validated:
        complete = [*filter(is_validated, complete)]
    kind = "validation loss" if validated else "training loss"
    best = min(complete, key=lambda other: end_of(judged(other, kind)).mean())
    mine, theirs = _checkup_losses(curve, validated, len(best)), _checkup_losses(best, validated, len(best))
    start = theirs[0] if validated else best.start
    noise = noise_of(judged(best, kind)) / (1 if validated else np.sqrt(len(best) / CHECKUPS))
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
