"""`page_of_run` and `page_of_runs`: whole HTML documents, which need nothing but themselves."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from pl_onecycle.page.charts import Chart, charts_of, overlay_chart, schedule_charts
from pl_onecycle.page.hindsight import hindsight
from pl_onecycle.page.markup import (
    cost_table,
    found_table,
    headline,
    numbers,
    paragraphs,
    pictures_of,
    played_table,
    repeat,
    verdict,
    verdict_head,
)
from pl_onecycle.page.played import Played
from pl_onecycle.page.results import Result

# Pictures of a run with a search in each of many epochs must not make its page larger than 5 MB.
MOST_PICTURES = 2_000_000  # bytes


@dataclass(frozen=True)
class RunPage:
    """What the page of a run shows.

    Attributes:
        name: Of the run, for people.
        results: Of its searches, in their order.
        played: What the optimizers of these searches did.
        about: What else is needed to repeat the run, by name.
    """

    name: str
    results: Sequence[Result]
    played: Sequence[Played] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def page_of_run(run: RunPage, schedule: bytes | None = None) -> str:
    """Return the page of a run.

    Args:
        run: What to show.
        schedule: A static picture of the schedule, as PNG.
    """
    page = _Page(f"{run.name}: one-cycle report")
    folders = dict.fromkeys(result.folder for result in run.results if result.folder)
    page.add(paragraphs([f"Files: {', '.join(folders)}"]) if folders else "")
    for played in run.played:
        seen = hindsight(played)
        page.section(verdict_head(seen), verdict(seen), "hindsight")
    for result in run.results:
        _add_result(page, result)
    for k, played in enumerate(run.played):
        charts = schedule_charts(played)
        heading = f"Planned and played schedule of {played.optimizer}"
        note = "" if played.plan is not None else "<p>The run's schedule is not known in advance.</p>"
        static = {"schedule": schedule} if schedule is not None and k == 0 else {}
        page.section(heading, note + page.charts(charts, static) + played_table(played), "schedule")
    page.section("Cost", cost_table(run.results, run.played), "cost")
    page.section("Repeat it", repeat(run.results, run.about), "repeat")
    return page.html()


def page_of_runs(runs: Mapping[str, Sequence[Result]], pictures: Mapping[str, bytes]) -> str:
    """Return one page that overlays several runs.

    Args:
        runs: The results of each, by its name.
        pictures: Static pictures of all, as PNG, by their name.
    """
    name = f"{len(runs)} runs" if len(runs) > 1 else next(iter(runs))
    page = _Page(f"{name}: one-cycle report")
    named = [(name, result) for name, results in runs.items() for result in results]
    content = found_table(named)
    tests = {name: it for name, it in _unique(named).items() if it.curve is not None}
    content += page.charts([overlay_chart(tests)] if tests else [], pictures)
    page.section("All runs", content, "runs")
    for name, result in _unique(named).items():
        _add_result(page, result, f"{name}: ")
    return page.html()


def _unique(named: Sequence[tuple[str, Result]]) -> dict[str, Result]:
    """Return results by the name of their run, and by title and number where a run has several."""
    names: dict[str, Result] = {}
    for name, result in named:
        of_run = sum(1 for other, _ in named if other == name)
        label = name if of_run == 1 else f"{name}, {result.title}"
        again = sum(1 for other in names if other == label or other.startswith(f"{label} ("))
        names[f"{label} ({again + 1})" if again else label] = result
    return names


def _add_result(page: _Page, result: Result, before: str = "") -> None:
    content = headline(result) + page.charts(charts_of(result), result.pictures) + numbers(result)
    page.section(f"{before}{result.title}", content, "result")


# --------------------------------------------------------------------------------------------- document
class _Page:
    """A document that grows by sections."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._body: list[str] = []
        self._charts: list[Chart] = []
        self._pictures = 0  # bytes so far

    def add(self, content: str) -> None:
        self._body.append(content)

    def section(self, heading: str, content: str, kind: str) -> None:
        self.add(f'<section class="{kind}"><h2>{escape(heading)}</h2>{content}</section>')

    def charts(self, charts: Sequence[Chart], static: Mapping[str, bytes]) -> str:
        """Return places for charts, and static pictures as long as the page has room for them."""
        room = {}
        for name, content in static.items():
            if self._pictures + len(content) <= MOST_PICTURES:
                room[name] = content
                self._pictures += len(content)
        first = len(self._charts)
        self._charts += charts
        return pictures_of(charts, first, room)

    def html(self) -> str:
        library = _library()
        scripts = ""
        if library and self._charts:
            shown = [{"data": chart.data, "layout": chart.layout} for chart in self._charts]
            text = json.dumps(shown, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
            scripts = (
                f'<script type="application/json" id="charts">{text}</script>'
                f'<script type="text/plain" id="library">{library}</script><script>{_own("page.js")}</script>'
            )
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self._title)}</title><style>{_own('page.css')}</style></head>"
            f"<body><main><h1>{escape(self._title)}</h1>{''.join(self._body)}</main>{scripts}</body></html>\n"
        )


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Return plotly.js, compressed: its 5 MB become 2; an empty string if plotly is not installed."""
    if find_spec("plotly") is None:
        return ""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()
