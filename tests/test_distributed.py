"""Trials on several processes: really several, on the CPU, each with its own folder; see `several_processes.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from tests.processes import Commands, by_torchrun, one_by_one, seen_by
from tests.several_processes import CASES, STEPS, STRATEGIES

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

INVISIBLE = [case for case in CASES if case not in ("applied", "tune") and not case.startswith("exception")]
RAISING = [case for case in CASES if case.startswith("exception")]


# Sums over three processes or more depend on the order in which they are taken.
FEW = ["shuffled, dropout, BatchNorm", "weight decay probe, validation", "tune", *list(STRATEGIES)[:1]]
EXACT = [*FEW, "accumulation", "test again in epoch 1", "two optimizers", *list(STRATEGIES)[1:]]


def run(folder: Path, commands: Commands, cases: Sequence[str]) -> dict[str, list[Any]]:
    """What each of the processes has seen, by case."""
    seen = seen_by(folder, commands, "tests.several_processes", cases)
    return {case: [one[case] for one in seen] for case in cases}


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of two processes has seen, by case."""
    return run(tmp_path_factory.mktemp("two_processes"), one_by_one(2), [*CASES])


WIDER: dict[str, tuple[Callable[[], Commands], int, list[str]]] = {
    "three processes": (lambda: one_by_one(3), 3, EXACT),
    "four processes": (lambda: one_by_one(4), 4, FEW),
    "two nodes of two processes": (lambda: by_torchrun(2, 2), 4, FEW),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", WIDER)
def test_on_any_number_of_processes_a_fit_with_a_trial_equals_one_without(
    how: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commands, count, cases = WIDER[how]
    seen = run(tmp_path_factory.mktemp(how.replace(" ", "_")), commands(), cases)
    assert {case: [one["differences"] for one in seen[case]] for case in cases} == dict.fromkeys(cases, [[]] * count)
    for case in cases:
        first, *others = (repr(one["suggestion"]) for one in seen[case])
        assert others == [first] * (count - 1)
        with_files = [bool(one["files"]) for one in seen[case]]
        assert with_files == [True] + [False] * (count - 1)


@pytest.mark.parametrize("case", [*INVISIBLE, "tune"])
def test_in_each_process_a_fit_with_a_trial_equals_one_without(case: str, results: dict[str, list[Any]]) -> None:
    assert [result["differences"] for result in results[case]] == [[], []]


@pytest.mark.parametrize("case", INVISIBLE)
def test_all_processes_see_the_same_curve_and_decide_alike(case: str, results: dict[str, list[Any]]) -> None:
    keys = ("losses", "initial", "outcome", "suggestion")
    one, other = ([repr(result[key]) for key in keys] for result in results[case])  # NaN is not equal to itself
    assert one == other
    assert len(set(results[case][0]["losses"])) > 1


def test_the_loss_is_the_mean_over_the_processes(results: dict[str, list[Any]]) -> None:
    one, other = results["shuffled, dropout, BatchNorm"]
    means = [(a + b) / 2 for a, b in zip(one["losses_here"], other["losses_here"], strict=True)]
    assert one["losses_here"] != other["losses_here"]  # each trains on its own half
    assert [one["initial"], *one["losses"]] == pytest.approx(means, rel=1e-6)
    assert len(one["losses"]) == STEPS
    assert one["outcome"] == "completed"


def test_nan_in_one_process_ends_the_curve_of_all_at_the_same_step(results: dict[str, list[Any]]) -> None:
    for result in results["NaN in one process"]:  # from the eighth loss on: the initial one and seven points
        assert result["outcome"] == "diverged"
        assert len(result["losses"]) == 7
        assert result["losses"][-1] != result["losses"][-1]


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("large lr fails")])
def test_an_exception_that_a_large_lr_causes_ends_the_sweep_of_all_as_diverged(
    case: str, results: dict[str, list[Any]]
) -> None:
    for result in results[case]:
        assert result["outcome"] == "diverged"
        assert 10 < len(result["losses"]) < 40
        assert [loss for loss in result["losses"] if loss != loss] == result["losses"][-1:]


def test_all_processes_train_with_the_same_found_lr(results: dict[str, list[Any]]) -> None:
    one, other = results["applied"]
    assert one["suggestion"] == other["suggestion"]
    assert one["lrs"] == other["lrs"]
    assert max(one["lrs"]) == [one["suggestion"]]


def test_files_are_written_once_by_rank_zero(results: dict[str, list[Any]]) -> None:
    one, other = results["applied"]
    assert [name for name in one["files"] if not name.endswith(".png")] == ["curve.csv", "result.json"]
    assert other["files"] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("weight decay probe")])
def test_all_processes_choose_the_same_weight_decay_by_the_same_validation(
    case: str, results: dict[str, list[Any]]
) -> None:
    one, other = results[case]
    assert one["suggestion"] == other["suggestion"]
    assert one["validated"] == other["validated"] == [10, 10]
    assert [name for name in one["files"] if not name.endswith(".png")] == ["curves.csv", "result.json"]
    assert other["files"] == []


def test_all_processes_try_the_same_weight_decays_in_a_search(results: dict[str, list[Any]]) -> None:
    one, other = results["search for a weight decay"]
    assert one["suggestion"] == other["suggestion"]
    assert one["validated"] == other["validated"]
    assert len(one["validated"]) >= 3  # its own and more


def test_all_processes_tune_to_the_same_values_and_train_with_them(results: dict[str, list[Any]]) -> None:
    one, other = results["tune"]
    assert one["suggestion"] == other["suggestion"]
    max_lr, weight_decay, *_ = one["suggestion"]
    assert one["lrs"] == other["lrs"]
    assert max(one["lrs"]) == [pytest.approx(max_lr)]
    assert one["weight_decay"] == other["weight_decay"] == weight_decay


def test_tune_writes_its_files_once_by_rank_zero(results: dict[str, list[Any]]) -> None:
    one, other = results["tune"]
    names = [name for name in one["files"] if not name.endswith(".png")]
    assert names == ["lr_range_test.csv", "report.html", "result.json", "tuned.yaml", "weight_decay_probe.csv"]
    assert one["directory"] is not None
    assert (other["files"], other["directory"]) == ([], None)


@pytest.mark.parametrize("case", RAISING)
def test_an_exception_in_one_process_ends_the_trial_in_all(case: str, results: dict[str, list[Any]]) -> None:
    one, other = results[case]
    assert one["said"] == "TrialFailedElsewhere: Another process failed in the trial; its own error says why."
    assert other["said"].startswith("Broken: ")
    assert 0 <= one["steps"] - other["steps"] <= 1  # the same step: the other failed within it


@pytest.mark.parametrize("case", RAISING)
def test_after_an_exception_in_one_process_all_are_as_before_and_can_fit(
    case: str, results: dict[str, list[Any]]
) -> None:
    for result in results[case]:
        assert result["left changed"] == []
        assert result["differences"] == []


def test_fsdp_cannot_run_on_the_cpu() -> None:
    """Why there is no case for it here; that of FSDP2 stands for sharded parameters."""
    with pytest.raises(ValueError, match="requires a GPU accelerator"):
        pl.Trainer(strategy=FSDPStrategy(), accelerator="cpu", devices=1, logger=False)
    pytest.skip("Lightning runs FSDP on GPUs only")
