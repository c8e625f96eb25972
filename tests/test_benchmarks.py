"""The performance benchmarks count and summarize correctly, and the documentation shows what they have measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not part of a wheel")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the scripts import each other, as they do when they run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def results() -> Any:
    return json.loads((BENCHMARKS / "results.json").read_text())


def test_the_performance_table_of_the_page_is_the_one_that_its_command_writes() -> None:
    import measuring

    page = measuring.PAGE.read_text()
    assert page.count(measuring.START) == page.count(measuring.END) == 1
    assert measuring.with_block(page, results()) == page
    assert f"| {results()['rows'][0]['what']} |" in page


def test_every_missed_target_has_its_reason_and_no_row_is_without_a_verdict() -> None:
    rows = results()["rows"]
    assert len([row for row in rows if row["target"] is not None]) > 20
    for row in rows:
        is_missed = row["target"] is not None and row["median"] > row["target"] * 1.01
        assert row["verdict"].startswith("missed, because " if is_missed else ("met", "no target", "missed, because "))
        assert row["because"] or row["target"] is None
    assert {"cpu", "cores", "gpu", "torch", "lightning", "python"} <= results()["machine"].keys()


def test_a_row_holds_median_and_quartiles() -> None:
    from measuring import Row

    row = Row.of("what", [5, 1, 4, 2, 3], 3.5)
    assert (row.low, row.median, row.high, row.n) == (2, 3, 4, 5)
    assert row.cells() == ["what", "≤ 3.5", "3.00 (2.00 to 4.00)", "5", "-", "met"]
    alone = Row.of("what", [7], unit="ms", reference="floor 2")
    assert alone.cells() == ["what", "-", "7.00 ms (7.00 to 7.00)", "1", "floor 2", "no target"]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.44, "met"),
        (0.4504, "met"),
        (0.4506, "missed, because the floor is 0.2"),
        (9.0, "missed, because the floor is 0.2"),
    ],
    ids=["below", "equal as shown", "above as shown", "far above"],
)
def test_a_target_is_compared_with_the_median_as_it_is_shown(value: float, verdict: str) -> None:
    from measuring import Row

    assert Row.of("what", [value], 0.45, because="the floor is 0.2").verdict == verdict


@pytest.mark.parametrize("power", [0.5, 1.0, 1.22])
def test_the_slope_is_the_exponent_of_growth(power: float) -> None:
    from measuring import slope, slopes

    sizes = [100, 200, 800]
    costs = [3 * size**power for size in sizes]
    assert slope(sizes, costs) == pytest.approx(power)
    columns = {f"ours {size}": [cost, 2 * cost] for size, cost in zip(sizes, costs, strict=True)}
    assert slopes(sizes, columns, "ours") == pytest.approx([power, power])


def test_measures_alternate_in_random_order_after_one_that_is_not_counted() -> None:
    from measuring import interleaved, ratios

    called: list[str] = []

    def measure(name: str) -> float:
        called.append(name)
        return float(len(called))

    values = interleaved({"a": lambda: measure("a"), "b": lambda: measure("b")}, 20)
    pairs = ["".join(called[i : i + 2]) for i in range(0, 42, 2)]
    assert set(pairs) == {"ab", "ba"}
    assert len(values["a"]) == len(values["b"]) == 20
    assert sorted(values["a"] + values["b"]) == [*range(3, 43)]
    assert ratios([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]


def test_reads_of_tensors_are_counted_and_those_of_data_loading_are_not() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    from waits import Reads

    tensor, batches = torch.ones(()), DataLoader(TensorDataset(torch.ones(3)), shuffle=True)
    with Reads() as reads:
        _ = tensor.item(), bool(tensor), float(tensor), int(tensor), tensor.tolist()
        assert torch.equal(tensor, tensor)
        _ = tensor + 1, tensor.clone(), tensor.detach()
    assert reads.count == 6
    with Reads() as reads:
        assert len(list(batches)) == 3
    assert reads.count == 0


def test_a_sweep_reads_its_losses_once_in_a_chunk_and_lightnings_finder_at_every_step() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    from digits_fits import lightnings_finder
    from measuring import alone
    from waits import chunks_of_an_accelerator, fixed, waits_of

    with alone(), chunks_of_an_accelerator():
        waits_of(fixed(2))  # what happens once in a process
        ours = [waits_of(fixed(steps)) for steps in (20, 40)]  # 21 and 41 steps
        theirs = [waits_of(lightnings_finder(steps)) for steps in (20, 40)]
    assert ours == [2, 3]
    assert theirs[1] - theirs[0] == 20


def test_the_chunks_of_a_trial_are_its_own_again_after_the_count() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    from waits import chunks_of_an_accelerator

    from pl_onecycle.trial import recorder

    before = recorder._chunk
    with chunks_of_an_accelerator():
        assert recorder._chunk is not before
    assert recorder._chunk is before


def test_collectives_are_counted_by_name_and_restored() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    pytest.importorskip("torch.distributed")
    from waits import COLLECTIVES, counted_collectives

    before = {name: getattr(torch.distributed, name) for name in (*COLLECTIVES, "barrier")}
    with counted_collectives() as counts:
        for _ in range(2):
            with pytest.raises(ValueError, match="process group"):
                torch.distributed.all_reduce(torch.ones(1))
    assert counts == {"all_reduce": 2}
    assert {name: getattr(torch.distributed, name) for name in before} == before


def test_the_bytes_of_clones_are_added_up() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    from growth import Clones

    tensor = torch.ones(10)
    with Clones() as clones:
        _ = tensor.clone(), tensor + 1, tensor.double().clone()
    assert clones.bytes == 10 * 4 + 10 * 8


def test_the_oracle_of_a_decay_says_how_many_points_it_loses() -> None:
    pytest.importorskip("sklearn", reason="the benchmarks' data come from scikit-learn")
    from weight_decay_oracle import DecayOracle

    accuracies = {"0": [0.8, 0.82], "0.01": [0.9, 0.92], "1": [0.5, 0.5]}
    oracle = DecayOracle({"kind": "cls", "scores": accuracies})
    assert oracle.best == pytest.approx(0.91)
    assert oracle.best_decay == 0.01
    assert [oracle.lost(decay) for decay in (0.01, 0.0, 1.0, 10.0)] == pytest.approx([0, 10, 41, 41])
    assert oracle.lost(0.1) == pytest.approx(20.5)  # half way from 0.01 to 1 on the logarithmic axis
    assert oracle.noise == pytest.approx(0.02 / 2**0.5)  # of the two that lose at most ten points
    assert [oracle.is_worse(0.0, own=0.01), oracle.is_worse(0.01, own=0.0), oracle.is_worse(0.01, own=0.01)] == [
        *(True, False, False)
    ]
    losses = DecayOracle({"kind": "loss", "scores": {"0": [-0.5, -0.5], "0.1": [-0.6, -0.6]}})
    assert losses.lost(0.1) == pytest.approx(20)  # per cent of the best loss
