"""Guards around every test: random streams, threads, working directory and what is left in it."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

from tests import other_lightning

if other_lightning.is_asked_for():
    other_lightning.install()

import lightning.pytorch  # noqa: F401  # sets environment variables, which the guard below would blame on a test
import numpy as np
import pytest
import torch
from hypothesis import settings

# The same examples in every run: a failure is news about the code, not about the draw.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# What Lightning or torch say about a Trainer on small data on a CPU. None of it is about this package.
_NOT_OURS = (
    "ignore:.*does not have many workers.*",
    "ignore:.*The number of training batches .* is smaller than the logging interval.*",
    "ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    "ignore:.*Checkpoint directory .* exists and is not empty.*",
    "ignore:.*Starting from v1.9.0, `tensorboardX` has been removed.*",
    "ignore:.*GPU available but not used.*",
    "ignore:.*module\\(s\\) in eval mode at the start of training.*",
    "ignore:.*pkg_resources is deprecated.*",
    "ignore:.*`torch.jit.script.*` is deprecated.*",
    "ignore:\\s*By default only one JsonargparseDeprecationWarning",
    "ignore:\\s*(``[\\w.]+``|[\\w ]+) was deprecated in v4",  # what Lightning's own CLI calls of jsonargparse
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the warnings above pass; every other one is an error."""
    for item in items:
        for line in _NOT_OURS:
            item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(autouse=True)
def _same_random_streams() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_log_levels() -> Iterator[None]:
    """A test that silences a logger, as the examples do with Lightning's, silences it for itself alone."""
    loggers = [it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger)]
    before = [(logger, logger.level) for logger in loggers]
    logging.getLogger("lightning.pytorch.accelerators.cuda").setLevel(logging.ERROR)  # its lines about devices
    yield
    for logger, level in before:
        if logger.level != level:  # to set one costs a walk through all of them
            logger.setLevel(level)


# What Lightning sets and leaves: by `seed_everything`, and by a strategy with a process group.
_OF_LIGHTNING = {"PL_GLOBAL_SEED", "PL_SEED_WORKERS", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK"}
_OF_LIGHTNING |= {"WORLD_SIZE", "RANK", "TORCHELASTIC_USE_AGENT_STORE"}


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests run in a directory of their own and change no environment variable."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = dict(os.environ)
    yield
    changed = {key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key)}
    # seed_everything and torch's workers tell their children; pytest itself names the running test.
    allowed = {"PYTEST_CURRENT_TEST", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "CUDA_DEVICE_ORDER"}
    for key in changed & _OF_LIGHTNING:
        os.environ.pop(key, None)
    assert changed <= allowed | _OF_LIGHTNING
