"""Values of fits that compare with ==."""

import random
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils.data.dataloader import _BaseDataLoaderIter


def content(checkpoint: Path) -> Any:
    """What is in a checkpoint, but for the states of callbacks, among which are the finder's."""
    saved = torch.load(checkpoint, weights_only=False)
    return plain({key: value for key, value in saved.items() if key != "callbacks"})


def plain(value: Any) -> Any:
    """Tensors and arrays as lists, all the way down."""
    if is_lazy(value):
        return "uninitialised"
    if hasattr(value, "to_local"):  # a DTensor
        return value.to_local().tolist()
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(type(value))


def states(source: Any, depth: int = 5) -> list[Any]:
    """Numbers, texts and random states in what batches are made by: loaders, samplers, data sets, data modules."""
    if isinstance(source, (bool, int, float, str)):
        return [source]
    if isinstance(source, torch.Generator):
        return [source.get_state().tolist()]
    if isinstance(source, np.random.Generator):
        return [repr(source.bit_generator.state)]
    if isinstance(source, np.random.BitGenerator):
        return [repr(source.state)]
    if depth == 0 or isinstance(source, (type, Tensor, np.ndarray, pl.Trainer, pl.LightningModule)):
        return []
    if isinstance(source, (_BaseDataLoaderIter, SimpleQueue)):  # has processes, locks and file descriptors of its own
        return []
    return [state for part in parts(source) for state in states(part, depth - 1)]


def parts(whole: Any) -> list[Any]:
    if isinstance(whole, (list, tuple)):
        return list(whole)
    named = whole if isinstance(whole, dict) else getattr(whole, "__dict__", {})
    return [part for name, part in named.items() if name != "_iterator"]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key]]


def shape_of(t: Any) -> dict[str, Any]:
    """What of the Trainer a trial substitutes, and the model."""
    module = t.lightning_module
    limits = ("limit_train_batches", "limit_val_batches", "max_epochs", "max_steps", "min_epochs")
    return {
        "callbacks": [id(callback) for callback in t.callbacks],
        "loggers": [id(logger) for logger in t.loggers],
        "limits": {name: getattr(t, name) for name in limits},
        "accumulation": t.accumulate_grad_batches,
        "val_check_batch": getattr(t, "val_check_batch", None),  # not set before the loader is
        "profiler": id(t.profiler),
        "loop": id(t.fit_loop),
        "should_stop": t.should_stop,
        "counters": [t.global_step, t.current_epoch],
        "metrics": plain([t.logged_metrics, t.callback_metrics]),
        "weights": plain(module.state_dict()),
        "buffers": plain(dict(module.named_buffers())),
        "gradients": [None if p.grad is None else plain(p.grad) for p in module.parameters()],
        "frozen": [p.requires_grad for p in module.parameters()],
        "training": [part.training for part in module.modules()],
        "optimizers": [plain(optimizer.state_dict()) for optimizer in t.optimizers],
        "schedulers": [(id(c.scheduler), c.interval, plain(c.scheduler.state_dict())) for c in t.lr_scheduler_configs],
        "scaler": plain(t.precision_plugin.state_dict()),
        "loaders": states(t.train_dataloader),
        "streams": [random.getstate(), plain(np.random.get_state()), torch.get_rng_state().tolist()],
    }
