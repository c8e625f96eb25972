"""Search for the weight decay just below the one that begins to hurt: which candidate is next, and which is chosen.

Pure maths on numpy. A short cycle shows well from which decay on training suffers, and badly what a decay is good for:
overfitting comes later. The best decay of a whole run lies below this edge, the nearer the more often the run sees each
sample.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pl_onecycle.curves.choice import Choice, next_margin
from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.rounds import drift, is_comparable, is_validated, judged, level, rounds
from pl_onecycle.curves.thresholds import (
    AIM,
    GAP,
    HALF_DECADE,
    HARM_OF_EPOCH,
    HOPELESS_SHARE,
    LEAST_HARM,
    MOST_HARM,
    UNSEEN,
)


def tolerated_harm(epochs: float, overfits: bool) -> float:
    """Return how much of the fall of a loss a weight decay may cost in a short cycle.

    A run that sees each sample once cannot overfit, and every decay that costs is too large. The longer it repeats its
    samples, the more a decay helps later: 0.3 % for each epoch, at least 0.6 % and at most 5 %. A quarter of the epochs
    count as long as validation shows no overfitting.

    Args:
        epochs: How often the run sees each sample.
        overfits: Whether the validation loss ends clearly above the training loss, or is not known.

    Example:
        >>> [round(tolerated_harm(epochs, overfits=True), 4) for epochs in (1, 10, 100)]
        [0.006, 0.03, 0.05]
        >>> tolerated_harm(10, overfits=False)
        0.0075
    """
    counted = epochs if overfits else UNSEEN * epochs
    return min(max(HARM_OF_EPOCH * counted, LEAST_HARM), MOST_HARM)


@dataclass(frozen=True)
class DecaySearch:
    """The search for a run: up from its own decay by decades until one hurts, then back to where none does.

    Args:
        own: The weight decay of the run, >= 0.
        start: The smallest candidate above it, > 0.
        epochs: How often the run sees each sample, see `tolerated_harm`.
    """

    own: float
    start: float
    epochs: float

    def next_decay(self, curves: Mapping[float, LossCurve]) -> float | None:
        """Return the candidate to try next, or None if all is known.

        First the run's own; then ten times the largest, until one hurts. If that is the next one above the run's own,
        0, which shows whether the own hurts as well. Then between the largest that does not hurt and the
        smallest that does: the harm grows with a power of the decay, and the candidate is where it would be two thirds
        of the tolerance, or half a decade back where only validation shows the harm.

        Args:
            curves: Curves of the candidates tried so far, by decay.

        Example:
            >>> search = DecaySearch(own=0.0, start=1e-4, epochs=10)
            >>> search.next_decay({}), search.next_decay({0.0: LossCurve([0.1] * 9, [2 - k / 9 for k in range(9)])})
            (0.0, 0.0001)
        """
        if self.own not in curves:
            return self.own
        harms = _Harms(curves, self.epochs)
        if harms.edge is None:
            larger = max(_rounded(10 * max(curves)), self.start)
            return larger if math.isfinite(larger) else None
        if harms.below in ([], [self.own]) and harms.edge > 0 and 0.0 not in curves:
            return 0.0
        if not harms.below or not harms.is_comparable:
            return None
        found = harms.between or harms.between_doubtful(self.own)
        # One that was tried may cost more than is tolerated, and yet hurt by no more than noise explains.
        return None if found in curves else found

    def choice(self, curves: Mapping[float, LossCurve]) -> Choice | Refusal:
        """Return the decay to train with.

        The largest candidate below the edge that costs no more than the tolerance and whose validation loss does not
        end visibly above that of the run's own. Where no candidate hurts, the run's own stays, unless validation
        clearly prefers others; where it does, only these are chosen from.

        Args:
            curves: Curves by decay.

        Returns:
            The choice; or why there is none, if no candidate ran to its end.
        """
        done = rounds(curves)
        if isinstance(done, Refusal):
            return done
        harms = _Harms(curves, self.epochs)
        safe = [value for value in harms.harmless if not harms.is_visibly_worse(value, self.own)]
        preferred = [value for value in safe if value in harms.preferred]
        is_better = bool(preferred) and self.own not in harms.preferred
        if is_better:
            value = max(preferred)
        elif harms.edge is not None and safe:
            value = max(safe)
        else:
            value = self.own if self.own in harms.levels else min(harms.levels)
        by_validation = is_better or (harms.edge is not None and harms.costs_validation(harms.edge))
        decided = done[0] if by_validation else done[-1]
        margin, noise = next_margin(decided)
        reason = self._reason(harms, value, is_better)
        return Choice(value, decided.kind, margin, noise, not is_better and len(safe) > 1, reason)

    def _reason(self, harms: "_Harms", value: float, is_better: bool) -> str:
        edge = "" if harms.edge is None else f"{harms.edge:g} {harms.how(harms.edge)}"
        if is_better and self.own not in harms.levels:
            return (
                f"{self.own:g} {harms.how(self.own)}, and validation cannot tell {value:g} from the best of the others"
            )
        if is_better:
            ends = f"validation loss ends clearly lower with {value:g} than with {self.own:g}"
            return f"{ends}, and {edge}" if edge else ends
        if not edge:
            return f"nothing up to {max(harms.levels):g} clearly helps or hurts, and the run's own is kept"
        if value == self.own:
            return f"{edge}, and nothing above the run's own is known to be harmless"
        return f"{edge}, and {value:g} is the largest that was tried without harm"


class _Harms:
    """What each candidate costs, in shares of the fall of the smallest one that ran to its end.

    Attributes:
        levels: By decay, how much higher the training loss ends, of those that ran to their end; if the validation
            loss of some of these is finite throughout, of those only.
        edge: The smallest candidate that hurts, or None.
    """

    def __init__(self, curves: Mapping[float, LossCurve], epochs: float) -> None:
        self._curves = curves
        whole = {value: curves[value] for value in sorted(curves) if is_comparable(curves[value])}
        self._usable = {value: curve for value, curve in whole.items() if is_validated(curve)} or whole
        self.is_comparable = bool(self._usable)
        self.levels, self._train_noise = self._measure("training loss")
        is_judged = bool(self._usable) and all(map(is_validated, self._usable.values()))
        self._val, self._val_noise = self._measure("validation loss") if is_judged else ({}, {})
        self.tolerance = tolerated_harm(epochs, not is_judged or self._gap > GAP)
        self.edge = min((value for value in curves if self._hurts(value)), default=None)

    def _measure(self, kind: str) -> tuple[dict[float, float], dict[float, float]]:
        """Return how much higher the loss of each candidate ends than that of the smallest, and the noise of that."""
        if not self._usable:
            return {}, {}
        first = next(iter(self._usable.values()))
        unit, losses = self._unit(kind), judged(first, kind)
        shares = {value: (level(it, kind) - level(first, kind)) / unit for value, it in self._usable.items()}
        noise = {value: drift(losses, judged(it, kind)) / unit for value, it in self._usable.items()}
        # A few losses tell little about their own noise, those of several candidates more.
        usual = float(np.median([*noise.values()][1:] or [0.0]))
        return shares, {value: max(its, usual) for value, its in noise.items()}

    def _unit(self, kind: str) -> float:
        """Return the fall of the loss, or its level at the end if that is less and the loss is that of validation."""
        first = next(iter(self._usable.values()))
        fall = float(np.ptp(judged(first, kind)))
        unit = min(fall, abs(level(first, kind))) if kind == "validation loss" else fall
        return unit or math.inf  # a constant loss tells nothing apart

    @property
    def _gap(self) -> float:
        """How much higher the validation loss ends than the training loss, in the unit of the former."""
        first = next(iter(self._usable.values()))
        return (level(first, "validation loss") - level(first, "training loss")) / self._unit("validation loss")

    def share(self, value: float) -> float:
        """Return how much of its fall the training loss of a candidate lost."""
        return min(self.levels.get(value, HOPELESS_SHARE), HOPELESS_SHARE)

    def _hurts(self, value: float) -> bool:
        if value not in self.levels:
            return True
        if self._is_better(value):
            return False
        return self.costs_validation(value) or self.levels[value] > max(self.tolerance, self._train_noise[value])

    def costs_validation(self, value: float) -> bool:
        """Return whether the validation loss ends higher by more than is tolerated and than noise explains.

        A decay that costs does so in training first: where that shows none, validation differs by chance.
        """
        is_higher = self._val.get(value, 0.0) > max(self.tolerance, self._val_noise.get(value, 0.0))
        return is_higher and self.levels[value] > self._train_noise[value]

    @property
    def below(self) -> list[float]:
        """The candidates below the edge, in rising order."""
        return [value for value in sorted(self._curves) if self.edge is None or value < self.edge]

    @property
    def harmless(self) -> list[float]:
        """The candidates below the edge that cost no more than is tolerated, or that validation clearly prefers."""
        return [value for value in self.below if self.levels[value] <= self.tolerance or self._is_better(value)]

    def _is_better(self, value: float) -> bool:
        return self._val.get(value, 0.0) < -self._val_noise.get(value, 0.0)

    @cached_property
    def preferred(self) -> list[float]:
        """The candidates that validation cannot tell from the lowest one, or none without validation."""
        lowest = min(self._val.values(), default=0.0)
        return [value for value, share in self._val.items() if share - lowest <= self._val_noise[value]]

    def is_visibly_worse(self, value: float, own: float) -> bool:
        """Return whether validation ends higher than with the run's own by more than is tolerated, be it by chance."""
        known = value in self._val and own in self._val
        return known and self._val[value] - self._val[own] > self.tolerance

    @property
    def between(self) -> float | None:
        """The candidate between the largest one below the edge and the edge, or None if there is no room."""
        assert self.edge is not None
        low, edge = self.below[-1], self.edge
        aim, most = AIM * self.tolerance, self.share(edge)
        least = max(self.levels[low], self.tolerance / 20)
        if low > 0 and (edge / low <= 1.1 * HALF_DECADE or least >= aim):
            return None
        if low == 0:
            value = edge * min(aim / max(most, aim), 1 / HALF_DECADE)
        else:
            way = math.log(aim / least) / math.log(most / least) if most > self.tolerance else 0.5
            value = low * (edge / low) ** way
        value = _rounded_down(value)
        return value if value > 1.2 * low else None

    def between_doubtful(self, own: float) -> float | None:
        """Return the candidate half a decade above the largest safe one, if the next one is visibly worse than own."""
        doubtful = [value for value in self.harmless if self.is_visibly_worse(value, own)]
        safe = [value for value in self.harmless if value < min(doubtful, default=0.0)]
        if not safe or safe[-1] == 0 or doubtful[0] / safe[-1] <= 1.1 * HALF_DECADE:
            return None
        return _rounded_down(safe[-1] * HALF_DECADE)

    def how(self, value: float) -> str:
        """Return in words how a candidate hurts."""
        if value not in self.levels and is_comparable(self._curves[value]):
            return "has no finite validation loss"
        if value not in self.levels:
            return {"dropped": "falls behind", "diverged": "diverges"}.get(self._curves[value].outcome, "ends early")
        if self.costs_validation(value):
            return f"raises the validation loss by {self._val[value]:.0%} of its {self._name_of_unit}"
        return f"costs {self.levels[value]:.0%} of the fall of the training loss"

    @property
    def _name_of_unit(self) -> str:
        losses = judged(next(iter(self._usable.values())), "validation loss")
        return "fall" if self._unit("validation loss") == float(np.ptp(losses)) else "level"


def _rounded(value: float) -> float:
    """Return a value without the traces of binary fractions: 1e-4 * 10 -> 0.001."""
    return float(f"{value:.6g}")


def _rounded_down(value: float) -> float:
    """Return a value with halves of its first digit: 0.0068 -> 0.0065."""
    unit = 10.0 ** math.floor(math.log10(value)) / 2
    return _rounded(math.floor(value / unit + 1e-9) * unit)
