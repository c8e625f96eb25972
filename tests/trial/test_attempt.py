"""`attempt`: which errors say that memory is exhausted, what a few steps have in memory, and what they leave behind."""

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle.trial import Attempt, attempt, loaded
from pl_onecycle.trial.attempt import is_out_of_memory
from tests.fits import SmallNet, TwoNets, data, same, trainer, weights_of
from tests.trial.made import in_fit


def from_another(error: BaseException) -> Exception:
    wrapped = ValueError("the step failed")
    wrapped.__cause__ = error
    return wrapped


EXHAUSTED = {
    "CUDA": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA, as another type": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in"),
    "HIP": RuntimeError("HIP out of memory. Tried to allocate 1.00 GiB"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB)"),
    "CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "Windows": RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    "shared memory": RuntimeError(
        "DataLoader worker is killed by signal: Bus error. It is possible that dataloader's"
        " workers are out of shared memory."
    ),
    "host": MemoryError(),
    "cause of another": from_another(MemoryError("numpy")),
}
OTHERS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError(),
    RuntimeError("CUDA error: device-side assert triggered"),
    ValueError("out of memory"),
    KeyError("memory"),
    from_another(KeyError("batch")),
]


@pytest.mark.parametrize("error", EXHAUSTED.values(), ids=EXHAUSTED)
def test_what_says_that_memory_is_exhausted(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_what_does_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


# ----------------------------------------------------------------------------------------- what it comes to
held: list["weakref.ref[torch.Tensor]"] = []  # the last tensors of steps


class Fails(SmallNet):
    """Raises at one point of the second step of an attempt."""

    def __init__(self, where: str, error: Exception | None) -> None:
        super().__init__()
        self.where, self.error, self.in_attempt = where, error, False

    def at(self, where: str, batch_idx: int) -> None:
        if self.in_attempt and where == self.where and batch_idx == 1 and self.error is not None:
            raise self.error

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.at("transfer", self.fetched)
        self.fetched += 1
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    fetched = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        activation = torch.ones(1000) * batch[0].mean()
        held.append(weakref.ref(activation))
        self.at("forward", batch_idx)
        loss = super().training_step(batch, batch_idx)
        loss.register_hook(lambda _: self.at("backward", batch_idx))
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.at("optimizer step", batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def attempted(module: Any, its: pl.Trainer) -> Any:
    module.in_attempt = True
    try:
        return attempt(its, lambda: None, 3)
    except Exception as error:
        return error
    finally:
        module.in_attempt = False


class Acts(pl.Callback):
    """Calls a function at the start of training and keeps what it returns."""

    def __init__(self, act: Callable[[pl.Trainer], Any]) -> None:
        self.act, self.returned = act, None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.returned = self.act(trainer)


def fitted(module: Any, act: Callable[[pl.Trainer], Any]) -> tuple[Any, Any]:
    """What an act at the start of a fit returns, and the weights that the fit ends with."""
    pl.seed_everything(0, verbose=False)
    acts = Acts(act)
    trainer([acts]).fit(module, data(shuffle=True))
    return acts.returned, weights_of(module)


@pytest.mark.parametrize(
    "error", [None, EXHAUSTED["CUDA"], EXHAUSTED["host"], OTHERS[0]], ids=["fits", "CUDA", "host", "other"]
)
@pytest.mark.parametrize("where", ["transfer", "forward", "backward", "optimizer step"])
def test_an_attempt_ends_in_its_answer_or_the_users_error_and_the_fit_is_as_without_it(
    where: str, error: Exception | None
) -> None:
    pl.seed_everything(1, verbose=False)
    module = Fails(where, error)
    start = weights_of(module)
    ended, weights = fitted(module, lambda its: attempted(module, its))
    if error is None:
        assert ended == Attempt(None)
    elif error is OTHERS[0]:
        assert ended is error
    else:
        assert ended == Attempt(": ".join([type(error).__name__, *str(error).splitlines()[:1]]))
    other = Fails(where, None)
    other.load_state_dict(start)
    assert same(fitted(other, lambda _: None)[1], weights)


@pytest.mark.parametrize("kind", ["CUDA", "host", "cause of another"])
def test_the_tensors_of_a_failed_step_are_freed_before_the_answer(kind: str) -> None:
    def act(its: pl.Trainer) -> list[bool]:
        held.clear()
        attempted(module, its)
        return [it() is not None for it in held]

    module = Fails("forward", EXHAUSTED[kind])
    assert in_fit(act, module) == [False, False]
    assert EXHAUSTED[kind].__traceback__ is None


# ------------------------------------------------------------------------------------------- how many steps
done: list[str] = []  # in the order in which it was done


class Counting(SmallNet):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        done.append("batch")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        done.append("step")


class Pair(TwoNets):
    """Two optimizers of which the second one steps once in four batches, or never."""

    def __init__(self, every: int) -> None:
        super().__init__(scheduled=False)
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> None:
        done.append("batch")
        optimizers: Any = self.optimizers()
        for index, (net, optimizer) in enumerate(zip(self.nets, optimizers, strict=True)):
            if index == 0 or (self.every and batch_idx % self.every == self.every - 1):
                optimizer.zero_grad()
                self.manual_backward(self.loss_of(net, batch, optimizer))
                optimizer.step()
                done.append("step")


def done_in_attempt(module: pl.LightningModule, **options: Any) -> tuple[int, int]:
    """Batches and steps of an attempt with three steps."""

    def act(its: pl.Trainer) -> list[str]:
        done.clear()
        assert attempt(its, lambda: None, 3) == Attempt(None)
        return done.copy()

    its = in_fit(act, module, **options)
    return its.count("batch"), its.count("step")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (3, 3)),
        ({"accumulate_grad_batches": 2}, (6, 3)),
        ({"accumulate_grad_batches": 50}, (6, 3)),
        ({"limit_train_batches": 1}, (3, 3)),
        ({"max_steps": 1}, (3, 3)),
    ],
    ids=["each batch", "two accumulated", "fifty accumulated", "one batch an epoch", "one step"],
)
def test_it_takes_its_steps_of_two_batches_at_most(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert done_in_attempt(Counting(), **options) == expected


@pytest.mark.parametrize(("every", "expected"), [(1, (3, 6)), (4, (8, 10)), (0, (20, 20))])
def test_each_optimizer_steps_twice_if_it_does_within_twenty_batches(every: int, expected: tuple[int, int]) -> None:
    assert done_in_attempt(Pair(every)) == expected


# --------------------------------------------------------------------------------------------------- loaders
class Chunks(IterableDataset[torch.Tensor]):
    """Makes whole batches itself."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        for _ in range(4):
            yield torch.zeros(self.rows, 8), torch.zeros(self.rows, dtype=torch.long)


class Loading(SmallNet):
    def __init__(self, make: Callable[[int], Any]) -> None:
        super().__init__()
        self.make, self.rows = make, 8

    def train_dataloader(self) -> Any:
        return self.make(self.rows)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return next(self.parameters()).sum()


@pytest.mark.parametrize(
    ("make", "sizes", "rows", "is_short"),
    [
        (lambda rows: data(batch_size=rows), [(16,), (512,)], None, [False, True]),
        (lambda rows: data(batch_size=rows, drop_last=True), [(16,), (512,)], None, [False, True]),
        (lambda rows: [data(16, rows), data(256, rows)], [(16, 16), (512, 512)], None, [False, True]),
        (lambda rows: {"a": data(16, rows), "b": data(1024, rows)}, [(16, 16), (512, 512)], None, [False, False]),
        (lambda rows: DataLoader(Chunks(rows), batch_size=None), [(None,), (None,)], [16, 512], [False, False]),
    ],
    ids=["DataLoader", "drop_last", "two", "one is enough", "whole batches"],
)
def test_what_loaders_say(make: Callable[[int], Any], sizes: Any, rows: Any, is_short: list[bool]) -> None:
    module = Loading(make)

    def act(its: pl.Trainer) -> list[Any]:
        users = its.train_dataloader
        found = [loaded(its, partial(setattr, module, "rows", rows)) for rows in (16, 512)]
        assert (module.rows, its.train_dataloader) == (8, users)
        return found

    acts = Acts(act)
    trainer([acts], max_epochs=1).fit(module)
    returned: Any = acts.returned
    assert [it.sizes for it in returned] == sizes
    assert [it.rows for it in returned] == (rows or [None, None])
    assert [it.shortage == "the data set has no full batch" for it in returned] == is_short
