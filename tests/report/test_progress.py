"""The bar of a range test appears in the Trainer's own style, or not at all, and leaves the Trainer's bar as it was."""

import inspect
import io
import re
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import rich
import torch
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.strategies import SingleDeviceStrategy
from rich.progress import Progress

from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.report.progress import progress_bar
from tests.fits import SmallNet, data, trainer

# 256 samples in batches of 32 are 8 batches an epoch; the sweep takes 20 steps, no fewer.
sweep = partial(LRRangeTest, 1e-6, 1e-2, num_steps=20, report=False)


class Terminal(io.StringIO):
    """What was drawn, without escape sequences; every redraw is a line."""

    @property
    def lines(self) -> list[str]:
        plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


fits_with_rich = pytest.mark.skipif(
    "_live_stack" not in inspect.getsource(RichProgressBar) and hasattr(rich.get_console(), "_live_stack"),
    reason="the RichProgressBar of this Lightning does not work with rich >= 14.1",
)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """The console of rich, global as Lightning uses it, drawing into a string."""
    screen = Terminal()
    rich.reconfigure(**console(screen))
    yield screen
    rich.reconfigure()


def console(screen: Terminal) -> dict[str, Any]:
    return {"file": screen, "force_terminal": True, "width": 120, "_environ": {"TERM": "xterm"}}


def fit_with(*callbacks: pl.Callback, net: pl.LightningModule | None = None, **arguments: Any) -> pl.Trainer:
    fitting = trainer(callbacks, max_epochs=1, **{"enable_progress_bar": True, **arguments})
    fitting.fit(net or SmallNet(), data())
    return fitting


# --------------------------------------------------------------------------------------------------- tqdm
def test_a_fit_with_tqdm_shows_the_sweep_and_then_its_own_bar(capsys: pytest.CaptureFixture[str]) -> None:
    test = sweep()
    fitting = fit_with(TQDMProgressBar(), test)
    shown = capsys.readouterr()
    assert re.search(r"LR range test: +0%\|.*\| 0/20 \[", shown.err)
    assert re.search(r"Epoch 0: 100%\|.*\| 8/8 \[", shown.out)
    assert test.curve is not None
    assert (len(test.curve), fitting.global_step) == (20, 8)


def test_tqdm_shows_steps_and_loss_and_stops_at_the_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pl_onecycle.report.progress.Tqdm", partial(Tqdm, mininterval=0, miniters=0))  # draw every step
    idle = trainer([TQDMProgressBar()], enable_progress_bar=True)
    with progress_bar(idle, 10, "weighing") as advance:
        advance(3, 0.123456)
        advance(10, 20.0)
        advance(11, float("nan"))
    shown = capsys.readouterr()
    drawn = re.findall(r"weighing: +(\d+)%\|.*?\| (\d+/\d+) \[[^\]]*?(?:loss=(\S+))?\]", shown.err)
    assert drawn == [("0", "0/10", ""), ("30", "3/10", "0.123"), ("100", "10/10", "20"), ("100", "10/10", "nan")]
    assert shown.err.split("\r")[-2].strip() == ""  # wiped out
    assert shown.out == ""


def test_an_exception_closes_the_tqdm_bar(capsys: pytest.CaptureFixture[str]) -> None:
    idle = trainer([TQDMProgressBar()], enable_progress_bar=True)

    def fail(done: int) -> None:
        raise RuntimeError(f"at step {done}")

    with pytest.raises(RuntimeError, match="at step 3"), progress_bar(idle, 10, "weighing"):
        fail(3)
    assert "weighing" in capsys.readouterr().err
    assert [bar.desc for bar in Tqdm._instances if "weighing" in str(bar.desc)] == []


# --------------------------------------------------------------------------------------------------- rich
def rich_bar(trainer: pl.Trainer) -> RichProgressBar:
    bar = trainer.progress_bar_callback
    assert isinstance(bar, RichProgressBar)
    return bar


def is_started(trainer: pl.Trainer) -> bool:
    """Whether the Trainer's rich display runs."""
    progress = rich_bar(trainer).progress
    assert progress is not None
    return bool(progress.live.is_started)


class Displays(pl.Callback):
    """Records whether the Trainer's rich display runs at each batch, and what it has counted."""

    def __init__(self) -> None:
        self.started: list[bool] = []
        self.counted: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.started.append(is_started(trainer))
        self.counted.append(rich_bar(trainer).train_progress_bar.completed)


@fits_with_rich
def test_a_fit_with_rich_shows_the_sweep_and_then_its_own_bar(terminal: Terminal) -> None:
    test, displays = sweep(), Displays()
    threads = set(threading.enumerate())
    fitting = fit_with(RichProgressBar(console_kwargs=console(terminal)), test, displays)
    assert test.curve is not None
    assert (len(test.curve), fitting.global_step) == (20, 8)
    of_sweep = [line for line in terminal.lines if line.startswith("LR range test")]
    assert re.match(r"LR range test \S+ +0/20 0:00:\d\d loss$", of_sweep[0])
    assert re.match(rf"LR range test \S+ +20/20 0:00:\d\d loss {test.curve.loss[-1]:.3g}$", of_sweep[-1])
    after = terminal.lines[terminal.lines.index(of_sweep[-1]) + 1 :]
    assert re.match(r"Epoch 0/0 +\S+ 0/8 ", after[0])
    assert re.match(r"Epoch 0/0 +\S+ 8/8 ", after[-1])
    assert displays.started == [True] * 8
    assert displays.counted == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(threading.enumerate()) <= threads  # no refreshing thread is left


def test_rich_without_a_running_fit_shows_steps_and_loss_and_stops_at_the_total(terminal: Terminal) -> None:
    idle = trainer([RichProgressBar()], enable_progress_bar=True)
    with progress_bar(idle, 10, "weighing") as advance:
        advance(12, 0.123456)
    assert re.match(r"weighing \S+ +0/10 0:00:\d\d loss$", terminal.lines[0])
    assert re.match(r"weighing \S+ 10/10 0:00:\d\d loss 0.123$", terminal.lines[-1])
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")  # wiped out: one line up, erased


class Interrupted(pl.Callback):
    """Enters a bar at the start of the epoch, leaves it by an exception, and lets the fit continue."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.caught: list[BaseException] = []
        self.started: list[bool] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started.append(is_started(trainer))
        try:
            with progress_bar(trainer, 10, "weighing") as advance:
                self.started.append(is_started(trainer))
                advance(3, 0.5)
                raise self.error
        except BaseException as error:
            self.caught.append(error)
        self.started.append(is_started(trainer))


@fits_with_rich
@pytest.mark.parametrize("error", [RuntimeError("inside"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_exception_inside_the_block_restarts_richs_bar(terminal: Terminal, error: BaseException) -> None:
    interrupted, displays = Interrupted(error), Displays()
    fit_with(RichProgressBar(console_kwargs=console(terminal)), interrupted, displays)
    assert interrupted.caught == [error]
    assert interrupted.started == [True, False, True]  # before, inside, after
    assert displays.started == [True] * 8
    assert any(re.match(r"weighing \S+ +3/10 ", line) for line in terminal.lines)
    assert re.match(r"Epoch 0/0 +\S+ 8/8 ", terminal.lines[-1])


class Failing(SmallNet):
    """Its fifth training step fails, which is one of the sweep."""

    fails = True

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.fails and batch_idx == 4:
            raise ValueError("the fifth step")
        return super().training_step(batch, batch_idx)


@fits_with_rich
def test_a_failing_sweep_leaves_the_console_free_for_the_next_fit(terminal: Terminal) -> None:
    bar, net = RichProgressBar(console_kwargs=console(terminal)), Failing()
    fitting = trainer([bar, sweep()], max_epochs=1, enable_progress_bar=True)
    with pytest.raises(ValueError, match="the fifth step"):
        fitting.fit(net, data())
    with Progress(transient=True) as another:  # rich allows one display at a time
        another.add_task("free", total=1)
    net.fails = False
    seen = len(terminal.lines)
    again = fit_with(RichProgressBar(console_kwargs=console(terminal)), sweep(), net=net)
    assert again.global_step == 8
    assert any(line.startswith("LR range test") for line in terminal.lines[seen:])
    assert re.match(r"Epoch 0/0 +\S+ 8/8 ", terminal.lines[-1])


# ------------------------------------------------------------------------------------------- how long it takes
def said_of(times: Sequence[float], monkeypatch: pytest.MonkeyPatch, caplog: Any, **arguments: Any) -> list[str]:
    """What is logged by a bar over 150 steps that begins at time 0 and whose steps end at the given times."""
    now = iter([0.0, *times])
    monkeypatch.setattr(time, "monotonic", lambda: next(now, times[-1]))
    with caplog.at_level("INFO"), progress_bar(trainer(enable_progress_bar=False), 150, "weighing", **arguments) as go:
        caplog.clear()
        for k in range(len(times)):
            go(k + 1, 0.5)
    return list(caplog.messages)


def test_the_first_twenty_steps_say_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The clock is first asked in the second step. The first takes 3 s, all others 0.2 s: 3 + 149 * 0.2 = 32.8.
    times = [3 + 0.2 * k for k in range(1, 30)]
    said = said_of(times, monkeypatch, caplog, says_time=True)
    assert said == ["weighing: about 33 s in all at most, by its first 20 steps"]
    assert said_of(times, monkeypatch, caplog) == []


@pytest.mark.parametrize(("pace", "count"), [(0.06, 40), (5.0, 19)], ids=["9 s in all", "too few steps"])
def test_what_is_soon_over_or_not_known_is_not_said(
    pace: float, count: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert said_of([pace * k for k in range(1, count)], monkeypatch, caplog, says_time=True) == []


# ------------------------------------------------------------------------------------------------ no bar
class Counting(ProgressBar):
    """A bar of the user's own, that shows nothing."""

    def disable(self) -> None:
        """Nothing to disable."""


def disabled(bar: ProgressBar) -> ProgressBar:
    bar.disable()
    return bar


@pytest.mark.parametrize(
    ("bar", "arguments"),
    [
        (None, {"enable_progress_bar": False}),
        (partial(TQDMProgressBar, refresh_rate=0), {}),
        (partial(RichProgressBar, refresh_rate=0), {}),
        (lambda: disabled(TQDMProgressBar()), {}),
        (lambda: disabled(RichProgressBar()), {}),
        (Counting, {}),
    ],
    ids=["not enabled", "tqdm rate 0", "rich rate 0", "tqdm disabled", "rich disabled", "another bar"],
)
def test_without_a_bar_nothing_is_shown_and_the_sweep_is_the_same(
    bar: Any, arguments: dict[str, Any], terminal: Terminal, capfd: pytest.CaptureFixture[str]
) -> None:
    test = sweep()
    fitting = fit_with(*([] if bar is None else [bar()]), test, **arguments)
    shown = capfd.readouterr()
    assert not re.search(r"LR range test:|%\||0/20|20/20", shown.out + shown.err)
    assert terminal.getvalue() == ""
    assert test.curve is not None
    assert (len(test.curve), test.curve.outcome, fitting.global_step) == (20, "completed", 8)


class SecondRank(SingleDeviceStrategy):
    """One device that is not the first of several."""

    @property
    def is_global_zero(self) -> bool:
        return False


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
@pytest.mark.parametrize(("strategy", "shows"), [(SingleDeviceStrategy, True), (SecondRank, False)])
def test_only_rank_zero_shows_a_bar(
    bar: type[ProgressBar],
    strategy: type[SingleDeviceStrategy],
    shows: bool,
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ranked = trainer([bar()], enable_progress_bar=True, strategy=strategy())
    with progress_bar(ranked, 10, "weighing") as advance:
        advance(5, 0.5)
    assert ("weighing" in capsys.readouterr().err + terminal.getvalue()) == shows


@pytest.mark.parametrize(
    "bar", [TQDMProgressBar, pytest.param(RichProgressBar, marks=fits_with_rich)], ids=["tqdm", "rich"]
)
def test_the_bar_changes_nothing_in_what_is_measured(bar: type[ProgressBar], terminal: Terminal) -> None:
    tests = sweep(), sweep()
    for test, callbacks in zip(tests, ([], [bar()]), strict=True):
        torch.manual_seed(0)
        fit_with(*callbacks, test, enable_progress_bar=bool(callbacks))
    assert tests[0].curve is not None
    assert tests[0].curve == tests[1].curve
