"""A search says what it costs before it starts, next to the run that it is for."""

from typing import Any

import lightning.pytorch as pl
import pytest
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle import LRRangeTest, WeightDecayProbe
from pl_onecycle.sentences import duration
from tests.fits import Momentum, SmallNet, data, trainer
from tests.probes import Net


def announced(caplog: pytest.LogCaptureFixture, *callbacks: pl.Callback, **arguments: Any) -> list[str]:
    """What the finders of a fit say before they search; an epoch has 8 batches."""
    module, train, val = (arguments.pop(name, None) for name in ("module", "train", "val"))
    with caplog.at_level("INFO"):
        trainer(callbacks, **arguments).fit(module or SmallNet(), data() if train is None else train, val)
    return [said for said in caplog.messages if ": at most " in said]


FAST: dict[str, Any] = {"num_steps": 10, "report": False}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_epochs": 10}, "10 steps, 1.2 epochs, 12% of the run"),
        ({"max_epochs": 5, "accumulate_grad_batches": 2}, "10 steps, 2.5 epochs, 50% of the run"),
        ({"max_steps": 16, "max_epochs": -1}, "10 steps, 1.2 epochs, 62% of the run"),
        (
            {"max_epochs": 1},
            "10 steps, 1.2 epochs, 1.2 times the run"
            "\n  more than the run itself: pass a smaller `num_steps`, or keep a value once found in your code",
        ),
    ],
    ids=["ten epochs", "accumulated", "by steps", "more than the run"],
)
def test_the_cost_is_said_in_steps_epochs_and_as_a_share_of_the_run(
    arguments: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert announced(caplog, LRRangeTest(**FAST), **arguments) == [f"LR range test: at most {said}"]


def test_where_an_epoch_has_no_length_the_steps_are_all_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            while True:
                yield next(iter(data()))

    loader = DataLoader(Endless(), batch_size=None)
    said = announced(caplog, LRRangeTest(**FAST), train=loader, max_steps=100, max_epochs=-1)
    assert said == ["LR range test: at most 10 steps, 10% of the run"]


def test_a_milestone_is_compared_with_the_rest_and_knows_the_pace_of_the_search_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Kept(pl.Callback):
        seconds: float | None = None

        def on_train_batch_start(self, *_: Any) -> None:
            self.seconds = self.seconds or test.seconds

    test, kept = LRRangeTest(milestones=[2], **FAST), Kept()
    _, again = announced(caplog, test, kept, module=Momentum(), max_epochs=4)
    assert kept.seconds is not None
    paced = duration(10 * kept.seconds / test.steps)  # a sweep takes one step more
    cost = f"10 steps, about {paced}, 1.2 epochs, 62% of the rest of the run"
    assert again == f"LR range test: at most {cost}"


@pytest.mark.parametrize("validates", [False, True])
def test_a_probe_knows_the_pace_of_the_range_test_unless_it_validates(
    validates: bool, caplog: pytest.LogCaptureFixture
) -> None:
    test, probe = LRRangeTest(**FAST), WeightDecayProbe([0.1, 0.2], **FAST, val_batches=int(validates))
    _, said = announced(caplog, test, probe, module=Net(), val=data(64), max_epochs=10)
    assert test.seconds is not None
    about = "" if validates else f", about {duration(2 * 10 * test.seconds / test.steps)}"
    assert said == f"Weight decay probe: at most 20 steps (2 × 10){about}, 2.5 epochs, 25% of the run"
