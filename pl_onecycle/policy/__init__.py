"""Schedules as frozen values: optimizer step -> learning rate and momentum.

Pure Python; imports neither torch nor Lightning. A policy never touches an optimizer: `scheduler.py`
applies one in training, `trial/driver.py` in a trial.

Steps are optimizer steps, counted from zero: ``lr(k)`` is the learning rate that step ``k`` uses.
Every ``pct_*`` is a fraction of ``total_steps`` in [0, 1].

References:
    Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186 (LR range test).
    Smith, "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820 (1cycle).
    Smith and Topin, "Super-convergence", arXiv:1708.07120.
"""

from pl_onecycle.policy.clock import Clock
from pl_onecycle.policy.one_cycle import OneCyclePolicy
from pl_onecycle.policy.presets import PolicyArguments, Preset, from_preset
from pl_onecycle.policy.segment import Segment, segment_at
from pl_onecycle.policy.shapes import Anneal, Policy, between
from pl_onecycle.policy.sweep import HeldPolicy, RangeTestPolicy, SweepMode

__all__ = [
    "Anneal",
    "Clock",
    "HeldPolicy",
    "OneCyclePolicy",
    "Policy",
    "PolicyArguments",
    "Preset",
    "RangeTestPolicy",
    "Segment",
    "SweepMode",
    "between",
    "from_preset",
    "segment_at",
]
