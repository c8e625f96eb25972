"""`OneCycleSettings`: values from outside the module, found earlier or typed, that a run trains with.

They reach `configure_one_cycle` and the optimizer through the Trainer, so that a module needs no change.
"""

from typing import Any

from typing_extensions import Unpack, override

from pl_onecycle._lightning import MisconfigurationException, pl, rank_zero_info
from pl_onecycle.checks import expect, expect_integer, expect_number
from pl_onecycle.optimizer_groups import has_momentum, weight_decay_of
from pl_onecycle.policy import PolicyArguments, Preset, from_preset
from pl_onecycle.run_optimizer import RunOptimizer

_OF_EXP_DECAY = ("rampup_epochs", "sustain_epochs", "exp_decay", "steps_per_epoch")


class OneCycleSettings(pl.Callback):
    """Train with these values instead of the module's; None keeps the module's value.

    *Runs at* ``on_fit_start``, after the optimizer is created and before a checkpoint's state is loaded: a resumed run
    continues with the values of its checkpoint.

    *Changes* the peak learning rate and the weight decay of the optimizer, as `LRRangeTest` and `WeightDecayProbe` do,
    and the schedule that `configure_one_cycle` returns.

    Args:
        max_lr: Peak learning rate, > 0, of the parameter group with the largest one; the ratios between groups stay.
        weight_decay: Largest weight decay of any group, >= 0; groups at 0 stay at 0, unless all groups are at 0.
        preset: Schedule whose defaults are used: ``"smith"``, ``"torch"``, ``"torch_three_phase"``, ``"fastai"`` or
            ``"exp_decay"``.
        optimizer: Index of the optimizer, in the order of ``configure_optimizers``.
        attr_name: Name of the module's learning rate, with dots, that is scaled as the peak is, see `LRRangeTest`.
        tuned_for: Class name of the model that the values were found for; fitting a model of another class is an error.
        arguments: Arguments of the schedule, see `PolicyArguments`. ``max_momentum`` also reaches an optimizer whose
            schedule is another one, or that has none.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, if the values were found for another model or there is nothing that they
            could change.

    Example:
        >>> settings = OneCycleSettings(max_lr=0.1, pct_annihilation=0.2)
        >>> settings.policy_arguments
        {'pct_annihilation': 0.2}
    """

    def __init__(
        self,
        max_lr: float | None = None,
        weight_decay: float | None = None,
        preset: Preset | None = None,
        *,
        optimizer: int = 0,
        attr_name: str = "",
        tuned_for: str | None = None,
        **arguments: Unpack[PolicyArguments],
    ) -> None:
        if max_lr is not None:
            expect_number("max_lr", max_lr, above=0)
        if weight_decay is not None:
            expect_number("weight_decay", weight_decay, minimum=0)
        expect_integer("optimizer", optimizer, minimum=0)
        expect(isinstance(attr_name, str), "attr_name", "the name of an attribute", attr_name, TypeError)
        is_name = tuned_for is None or isinstance(tuned_for, str)
        expect(is_name, "tuned_for", "the name of a class", tuned_for, TypeError)
        for name in arguments.keys() - PolicyArguments.__annotations__.keys():
            raise TypeError(f"OneCycleSettings got an unexpected keyword argument {name!r}")
        self.max_lr = max_lr
        self.weight_decay = weight_decay
        self.preset = preset
        for name in PolicyArguments.__annotations__:
            setattr(self, name, arguments.get(name))
        self.optimizer = optimizer
        self.attr_name = attr_name
        self.tuned_for = tuned_for
        # Checks each argument against defaults that leave it room, because the module may set others.
        own = preset or ("exp_decay" if {*self.policy_arguments} & {*_OF_EXP_DECAY} else "smith")
        room = {"pct_annihilation": 0.0, "base_momentum": 0.0, "max_momentum": 0.9999, "preset": own}
        from_preset(max_lr=1.0, total_steps=100, **{**room, **self.policy_arguments})

    @property
    def policy_arguments(self) -> dict[str, Any]:
        """The schedule arguments that are given, including ``preset``."""
        names = ("preset", *PolicyArguments.__annotations__)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            check_model(pl_module, self.tuned_for, MisconfigurationException)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.max_lr is None and self.weight_decay is None and not self.policy_arguments:
            return
        run = RunOptimizer(trainer, self.optimizer)
        self._check_optimizer(run)
        parts = []
        if self.max_lr is not None:
            parts.append(f"max_lr {self.max_lr:.3g} in {', '.join(run.use_max_lr(self.max_lr, self.attr_name))}")
            if not run.schedulers:
                parts.append("the optimizer has no schedule, so its lr stays at this value")
        if self.weight_decay is not None:
            changed = run.use_weight_decay(self.weight_decay)
            parts.append(f"weight_decay {self.weight_decay:.3g} in {', '.join(changed)}")
        momentum, cycle = self.policy_arguments.get("max_momentum"), run.one_cycle
        is_cycled = cycle is not None and cycle.policy.cycle_momentum and cycle.policy.max_momentum == momentum
        if momentum is not None and not is_cycled:
            run.use_momentum(momentum)
        parts += [f"{name} {value}" for name, value in self.policy_arguments.items()]
        rank_zero_info(f"One-cycle settings: {'; '.join(parts)}.")

    def _check_optimizer(self, run: RunOptimizer) -> None:
        """Raise MisconfigurationException before any value is used, if one of them cannot be."""
        run.check_attribute(self.attr_name)
        if self.weight_decay is not None:
            weight_decay_of(run.optimizer, MisconfigurationException)
        without_schedule = {"max_momentum"} if any(map(has_momentum, run.optimizer.param_groups)) else set()
        takes_settings = run.one_cycle is not None and run.one_cycle.takes_settings
        if {*self.policy_arguments} - without_schedule and not takes_settings:
            raise MisconfigurationException(
                f"The one-cycle settings {sorted(self.policy_arguments)} have no schedule to change:"
                f" `{type(run.trainer.lightning_module).__name__}.configure_optimizers` does not use"
                " `configure_one_cycle`."
            )


def settings_of(module: pl.LightningModule) -> OneCycleSettings:
    """Return the settings of the module's Trainer, or settings that change nothing if it has none."""
    try:
        callbacks = getattr(module.trainer, "callbacks", ())
    except RuntimeError:  # no Trainer
        callbacks = ()
    return next((it for it in callbacks if isinstance(it, OneCycleSettings)), OneCycleSettings())


def check_model(module: pl.LightningModule, tuned_for: str | None, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` if the values were found for another model."""
    name = type(module).__qualname__
    if tuned_for not in (None, name):
        raise error(f"These values were tuned for {tuned_for}, and this model is {name}: tune it, or leave them out.")
