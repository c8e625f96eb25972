"""Run the tests with Lightning under its other name.

The tests import ``lightning.pytorch``. With ``PL_ONECYCLE_LIGHTNING=pytorch_lightning`` in the environment they get the
modules of ``pytorch_lightning`` under that name instead, so that the same tests hold for both. `install` is to be
called before anything imports Lightning.
"""

import importlib
import os
import sys
from types import ModuleType

OTHER = "pytorch_lightning"
# Modules that tests import, and that ``import pytorch_lightning`` does not import by itself.
MORE = ("cli", "plugins.precision", "tuner.tuning", "utilities.compile", "strategies.launchers")


def is_asked_for() -> bool:
    """Whether the tests are to run with the other name."""
    return os.environ.get("PL_ONECYCLE_LIGHTNING") == OTHER


def install() -> None:
    """Let ``lightning.pytorch`` and all below it be ``pytorch_lightning``."""
    for name in ("", *(f".{name}" for name in MORE)):
        importlib.import_module(OTHER + name)
    package = ModuleType("lightning")
    package.__path__ = []
    other = sys.modules[OTHER]
    vars(package).update({name: getattr(other, name) for name in (*other.__all__, "__version__")}, pytorch=other)
    sys.modules["lightning"] = package
    for old, new in ((OTHER, "lightning.pytorch"), ("lightning_fabric", "lightning.fabric")):
        for name in [name for name in sys.modules if name == old or name.startswith(f"{old}.")]:
            sys.modules[name.replace(old, new, 1)] = sys.modules[name]
