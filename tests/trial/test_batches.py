"""Sources of batches: which can start over, and what is restored or kept of the others."""

import itertools
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pl_onecycle.trial.batches import TakenFirst, Tape, copied, leave_data_alone, remember_source, tape_of
from pl_onecycle.trial.memory import Memory
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
ONCE: dict[str, Callable[[], Any]] = {
    "iterator": lambda: iter([*data()]),
    "pipe": lambda: DataLoader(sources.Once(), 32),
    "queue": lambda: DataLoader(sources.Queue(), 32),
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
    tape = tape_of(loader, lambda: iter(loader))
    assert tape is not None
    taken = [next(tape)[0].tolist() for _ in range(3)]
    restored = iter(TakenFirst(loader, tape))
    assert taken == expected[:3]
    assert [next(restored)[0].tolist() for _ in range(6)] == expected  # the taken ones first


def test_a_tape_keeps_what_a_batch_was_before_training_wrote_into_it() -> None:
    tape = Tape(iter([torch.ones(2), torch.zeros(2)]), (), ())
    next(tape).mul_(7)
    assert [batch.tolist() for batch in tape.taken] == [[1.0, 1.0]]


def test_batches_that_one_epoch_leaves_go_to_the_next() -> None:
    loader = [10, 11]
    tape = Tape(iter(loader), (), [1, 2, 3])
    assert [next(tape) for _ in range(4)] == [1, 2, 3, 10]
    after = TakenFirst(loader, tape)
    assert [*itertools.islice(after, 2)] == [1, 2]
    assert [*after] == [3, 10, 10, 11]  # this epoch has begun again with the loader
    assert [*after] == [10, 11]
    assert after.index(11) == 1  # other attributes are those of the loader


def test_a_batch_that_cannot_be_copied_is_kept_itself() -> None:
    batch = [threading.Lock()]
    assert copied(batch) is batch
    tensor = torch.ones(2)
    assert copied([tensor])[0] is not tensor


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
