"""Leslie Smith's disciplined training for PyTorch Lightning.

An LR range test whose result is really used, and one-cycle schedules of learning rate and momentum.
"""

from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.curve import LossCurve
from pl_onecycle.policy import OneCyclePolicy, RangeTestPolicy
from pl_onecycle.range_test import LRRangeTest
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.suggestion import Suggestion, suggest

__all__ = [
    "LRRangeTest",
    "LossCurve",
    "OneCyclePolicy",
    "OneCycleScheduler",
    "RangeTestPolicy",
    "Suggestion",
    "configure_one_cycle",
    "suggest",
]
