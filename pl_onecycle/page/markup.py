"""HTML of the parts of a page: tables, pictures, and sentences, with all text escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pl_onecycle.page.charts import Chart
from pl_onecycle.page.hindsight import Hindsight
from pl_onecycle.page.played import Played
from pl_onecycle.page.results import Result, steps_and_seconds

# Rows of the table of a run; its pictures have more points.
MOST_ROWS = 100

_HEADS = {
    "survived": "The run survived its peak",
    "diverged": "The run diverged",
    "flat": "The loss never fell",
    "overfitted": "The run survived its peak and overfits",
    "short": "The run ended before its peak",
    "unknown": "What the run showed",
    "running": "The run",
}


def duration(seconds: float | None) -> str:
    """Return a time for people.

    Example:
        >>> duration(9.26), duration(185), duration(7260), duration(None)
        ('9.3 s', '3 min 5 s', '2 h 1 min', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any) -> str:
    """Return a value as a table shows it: all digits of a number."""
    if value is None:
        return "none"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    return str(value)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table whose first column names the rows; it scrolls within the page where it is too wide."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(shown(first))}</th>'
        + "".join(f"<td>{escape(shown(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    label = escape(caption, quote=True)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table><caption>{escape(caption)}'
        f"</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str) -> str:
    """Return what is shown at a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def paragraphs(sentences: Iterable[str]) -> str:
    """Return each sentence in a paragraph of its own."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def files_line(folders: Iterable[str]) -> str:
    """Return where the files of a run are."""
    return f'<p class="files">Files: {escape(", ".join(folders))}</p>'


def pictures_of(charts: Sequence[Chart], first: int, static: Mapping[str, bytes]) -> str:
    """Return places for interactive pictures, numbered from ``first``, and the static ones that they replace."""
    places = "".join(
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>'
        f'<div id="chart-{first + k}" role="img" aria-label="{escape(chart.title, quote=True)}"></div></figure>'
        for k, chart in enumerate(charts)
    )
    images = "".join(
        f'<img class="static" alt="{escape(_alternative(name, charts), quote=True)}"'
        f' src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for name, content in static.items()
    )
    return places + images


def _alternative(name: str, charts: Sequence[Chart]) -> str:
    titles = "; ".join(chart.title for chart in charts if chart.is_pictured)
    return f"Picture {name}: {titles or 'see the table'}"


# ----------------------------------------------------------------------------------------------- results
def headline(result: Result) -> str:
    """Return what was found, in a line, and why."""
    name, before, value = result.value_name, result.before, result.value
    old = "" if before is None else f"{before:.3g}"
    if value is None:
        line = f"{name} stays {old}: no suggestion" if old else "no suggestion"
    else:
        times = f" (\u00d7{value / before:.3g})" if before and value != before else ""
        line = f"{name} {old} → {value:.3g}{times}" if old else f"{name} {value:.3g}"
        line += "" if result.is_applied else ", suggested only, not applied"
    return f'<p class="headline">{escape(line)}</p>' + paragraphs([_sentence(result.reason)])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def numbers(result: Result) -> str:
    """Return the tables of a result: what was found, the settings, and all points of its curves."""
    found = {**(result.content.get("suggestion") or {})}
    rows = [("before", result.before), *found.items()]
    rows += [] if result.value is not None else [("refusal", result.reason)]
    if result.trough is not None:
        rows += [("trough, lower end", result.trough[0]), ("trough, upper end", result.trough[1])]
    rows += [("changed", result.content.get("changed")), ("optimizer steps", result.steps), ("seconds", result.seconds)]
    parts = [table(f"Numbers of the {result.title}", ("what", "value"), rows)]
    settings = table(f"Settings of the {result.title}", ("argument", "value"), [*result.settings.items()])
    parts.append(details("Settings", settings))
    tables = _points(result)
    return "".join(parts) + (details("All points", "".join(tables)) if tables else "")


def _points(result: Result) -> list[str]:
    tables = []
    if result.curve is not None:
        curve = result.curve
        smooth = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
        rows = list(zip(range(len(curve)), curve.lr, curve.loss, smooth, strict=True))
        tables.append(table("Range test", ("step", "lr", "loss", "smoothed loss"), rows))
    named = {f"Coarse sweep {k + 1}": curve for k, curve in enumerate(result.coarse)}
    named |= {f"Cycle with lr {name}": curve for name, curve in result.cycles.items()} | result.candidates
    for name, curve in named.items():
        validated = dict(zip(curve.val_steps, curve.val_loss, strict=True))
        points = list(zip(curve.lr, curve.loss, strict=True))
        rows_of = [(k, lr, loss, validated.get(k, "")) for k, (lr, loss) in enumerate(points, start=1)]
        caption = f"{name} ({curve.outcome})"
        tables.append(table(caption, ("steps done", "lr", "training loss", "validation loss"), rows_of))
    if result.content.get("tries"):
        tries = [(size, failure or "fits") for size, failure in result.content["tries"].items()]
        tables.append(table("Batch sizes tried", ("batch size", "result"), tries))
    return tables


# --------------------------------------------------------------------------------------------------- run
def verdict(seen: Hindsight) -> str:
    """Return what the run showed and what to try."""
    tries = f"<h3>What to try</h3><ul>{''.join(f'<li>{escape(it)}</li>' for it in seen.advice)}</ul>"
    return paragraphs(seen.shown) + (tries if seen.advice else "")


def verdict_head(seen: Hindsight) -> str:
    """Return the heading of `verdict`."""
    return _HEADS[seen.verdict]


def played_table(played: Played) -> str:
    """Return what the run did at a hundred of its steps."""
    count = len(played.steps)
    kept = sorted({round(k * (count - 1) / (MOST_ROWS - 1)) for k in range(MOST_ROWS)}) if count else []
    rows = [
        (played.steps[k], played.lr[k], played.momentum[k] if played.momentum else None, played.loss[k]) for k in kept
    ]
    tables = table("The run, at most a hundred of its steps", ("step", "lr", "momentum", "training loss"), rows)
    if len(played.val_loss):
        validated = zip(played.val_steps, played.val_loss, strict=True)
        tables += table("Validation", ("steps done", "validation loss"), validated)
    return details("Steps of the run", tables)


def cost_table(results: Sequence[Result], runs: Sequence[Played]) -> str:
    """Return what the searches of a run have cost."""
    searches: list[tuple[str, int | None, float | None]] = [(it.title, it.steps, it.seconds) for it in results]
    if len(searches) > 1:
        searches.append(("all searches", *steps_and_seconds(results)))
    done = runs[0].done if runs and runs[0].ended else 0
    rows = [
        (name, steps, duration(seconds), f"{steps / done:.0%}" if done and steps is not None else "unknown")
        for name, steps, seconds in searches
    ]
    rows += [(f"run of {it.optimizer}{'' if it.ended else ', so far'}", it.done, "", "") for it in runs]
    head = ("what", "optimizer steps", "time", "steps, relative to the run")
    return table("Cost of the searches, and steps of the run", head, rows)


def repeat(results: Sequence[Result], about: Mapping[str, Any]) -> str:
    """Return what is needed to train with the same values, and to repeat the run."""
    found = {it.value_name: it.value for it in results if it.is_applied}
    known = [name for name in ("max_lr", "weight_decay", "max_momentum") if found.get(name) is not None]
    content = ""
    if known:
        arguments = ", ".join(f"{name}={found[name]!r}" for name in known)
        code = f"Trainer(callbacks=[OneCycleSettings({arguments})])"
        content += f"<p>To train with these values without a search:</p><pre><code>{escape(code)}</code></pre>"
    versions: Mapping[str, Any] = next((it.content["versions"] for it in results if it.content.get("versions")), {})
    rows = [*about.items(), *versions.items()]
    return content + (table("Run and versions", ("what", "value"), rows) if rows else "")


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def found_table(named: Sequence[tuple[str, Result]]) -> str:
    """Return what each of several runs found."""
    rows = [
        (name, it.title, it.value_name, _short(it.before), _short(it.value), it.reason, it.steps, duration(it.seconds))
        for name, it in named
    ]
    head = ("run", "search", "value", "before", "found", "why", "optimizer steps", "time")
    return table("What each run found", head, rows)
