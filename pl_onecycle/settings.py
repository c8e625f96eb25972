"""`OneCycleSettings`: values from outside the module, found earlier or typed, that a run trains with.

They reach `configure_one_cycle` and the optimizer through the Trainer, so that a module needs no change.
"""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from pl_onecycle.checks import expect, expect_integer, expect_number
from pl_onecycle.param_groups import weight_decay_of
from pl_onecycle.policy import Anneal
from pl_onecycle.presets import PolicyArguments, Preset, from_preset
from pl_onecycle.schedules import one_cycle_of, optimizer_of, schedulers_of, use_max_lr, use_weight_decay

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
        optimizer: Index of the optimizer, in the order of ``configure_optimizers``.
        tuned_for: Class name of the model that the values were found for; fitting a model of another class is an error.

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
        pct_start: float | None = None,
        pct_plateau: float | None = None,
        pct_annihilation: float | None = None,
        div_factor: float | None = None,
        final_div_factor: float | None = None,
        anneal_strategy: Anneal | None = None,
        cycle_momentum: bool | None = None,
        base_momentum: float | None = None,
        max_momentum: float | None = None,
        rampup_epochs: float | None = None,
        sustain_epochs: float | None = None,
        exp_decay: float | None = None,
        steps_per_epoch: int | None = None,
        optimizer: int = 0,
        tuned_for: str | None = None,
    ) -> None:
        if max_lr is not None:
            expect_number("max_lr", max_lr, above=0)
        if weight_decay is not None:
            expect_number("weight_decay", weight_decay, minimum=0)
        expect_integer("optimizer", optimizer, minimum=0)
        is_name = tuned_for is None or isinstance(tuned_for, str)
        expect(is_name, "tuned_for", "the name of a class", tuned_for, TypeError)
        self.max_lr = max_lr
        self.weight_decay = weight_decay
        self.preset = preset
        self.pct_start = pct_start
        self.pct_plateau = pct_plateau
        self.pct_annihilation = pct_annihilation
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.base_momentum = base_momentum
        self.max_momentum = max_momentum
        self.rampup_epochs = rampup_epochs
        self.sustain_epochs = sustain_epochs
        self.exp_decay = exp_decay
        self.steps_per_epoch = steps_per_epoch
        self.optimizer = optimizer
        self.tuned_for = tuned_for
        # Validate the given arguments only: the module may supply the others, so `room` has values that suit any.
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
        optimizer = optimizer_of(trainer, self.optimizer)
        if self.weight_decay is not None:
            weight_decay_of(optimizer, MisconfigurationException)
        if self.policy_arguments and one_cycle_of(trainer, self.optimizer) is None:
            raise MisconfigurationException(
                f"The one-cycle settings {sorted(self.policy_arguments)} have no schedule to change:"
                f" `{type(pl_module).__name__}.configure_optimizers` does not use `configure_one_cycle`."
            )
        parts = []
        if self.max_lr is not None:
            changed = use_max_lr(trainer, self.optimizer, self.max_lr)
            parts.append(f"max_lr {self.max_lr:.3g} in {', '.join(changed)}")
            if not schedulers_of(trainer, self.optimizer)[0]:
                parts.append("the optimizer has no schedule, so its lr stays at this value")
        if self.weight_decay is not None:
            changed = use_weight_decay(trainer, self.optimizer, self.weight_decay)
            parts.append(f"weight_decay {self.weight_decay:.3g} in {', '.join(changed)}")
        parts += [f"{name} {value}" for name, value in self.policy_arguments.items()]
        rank_zero_info(f"One-cycle settings: {'; '.join(parts)}.")


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
