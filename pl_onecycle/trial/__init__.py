"""Isolated training steps: run a few, record the loss of each, and leave the run as it was.

`run_trial` trains a few steps and returns their curve; `attempt` trains a few with other loaders and returns whether
they fit into memory; `rehearsed` runs a fit that ends before its first step.
"""

from pl_onecycle.trial.attempt import Attempt, attempt, loaded, use_loaders
from pl_onecycle.trial.checkups import Checkups, validation_loss_in
from pl_onecycle.trial.isolation import rehearsed, warn_of_lost_batches
from pl_onecycle.trial.losses import LossCollector
from pl_onecycle.trial.run import run_trial

__all__ = [
    "Attempt",
    "Checkups",
    "LossCollector",
    "attempt",
    "loaded",
    "rehearsed",
    "run_trial",
    "use_loaders",
    "validation_loss_in",
    "warn_of_lost_batches",
]
