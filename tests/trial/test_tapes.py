"""Tapes: what a trial takes from a source that cannot be started over goes to the real run, in the same passes."""

import itertools
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from pl_onecycle.trial.tapes import Draw, Pass, TakenFirst, Tape, begin, copied, iterates_as_torch
from tests.fits import data
from tests.scenarios import sources


def test_a_tape_keeps_what_a_batch_was_before_training_wrote_into_it() -> None:
    tape = Tape([], Pass(iter([torch.ones(2), torch.zeros(2)])))
    next(iter(tape)).mul_(7)
    assert [batch.tolist() for batch, _ in tape.passes[0].taken] == [[1.0, 1.0]]


def test_batches_that_one_epoch_leaves_go_to_the_next() -> None:
    loader = [10, 11]
    tape = Tape(loader, begin(loader), (), [1, 2, 3])
    assert [*itertools.islice(tape, 4)] == [1, 2, 3, 10]
    after = TakenFirst(loader, tape)
    assert [*itertools.islice(after, 2)] == [1, 2]
    assert [*after] == [3, 10, 10, 11]  # this epoch has begun again with the loader
    assert [*after] == [10, 11]
    assert after.index(11) == 1  # other attributes are those of the loader
    assert len(after) == len(tape) == 2


def test_each_epoch_of_the_run_has_the_batches_of_one_pass() -> None:
    stream = itertools.count()
    loader: Any = sources.Slices(stream, 3)
    tape = Tape(loader, begin(loader))
    assert [*tape, *itertools.islice(tape, 2)] == [0, 1, 2, 3, 4]
    after = TakenFirst(loader, tape)
    assert [[*after] for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_each_pass_shuffles_as_the_epoch_of_the_run_does() -> None:
    def epochs(loader: Any, count: int) -> list[Any]:
        given = []
        for epoch in range(4, 4 + count):
            users.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            given.append([batch[0].tolist() for batch in loader])
        return given

    dataset = data().dataset
    users = DataLoader(dataset, 32, sampler=DistributedSampler(dataset, 2, 0))
    expected = epochs(users, 3)
    users.sampler.set_epoch(4)  # type: ignore[attr-defined]
    tape = Tape(users, begin(users), epoch=4)
    assert [[batch[0].tolist() for batch in tape] for _ in range(2)] == expected[:2]
    tape.end()
    assert users.sampler.epoch == 4  # type: ignore[attr-defined]
    assert epochs(TakenFirst(users, tape), 3) == expected


@pytest.mark.parametrize("limit", [{"passes": 2}, {"batches": 6}])
def test_a_tape_takes_no_more_than_the_run_and_then_repeats(limit: dict[str, Any]) -> None:
    stream = itertools.count()
    loader: Any = sources.Slices(stream, 3)
    tape = Tape(loader, begin(loader), **limit)
    assert [[*tape] for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert next(stream) == 6


def test_a_tape_that_nobody_has_asked_leaves_the_source_as_it_is() -> None:
    loader: Any = iter(range(5))
    after = TakenFirst(loader, Tape(loader, Pass(loader), (), [8, 9]))
    assert [*after] == [8, 9, 0, 1, 2, 3, 4]


def test_a_batch_that_cannot_be_copied_is_kept_itself() -> None:
    batch = [threading.Lock()]
    assert copied(batch) is batch
    tensor = torch.ones(2)
    assert copied([tensor])[0] is not tensor


def draw_all() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_what_a_source_has_drawn_is_drawn_again_from_the_same_place() -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draw = Draw()
    draw_all()
    draw.end()
    expected = draw_all()
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    assert draw.repeat()
    assert draw_all() == expected
    following = torch.get_rng_state()
    assert not draw.repeat()  # the streams stand elsewhere, and are left there
    assert torch.equal(torch.get_rng_state(), following)
    assert Draw().end().repeat()  # nothing was drawn


def test_a_run_with_other_random_numbers_than_its_batches_is_warned_of() -> None:
    def noisy() -> Any:
        while True:
            yield torch.rand(2)

    loader = noisy()
    tape = Tape(loader, Pass(loader))
    next(iter(tape))
    torch.rand(1)
    with pytest.warns(UserWarning, match="generator cannot be started over: the run trains with the batches"):
        next(iter(TakenFirst(loader, tape)))


def test_only_loaders_that_make_a_new_iterator_each_time_iterate_as_torch() -> None:
    class Own(DataLoader[Any]):
        def _get_iterator(self) -> Any:
            return super()._get_iterator()

    dataset = data().dataset
    loaders: list[Any] = [data(), [], sources.Everlasting(dataset), Own(dataset)]
    assert [*map(iterates_as_torch, loaders)] == [True, False, False, False]


def test_lightning_ends_the_persistent_workers_of_a_loader_behind_its_tape() -> None:
    loader = data(num_workers=1, persistent_workers=True)
    after = TakenFirst(loader, Tape(loader, begin(loader)))
    assert after._iterator is loader._iterator
    assert loader._iterator is not None
    loader._iterator._shutdown_workers()
    after._iterator = None
    assert loader._iterator is None
    assert not hasattr(TakenFirst([], Tape([], begin([]))), "_iterator")
