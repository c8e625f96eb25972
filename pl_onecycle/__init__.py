"""Leslie Smith's disciplined training for PyTorch Lightning.

An LR range test whose result is really used, and one-cycle schedules of learning rate and momentum.
"""

from pl_onecycle.choice import Choice
from pl_onecycle.cli import OneCycleCLI
from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.curve import LossCurve
from pl_onecycle.momentum_probe import MomentumProbe
from pl_onecycle.policy import OneCyclePolicy, RangeTestPolicy
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings import OneCycleSettings
from pl_onecycle.suggestion import Suggestion, suggest
from pl_onecycle.tune_result import TuneResult
from pl_onecycle.tuner import OneCycleTrainer, OneCycleTuner
from pl_onecycle.weight_decay_probe import WeightDecayProbe

__all__ = [
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
