"""Policies, their values and bad arguments, which the tests of the policies share."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from pl_onecycle.policy import OneCyclePolicy, RangeTestPolicy
from tests import reference

SENTENCE = r"^Expected argument `{}` to be [^\n]+ but got [^\n]+$"
SMITH_100: dict[str, Any] = {"pct_annihilation": 0.1, "final_div_factor": 10.0}
many = settings(deadline=None, database=None, derandomize=True, max_examples=150)


def lrs(policy: OneCyclePolicy | RangeTestPolicy, steps: int | None = None) -> list[float]:
    return [policy.lr(step) for step in range(policy.total_steps if steps is None else steps)]


def momenta(policy: OneCyclePolicy, steps: int | None = None) -> list[float | None]:
    return [policy.momentum(step) for step in range(policy.total_steps if steps is None else steps)]


def lengths(policy: OneCyclePolicy) -> tuple[int, int, int, int]:
    return reference.phase_lengths(policy.total_steps, policy.pct_start, policy.pct_plateau, policy.pct_annihilation)


def bad(arguments: dict[str, tuple[list[Any], list[Any]]]) -> list[tuple[str, Any, type[Exception]]]:
    """Rows (name, value, error) of values outside of the range of each argument, and of values of a wrong type."""
    errors = (ValueError, TypeError)
    return [(n, value, errors[k]) for n, both in arguments.items() for k, values in enumerate(both) for value in values]


@st.composite
def policies(draw: st.DrawFn, max_steps: int = 120) -> OneCyclePolicy:
    """Any legal one-cycle policy without ``decay``."""
    pct_start = draw(st.none() | st.floats(0, 1))
    left = 1 - (pct_start or 0.0)
    pct_plateau = draw(st.floats(0, 1)) * left
    pct_annihilation = draw(st.floats(0, 1)) * (left - pct_plateau)
    div_factor = draw(st.floats(1.01, 1e3))
    base_momentum = draw(st.floats(0, 0.99))
    return OneCyclePolicy(
        max_lr=draw(st.floats(1e-6, 1e2)),
        total_steps=draw(st.integers(1, max_steps)),
        pct_start=pct_start,
        pct_plateau=pct_plateau,
        pct_annihilation=pct_annihilation,
        div_factor=div_factor,
        final_div_factor=draw(st.floats(1.01 / div_factor, 1e6)),
        anneal_strategy=draw(st.sampled_from(["linear", "cos", "cosine", "exponential"])),
        base_momentum=base_momentum,
        max_momentum=draw(st.floats(base_momentum, 0.999)),
    )
