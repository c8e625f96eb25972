"""`FinderQueue`: run finders one after the other in a fit that trains nothing."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pl_onecycle._lightning import pl
from pl_onecycle.checks import expect
from pl_onecycle.finder import Finder
from pl_onecycle.momentum_probe import MomentumProbe
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.probe import Probe
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.weight_decay_probe import WeightDecayProbe

AnyFinder = TypeVar("AnyFinder", bound=Finder[Any])


def finders_to_run(
    trainer: pl.Trainer, lr_range_test: LRRangeTest | bool, weight_decay_probe: WeightDecayProbe | bool
) -> dict[str, Finder[Any]]:
    """Return the finders to run by their name in files, in the order in which they run."""
    finders: dict[str, Finder[Any] | None] = {
        "lr_range_test": _copied(trainer, LRRangeTest(), "lr_range_test", lr_range_test),
        "weight_decay_probe": _copied(trainer, WeightDecayProbe(), "weight_decay_probe", weight_decay_probe),
        "momentum_probe": _copy_of(_callback(trainer, MomentumProbe)),
    }
    found = {name: finder for name, finder in finders.items() if finder is not None}
    if len({finder.optimizer for finder in found.values()}) > 1:
        raise ValueError(
            "Expected `lr_range_test` and `weight_decay_probe` to be for the same optimizer, as well as any"
            " `MomentumProbe` of the Trainer."
        )
    return found


def _copied(trainer: pl.Trainer, default: Finder[Any], name: str, asked: Finder[Any] | bool) -> Finder[Any] | None:
    """Return a copy of the finder that an argument asks for, or None; True asks for the Trainer's or the default."""
    kind = type(default)
    expect(isinstance(asked, (bool, kind)), name, f"True, False or of type {kind.__name__}", asked, TypeError)
    if isinstance(asked, bool):
        return _copy_of(_callback(trainer, kind) or default) if asked else None
    wanted = "empty, as `tune` trains no epoch to test again in,"
    expect(len(asked.milestones) == 0, f"{name}.milestones", wanted, asked.milestones)
    return _copy_of(asked)


def _copy_of(finder: AnyFinder | None) -> AnyFinder | None:
    """Return a copy that runs once, also if the original runs again at milestones of a fit."""
    if finder is None:
        return None
    finder = copy.deepcopy(finder)
    finder.reset()
    finder.milestones = ()
    return finder


def _callback(trainer: pl.Trainer, kind: type[AnyFinder]) -> AnyFinder | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


class FinderQueue:
    """Finders that run one after the other.

    Args:
        finders: By their name in files, in their order.
        again: Whether the range test runs a second time if a probe has changed a value.

    Attributes:
        planned: After a run, the one-cycle schedule that training would follow, or None.
    """

    def __init__(self, finders: Mapping[str, Finder[Any]], again: bool) -> None:
        self._named = dict(finders)
        self.planned: OneCyclePolicy | None = None
        self._again = _copy_of(self._named.get("lr_range_test")) if again else None

    @property
    def finders(self) -> list[Finder[Any]]:
        """The finders in their order."""
        return [*self._named.values()]

    @property
    def results(self) -> dict[str, Finder[Any]]:
        """The finders that have run, by their name in files."""
        return {name: finder for name, finder in self._named.items() if finder.before is not None}

    def run(self, trainer: pl.Trainer) -> None:
        """Run the finders, within ``fit``."""
        for finder in self.finders:
            finder.check(trainer)
        for finder in self.finders:
            finder.find(trainer, saves=False)  # one report shows them all
        if self._again is not None and any(map(_has_changed, self.finders)):
            self._named["lr_range_test_again"] = self._again
            self._again.find(trainer, saves=False)
        cycle = RunOptimizer(trainer, self.finders[0].optimizer, calls_users_code=False).one_cycle
        self.planned = None if cycle is None else cycle.policy


def _has_changed(finder: Finder[Any]) -> bool:
    return isinstance(finder, Probe) and finder.used is not None and finder.used != finder.before
