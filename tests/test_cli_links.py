"""A batch size that links of the command line carry from one object to the other is found, written and trained with."""

from typing import Any

import pytest

pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")

from tests.fits import data
from tests.test_cli import TRAINER, Data, Net, RecordingCLI, Run, found, read, run

__all__ = ["run"]  # the fixture


class Sized(Net):
    """Has a batch size as well, and remembers the one that it was made with."""

    def __init__(self, batch_size: int = 4, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.batch_size = self.made_with = batch_size


class Loads(Sized):
    """Makes its own loader."""

    def train_dataloader(self) -> Any:
        return data(256, self.batch_size)


def to_model(parser: Any, init: str) -> None:
    parser.link_arguments(f"data.{init}batch_size", f"model.{init}batch_size")


def to_model_when_made(parser: Any, init: str) -> None:
    parser.link_arguments("data.batch_size", f"model.{init}batch_size", apply_on="instantiate")


def to_data(parser: Any, init: str) -> None:
    parser.link_arguments(f"model.{init}batch_size", f"data.{init}batch_size")


def from_one_flag(parser: Any, init: str) -> None:
    parser.add_argument("--rows", type=int, default=4)
    parser.link_arguments("rows", f"data.{init}batch_size")
    parser.link_arguments("rows", f"model.{init}batch_size")


def cli_with(link: Any, init: str) -> type[RecordingCLI]:
    class Linked(RecordingCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            link(parser, init)

    return Linked


SEARCH = ["--lr_range_test=false", "--weight_decay_probe=false", "--batch_size=true", "--max_batch_size=64"]
BY_PATH = ["--model=tests.test_cli_links.Sized", "--data=tests.test_cli.Data"]
LINKS = {to_model: "data", to_model_when_made: "data", to_data: "model", from_one_flag: None}


@pytest.mark.parametrize("by_path", [False, True], ids=["classes", "import paths"])
@pytest.mark.parametrize("link", LINKS, ids=lambda it: it.__name__)
def test_what_tune_writes_is_accepted_by_fit_and_reaches_model_and_data(link: Any, by_path: bool, run: Run) -> None:
    kind = cli_with(link, "init_args." if by_path else "")
    words = [*TRAINER, *(BY_PATH if by_path else [])]
    classes = () if by_path else (Sized, Data)
    result, directory = found(run("tune", *words, *SEARCH, classes=classes, kind=kind))
    assert result.batch_size == 64
    written = read(directory / "tuned.yaml")
    written.pop("one_cycle")
    assert written == ({"rows": 64} if LINKS[link] is None else {LINKS[link]: {"batch_size": 64}})
    cli = run("fit", *words, "-c", str(directory / "tuned.yaml"), classes=classes, kind=kind)
    assert set(cli.recorder.batch_sizes) == {64}
    assert cli.model.made_with == cli.datamodule.batch_size == 64


def test_a_batch_size_that_a_function_makes_is_left_out_with_a_warning(run: Run) -> None:
    def link(parser: Any, init: str) -> None:
        parser.add_argument("--rows", type=int, default=16)
        parser.link_arguments("rows", "data.batch_size", compute_fn=lambda rows: rows // 2)

    kind = cli_with(link, "")
    with pytest.warns(UserWarning, match=r"The found batch size 64 is not in tuned.yaml, as a function"):
        _, directory = found(run("tune", *TRAINER, *SEARCH, classes=(Net, Data), kind=kind))
    assert "data" not in read(directory / "tuned.yaml")
    cli = run("fit", *TRAINER, "-c", str(directory / "tuned.yaml"), "--rows=128", classes=(Net, Data), kind=kind)
    assert set(cli.recorder.batch_sizes) == {64}


def test_a_model_that_loads_its_data_needs_no_link(run: Run) -> None:
    _, directory = found(run("tune", *TRAINER, *SEARCH, classes=(Loads,)))
    cli = run("fit", *TRAINER, "-c", str(directory / "tuned.yaml"), classes=(Loads,))
    assert set(cli.recorder.batch_sizes) == {64}
