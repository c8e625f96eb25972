"""The loss curve of a sweep: raw points, and views of them.

Pure maths on numpy. A trial measures a `LossCurve`; the other rooms here read it. The curve stores raw losses;
smoothed and trimmed losses are views computed on request.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from pl_onecycle.checks import expect, expect_number, expect_one_of
from pl_onecycle.curves.noise import Array, median, median_of_three, noise_of, rebound_unit, start_level
from pl_onecycle.curves.thresholds import BANDWIDTH, START_POINTS
from pl_onecycle.pictures import SweepPicture, card, draw
from pl_onecycle.sentences import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Outcome = Literal["completed", "diverged", "stopped", "risen", "dropped", "overridden"]


@dataclass(frozen=True)
class LossCurve:
    """Losses of a sweep over the learning rate.

    Point k pairs a learning rate with the loss that shows its effect: ``loss[k]`` was measured by the training
    step *after* the update with ``lr[k]``. (Other tools pair it with the loss before that update, which shifts every
    curve one step up the lr axis.)

    Args:
        lr: Learning rates > 0 of the parameter group with the largest one, in the order of the steps.
        loss: Raw losses, one per lr: each the mean over the micro-batches of one optimizer step. The last one may
            be NaN or infinite; it then ended the sweep.
        outcome: How the sweep ended: ``"completed"``, ``"diverged"`` (the loss exploded or was not finite),
            ``"stopped"`` (by the module, or because the data ran out), ``"risen"`` (a coarse sweep has shown enough),
            ``"dropped"`` (it was not worth continuing) or ``"overridden"`` (the module set its own lr).
        initial_loss: The loss before the first update, or None if unknown.
        val_steps: Numbers of optimizer steps after which the validation loss was measured, rising; empty without
            validation.
        val_loss: Validation losses, one per entry of ``val_steps``, each the mean over the same few batches; or values
            of another monitored quantity, in its unit, negated if higher is better.
        control: Losses of the same batches with the weights that they had before the sweep, one per lr; empty without a
            control. The views then show ``loss - control``, raised to the median of ``control``: what makes one batch
            easier than another cancels.

    Raises:
        ValueError: Sequences that belong together differ in length, or a learning rate is not positive and finite.

    Example:
        >>> curve = LossCurve(lr=[0.01, 0.1, 1.0], loss=[2.0, 1.0, float("nan")], outcome="diverged")
        >>> len(curve), curve.loss[1], curve.finite_loss.tolist()
        (3, 1.0, [2.0, 1.0])
    """

    lr: Sequence[float]
    loss: Sequence[float]
    outcome: Outcome = "completed"
    initial_loss: float | None = None
    val_steps: Sequence[int] = ()
    val_loss: Sequence[float] = ()
    control: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Turn the sequences into tuples of floats and check them."""
        kinds = {"lr": float, "loss": float, "val_steps": int, "val_loss": float, "control": float}
        for name, kind in kinds.items():
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        expect(len(self.lr) == len(self.loss), "loss", f"as long as `lr` ({len(self.lr)})", len(self.loss))
        steps = len(self.val_steps)
        expect(steps == len(self.val_loss), "val_loss", f"as long as `val_steps` ({steps})", len(self.val_loss))
        is_whole = len(self.control) in (0, len(self))
        expect(is_whole, "control", f"as long as `lr` ({len(self)}), or empty", len(self.control))
        expect_one_of("outcome", self.outcome, get_args(Outcome))
        for lr in self.lr:
            if not 0 < lr < math.inf:
                expect_number("lr", lr, above=0)

    def __len__(self) -> int:
        return len(self.lr)

    # --------------------------------------------------------------------------------------- views
    @cached_property
    def finite_loss(self) -> Array:
        """The losses before the first one that is NaN or infinite, less their control if there is one, shape (n,)."""
        loss = np.asarray(self.loss, dtype=np.float64)
        if self.control:
            with np.errstate(invalid="ignore", over="ignore"):  # what comes of it is cut off below
                loss = loss - self.control + self._level
        bad = np.flatnonzero(~np.isfinite(loss))
        return loss[: bad[0]] if len(bad) else loss

    @cached_property
    def finite_lr(self) -> Array:
        """The learning rates of `finite_loss`, shape (n,)."""
        return np.asarray(self.lr, dtype=np.float64)[: len(self.finite_loss)]

    @property
    def before(self) -> float | None:
        """The loss before the first update, as `finite_loss` counts it; None if unknown."""
        return self._level if self.control and self.initial_loss is not None else self.initial_loss

    @property
    def _level(self) -> float:
        control = np.asarray(self.control)
        return median(control[np.isfinite(control)])  # a batch may hold a value that is not finite

    def monitored(self) -> "LossCurve":
        """Return the curve of the monitored values, each at the lr of the step before it, instead of the training loss.

        Values measured after the last point, and the loss before the first update, are left out.

        Example:
            >>> curve = LossCurve([0.1, 0.2, 0.3], [3.0, 2.0, 1.0], val_steps=[1, 3], val_loss=[0.5, 0.75])
            >>> curve.monitored().lr, curve.monitored().loss
            ((0.1, 0.3), (0.5, 0.75))
        """
        values = {k: value for k, value in zip(self.val_steps, self.val_loss, strict=True) if k <= len(self)}
        return LossCurve([self.lr[k - 1] for k in values], list(values.values()), self.outcome)

    @property
    def start_points(self) -> int:
        """Number of first losses that set the level before the sweep has an effect."""
        return min(START_POINTS, max(len(self.finite_loss) // 10, 1))

    @cached_property
    def start(self) -> float:
        """The loss before the sweep has an effect: the median of the first few. NaN without losses."""
        first = [] if self.before is None or not math.isfinite(self.before) else [self.before]
        first += self.finite_loss[: self.start_points - len(first)].tolist()
        return start_level(np.asarray(first), len(first)) if first else math.nan

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the raw losses about their trend, from their second differences.

        Robust (median absolute deviation), so neither the fall nor the explosion counts as noise.
        """
        return noise_of(self.finite_loss)

    def _capped(self) -> Array:
        """Return `finite_loss`, shape (n,), lowered to at most start + max(fall, 4 noise).

        The fall is from `start` to the lowest median of three losses in a row.
        """
        if len(self.finite_loss) == 0:
            return self.finite_loss
        fall = max(self.start - float(median_of_three(self.finite_loss).min()), 0.0)
        capped: Array = np.minimum(self.finite_loss, self.start + rebound_unit(fall, self.noise))
        return capped

    def smoothed(self, bandwidth: float = BANDWIDTH) -> Array:
        """Return the smoothed loss at `finite_lr`, shape (n,).

        At every point a straight line is fitted to the losses over log10 lr, weighted by a Gaussian of
        ``bandwidth`` decades around the point. The kernel is symmetric, so unlike a running average the
        result does not lag behind, and a line has no bias at the ends of the curve. Losses far above the
        start level are first lowered to start + max(fall, 4 noise), so that the height of an explosion does not
        move the minimum.

        Args:
            bandwidth: Standard deviation of the kernel in decades of lr, > 0.

        Example:
            >>> LossCurve([1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0]).smoothed(0.5).round(6).tolist()
            [3.0, 2.0, 1.0]
        """
        expect_number("bandwidth", bandwidth, above=0)
        loss = self._capped()
        if len(loss) == 0:
            return loss
        return self._kernel(len(loss), bandwidth).smooth(loss)

    @cached_property
    def residual(self) -> Array:
        """What is left of the losses after `smoothed`, shape (n,); the height of an explosion does not count."""
        left: Array = self._capped() - self.smoothed()
        return left

    def _kernel(self, points: int, bandwidth: float) -> "_Kernel":
        return _Kernel(np.log10(self.lr[:points]), bandwidth)

    def redrawn(self, losses: Array) -> Iterator["LossCurve"]:
        """Yield curves with other losses, shape (draws, n), at `finite_lr`; what depends on the lr is computed once."""
        first = LossCurve(self.finite_lr.tolist(), self.finite_loss.tolist(), initial_loss=self.before)
        shared = vars(first) | {"_kernel": cache(first._kernel)}
        for drawn in losses:
            curve = object.__new__(LossCurve)  # the checks of `first` hold for all
            vars(curve).update(shared, loss=tuple(drawn.tolist()))
            yield curve

    # -------------------------------------------------------------------------------------------- show
    def plot(
        self, ax: "Axes | None" = None, *, log_lr: bool | None = None, skip_start: int = 0, skip_end: int = 0
    ) -> Any:
        """Draw raw and smoothed loss over the lr.

        Args:
            ax: Axes to draw into, instead of a new figure.
            log_lr: Whether the lr is on a log axis; None for the axis on which the sweep was even.
            skip_start: Number of first points to leave out.
            skip_end: Number of last points to leave out.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        skip = (skip_start, skip_end)
        return draw(SweepPicture(self, None, title=self._title, log_lr=log_lr, skip=skip), ax)

    def __repr__(self) -> str:
        return f"LossCurve({self._title})"

    def _repr_html_(self) -> str:
        return card(self._title, draw=self.plot)

    @property
    def _title(self) -> str:
        """The curve in a few words."""
        lrs = f", lr {min(self.lr):.3g} to {max(self.lr):.3g}" if self.lr else ""
        return f"{counted(len(self), 'point')}{lrs}, {self.outcome}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, as saved in checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class _Kernel:
    """Local linear regression at the points x, with a Gaussian kernel: what does not depend on the losses.

    Args:
        x: Points, shape (n,).
        width: Standard deviation of the kernel.
    """

    def __init__(self, x: Array, width: float) -> None:
        distance = x[None, :] - x[:, None]
        weight = np.exp(-0.5 * (distance / width) ** 2)
        weight /= weight.sum(axis=1, keepdims=True)
        self._weight, self._mean = weight, (weight * distance).sum(axis=1)
        spread = (weight * (distance - self._mean[:, None]) ** 2).sum(axis=1)
        self._tilt = weight * (distance - self._mean[:, None])
        self._spread, self._is_spread = spread, spread > 1e-12 * width**2

    def smooth(self, y: Array) -> Array:
        """Return the regression of y, shape (n,)."""
        change = y - y[0]  # so that a large offset costs no precision
        mean = (self._weight * change).sum(axis=1)
        together = (self._tilt * change).sum(axis=1)
        slope = np.divide(together, self._spread, out=np.zeros_like(together), where=self._is_spread)
        fitted: Array = y[0] + mean - slope * self._mean
        return fitted
