"""Isolated training steps: run a few, record the loss of each, and leave the run as it was.

`run_trial` trains a few steps and returns their curve; `rehearsed` runs a fit that ends before its first step.
"""

from pl_onecycle.trial.checkups import Checkups
from pl_onecycle.trial.isolation import rehearsed
from pl_onecycle.trial.run import run_trial

__all__ = ["Checkups", "rehearsed", "run_trial"]
