"""A search for the batch size on two processes of which one runs out of memory: none waits, and both agree."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.batch_size_processes import WHERES

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes has seen."""
    folder, processes = tmp_path_factory.mktemp("batch_size_processes"), []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(2):
        given = {"LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {key: str(value) for key, value in given.items()} | {"OMP_NUM_THREADS": "1"}
        root = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-W", "ignore", "-m", "tests.batch_size_processes", str(folder)]
        with (folder / f"log{rank}").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "\n".join((folder / f"log{rank}").read_text()[-3000:] for rank in range(2))
    return [json.loads((folder / f"rank{rank}" / "results.json").read_text()) for rank in range(2)]


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
