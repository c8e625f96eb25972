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
    files_line,
    found_table,
    headline,
    numbers,
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
_STATIC = "The pictures are static, as plotly is not installed: pip install 'pl-onecycle[page]' makes them interactive."


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
    page.add(files_line(folders) if folders else "")
    test = _test_of(run)
    for played in run.played:
        seen = hindsight(played, test)
        page.section(verdict_head(seen), verdict(seen), "hindsight")
    for result in run.results:
        _add_result(page, result, result.title)
    for k, played in enumerate(run.played):
        charts = schedule_charts(played)
        heading = f"Planned and played schedule of {played.optimizer}"
        note = "" if played.plan is not None else "<p>The run's schedule is not known in advance.</p>"
        static = {"schedule": schedule} if schedule is not None and k == 0 else {}
        page.section(heading, note + page.charts(charts, static) + played_table(played), "schedule")
    page.section("Cost", cost_table(run.results, run.played), "cost")
    page.section("Repeat it", repeat(run.results, run.about), "repeat")
    return page.html()


def summary(run: RunPage) -> str:
    """Return what a run showed, in a sentence: the first one of its page."""
    return hindsight(run.played[0], _test_of(run)).shown[0] if run.played else ""


def page_of_runs(runs: Mapping[str, Sequence[Result]], pictures: Mapping[str, bytes]) -> str:
    """Return one page that overlays several runs.

    Args:
        runs: The results of each, by its name.
        pictures: Static pictures of all, as PNG, by their name.
    """
    name = f"{len(runs)} runs" if len(runs) > 1 else next(iter(runs))
    page = _Page(f"{name}: one-cycle report")
    named = [(name, result) for name, results in runs.items() for result in results]
    tests = _unique([(name, result) for name, result in named if result.curve is not None])
    overlay = page.charts([overlay_chart(tests)] if tests else [], pictures)
    page.section("All runs", found_table(named) + overlay, "runs")
    for heading, result in _unique([(f"{name}: {result.title}", result) for name, result in named]).items():
        _add_result(page, result, heading)
    return page.html()


def _test_of(run: RunPage) -> Result | None:
    """Return the last range test of a run with a single optimizer; of several, a page does not know whose it is."""
    tests = [result for result in run.results if result.value_name == "max_lr"]
    return tests[-1] if tests and len(run.played) == 1 else None


def _unique(named: Sequence[tuple[str, Result]]) -> dict[str, Result]:
    """Return results by their name, with a number where several have the same."""
    names: dict[str, Result] = {}
    seen: dict[str, int] = {}
    for name, result in named:
        seen[name] = seen.get(name, 0) + 1
        names[f"{name} ({seen[name]})" if seen[name] > 1 else name] = result
    return names


def _add_result(page: _Page, result: Result, heading: str) -> None:
    content = headline(result) + page.charts(charts_of(result), result.pictures) + numbers(result)
    page.section(heading, content, "result")


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
        note = f'<p class="files">{escape(_STATIC)}</p>' if self._charts and not library else ""
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
            f"<body><main><h1>{escape(self._title)}</h1>{note}{''.join(self._body)}</main>{scripts}</body></html>\n"
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
