"""`SchedulePicture`: the learning rates and momenta of a run, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pl_onecycle.pictures.colours import BLACK, MOMENTUM, SMOOTH, look_of
from pl_onecycle.pictures.panels import Panel, put_legend, put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.shown import Planned

# Points of a line: more than a panel has pixels that matter.
POINTS = 500


@dataclass(frozen=True)
class SchedulePicture:
    """What the picture of a schedule shows.

    Attributes:
        title: Title of the picture.
        steps: Optimizer steps.
        lrs: Learning rates at these steps, by the name of their line.
        momenta: Momenta at these steps; empty without momentum.
        now: The step at which the run is, or None.
    """

    title: str
    steps: Sequence[int]
    lrs: Mapping[str, Sequence[float]]
    momenta: Sequence[float] = field(default=())
    now: int | None = None

    @classmethod
    def of(cls, policy: Planned, title: str = "planned cycle") -> SchedulePicture:
        """Return the picture of a schedule."""
        steps = steps_shown(policy.total_steps)
        momenta = [momentum for step in steps if (momentum := policy.momentum(step)) is not None]
        return cls(title, steps, {"learning rate": [policy.lr(step) for step in steps]}, momenta)

    @property
    def rows(self) -> list[list[Panel]]:
        """One row of one panel."""
        return [[partial(draw_schedule, picture=self)]]


def steps_shown(total_steps: int) -> list[int]:
    """Return the steps at which a schedule of ``total_steps`` is drawn, both ends among them.

    Example:
        >>> steps_shown(3), len(steps_shown(10**6))
        ([0, 1, 2], 501)
    """
    return sorted({round(i * (total_steps - 1) / POINTS) for i in range(POINTS + 1)})


def draw_schedule(ax: Axes, picture: SchedulePicture, is_alone: bool = True) -> None:
    """Draw learning rates over the steps, and the momenta on an axis of their own at the right."""
    put_title(ax, picture.title)
    ax.set(xlabel="optimizer step", ylabel="learning rate")
    ax.grid(alpha=0.25)
    handles: list[Any] = []
    for k, (name, lrs) in enumerate(picture.lrs.items()):
        look = look_of(k)
        color = SMOOTH if len(picture.lrs) == 1 else look.color
        handles += ax.plot(picture.steps, lrs, color=color, linestyle=look.linestyle, linewidth=2, label=name)
    if picture.now is not None:
        handles += [ax.axvline(picture.now, color=BLACK, linewidth=1, linestyle=":", label=f"now: step {picture.now}")]
    if picture.momenta:
        right = ax.twinx()
        right.set_ylabel("momentum")
        style: dict[str, Any] = {"color": MOMENTUM, "linewidth": 1.5, "linestyle": "--", "label": "momentum"}
        handles += right.plot(picture.steps, picture.momenta, **style)
    put_legend(ax, is_alone, handles)
