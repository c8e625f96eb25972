"""What holds for all tests that tune."""

import itertools

import pytest
from torch.utils.data import BatchSampler, DataLoader


@pytest.fixture(autouse=True)
def _data_loaders_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning leaves ``DataLoader`` patched where a module has no data, by which later tests would fail."""
    for kind, name in itertools.product((DataLoader, BatchSampler), ("__init__", "__setattr__", "__delattr__")):
        monkeypatch.setattr(kind, name, getattr(kind, name))


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time; the tests that need one ask for it."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("pl_onecycle.report.report.can_draw", lambda: False)
