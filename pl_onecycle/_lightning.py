"""The one room that imports Lightning, so that the package works under either of its names.

Lightning is published as ``lightning`` and as ``pytorch_lightning``; their classes do not mix. The package uses the one
that has been imported before it; where both or none have been, ``lightning`` if that is installed. The environment
variable ``PL_ONECYCLE_LIGHTNING``, set to one of the two names, decides otherwise.

Private names, found alike in 2.4.0 and 2.6.6, and what they are needed for: ``_FitLoop``, ``_TrainingEpochLoop``,
``_DataFetcher`` and ``_select_data_fetcher`` (there is no public way to run a second loop), ``_LoggerConnector`` (owns
the logged metrics), ``_TunerExitException`` (the one way to leave a fit that is not an error to Lightning) and
``_MultiProcessingLauncher`` (to recognize a fit in processes of its own).
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pl_onecycle.checks import expect

VARIABLE = "PL_ONECYCLE_LIGHTNING"
NAMES = ("lightning", "pytorch_lightning")


def _choose() -> str:
    """Return the name of the Lightning to use."""
    asked = os.environ.get(VARIABLE)
    if asked:
        if asked not in NAMES:
            raise ValueError(f"Expected the environment variable `{VARIABLE}` to be one of {NAMES} but got {asked!r}")
        return asked
    installed = [name for name in NAMES if find_spec(name) is not None]
    imported = [name for name in installed if name in sys.modules]
    return (imported if len(imported) == 1 else [*installed, NAMES[0]])[0]


NAME = _choose()
DISTRIBUTION = NAME.replace("_", "-")  # of which the version is reported

if TYPE_CHECKING or NAME == "lightning":
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import GradientAccumulationScheduler, RichProgressBar, Timer, TQDMProgressBar
    from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
    from lightning.pytorch.core.saving import save_hparams_to_yaml
    from lightning.pytorch.loggers import (
        CometLogger,
        CSVLogger,
        Logger,
        MLFlowLogger,
        TensorBoardLogger,
        WandbLogger,
    )
    from lightning.pytorch.loggers.logger import DummyExperiment
    from lightning.pytorch.loops import _FitLoop, _TrainingEpochLoop
    from lightning.pytorch.loops.fetchers import _DataFetcher
    from lightning.pytorch.loops.utilities import _select_data_fetcher
    from lightning.pytorch.profilers import PassThroughProfiler
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
    from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
    from lightning.pytorch.trainer.states import RunningStage
    from lightning.pytorch.utilities import CombinedLoader
    from lightning.pytorch.utilities.data import extract_batch_size
    from lightning.pytorch.utilities.exceptions import MisconfigurationException, _TunerExitException
    from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
else:
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import GradientAccumulationScheduler, RichProgressBar, Timer, TQDMProgressBar
    from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
    from pytorch_lightning.core.saving import save_hparams_to_yaml
    from pytorch_lightning.loggers import (
        CometLogger,
        CSVLogger,
        Logger,
        MLFlowLogger,
        TensorBoardLogger,
        WandbLogger,
    )
    from pytorch_lightning.loggers.logger import DummyExperiment
    from pytorch_lightning.loops import _FitLoop, _TrainingEpochLoop
    from pytorch_lightning.loops.fetchers import _DataFetcher
    from pytorch_lightning.loops.utilities import _select_data_fetcher
    from pytorch_lightning.profilers import PassThroughProfiler
    from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
    from pytorch_lightning.trainer.connectors.logger_connector import _LoggerConnector
    from pytorch_lightning.trainer.states import RunningStage
    from pytorch_lightning.utilities import CombinedLoader
    from pytorch_lightning.utilities.data import extract_batch_size
    from pytorch_lightning.utilities.exceptions import MisconfigurationException, _TunerExitException
    from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
else:

    def __getattr__(name: str) -> Any:
        """Import the command line when it is used: its parser takes a third of the time that all else here does."""
        if name in ("LightningArgumentParser", "LightningCLI", "LRSchedulerTypeUnion", "SaveConfigCallback"):
            return getattr(import_module(f"{pl.__name__}.cli"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def expect_trainer(trainer: Any) -> None:
    """Require a Trainer of the Lightning that the package uses.

    Raises:
        MisconfigurationException: It is a Trainer of the other one.
        TypeError: It is no Trainer.
    """
    _expect(trainer, pl.Trainer, "trainer", "a Trainer")


def expect_module(module: Any, wanted: str, name: str = "module") -> None:
    """Require a LightningModule of the Lightning that the package uses.

    Raises:
        MisconfigurationException: It is a LightningModule of the other one.
        TypeError: It is no LightningModule.
    """
    _expect(module, pl.LightningModule, name, wanted)


def _expect(thing: Any, kind: type, name: str, wanted: str) -> None:
    other = next(it for it in NAMES if it != NAME)
    homes = {base.__module__.partition(".")[0] for base in type(thing).__mro__ if base.__name__ == kind.__name__}
    if other in homes:
        raise MisconfigurationException(
            f"This {kind.__name__} is one of `{other}`, but `pl_onecycle` uses `{NAME}`: import from `{NAME}`, or set"
            f" the environment variable {VARIABLE}={other} before `pl_onecycle` is imported."
        )
    expect(isinstance(thing, kind), name, wanted, type(thing).__name__, TypeError)
