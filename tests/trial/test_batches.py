"""Sources of batches: which can start over, and what is restored or kept of the others."""

import csv
import io
import itertools
import multiprocessing
import queue
import random
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from pl_onecycle.random_state import RandomState
from pl_onecycle.trial.batches import (
    is_handle,
    is_shared,
    leave_data_alone,
    lives_on,
    moves_on,
    remember_source,
    renew_iterators,
    tape_of,
    walk,
)
from pl_onecycle.trial.memory import Memory
from pl_onecycle.trial.tapes import TakenFirst, begin
from tests.fits import data
from tests.scenarios import sources
from tests.scenarios.compare import states

START_OVER: dict[str, Callable[[], Any]] = {
    "DataLoader": data,
    "shuffling DataLoader": lambda: data(shuffle=True),
    "iterable data set": lambda: DataLoader(sources.Stream(), 32),
    "workers": lambda: DataLoader(sources.Once(), 32, num_workers=2),  # each has a data set of its own
    "data set with state": lambda: DataLoader(sources.CountsEpochs(), 32, collate_fn=sources.Pairs),
    "list of batches": lambda: [*data()],
    "loader of the user's own": sources.OwnLoader,
    "stateful loader": sources.StatefulLoader,
}
RESTORED: dict[str, Callable[[], Any]] = {
    "records of an open file": lambda: DataLoader(sources.Records(), 32),
    "records deep inside": lambda: DataLoader(
        Subset(ConcatDataset([Subset(sources.Records(), range(256))]), range(256)), 32
    ),
    "records in memory": lambda: DataLoader(sources.Records(io.BytesIO(sources.records())), 32),
    "lines of an open file": lambda: DataLoader(sources.Lines(), 32),
    "memory map": lambda: DataLoader(sources.Lines(sources.mapped()), 32),
    "everlasting iterator": lambda: sources.Everlasting(data().dataset, 32, shuffle=True),
    "everlasting iterator, two workers": lambda: sources.Everlasting(data().dataset, 32, shuffle=True, num_workers=2),
}
ONCE: dict[str, Callable[[], Any]] = {
    "iterator": lambda: iter([*data()]),
    "pipe": lambda: DataLoader(sources.Once(), 32),
    "queue": lambda: DataLoader(sources.Queue(), 32),
    "everlasting generator": lambda: sources.Forever(data().dataset, 32),
    "wrapper around one iterator": lambda: sources.AheadOfTime(data()),
    "sampler that continues": lambda: data(sampler=sources.Continues()),
}


@pytest.mark.parametrize("build", START_OVER.values(), ids=START_OVER)
def test_a_loader_that_can_start_over_has_no_tape_and_is_untouched(build: Callable[[], Any]) -> None:
    loader = build()
    before = states(loader), torch.get_rng_state().tolist(), random.getstate()
    assert tape_of(loader, lambda: pytest.fail("asked for a batch")) is None
    assert (states(loader), torch.get_rng_state().tolist(), random.getstate()) == before


@pytest.mark.parametrize("build", ONCE.values(), ids=ONCE)
def test_a_tape_gives_every_batch_of_a_source_that_gives_each_once(build: Callable[[], Any]) -> None:
    expected = [batch[0].tolist() for batch in itertools.islice(build(), 6)]
    loader = build()
    streams = RandomState()
    tape = tape_of(loader, lambda: begin(loader))
    assert tape is not None
    taken = [batch[0].tolist() for batch in itertools.islice(tape, 3)]
    assert taken == expected[:3]
    streams.restore()
    restored = iter(TakenFirst(loader, tape))
    assert [next(restored)[0].tolist() for _ in range(6)] == expected  # the taken ones first


@pytest.mark.parametrize("build", RESTORED.values(), ids=RESTORED)
def test_a_loader_that_reads_files_or_keeps_its_iterator_gives_the_same_batches_after_a_trial(
    build: Callable[[], Any],
) -> None:
    torch.manual_seed(3)
    expected = [batch[0].tolist() for batch in itertools.islice(build(), 5)]
    torch.manual_seed(3)
    loader, streams = build(), torch.get_rng_state()
    assert tape_of(loader, lambda: pytest.fail("asked for a batch")) is None
    memory = Memory()
    leave_data_alone(memory, [loader])
    remember_source(memory, loader, set())
    renew_iterators(loader)
    assert len([*itertools.islice(loader, 6)]) == 6
    memory.restore()
    torch.set_rng_state(streams)
    assert [batch[0].tolist() for batch in itertools.islice(loader, 5)] == expected


def test_the_walk_stops_at_what_runs_or_stands_open() -> None:
    """What is inside is not visited, and so never restored in part."""
    inside = sources.Marked()
    handles = [
        iter([inside]),
        (part for part in [inside]),
        csv.reader(io.StringIO()),
        io.BytesIO(),
        queue.Queue(),
        multiprocessing.Queue(),
        threading.Lock(),
        threading.Thread(args=(inside,)),
        multiprocessing.Process(args=(inside,)),
        iter(DataLoader(sources.Holding(inside))),
    ]
    for handle in handles:
        holder = SimpleNamespace(handle=handle)
        assert [*walk(holder, set())] == [holder, handle]
        assert is_handle(handle)


def test_only_what_cannot_be_put_back_moves_on(tmp_path: Path) -> None:
    (path := tmp_path / "rows").write_bytes(b"rows\n" * 9)
    with (
        path.open("rb") as binary,
        path.open() as text,
        path.open("ab") as log,
        tarfile.open(tmp_path / "rows.tar", "w|") as archive,
    ):
        assert not any(map(moves_on, [binary, text, log, io.BytesIO(), threading.Lock(), threading.Thread()]))
        next(text)  # it no longer says where it stands
        assert all(map(moves_on, [text, iter(binary.readline, b""), queue.Queue(), archive.fileobj]))
        shared = [*map(is_shared, (binary, log, io.BytesIO(), multiprocessing.Queue(), iter([])))]
        assert shared == [True, False, False, True, False]
    assert not moves_on(text)  # closed


def test_workers_have_copies_of_all_but_open_files_and_queues(tmp_path: Path) -> None:
    (path := tmp_path / "rows").write_bytes(b"rows")
    with path.open("rb") as file:
        for part, lives in ((iter([]), False), (file, True), (multiprocessing.Queue(), True)):
            dataset: Any = sources.Holding(part)
            assert lives_on(DataLoader(dataset, num_workers=1)) is lives
    assert lives_on(DataLoader(sources.Holding(iter([]))))
    assert lives_on(data(sampler=sources.Continues(), num_workers=1))


def test_data_are_kept_by_reference_and_what_is_bound_is_restored() -> None:
    rows, huge = torch.zeros(3), [*range(101)]
    dataset = SimpleNamespace(rows=rows, huge=huge, epoch=1, inside=SimpleNamespace(calls=0))
    memory = Memory()
    leave_data_alone(memory, [SimpleNamespace(dataset=dataset)])
    memory.remember([dataset, dataset.inside, huge])  # another object refers to them as well
    rows.fill_(5)
    huge.append(0)
    dataset.epoch, dataset.inside.calls, dataset.rows = 2, 3, None
    memory.restore()
    assert (dataset.epoch, dataset.inside.calls, dataset.rows is rows) == (1, 0, True)
    assert rows.tolist() == [5.0, 5.0, 5.0]
    assert len(huge) == 102


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(lambda: {"sampler": sources.InPlaceSampler()}, id="a list shuffled in place"),
        pytest.param(lambda: {"sampler": sources.AroundASampler()}, id="a sampler inside"),
        pytest.param(lambda: {"shuffle": True, "generator": torch.Generator()}, id="a generator"),
        pytest.param(lambda: {"collate_fn": sources.NoisyCollate()}, id="a collate_fn"),
    ],
)
def test_a_remembered_source_gives_the_same_batches_again(options: Callable[[], dict[str, Any]]) -> None:
    loader = data(**options())
    memory = Memory()
    remember_source(memory, loader, set())
    first = [batch[0].tolist() for batch in loader]
    assert [batch[0].tolist() for batch in loader] != first
    memory.restore()
    assert [batch[0].tolist() for batch in loader] == first
