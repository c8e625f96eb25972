"""`OneCycleScheduler`: drive an optimizer along a one-cycle policy.

The only module that writes the learning rates and momenta of a policy in a real training run.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import Unpack, override

from pl_onecycle.checks import expect, expect_bool, expect_number, plain
from pl_onecycle.optimizer_groups import check_lrs, has_momentum, peak_lrs, rescale, write, write_momentum
from pl_onecycle.pictures import SchedulePicture, draw, steps_shown
from pl_onecycle.policy import Clock, OneCyclePolicy, PolicyArguments, Preset, Segment, between, from_preset, segment_at
from pl_onecycle.real_step import after_real_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Simulated:
    """What a schedule writes in a run.

    Attributes:
        lrs: For each parameter group, the learning rate of every step.
        momentum: The momentum of every step, of the groups that have one; empty if it is not cycled.
    """

    lrs: list[list[float]]
    momentum: list[float]

    @property
    def lr(self) -> list[float]:
        """The learning rates of the group with the largest one."""
        return max(self.lrs, key=max)


class OneCycleScheduler(LRScheduler):
    """One cycle of learning rate and momentum for every parameter group, to be stepped after each optimizer step.

    Writes the values of a `OneCyclePolicy` for the next step. They depend on the step alone, so a resumed run
    continues exactly; a run resumed with another length continues without a jump, see `load_state_dict`. After the
    last step the final value is held. Groups keep their ratio to the largest lr; groups added during training (e.g. by
    ``BackboneFinetuning``) keep the ratio they are added with. A group without momentum stays without, a momentum of 0
    stays 0; a tensor lr is written in place.

    Args:
        optimizer: The optimizer; every group needs an ``lr``.
        max_lr: Peak learning rate, > 0: a number for the group with the largest lr, the others keep their ratio to
            it; a sequence with one number for each group; or None for each group's own lr.
        total_steps: Optimizer steps of the whole run, >= 1. None, for a scheduler that is built within a Trainer's fit,
            as ``configure_optimizers`` does: the schedule takes its length from the run and follows it, is stepped
            after every optimizer step whatever interval its config says, and counts real steps only.
        preset: Schedule whose defaults are used, see `from_preset`.
        last_epoch: The step to start from, minus one; -1 starts at step 0.
        only_real_steps: True ignores a call of `step` if the optimizer has not really stepped since the previous call,
            as when the gradient scaler of fp16 skips a step; `configure_one_cycle` sets it. False counts every call.
        arguments: Arguments of the preset, such as ``pct_start`` or ``div_factor``.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range, or a group has no ``lr``.
        MisconfigurationException: ``total_steps`` is None, and no fit builds the scheduler or its length is not known.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> scheduler = OneCycleScheduler(optimizer, max_lr=1.0, total_steps=5, pct_annihilation=0.2)
        >>> for _ in range(6):
        ...     print(f"{optimizer.param_groups[0]['lr']:.5f} {optimizer.param_groups[0]['momentum']:.3f}")
        ...     optimizer.step(); scheduler.step()
        0.10000 0.950
        0.55000 0.900
        1.00000 0.850
        0.55000 0.900
        0.00001 0.950
        0.00001 0.950

    References:
        arXiv:1803.09820, section 4. Differs from torch's ``OneCycleLR``: see `OneCyclePolicy`; a single ``max_lr``
        keeps the ratios of the groups; momentum 0 stays 0.
    """

    # Lets a scheduler that is given no length follow the run that builds it, and returns the steps of that run;
    # `configure` sets it, as this room knows no Trainer.
    follow_run: ClassVar[Callable[["OneCycleScheduler"], int]]

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float] | None = None,
        total_steps: int | None = None,
        *,
        preset: Preset = "smith",
        last_epoch: int = -1,
        only_real_steps: bool = False,
        **arguments: Unpack[PolicyArguments],
    ) -> None:
        check_lrs(optimizer)
        expect_bool("only_real_steps", only_real_steps)
        self.only_real_steps = only_real_steps or total_steps is None
        self.follows_run = False
        self.takes_settings = False
        own = peak_lrs(optimizer)
        max_lrs = _per_group(own if max_lr is None else max_lr, own)
        total_steps = self.follow_run() if total_steps is None else plain(total_steps)
        make: Any = from_preset  # whose arguments mypy counts wrongly in a partial
        self._preset = partial(make, preset, **plain(arguments))
        self._use_policy(self._preset(max(max_lrs), total_steps), Clock())
        self._beyond = self.policy.total_steps - total_steps
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, max_lrs, strict=True):
                _add_to_cycle(group, lr)
        self._in_force = max(last_epoch, 0)  # the step whose values the optimizer holds
        # Shared with a hook of the optimizer, which must not keep the scheduler alive; `super().__init__` steps first.
        self._stepped = {"really": True}
        super().__init__(optimizer, last_epoch)
        self._watch()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run; ``preset="fastai"`` has one more, see `from_preset`."""
        return int(self._clock.step_of(self.policy.total_steps - 1)) + 1

    @property
    def run_steps(self) -> int:
        """Optimizer steps of the run that the cycle is planned for."""
        return self.total_steps - self._beyond

    @property
    def is_behind(self) -> bool:
        """Whether the optimizer has really stepped since the last step of the schedule; False for every call counts."""
        return self.only_real_steps and self._stepped["really"]

    @property
    def max_lrs(self) -> list[float]:
        """The peak learning rate of each group."""
        for group in self.optimizer.param_groups:
            if "cycle_momentum" not in group:
                _add_to_cycle(group, self._peak_of(group))
        return [float(group["max_lr"]) for group in self.optimizer.param_groups]

    def _peak_of(self, group: dict[str, Any]) -> float:
        """Return the peak of a group; the lr of one added during training was set relative to the current ones."""
        if "max_lr" in group:
            return float(group["max_lr"])
        return float(group["lr"]) * self.policy.max_lr / self.policy.lr(self._clock.position(self._in_force))

    def simulate(self) -> Simulated:
        """Return what the schedule writes at each step of the run as it is planned now, without a step.

        Steps before the start of the current cycle, see `restart`, have its first values.

        Example:
            >>> import torch
            >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
            >>> run = OneCycleScheduler(optimizer, total_steps=5, pct_annihilation=0.0, final_div_factor=1.0).simulate()
            >>> [round(lr, 3) for lr in run.lr], [round(momentum, 3) for momentum in run.momentum]
            ([0.1, 0.55, 1.0, 0.55, 0.1], [0.95, 0.9, 0.85, 0.9, 0.95])
        """
        groups = self.optimizer.param_groups
        peaks = [self._peak_of(group) for group in groups]
        policies = {peak: replace(self.policy, max_lr=peak) for peak in peaks if peak > 0}
        positions = [self._clock.position(step) for step in range(self.total_steps)]
        lrs = {peak: [policy.lr(position) for position in positions] for peak, policy in policies.items()}
        has_one = self.policy.cycle_momentum and any(map(has_momentum, groups))
        momenta = [self.policy.momentum(position) for position in positions] if has_one else []
        frozen = [0.0] * len(positions)
        return Simulated([lrs.get(peak, frozen) for peak in peaks], [it for it in momenta if it is not None])

    def plot(self, ax: "Axes | None" = None) -> Any:
        """Draw learning rates and momentum of the whole run as it is planned now, and the current step.

        Args:
            ax: Axes to draw into, instead of a new figure.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        run, steps = self.simulate(), steps_shown(self.total_steps)
        names = ["learning rate"] if len(run.lrs) == 1 else [f"lr of group {k}" for k in range(len(run.lrs))]
        lrs = {name: [lrs[step] for step in steps] for name, lrs in zip(names, run.lrs, strict=True)}
        momenta = [run.momentum[step] for step in steps] if run.momentum else []
        return draw(SchedulePicture("one cycle", steps, lrs, momenta, self.last_epoch or None), ax)

    def set_max_lr(self, max_lr: float | Sequence[float]) -> None:
        """Move the peak to ``max_lr`` from the current step on; the cycle keeps its shape.

        Args:
            max_lr: A number for the group with the largest lr (the others keep their ratio to it), or one for
                each group; > 0.

        Raises:
            TypeError: Not a number.
            ValueError: Out of range, or the length is not the number of groups.
        """
        max_lrs = _per_group(max_lr, self.max_lrs)
        self._use_policy(replace(self.policy, max_lr=max(max_lrs)))
        for group, lr in zip(self.optimizer.param_groups, max_lrs, strict=True):
            group["max_lr"] = lr
        self._write()

    def set_max_momentum(self, momentum: float) -> None:
        """Make ``momentum`` the largest of the cycle from the current step on.

        `base_momentum` is lowered if necessary.

        Args:
            momentum: In [0, 1).

        Raises:
            TypeError: Not a number.
            ValueError: Out of range.
        """
        expect_number("momentum", momentum, minimum=0, below=1)
        base = min(self.policy.base_momentum, momentum)
        self._use_policy(replace(self.policy, base_momentum=base, max_momentum=momentum))
        self._write()

    def restart(self, max_lr: float | Sequence[float] | None = None) -> None:
        """Start a new cycle of the same shape at the current step, over the remaining steps, if there are any.

        Args:
            max_lr: As for `set_max_lr`; None keeps the peaks.

        Raises:
            TypeError: Not a number.
            ValueError: Out of range, or the length is not the number of groups.
        """
        self.set_max_lr(self.max_lrs if max_lr is None else max_lr)
        left = self.total_steps - self.last_epoch
        if left > 0:
            self._use_policy(replace(self.policy, total_steps=left), Clock.started(at=self.last_epoch))
            self._write()

    @override
    def step(self, epoch: int | None = None) -> None:
        """Write the values of the next step; call it once after every optimizer step."""
        stepped = self._stepped
        if self.only_real_steps and epoch is None and not stepped["really"]:
            return
        stepped["really"] = False
        if epoch is None and self._step_count > 1:
            self._step_count += 1
            self.last_epoch += 1
        else:
            super().step(epoch)  # also warns if the optimizer has not stepped before
        self._write()

    @override
    def get_lr(self) -> list[Any]:
        """Return the learning rate of each group at the current step."""
        position = self._clock.position(self.last_epoch)
        rates = {lr: self._policy_of(lr).lr(position) if lr > 0 else 0.0 for lr in set(self.max_lrs)}
        return [rates[lr] for lr in self.max_lrs]

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers, strings and lists."""
        policy = asdict(self.policy)
        return {
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "max_lrs": self.max_lrs,
            "policy": {name: getattr(value, "item", lambda value=value: value)() for name, value in policy.items()},
            "clock": [list(knot) for knot in self._clock.knots],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the saved schedule was, with its shape.

        If the resumed run has another length than the saved one, the rest is replanned without a jump in learning rate
        or momentum: the remaining part of the cycle is stretched evenly over the remaining steps or, if the cycle had
        ended, a new one rises from its last learning rate to the same peak.

        Warns:
            UserWarning: The rest was replanned, or nothing is left to plan.
        """
        wanted = "the state of a OneCycleScheduler"
        is_one = {"policy", "clock"} <= state_dict.keys()
        expect(is_one, "state_dict", wanted, f"one with the keys {sorted(state_dict)}")
        asked = self.total_steps
        clock = Clock(tuple((step, position) for step, position in state_dict["clock"]))
        self._use_policy(OneCyclePolicy(**state_dict["policy"]), clock)
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["step_count"]
        if asked != self.total_steps and not self.follows_run:  # else what follows the run knows its length better
            self._resume(asked)
        for group, lr in zip(self.optimizer.param_groups, state_dict["max_lrs"], strict=False):
            group["max_lr"] = lr
        self._write()

    def replan(self, run_steps: int) -> bool:
        """Plan what is left of the cycle for a run of ``run_steps``, without a jump in learning rate or momentum.

        What is left of it is stretched evenly over the steps that are left. If it had ended, a new cycle rises from the
        last learning rate to the same peak; if it has not begun, it is planned as a new one, unless it
        decays exponentially.

        Args:
            run_steps: Optimizer steps of the whole run.

        Returns:
            Whether there was anything to plan: not where too few steps are left.
        """
        total_steps = run_steps + self._beyond
        saved, step, last = self.total_steps, self.last_epoch, total_steps - 1
        has_ended = step >= saved - 1
        if step >= last - has_ended:  # a new cycle needs three steps to rise and fall
            return False
        if has_ended:
            lr, momentum = self.policy.lr(self.policy.total_steps), self.policy.momentum(self.policy.total_steps)
            again = replace(
                self.policy,
                total_steps=total_steps - step,
                pct_start=self.policy.pct_start or None,  # a cycle that began at its peak now rises to it
                pct_annihilation=0.0,
                div_factor=max(self.policy.max_lr / lr, 1.0),
                final_div_factor=1.0,
                max_momentum=self.policy.max_momentum if momentum is None else momentum,
            )
            self._use_policy(again, Clock.started(at=step))
        elif step == 0 and self.policy.decay is None:  # a decay is one for each step
            new = self._preset(self.policy.max_lr, run_steps)  # a preset may have shares that depend on the length
            shares = {name: getattr(new, name) for name in ("pct_start", "pct_plateau", "pct_annihilation")}
            self._use_policy(replace(self.policy, total_steps=total_steps, **shares), Clock())
        else:
            end = self.policy.total_steps - 1
            joints = [*(phase.start for phase in self.policy.phases), end - self._beyond, end]
            self._use_policy(self.policy, self._clock.stretched(step, joints, last))
        return True

    def _resume(self, total_steps: int) -> None:
        """Plan the rest of a resumed run of ``total_steps``, and warn."""
        saved, step, last = self.total_steps, self.last_epoch, total_steps - 1
        has_ended = step >= saved - 1
        if not self.replan(total_steps - self._beyond):
            now = "which leaves nothing to plan: it continues as saved"
        elif has_ended:
            now = f"at its end: a new cycle rises from its last learning rate and ends with step {last}"
        else:
            now = f"and its remaining part is stretched to end with step {last}"
        rank_zero_warn(
            f"The one-cycle schedule was saved for {saved} steps and is resumed at step {step} in a run of"
            f" {total_steps}, {now}.",
            stacklevel=3,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a copy or a pickle, and register the hook of the optimizer, which neither contains."""
        self.__dict__.update(state)
        self._watch()

    def _watch(self) -> None:
        if self.only_real_steps:
            stepped = self._stepped
            after_real_step(self.optimizer, lambda: stepped.update(really=True))

    def _policy_of(self, max_lr: float) -> OneCyclePolicy:
        if max_lr not in self._policies:
            self._policies[max_lr] = replace(self.policy, max_lr=max_lr)
        return self._policies[max_lr]

    def _use_policy(self, policy: OneCyclePolicy, clock: Clock | None = None) -> None:
        """Plan with another policy, and with another clock if one is given."""
        self.policy = policy
        self._clock: Clock = clock or self._clock
        self._course: _Course | None = None
        self._policies = {policy.max_lr: policy}  # by peak; cached, as a step must be cheap

    def _write(self) -> None:
        """Write the learning rates and momenta of the current step."""
        step, course = self.last_epoch, self._course
        if course is None or not course.segment.first <= step < course.segment.end:
            course = self._enter(step)
        try:
            self._write_groups(course, step)
        except KeyError:  # groups have joined, or have another peak
            self._write_groups(self._enter(step), step)
        self._in_force = step

    def _write_groups(self, course: "_Course", step: int) -> None:
        segment = course.segment
        share = segment.share(step, course.ratio)
        momentum = None if course.momenta is None else between(course.momenta, share)
        rates = {0.0: 0.0}  # of a frozen group
        for peak, (low, high) in course.ends:
            if segment.needs_ratio:
                share = segment.share(step, high / low)
            rates[peak] = high if share == 1 else low + (high - low) * share  # as `between`, without a call
        lrs = self._last_lr = []
        for group in self.optimizer.param_groups:
            lr = rates[group["max_lr"]]
            if type(group["lr"]) is float:  # what `write` does, without a call for each group
                group["lr"] = lr
            else:
                write(group, "lr", lr)
            lrs.append(lr)
            if momentum is not None and group["cycle_momentum"]:
                write_momentum(group, momentum)

    def _enter(self, step: int) -> "_Course":
        """Keep what is the same for all steps of the segment that ``step`` belongs to, and return it."""
        max_lrs = self.max_lrs
        for group, lr in zip(self.optimizer.param_groups, max_lrs, strict=True):
            group["max_lr"] = lr
        segment = segment_at(self.policy, self._clock, step)
        phase = self.policy.phases[segment.phase]
        ends = {lr: self._policy_of(lr).phases[segment.phase].lr for lr in max_lrs if lr > 0}
        momenta = phase.momentum if self.policy.cycle_momentum else None
        self._course = _Course(segment, [*ends.items()], phase.lr[1] / phase.lr[0], momenta)
        return self._course


@dataclass(frozen=True)
class _Course:
    """What all steps of a segment share.

    Attributes:
        segment: The segment.
        ends: Learning rates at the start and at the end of its phase, by peak.
        ratio: Learning rate at the end of the phase, as a multiple of that at its start.
        momenta: Momentum at the start and at the end of the phase, or None if it is not cycled.
    """

    segment: Segment
    ends: list[tuple[float, tuple[float, float]]]
    ratio: float
    momenta: tuple[float, float] | None


def _add_to_cycle(group: dict[str, Any], max_lr: float) -> None:
    """Add a group to the cycle by setting its two keys."""
    group["max_lr"] = max_lr
    group["cycle_momentum"] = has_momentum(group)


def _per_group(max_lr: float | Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return one peak for each group: a number scales ``reference``, a sequence is used as it is."""
    max_lr = plain(max_lr)
    if not isinstance(max_lr, Sequence):
        expect_number("max_lr", max_lr, above=0)
        return [rescale(lr, max(reference), float(max_lr)) for lr in reference]
    expect(len(max_lr) == len(reference), "max_lr", f"one number for each of {len(reference)} groups", max_lr)
    for lr in max_lr:
        expect_number("max_lr", lr, minimum=0)
    expect(max(max_lr) > 0, "max_lr", "> 0 for at least one group", max_lr)
    return [float(lr) for lr in max_lr]
