"""Isolated training steps: run a few, record the loss of each, and leave the run as it was.

`run_trial` is the way in. `rehearsed` is the other one: a fit that ends before its first step.
"""

from pl_onecycle.trial.agreement import TrialFailedElsewhere
from pl_onecycle.trial.checkups import Checkups
from pl_onecycle.trial.isolation import isolated, rehearsed
from pl_onecycle.trial.recorder import OnStep
from pl_onecycle.trial.run import run_trial

__all__ = ["Checkups", "OnStep", "TrialFailedElsewhere", "isolated", "rehearsed", "run_trial"]
