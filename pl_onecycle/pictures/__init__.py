"""Pictures of results, and how a notebook shows them.

A pure sink: it knows what it draws by interfaces, so that curves and policies, too, can draw themselves. matplotlib is
imported only to draw.
"""

from pl_onecycle.pictures.card import card
from pl_onecycle.pictures.drawn import Drawable, TuningPicture, draw, draw_results
from pl_onecycle.pictures.panels import can_draw, running_mean
from pl_onecycle.pictures.played import PlayedPicture
from pl_onecycle.pictures.png import png_of
from pl_onecycle.pictures.probe import ProbePicture
from pl_onecycle.pictures.schedule import SchedulePicture, steps_shown
from pl_onecycle.pictures.sweep import SweepPicture

__all__ = [
    "Drawable",
    "PlayedPicture",
    "ProbePicture",
    "SchedulePicture",
    "SweepPicture",
    "TuningPicture",
    "can_draw",
    "card",
    "draw",
    "draw_results",
    "png_of",
    "running_mean",
    "steps_shown",
]
