"""A page in a real browser: it draws, says lr and loss under the mouse, and fits light, dark, wide and narrow."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pl_onecycle.page import page_of_runs, read_results
from tests.page import made

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
waits = pytest.importorskip("selenium.webdriver.support.ui", reason="selenium is not installed")
pytest.importorskip("plotly", reason="plotly is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium and chromedriver are installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of selenium's own pipes
]
RUNS = {"good": made.good, "refused": made.refused, "diverged": made.diverged}
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
)
_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (*_ARGUMENTS, *_QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def shown(browser: Any, page: Path, width: int = 1200, scheme: str = "light", script: bool = True) -> Any:
    """Open a page and wait until it has drawn its pictures."""
    browser.get_log("browser")
    browser.get_log("performance")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(page.as_uri())
    if script:
        wait = waits.WebDriverWait(browser, 60)
        wait.until(lambda it: it.execute_script("return document.documentElement.dataset.drawn") == "yes")
    return browser


def errors(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requested(browser: Any, page: Path) -> set[str]:
    """The addresses that a page has asked for, without those of its own data; the browser's first tab asks, too."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [it["request"]["url"] for it in requests if it["documentURL"] == page.as_uri()]
    return {url for url in urls if not url.startswith(("data:", "blob:"))}


def overflow(browser: Any) -> int:
    """By how many pixels the page is wider than its window."""
    wide: int = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wide


@pytest.mark.parametrize("name", RUNS)
def test_a_page_draws_each_picture_without_an_error_or_a_request(name: str, browser: Any) -> None:
    page = RUNS[name]().page
    shown(browser, page)
    assert errors(browser) == []
    assert requested(browser, page) == {page.as_uri()}
    charts = browser.find_elements("css selector", ".chart > div")
    drawn = browser.find_elements("css selector", ".chart .cartesianlayer .trace")
    assert len(charts) == {"good": 4, "refused": 3, "diverged": 3}[name]
    assert len(drawn) > len(charts)
    assert not any(image.is_displayed() for image in browser.find_elements("css selector", "img.static"))


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_on_the_page_is_that_of_the_result(name: str, browser: Any) -> None:
    shown(browser, RUNS[name]().page)
    traces = browser.execute_script(
        "return document.getElementById('chart-0').data.map(({name, x, y}) => [name, Array.from(x), Array.from(y)])"
    )
    [(lrs, losses)] = [(x, y) for label, x, y in traces if label == "measured"]
    curve = RUNS[name]().result["curve"]
    assert lrs == pytest.approx(curve["lr"][: len(lrs)], rel=1e-5)  # pictures have six digits, tables all
    assert losses == pytest.approx(curve["loss"][: len(losses)], rel=1e-5)
    assert [label for label, _, _ in traces if label.startswith("max_lr")] == (
        [f"max_lr {RUNS[name]().result['suggestion']['lr']:.3g}"] if name != "refused" else []
    )


def test_the_mouse_over_the_curve_reads_lr_and_loss(browser: Any) -> None:
    shown(browser, made.good().page)
    x, y, lr, loss = browser.execute_script(
        """
        const chart = document.getElementById("chart-0"), { xaxis, yaxis } = chart._fullLayout;
        chart.scrollIntoView();
        const { x, y } = chart.data.find((trace) => trace.name === "smoothed"), k = 3;
        const box = chart.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(x[k]), box.top + yaxis._offset + yaxis.d2p(y[k]), x[k], y[k]];
        """
    )
    for step in (-5, 0):
        mouse = {"type": "mouseMoved", "x": x + step, "y": y}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
    wait = waits.WebDriverWait(browser, 20)
    wait.until(lambda it: it.find_elements("css selector", "#chart-0 .hoverlayer .hovertext"))
    said = " ".join(it.text for it in browser.find_elements("css selector", "#chart-0 .hoverlayer .hovertext"))
    [found] = re.findall(r"lr ([\d.e-]+)\s*loss ([\d.e-]+)", said.replace("\u2212", "-"))
    points = list(zip(*[made.good().result["curve"][name] for name in ("lr", "loss")], strict=True))
    near = [lr, *(it for it, _ in points[:8])]
    assert float(found[0]) in [float(f"{it:.3g}") for it in near]
    assert float(found[1]) == pytest.approx(loss, rel=0.3)


@pytest.mark.parametrize("width", [320, 390, 1200, 2000])
@pytest.mark.parametrize("name", RUNS)
def test_a_page_is_never_wider_than_its_window(name: str, width: int, browser: Any) -> None:
    shown(browser, RUNS[name]().page, width)
    assert overflow(browser) == 0
    charts = browser.find_elements("css selector", ".chart > div")
    assert all(0.6 * min(width, 900) < chart.size["width"] < width for chart in charts)
    for details in browser.find_elements("css selector", "summary"):
        details.click()
    assert overflow(browser) == 0


def test_a_page_follows_the_scheme_of_the_reader_also_while_it_is_open(browser: Any) -> None:
    def colours() -> list[str]:
        seen: list[str] = browser.execute_script(
            """
            const chart = document.getElementById("chart-0");
            return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
              chart._fullLayout.plot_bgcolor, chart._fullLayout.font.color];
            """
        )
        return seen

    shown(browser, made.good().page)
    light = colours()
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    waits.WebDriverWait(browser, 20).until(lambda it: colours()[2] != light[2])
    changed = colours()
    shown(browser, made.good().page, scheme="dark")
    assert colours() == changed
    assert light[:2] == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert changed[:2] == ["rgb(15, 20, 26)", "rgb(230, 237, 243)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_javascript_the_numbers_and_pictures_are_there(scheme: str, browser: Any) -> None:
    try:
        shown(browser, made.good().page, scheme=scheme, script=False)
        images = browser.find_elements("css selector", "img.static")
        assert [image.is_displayed() for image in images] == [True, True]
        assert all(image.size["width"] > 500 for image in images)
        assert not any(it.is_displayed() for it in browser.find_elements("css selector", ".chart"))
        assert str(made.good().result["suggestion"]["lr"]) in browser.find_element("css selector", "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [390, 1200])
def test_several_runs_lie_over_one_another(width: int, browser: Any, tmp_path: Path) -> None:
    runs = {f"runs/{name}": read_results(str(run().root)) for name, run in RUNS.items()}
    (page := tmp_path / "report.html").write_text(page_of_runs(runs, {}))
    shown(browser, page, width)
    assert errors(browser) == []
    assert overflow(browser) == 0
    names = browser.execute_script("return document.getElementById('chart-0').data.map(({name}) => name.split(':')[0])")
    assert names == list(runs)
