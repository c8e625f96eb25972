"""Data sets, samplers, loaders and data modules."""

import itertools
import multiprocessing
import random
import struct
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tests.fits import data


class Noisy(Dataset[tuple[Tensor, ...]]):
    """Rows with noise of the named kinds, of every kind by default."""

    def __init__(self, *kinds: str) -> None:
        self.rows = data().dataset
        self.own = np.random.default_rng(5)
        self.calls = 0
        self.kinds = kinds or ("python", "numpy", "torch", "own", "counter")

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        features, label = self.rows[index]
        return features + 0.01 * sum(self.noise(kind) for kind in self.kinds), label

    def noise(self, kind: str) -> float:
        if kind == "counter":
            self.calls += 1
            return self.calls % 7
        draw: dict[str, Callable[[], Any]] = {
            "python": random.random,
            "numpy": np.random.rand,
            "torch": lambda: torch.rand(()),
            "own": self.own.random,
        }
        return float(draw[kind]())


class Wrapped(Noisy):
    """Keeps the noise in a data set inside."""

    def __init__(self) -> None:
        self.dataset = Noisy()

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.dataset[index]


class Stream(IterableDataset[tuple[Tensor, ...]]):
    """Rows one after the other, from the start with every iterator, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rows = data().dataset
        return (rows[i] for i in range(256))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 256


class Once(IterableDataset[tuple[Tensor, ...]]):
    """Gives each of its rows once, however often it is asked for an iterator: a pipe, not a file."""

    def __init__(self) -> None:
        rows = data().dataset
        self.rows = (rows[i % 256] for i in range(5000))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.rows


class Queue(IterableDataset[tuple[Tensor, ...]]):
    """Every new iterator continues where the last one stopped."""

    def __init__(self) -> None:
        rows = data().dataset
        self.rows = iter([rows[i % 256] for i in range(5000)])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield from self.rows


class CountsEpochs(IterableDataset[Any]):
    """Counts its iterators, in a number and in a list, and gives objects that no comparison knows."""

    def __init__(self) -> None:
        self.epoch, self.epochs = 0, [0]

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        self.epochs[0] += 1
        rows: Any = data().dataset
        shift = 0.1 * self.epoch + 0.01 * self.epochs[0]
        return (Pair(rows[i][0] + shift, rows[i][1]) for i in range(256))


@dataclass(frozen=True)
class Pair:
    features: Tensor
    label: Tensor


class Pairs:
    """A batch of a type of the user's own, which compares by identity."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.features = torch.stack([pair.features for pair in pairs])
        self.labels = torch.stack([pair.label for pair in pairs])

    def to(self, device: Any) -> "Pairs":
        return self


# ------------------------------------------------------------------------------------ data that live on
def records() -> bytes:
    """The rows of the shared data, 36 bytes each."""
    rows: Any = data().dataset
    return b"".join(struct.pack("<8fi", *features.tolist(), int(label)) for features, label in rows)


def opened(owner: Any, mode: str = "w+b") -> Any:
    """An open file that no directory knows, closed with its owner."""
    file = tempfile.TemporaryFile(mode)  # noqa: SIM115
    weakref.finalize(owner, _close, file)
    return file


def _close(file: Any) -> None:
    with suppress(OSError):  # a worker has moved the place that it shares, to which the buffer would go back
        file.close()


def opened_records(owner: Any) -> Any:
    """The same with these rows."""
    file = opened(owner)
    file.write(records())
    file.seek(0)
    return file


def mapped() -> Any:
    """A memory map of these rows."""
    memory = mmap(-1, 256 * 36)
    memory.write(records())
    memory.seek(0)
    return memory


def row_of(record: bytes) -> tuple[Tensor, ...]:
    *features, label = struct.unpack("<8fi", record)
    return torch.tensor(features), torch.tensor(label)


class Records(Dataset[tuple[Tensor, ...]]):
    """Reads an open file, and seeks only where it has to."""

    def __init__(self, file: Any = None) -> None:
        self.file, self.position = file or opened_records(self), 0

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index != self.position:
            self.file.seek(index * 36)
        self.position = index + 1
        return row_of(self.file.read(36))


class Lines(IterableDataset[tuple[Tensor, ...]]):
    """Each epoch reads on in an open file where the last one stopped, until its end, and then from its start."""

    def __init__(self, file: Any = None) -> None:
        self.reader = {"file": file or opened_records(self)}

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(200):
            record = self.reader["file"].read(36)
            if not record:
                self.reader["file"].seek(0)
                record = self.reader["file"].read(36)
            yield row_of(record)


class LineByLine(IterableDataset[tuple[Tensor, ...]]):
    """Iterates over an open text file, which then does not know where it stands."""

    def __init__(self) -> None:
        self.file = opened(self, "w+")
        rows: Any = data(5000).dataset
        self.file.writelines(",".join(map(str, [*features.tolist(), int(label)])) + "\n" for features, label in rows)
        self.file.seek(0)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for line in self.file:
            *features, label = line.split(",")
            yield torch.tensor([float(part) for part in features]), torch.tensor(int(label))


def ended_with(owner: Any, iterator: Any) -> Any:
    """Let the workers of an iterator end with its owner; torch waits five seconds for each of a collected cycle."""
    if hasattr(iterator, "_shutdown_workers"):
        weakref.finalize(owner, iterator._shutdown_workers)
    return iterator


class RepeatedForEver:
    """Around a batch sampler, as YOLO's and timm's loaders have it."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.sampler


class Everlasting(DataLoader[Any]):
    """Keeps one iterator, and its workers, for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.count = super().__len__()
        object.__setattr__(self, "batch_sampler", RepeatedForEver(self.batch_sampler))
        self.stream = ended_with(self, super().__iter__())

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        return (next(self.stream) for _ in range(self.count))


class Forever(DataLoader[Any]):
    """Keeps one generator of batches for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream = self.batches()

    def batches(self) -> Iterator[Any]:
        while True:
            yield from super().__iter__()

    def __iter__(self) -> Any:
        return (next(self.stream) for _ in range(len(self)))


class AheadOfTime:
    """Wraps a loader, keeps one iterator over it for ever and one batch at hand."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.stream = loader, iter(loader)
        self.next = self.fetch()

    def fetch(self) -> Any:
        try:
            return next(self.stream)
        except StopIteration:
            self.stream = iter(self.loader)
            return next(self.stream)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            batch, self.next = self.next, self.fetch()
            yield batch


class KeepsInnerWorkers(IterableDataset[tuple[Tensor, ...]]):
    """Draws its rows from a loader inside, which has workers and one iterator for several epochs."""

    def __init__(self) -> None:
        self.stream = ended_with(self, iter(DataLoader(data(5000).dataset, None, num_workers=2)))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return itertools.islice(self.stream, 256)


class SharedQueue(IterableDataset[Any]):
    """Workers take the numbers of their rows from one queue between processes."""

    def __init__(self) -> None:
        self.queue: Any = multiprocessing.SimpleQueue()
        for index in range(2000):
            self.queue.put(index % 256)

    def __len__(self) -> int:
        return 256

    def __iter__(self) -> Iterator[Any]:
        rows = data().dataset
        return (rows[self.queue.get()] for _ in range(256))


class Continues(torch.utils.data.Sampler[int]):
    """Each epoch continues one order without end."""

    def __init__(self) -> None:
        self.order = itertools.cycle(random.Random(1).sample(range(256), 256))

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.order, 200)

    def __len__(self) -> int:
        return 200


class Marked:
    """Any object."""


class Holding(Dataset[Any]):
    """Holds any object."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __len__(self) -> int:
        return 1


class Slices:
    """Each iteration gives the next few of a stream."""

    def __init__(self, stream: Iterator[Any], count: int) -> None:
        self.stream, self.count = stream, count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.stream, self.count)


class InPlaceSampler(torch.utils.data.Sampler[int]):
    """Shuffles its own list in place, as bucketing samplers do."""

    def __init__(self) -> None:
        self.order = list(range(256))
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        random.Random(self.epoch).shuffle(self.order)
        return iter(list(self.order))

    def __len__(self) -> int:
        return 256


class AroundASampler(torch.utils.data.Sampler[int]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.base = torch.utils.data.RandomSampler(range(256), generator=generator)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self.base))

    def __len__(self) -> int:
        return 256


class NoisyCollate:
    """A collate_fn that owns a generator, and a list of more."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(1)
        self.more = [np.random.PCG64(2)]

    def __call__(self, rows: list[Any]) -> Any:
        features, labels = torch.utils.data.default_collate(rows)
        return [features + 0.01 * self.own.random() + 0.01 * (self.more[0].random_raw() % 7), labels]


class AsksItsWorker(IterableDataset[tuple[Tensor, ...]]):
    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker: Any = torch.utils.data.get_worker_info()
        rows = data().dataset
        return iter([rows[i] for i in range(worker.id, 256, worker.num_workers)])


class OwnLoader:
    """Any iterable of batches."""

    def __iter__(self) -> Iterator[Any]:
        return iter(data(shuffle=True))


class StatefulLoader:
    """A loader that can be saved in the middle: knows the epoch it is in and where it stands."""

    def __init__(self) -> None:
        self.batches = list(data())
        self.epoch = self.position = 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch, self.position = self.epoch + 1, 0
        for batch in random.Random(self.epoch).sample(self.batches, len(self.batches)):
            self.position += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class StatefulDataLoader(DataLoader[tuple[Tensor, ...]]):
    """Built like torchdata's: asks the iterator that it has given out last."""

    def __iter__(self) -> Any:
        self._iterator: Any = CountingIterator(super().__iter__())
        return self._iterator

    def state_dict(self) -> dict[str, Any]:
        return {"yielded": self._iterator.yielded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._iterator.yielded = state_dict["yielded"]


class CountingIterator(Iterator[Any]):
    def __init__(self, base: Iterator[Any]) -> None:
        self.base, self.yielded = base, 0

    def __next__(self) -> Any:
        batch = next(self.base)
        self.yielded += 1
        return batch


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return data()

    def val_dataloader(self) -> Any:
        return data(96)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [0.5 * batch[0], batch[1]]


class CountingData(Data):
    """Counts how often it is asked for its loader, and what it hands on; both make its batches larger."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.handed_on = 0

    def train_dataloader(self) -> Any:
        self.asked += 1
        module: Any = self.trainer and self.trainer.lightning_module
        module.record.hooks.append("train_dataloader")  # a hook that may take long
        return super().train_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.handed_on += 1
        return [batch[0] * (1 + 0.01 * self.asked + 0.001 * self.handed_on), batch[1]]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "handed_on": self.handed_on}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)
