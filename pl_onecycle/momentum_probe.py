"""`MomentumProbe`, the callback: one short cycle per largest momentum, and the choice between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException
from pl_onecycle.checks import expect_number, plain
from pl_onecycle.optimizer_groups import has_momentum, momentum_of
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.probe import Probe, ProbeMode
from pl_onecycle.run_optimizer import RunOptimizer


class MomentumProbe(Probe):
    """Find the largest momentum of the cycle at the start of a fit, by short cycles, and train with it.

    Works like `WeightDecayProbe` and runs after it. The candidates are values of ``max_momentum``, the momentum at the
    start and the end of a cycle. ``base_momentum``, the smallest momentum of the cycle, stays; it is lowered only for a
    candidate below it. If the difference between candidates is within noise, the probe chooses the run's own value if
    it is among them, else the smallest of them. A run without a momentum cycle is tried, and trained, with a constant
    momentum.

    *Changes* (with ``apply``) the ``max_momentum`` of a `OneCycleScheduler`; without one, the momentum, or beta1, of
    the groups. Groups without momentum, or with momentum 0, stay unchanged.

    Args:
        momentums: Candidates in [0, 1), none twice. The defaults are Smith's; with them the run's own is tried, too.
        num_steps: Optimizer steps of each cycle, >= 10. See `WeightDecayProbe` for this and the other arguments.
        mode: ``"rise"`` or ``"cycle"``.
        max_lr: Peak of the cycle, > ``min_lr``; None for the peak of the run.
        min_lr: Learning rate at the start of the rise, > 0.
        early_stop_threshold: Rise of the loss, in multiples of its fall so far, at which a candidate has diverged;
            None stops early only at a loss that is not finite.
        val_batches: Number of batches of each validation loader.
        monitor: Name of the logged metric that is the validation loss.
        optimizer: Index of the optimizer.
        apply: False only suggests.
        report: False writes no files, and logs no curves and no picture.

    Attributes:
        curves: After a run, momentum -> `LossCurve`.
        suggestion: After a run, a `Choice` with ``value``, ``reason``, ``margin`` and ``noise``, or None.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, if the optimizer has no momentum or no learning rate is known.

    References:
        arXiv:1803.09820, section 4.3. Differs: Smith compares constant momenta; here each candidate is cycled.
    """

    title = "Momentum probe"
    rank = 2
    value_name = "momentum"
    result_name = "max_momentum"
    curve_prefix = "momentum"
    settings = (*Probe.settings, "momentums")
    defaults = (0.9, 0.95, 0.97, 0.99)

    def __init__(
        self,
        momentums: Sequence[float] = defaults,
        num_steps: int = 100,
        *,
        mode: ProbeMode = "rise",
        max_lr: float | None = None,
        min_lr: float = 1e-7,
        early_stop_threshold: float | None = 4.0,
        val_batches: int = 4,
        monitor: str = "val_loss",
        optimizer: int = 0,
        apply: bool = True,
        report: bool = True,
    ) -> None:
        momentums = plain(momentums)
        super().__init__(
            momentums,
            num_steps=num_steps,
            mode=mode,
            max_lr=max_lr,
            min_lr=min_lr,
            early_stop_threshold=early_stop_threshold,
            val_batches=val_batches,
            monitor=monitor,
            optimizer=optimizer,
            apply=apply,
            report=report,
        )
        self.momentums = momentums

    @override
    def _check_candidate(self, value: Any) -> None:
        expect_number("momentums", value, minimum=0, below=1)

    @override
    def _candidates(self, optimizer: Optimizer) -> list[float]:
        if not any(has_momentum(group) for group in optimizer.param_groups):
            raise MisconfigurationException(
                f"MomentumProbe needs an optimizer that trains with momentum, and {type(optimizer).__name__} has none."
            )
        return [float(value) for value in self.momentums]

    @override
    def _policy(self, run: RunOptimizer, cycle: OneCyclePolicy, value: float) -> OneCyclePolicy:
        # The trial matches the later training: a cycle if the run has one, else a constant.
        base = min(cycle.base_momentum, value) if any(run.momentum_cycles) else value
        return replace(cycle, base_momentum=base, max_momentum=value, cycle_momentum=True)

    @override
    def _value_before(self, run: RunOptimizer) -> float:
        cycled = [ends[1] for ends in run.momentum_cycles if ends is not None]
        return max(cycled or [momentum_of(group) or 0.0 for group in run.optimizer.param_groups])

    @override
    def _choose_among_equals(self, values: Sequence[float]) -> float:
        # A large momentum is no advantage in itself.
        return self.before if self.before is not None and self.before in values else min(values)

    @override
    def _use(self, run: RunOptimizer, value: float) -> list[str]:
        return run.use_momentum(value)
