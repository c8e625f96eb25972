"""A page is one file that needs nothing but itself, and says the numbers of ``result.json`` without a script."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from pl_onecycle.page import Played, RunPage, document, page_of_run, page_of_runs, read_results
from tests.page import made

RUNS = pytest.mark.parametrize("run", [made.good, made.refused, made.diverged], ids=lambda run: run.__name__)
PICTURE = b"\x89PNG of a test"


class Page(HTMLParser):
    """Tags, the cells of the tables and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._in_cell and self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    @property
    def found(self) -> dict[str, str]:
        """The tables of two columns."""
        return {row[0]: row[1] for row in reversed(self.rows) if len(row) == 2}


@RUNS
def test_the_tables_say_the_numbers_of_the_result(run: Any) -> None:
    page, saved = Page(run().page.read_text()), run().result
    for name, value in (saved["suggestion"] or {}).items():
        assert page.found[name] == str(value)
    assert page.found["before"] == str(saved["before"])
    assert page.found["seconds"] == str(saved["seconds"])
    assert page.found.get("refusal") == saved["refusal"]
    for name, value in saved["versions"].items():
        assert page.found[name] == value
    lrs = [row[1] for row in page.rows if len(row) == 4 and row[0].isdigit()]
    assert [str(lr) for lr in saved["curve"]["lr"]] == lrs[: len(saved["curve"]["lr"])]


@RUNS
def test_a_page_is_below_five_megabytes_and_loads_nothing(run: Any) -> None:
    assert run().page.stat().st_size < 5_000_000
    page = Page(run().page.read_text())
    loaded = [value for _, attributes in page.tags for name in ("src", "href") if (value := attributes.get(name))]
    assert [value for value in loaded if not value.startswith("data:")] == []
    assert "@import" not in run().page.read_text().split("</style>")[0]


@RUNS
def test_without_a_script_a_page_has_its_pictures(run: Any) -> None:
    images = [attributes for tag, attributes in Page(run().page.read_text()).tags if tag == "img"]
    assert len(images) == 2  # range test and schedule
    assert all((image["src"] or "").startswith("data:image/png;base64,iVBOR") for image in images)
    assert all(image["alt"] for image in images)


def test_without_plotly_a_page_has_numbers_and_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_library", lambda: "")
    [result] = read_results(str(made.good().root))
    text = page_of_run(RunPage("Net", [replace(result, pictures={"lr_range_test": PICTURE})]))
    page = Page(text)
    assert "script" not in [tag for tag, _ in page.tags]
    assert "img" in [tag for tag, _ in page.tags]
    assert "pip install &#x27;pl-onecycle[page]&#x27;" in text
    assert page.found["lr"] == str(result.value)
    assert len(text) < 200_000


def test_names_and_reasons_are_text_and_no_markup() -> None:
    [result] = read_results(str(made.refused().root))
    evil = "</script><script>alert(1)</script>"
    content = {**result.content, "title": evil, "refusal": evil, "value_name": evil}
    played = Played(evil, [0, 1], [0.1, 0.1], [1.0, 1.0], done=2, ended=evil)
    text = page_of_run(RunPage(evil, [replace(result, content=content)], [played], {evil: evil}))
    assert evil not in text
    assert "alert(1)" in text


def test_with_plotly_a_page_says_nothing_of_it() -> None:
    assert "pip install" not in made.good().page.read_text().split("<script")[0]


def test_pictures_of_many_searches_keep_a_page_below_five_megabytes() -> None:
    [result] = read_results(str(made.refused().root))
    results = [replace(result, pictures={"lr_range_test": bytes(100_000)})] * 40
    text = page_of_run(RunPage("Net", results))
    assert len(text) < 5_000_000
    assert text.count("<img") == 20  # of 100 kB in 2 MB


def test_a_page_of_several_runs_names_and_overlays_them() -> None:
    runs = {name: read_results(str(run().root)) for name, run in {"a": made.good, "b": made.diverged}.items()}
    text = page_of_runs(runs, {})
    rows = [row for row in Page(text).rows if row and row[0] in runs]
    assert [row[:3] for row in rows] == [["a", "LR range test", "max_lr"], ["b", "LR range test", "max_lr"]]
    assert [float(row[4]) for row in rows] == [float(f"{runs[name][0].value:.4g}") for name in runs]
    [charts] = re.findall(r'id="charts">(.*?)</script>', text)
    for name, [result] in runs.items():
        assert f'"name":"{name}: {result.value:.3g}"' in charts
    assert "<h2>a: LR range test</h2>" in text


def test_runs_without_any_curve_have_a_page() -> None:
    [result] = read_results(str(made.refused().root))
    bare = replace(result, content={**result.content, "curve": None})
    assert "What each run found" in page_of_runs({"a": [bare, bare]}, {})


def test_a_run_says_what_its_search_cost_relative_to_itself() -> None:
    rows = Page(made.good().page.read_text()).rows
    steps, done = made.good().result["steps"], made.good().trainer.global_step
    [search] = [row for row in rows if row[:2] == ["LR range test", str(steps)]]
    assert search[3] == f"{steps / done:.0%}"
    assert ["run of SGD", str(done), "", ""] in rows
