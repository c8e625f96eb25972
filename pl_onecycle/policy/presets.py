"""Presets: one-cycle schedules of other libraries by name, as `OneCyclePolicy`.

Pure Python. A test pins each preset to the numbers of the library it is named after.
"""

from collections.abc import Callable
from typing import Any, Literal, TypedDict

from pl_onecycle.checks import expect_integer, expect_number, expect_one_of
from pl_onecycle.policy.one_cycle import OneCyclePolicy, whole_steps
from pl_onecycle.policy.shapes import Anneal

Preset = Literal["smith", "torch", "torch_three_phase", "fastai", "exp_decay"]


class PolicyArguments(TypedDict, total=False):
    """Keyword arguments of a one-cycle schedule; None keeps the default of the preset.

    The one list of them: presets, `OneCycleScheduler`, `configure_one_cycle`, `OneCycleSettings` and the command line
    take these.

    Args:
        pct_start: Share of the steps in the rise.
        pct_plateau: Share of the steps held at ``max_lr``.
        pct_annihilation: Share of the steps in the annihilation.
        div_factor: Ratio of peak to initial learning rate, >= 1.
        final_div_factor: Ratio of initial to final learning rate.
        anneal_strategy: Shape of every phase: ``"linear"``, ``"cos"`` or ``"exponential"``.
        cycle_momentum: False leaves momentum unchanged.
        base_momentum: Momentum at the peak of the learning rate, in [0, 1).
        max_momentum: Momentum at the start and at the end, in [0, 1).
        rampup_epochs: For ``"exp_decay"``: epochs of the rise.
        sustain_epochs: For ``"exp_decay"``: epochs at the peak.
        exp_decay: For ``"exp_decay"``: share of the remaining way down that is left after one epoch.
        steps_per_epoch: For ``"exp_decay"``: optimizer steps per epoch.
    """

    pct_start: float | None
    pct_plateau: float | None
    pct_annihilation: float | None
    div_factor: float | None
    final_div_factor: float | None
    anneal_strategy: Anneal | None
    cycle_momentum: bool | None
    base_momentum: float | None
    max_momentum: float | None
    rampup_epochs: float | None
    sustain_epochs: float | None
    exp_decay: float | None
    steps_per_epoch: int | None


def torch_two_phase(max_lr: float, total_steps: int, pct_start: float = 0.3, **arguments: Any) -> OneCyclePolicy:
    """Build the two-phase schedule of ``torch.optim.lr_scheduler.OneCycleLR``.

    Cosine, hi/25 -> hi at step ``pct_start`` * N - 1 -> hi/25/1e4 at step N - 1.
    Differs: every N reaches the peak (in torch only where ``pct_start`` * N is whole), and nothing is
    extrapolated after the end.

    Example:
        >>> policy = torch_two_phase(1.0, 100)
        >>> [round(policy.lr(step), 6) for step in (0, 28, 29, 98, 99, 100)]
        [0.04, 0.997186, 1.0, 0.000507, 4e-06, 4e-06]
    """
    rise = max(_start_steps(pct_start, total_steps) - 1, 0) / total_steps
    defaults: dict[str, Any] = {"div_factor": 25.0, "anneal_strategy": "cos", "pct_annihilation": 0.0}
    return OneCyclePolicy(max_lr, total_steps, rise, **(defaults | arguments))


def torch_three_phase(max_lr: float, total_steps: int, pct_start: float = 0.3, **arguments: Any) -> OneCyclePolicy:
    """Build torch's ``OneCycleLR(three_phase=True)``: legs of ``pct_start`` * N - 1 steps, then annihilation.

    Differs: as `torch_two_phase`; ``pct_start`` > 0.5, where torch never comes back down, is an error.

    Example:
        >>> policy = torch_three_phase(1.0, 100, 0.45, anneal_strategy="linear")
        >>> [round(policy.lr(step), 6) for step in (43, 44, 45, 88, 99)]
        [0.978182, 1.0, 0.978182, 0.04, 4e-06]
    """
    leg = max(_start_steps(pct_start, total_steps, maximum=0.5) - 1, 0)
    rest = (total_steps - 2 * leg) / total_steps
    defaults: dict[str, Any] = {"div_factor": 25.0, "anneal_strategy": "cos", "pct_annihilation": rest}
    return OneCyclePolicy(max_lr, total_steps, leg / total_steps, **(defaults | arguments))


def fastai(max_lr: float, total_steps: int, pct_start: float = 0.25, **arguments: Any) -> OneCyclePolicy:
    """Build the schedule of fastai v2's ``fit_one_cycle``.

    Cosine, hi/25 -> hi at step ``pct_start`` * N -> hi/1e5 at step N, momentum .95 -> .85 -> .95.
    fastai never trains at its last value. So the policy has ``total_steps + 1`` steps, and a run of
    ``total_steps`` uses all but the last, exactly as in fastai.

    Example:
        >>> policy = fastai(1.0, 100)
        >>> [round(policy.lr(step), 6) for step in (0, 25, 99, 100)]
        [0.04, 1.0, 0.000449, 1e-05]
    """
    rise = _start_steps(pct_start, total_steps) / (total_steps + 1)
    div_factor = arguments.pop("div_factor", 25.0)
    expect_number("div_factor", div_factor, minimum=1)
    defaults: dict[str, Any] = {
        "final_div_factor": 1e5 / div_factor,
        "anneal_strategy": "cos",
        "pct_annihilation": 0.0,
    }
    return OneCyclePolicy(max_lr, total_steps + 1, rise, div_factor=div_factor, **(defaults | arguments))


def exp_decay(
    max_lr: float,
    total_steps: int,
    rampup_epochs: float = 6,
    sustain_epochs: float = 0,
    exp_decay: float = 0.5,
    steps_per_epoch: int = 1,
    **arguments: Any,
) -> OneCyclePolicy:
    """Build ramp-up, sustain and exponential decay, the schedule of many TPU recipes.

    hi/2 -> hi over ``rampup_epochs``, hi for ``sustain_epochs``, then each further epoch multiplies the
    distance to hi/2 by ``exp_decay``. Momentum is left unchanged.

    Example:
        By epoch, 1e-3 -> 2e-3 -> 1e-3:

        >>> policy = exp_decay(2e-3, 10)
        >>> [round(policy.lr(epoch), 6) for epoch in (0, 3, 6, 7, 8, 9)]
        [0.001, 0.0015, 0.002, 0.0015, 0.00125, 0.001125]
    """
    expect_integer("total_steps", total_steps, minimum=1)
    expect_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    expect_number("rampup_epochs", rampup_epochs, minimum=0)
    expect_number("sustain_epochs", sustain_epochs, minimum=0)
    expect_number("exp_decay", exp_decay, above=0, maximum=1)
    rise = min(rampup_epochs * steps_per_epoch / total_steps, 1.0)
    plateau = min(sustain_epochs * steps_per_epoch / total_steps, 1.0 - rise)
    defaults: dict[str, Any] = {
        "pct_annihilation": 0.0,
        "div_factor": 2.0,
        "final_div_factor": 1.0,
        "cycle_momentum": False,
    }
    decay = exp_decay ** (1 / steps_per_epoch)
    return OneCyclePolicy(max_lr, total_steps, rise, plateau, decay=decay, **(defaults | arguments))


def from_preset(preset: Preset, max_lr: float, total_steps: int, **arguments: Any) -> OneCyclePolicy:
    """Build the schedule named ``preset``; ``arguments`` that are not None replace its defaults.

    Args:
        preset: ``"smith"`` (the defaults of `OneCyclePolicy`), ``"torch"``, ``"torch_three_phase"``,
            ``"fastai"`` or ``"exp_decay"``.
        max_lr: Learning rate at the peak, > 0.
        total_steps: Optimizer steps of the whole run, >= 1.
        arguments: Any other argument of that preset.

    Raises:
        ValueError: No such preset, or an argument outside its range.
        TypeError: An argument that the preset does not take.

    Example:
        >>> from_preset("torch", 1.0, 100, div_factor=10.0).lr(0)
        0.1
    """
    presets: dict[str, Callable[..., OneCyclePolicy]] = {
        "smith": OneCyclePolicy,
        "torch": torch_two_phase,
        "torch_three_phase": torch_three_phase,
        "fastai": fastai,
        "exp_decay": exp_decay,
    }
    expect_one_of("preset", preset, presets)
    given = {name: value for name, value in arguments.items() if value is not None}
    return presets[preset](max_lr, total_steps, **given)


def _start_steps(pct_start: float, total_steps: int, maximum: float = 1) -> int:
    """Check ``total_steps`` and ``pct_start``, and return the rise in whole steps."""
    expect_integer("total_steps", total_steps, minimum=1)
    expect_number("pct_start", pct_start, minimum=0, maximum=maximum)
    return whole_steps(pct_start, total_steps)
