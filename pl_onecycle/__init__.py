"""Leslie Smith's disciplined training for PyTorch Lightning.

An LR range test whose result is really used, and one-cycle schedules of learning rate and momentum.

The words of this package:

- A *policy* is a function from optimizer step to learning rate and momentum.
- A *cycle* is a policy in which the learning rate rises, falls and is annihilated, while momentum does the opposite.
- A *sweep* is a number of optimizer steps during which the learning rate rises, and their losses.
- A *trial* is a number of isolated training steps under a policy: afterwards the run is as if it had not happened.
- A *loss curve* is what a trial records; it yields a *suggestion*, a *choice* or a *refusal*.
- A *range test* is one or more sweeps in trials, and the suggestion that is read from their curve.
- A *probe* is one trial for each candidate of a value, such as weight decay, and the choice between them; the trial is
  a short cycle, by default only its rise.
- A *checkup* is a point in a trial at which validation runs or a metric is recorded, and the trial may end.
- An *attempt* is a trial that only asks whether its steps fit into memory.
- A *finder* is a callback that runs a range test, a probe or attempts and trains with what it finds. A *search* is all
  its trials and the answer read from them.
"""

from typing import TYPE_CHECKING, Any

from pl_onecycle.batch_size_test import BatchSizeTest
from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.curves import Choice, LossCurve, Suggestion, suggest
from pl_onecycle.momentum_probe import MomentumProbe
from pl_onecycle.policy import OneCyclePolicy, RangeTestPolicy
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings_callback import OneCycleSettings
from pl_onecycle.tune_result import TuneResult
from pl_onecycle.tuner import OneCycleTrainer, OneCycleTuner
from pl_onecycle.weight_decay_probe import WeightDecayProbe

if TYPE_CHECKING:
    from pl_onecycle.cli import OneCycleCLI

__all__ = [
    "BatchSizeTest",
    "Choice",
    "LRRangeTest",
    "LossCurve",
    "MomentumProbe",
    "OneCycleCLI",
    "OneCyclePolicy",
    "OneCycleScheduler",
    "OneCycleSettings",
    "OneCycleTrainer",
    "OneCycleTuner",
    "RangeTestPolicy",
    "Suggestion",
    "TuneResult",
    "WeightDecayProbe",
    "configure_one_cycle",
    "suggest",
]


def __getattr__(name: str) -> Any:
    """Import the command line when it is used, as its parser is slow to import; the same for the version."""
    if name == "OneCycleCLI":
        from pl_onecycle.cli import OneCycleCLI

        return OneCycleCLI
    if name == "__version__":
        from importlib.metadata import version

        return version("pl-onecycle")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
