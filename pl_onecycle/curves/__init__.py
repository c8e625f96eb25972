"""Loss curves and what is read from them: suggestions, choices, and the next sweep to run.

Pure maths on numpy: no torch, no Lightning. A trial measures a `LossCurve`; each reader returns its answer, or a
`Refusal` with the reason.
"""

from pl_onecycle.curves.choice import Choice, choose, is_hopeless
from pl_onecycle.curves.curve import LossCurve, Outcome
from pl_onecycle.curves.decay_search import DecaySearch, tolerated_harm
from pl_onecycle.curves.methods import METHODS, Method
from pl_onecycle.curves.noise import Array, ExplosionDetector, first_explosion
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.rounds import Round, level, rounds
from pl_onecycle.curves.search import coarse_sweep, dense_sweep, has_risen, higher_sweep, needs_control
from pl_onecycle.curves.suggestion import Suggestion, noise_hides_fall, read_curve, refusal, suggest
from pl_onecycle.curves.thresholds import BUDGET, CHECKUPS, CYCLES, LARGER_BUDGET, MIN_LOSSES
from pl_onecycle.curves.trough import Trough, find_trough
from pl_onecycle.curves.verification import candidates, compared_cycles, verified

__all__ = [
    "BUDGET",
    "CHECKUPS",
    "CYCLES",
    "LARGER_BUDGET",
    "METHODS",
    "MIN_LOSSES",
    "Array",
    "Choice",
    "DecaySearch",
    "ExplosionDetector",
    "LossCurve",
    "Method",
    "Outcome",
    "Refusal",
    "Round",
    "Suggestion",
    "Trough",
    "candidates",
    "choose",
    "coarse_sweep",
    "compared_cycles",
    "dense_sweep",
    "find_trough",
    "first_explosion",
    "has_risen",
    "higher_sweep",
    "is_hopeless",
    "level",
    "needs_control",
    "noise_hides_fall",
    "read_curve",
    "refusal",
    "rounds",
    "suggest",
    "tolerated_harm",
    "verified",
]
