"""A callback and a logger that write down every call."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from tests.scenarios.record import tensors


class Watcher(pl.Callback):
    """Writes down every hook that it is called with, and the batches."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        hook = super().__getattribute__(name)
        if not (name.startswith("on_") or name in ("setup", "teardown")):
            return hook

        def seen(*args: Any, **kwargs: Any) -> Any:
            batch = kwargs.get("batch", args[3] if "batch_end" in name else args[2] if "batch_start" in name else None)
            sums = "" if batch is None else str([float(part.double().sum()) for part in tensors(batch)])
            self.seen.append(f"{name} {sums}")
            return hook(*args, **kwargs)

        return seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}


class CallList(Logger):
    """Writes down every call."""

    name = "calls"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append(f"log_metrics {metrics} {step}")

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.calls.append(f"log_hyperparams {params}")

    def log_graph(self, *_: Any, **__: Any) -> None:
        self.calls.append("log_graph")

    def save(self) -> None:
        self.calls.append("save")

    def finalize(self, status: str) -> None:
        self.calls.append(f"finalize {status}")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.calls.append("after_save_checkpoint")
