"""`Result`: what a ``result.json`` says, for pages and pictures; `read_results` reads the files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pl_onecycle.curves import LossCurve, Refusal, Round, Suggestion, find_trough, rounds

FILE = "result.json"


class NoResult(Exception):
    """A file or directory holds no result of this package; the message is one sentence."""


@dataclass(frozen=True)
class Result:
    """One result, as its ``result.json`` says it.

    Attributes:
        content: The content of the file.
        folder: The directory of the file, or an empty string where there is none.
        pictures: PNG files by their name.
    """

    content: Mapping[str, Any]
    folder: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Whose result it is."""
        return str(self.content.get("title") or os.path.basename(self.folder) or "Result")

    @property
    def value_name(self) -> str:
        """Name of the value that was searched for."""
        return str(self.content.get("value_name") or "value")

    @property
    def before(self) -> float | None:
        """The value before the search."""
        return _number(self.content, "before")

    @property
    def value(self) -> float | None:
        """The value that was found, or None."""
        found = self.content.get("suggestion") or {}
        return _number(found, "lr" if "lr" in found else "value")

    @property
    def reason(self) -> str:
        """Why it is this value, or why there is none."""
        found = self.content.get("suggestion") or {}
        return str(found.get("reason") or self.content.get("refusal") or "")

    @property
    def is_applied(self) -> bool:
        """Whether the run trains with the value."""
        return self.value is not None and bool(self.settings.get("apply", True))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments of the search."""
        settings: Mapping[str, Any] = self.content.get("settings") or {}
        return settings

    # ------------------------------------------------------------------------------------------ curves
    @property
    def curve(self) -> LossCurve | None:
        """The curve of a range test."""
        curve = self.content.get("curve")
        return None if curve is None else _curve(curve)

    @property
    def coarse(self) -> list[LossCurve]:
        """The coarse sweeps of a range test."""
        return [_curve(curve) for curve in self.content.get("coarse") or ()]

    @property
    def cycles(self) -> dict[str, LossCurve]:
        """The short cycles that verified a suggestion, by their lr, from the smallest up."""
        cycles = self.content.get("cycles") or {}
        return {name: _curve(cycles[name]) for name in sorted(cycles, key=float)}

    @property
    def candidates(self) -> dict[str, LossCurve]:
        """The curves of the candidates of a probe, by their name."""
        return {name: _curve(curve) for name, curve in (self.content.get("curves") or {}).items()}

    @property
    def candidate_values(self) -> dict[str, float]:
        """The candidates of a probe, by their name, which ends with the value: ``"wd=1e-03"``."""
        return {name: float(name.rpartition("=")[2]) for name in self.content.get("curves") or {}}

    @property
    def chosen(self) -> str | None:
        """The name of the chosen candidate of a probe, or None."""
        if self.value is None:
            return None
        named = float(f"{self.value:.6g}")  # a name has six digits
        return next((name for name, value in self.candidate_values.items() if value == named), None)

    @property
    def rounds(self) -> list[Round]:
        """How the candidates of a probe were compared; none where they could not be."""
        values = self.candidate_values
        compared = rounds({values[name]: curve for name, curve in self.candidates.items()})
        return [] if isinstance(compared, Refusal) else compared

    @property
    def best(self) -> str | None:
        """The name of the candidate of a probe that ended lowest where it was decided, or None for one alone."""
        compared = self.rounds
        if not compared or len(self.candidate_values) < 2:
            return None
        return next(name for name, value in self.candidate_values.items() if value == next(iter(compared[-1].levels)))

    @property
    def suggestion(self) -> Suggestion | None:
        """The suggestion of a range test."""
        found = self.content.get("suggestion")
        if not found or found.get("lr") is None:
            return None
        return Suggestion(**{**found, **{name: _number(found, name) for name in ("lr", "low", "high")}})

    @property
    def trough(self) -> tuple[float, float] | None:
        """The ends of the trough that the suggestion was read off."""
        curve, found = self.curve, self.suggestion
        has_one = curve is not None and found is not None and found.method == "trough"
        return find_trough(curve).ends if curve is not None and has_one else None

    # -------------------------------------------------------------------------------------------- cost
    @property
    def steps(self) -> int | None:
        """Optimizer steps of the search."""
        if "steps" in self.content:
            return int(self.content["steps"])
        if self.tries:
            return len(self.tries) * int(self.settings.get("num_steps", 0))
        return sum(map(len, self.candidates.values())) if self.candidates else None

    @property
    def seconds(self) -> float | None:
        """Wall time of the search."""
        return _number(self.content, "seconds")

    @property
    def tries(self) -> dict[str, str | None]:
        """The batch sizes that were tried, and how each has failed, or None."""
        return dict(self.content.get("tries") or {})


def _number(content: Mapping[str, Any], name: str) -> float | None:
    """Return an entry of a file.

    Raises:
        TypeError: It is not a number.
    """
    value: float | None = content.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(name)
    return value


def _curve(saved: Mapping[str, Any]) -> LossCurve:
    """Return a curve from its saved form, in which null stands for NaN."""

    def numbers(name: str) -> list[float]:
        return [math.nan if value is None else float(value) for value in saved.get(name) or ()]

    return LossCurve(
        numbers("lr"),
        numbers("loss"),
        saved.get("outcome", "completed"),
        saved.get("initial_loss"),
        saved.get("val_steps") or (),
        numbers("val_loss"),
        numbers("control"),
    )


def results_in(content: Any, folder: str = "") -> list[Result]:
    """Return the results in the content of a file: one, or those of `tune`; none in a foreign one."""
    if not isinstance(content, dict):
        return []
    if _is_one(content):
        return [Result(content, folder)]
    versions = content.get("versions", {})
    return [Result({**one, "versions": versions}, folder) for one in content.values() if _is_one(one)]


def _is_one(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("settings"), dict) and "suggestion" in content


def read_results(path: str) -> list[Result]:
    """Read the results in a ``result.json``, or in all of them below a directory, in the order in which they were made.

    Raises:
        NoResult: There is none.
    """
    if os.path.isdir(path):
        files = [os.path.join(folder, FILE) for folder, _, names in os.walk(path) if FILE in names]
        found = [result for file in sorted(files, key=os.path.getmtime) for result in _read(file)]
        if not found:
            raise NoResult(f"There is no {FILE} of pl_onecycle in {path!r} or below.")
        return found
    if not os.path.exists(path):
        raise NoResult(f"There is no file or directory {path!r}.")
    found = _read(path)
    if not found:
        raise NoResult(f"{path!r} is not a {FILE} of pl_onecycle.")
    return found


def _read(file: str) -> list[Result]:
    try:
        with open(file, encoding="utf-8") as handle:
            # Other writers than ours have NaN, for which there is no number in a page either.
            found = results_in(json.load(handle, parse_constant=lambda name: None), os.path.dirname(file))
        for result in found:  # a curve of other lengths, or a value that is no number, is another's file
            _ = result.trough, result.coarse, result.cycles, result.rounds, result.chosen
            _ = result.before, result.value, result.suggestion, result.steps, result.seconds, result.tries
    except (ValueError, TypeError, AttributeError, IndexError, OSError, RecursionError):
        return []
    return found


def steps_and_seconds(results: Sequence[Result]) -> tuple[int, float | None]:
    """Return the optimizer steps of all searches, and their seconds if any is known."""
    seconds = [result.seconds for result in results if result.seconds is not None]
    return sum(result.steps or 0 for result in results), sum(seconds) if seconds else None
