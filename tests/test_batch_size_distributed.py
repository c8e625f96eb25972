"""A search for the batch size on two processes of which one runs out of memory: none waits, and both agree."""

from typing import Any

import pytest
import torch

from tests.batch_size_processes import WHERES
from tests.processes import one_by_one, seen_by

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes has seen."""
    folder = tmp_path_factory.mktemp("batch_size_processes")
    return seen_by(folder, one_by_one(2), "tests.batch_size_processes")


@pytest.mark.parametrize("where", WHERES)
def test_one_that_runs_out_of_memory_decides_for_both(where: str, results: list[dict[str, Any]]) -> None:
    own = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    other = own if where == "everywhere" else "another process ran out of memory"
    for result, failure in zip(results, (other, own), strict=True):
        assert result[where]["value"] == 16
        assert result[where]["tries"] == [[4, None], [8, None], [16, None], [32, failure]]


@pytest.mark.parametrize("where", WHERES)
def test_both_then_fit_as_if_they_had_begun_with_the_found_size(where: str, results: list[dict[str, Any]]) -> None:
    assert [result[where]["is alike"] for result in results] == [True, True]


def test_tune_finds_the_same_on_both_and_restores_it(results: list[dict[str, Any]]) -> None:
    assert [result["tune"] for result in results] == [{"value": 16, "now": 4}] * 2


@pytest.mark.parametrize("where", WHERES[:3])
def test_another_error_of_one_ends_both(where: str, results: list[dict[str, Any]]) -> None:
    one, other = (result[f"error in {where}"]["said"] for result in results)
    assert one == "TrialFailedElsewhere: Another process failed in the trial; its own error says why."
    assert other.startswith("KeyError: ")
