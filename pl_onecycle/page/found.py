"""What a search found, as HTML: the change in a line, its numbers, and its candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pl_onecycle.curves import LossCurve, level
from pl_onecycle.page.markup import details, paragraphs, table, time_of
from pl_onecycle.page.results import Result
from pl_onecycle.sentences import change, short

# What the names in a ``result.json`` mean, where they are no words.
WORDS = {
    "low": "interval, lower end",
    "high": "interval, upper end",
    "judged_by": "judged by",
    "margin": "best below the next one by",
    "noise": "margin that may be chance",
    "within_noise": "others as good within noise",
}


def headline(result: Result) -> str:
    """Return what was found, in a line, and why."""
    return f'<p class="headline">{escape(_found(result))}</p>' + paragraphs([_sentence(result.reason)])


def _found(result: Result) -> str:
    name, before, value = result.value_name, result.before, result.value
    if value is None:
        return "no suggestion" if before is None else f"{name} stays {short(before)}: no suggestion"
    return f"{name} {change(before, value)}{'' if result.is_applied else ', suggested only, not applied'}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def numbers(result: Result) -> str:
    """Return the tables of a result: what was found, the settings, and all points of its curves."""
    found: Mapping[str, Any] = result.content.get("suggestion") or {}
    rows: list[tuple[str, Any]] = [("before", result.before)]
    rows += [(WORDS.get(name, name), _plain(name, value)) for name, value in found.items() if name != "reason"]
    if result.trough is not None:
        rows += [("trough, lower end", result.trough[0]), ("trough, upper end", result.trough[1])]
    rows += [("changed", result.content.get("changed")), ("optimizer steps", result.steps)]
    rows.append(("time", time_of(result.seconds)))
    title = result.title if result.title[:2].isupper() else f"{result.title[:1].lower()}{result.title[1:]}"
    settings = table(f"Settings of the {title}", ("argument", "value"), [*result.settings.items()])
    tables = _points(result)
    return (
        _compared(result)
        + table(f"Numbers of the {title}", ("what", "value"), rows)
        + details("Settings", settings)
        + (details("All points", "".join(tables)) if tables else "")
    )


def _plain(name: str, value: Any) -> Any:
    """Return a value as people read it; what a run needs to be repeated keeps all its digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return short(value) if name in ("margin", "noise") and isinstance(value, float) else value


def _compared(result: Result) -> str:
    """Return where each candidate of a probe, or each cycle that verified a suggestion, ended, and which was chosen."""
    curves = result.candidates or {f"lr {short(float(lr))}": curve for lr, curve in result.cycles.items()}
    if not curves:
        return ""
    kinds = ["training loss", *(["validation loss"] if any(curve.val_loss for curve in curves.values()) else [])]
    rows = [
        (name, *(_end(curve, kind) for kind in kinds), "chosen" if name == result.chosen else curve.outcome)
        for name, curve in curves.items()
    ]
    return table("Mean of the last fifth of the losses", ("candidate", *kinds, "result"), rows)


def _end(curve: LossCurve, kind: str) -> str:
    losses = curve.loss if kind == "training loss" else curve.val_loss
    is_known = curve.outcome in ("completed", "stopped") and len(losses) > 0 and all(map(math.isfinite, losses))
    return f"{level(curve, kind):.4g}" if is_known else ""


def _points(result: Result) -> list[str]:
    tables = []
    if result.curve is not None:
        curve = result.curve
        smooth = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
        columns = {"step": range(len(curve)), "lr": curve.lr, "loss": curve.loss, "smoothed loss": smooth}
        columns |= {"loss of the control": curve.control} if curve.control else {}
        tables.append(table("Range test", tuple(columns), zip(*columns.values(), strict=True)))
    named = {f"Coarse sweep {k + 1}": curve for k, curve in enumerate(result.coarse)}
    named |= {f"Cycle with lr {name}": curve for name, curve in result.cycles.items()} | result.candidates
    for name, curve in named.items():
        validated = dict(zip(curve.val_steps, curve.val_loss, strict=True))
        points = list(zip(curve.lr, curve.loss, strict=True))
        rows_of = [(k, lr, loss, validated.get(k, "")) for k, (lr, loss) in enumerate(points, start=1)]
        caption = f"{name} ({curve.outcome})"
        tables.append(table(caption, ("steps done", "lr", "training loss", "validation loss"), rows_of))
    if result.tries:
        tries = [(size, failure or "fits") for size, failure in result.tries.items()]
        tables.append(table("Batch sizes tried", ("batch size", "result"), tries))
    return tables


def found_table(named: Sequence[tuple[str, Result]]) -> str:
    """Return what each of several runs found."""
    rows = [(name, _found(it), it.reason, it.title, it.steps, time_of(it.seconds)) for name, it in named]
    return table("What each run found", ("run", "found", "why", "search", "optimizer steps", "time"), rows)
