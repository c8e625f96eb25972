"""`WeightDecayProbe`, the callback: one short cycle per weight decay, and the choice between them.

Which decays are tried, and which is chosen, is `DecaySearch`'s decision, unless the user names candidates.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException
from pl_onecycle.checks import expect_bool, expect_number, plain
from pl_onecycle.curves import Choice, DecaySearch, Refusal
from pl_onecycle.optimizer_groups import is_decoupled, weight_decay_of, write_weight_decay
from pl_onecycle.probe import Probe, ProbeMode
from pl_onecycle.run_length import epochs_left
from pl_onecycle.run_optimizer import RunOptimizer

# A search takes the steps of at most this many candidates.
SEARCHED = 6
# The smallest decay above the run's own that is tried: far below what hurts. A decoupled decay of that size has less
# effect, as the learning rate scales it and the size of the gradient does not.
START_COUPLED, START_DECOUPLED = 1e-4, 1e-2


class WeightDecayProbe(Probe):
    """Find the weight decay at the start of a fit, by short cycles, and train with it.

    The probe tries candidates in short isolated cycles, from the same weights, with the same batches and random
    numbers, at the learning rates of the run. It begins with the optimizer's own and goes up by decades, from 1e-4 at
    least (AdamW: 1e-2), until a candidate clearly hurts; then it goes back to where none does. At most ``6 num_steps``
    optimizer steps, which is logged before the search starts.

    A candidate hurts if it diverges, or if its training or validation loss ends higher than with the smallest one, by
    more than is tolerated and than noise explains. Tolerated is a share of the fall of the training loss, and of the
    fall or the level of the validation loss, whichever is less: 0.3 % for each epoch of the run, at least 0.6 % and at
    most 5 %, as decay is good for runs that see each sample often, and a short cycle does not show what for; a quarter
    of the epochs count where validation ends no higher than training. The probe chooses the largest candidate that
    costs no more. The optimizer's own stays, 0 included, where nothing hurts and validation does not clearly prefer
    another. A candidate that is clearly worse for long enough is stopped early.

    With ``weight_decays`` given as numbers these are compared, and the one whose loss ends lowest is chosen: validation
    loss if there is a validation loader, else training loss; within noise the largest, or with ``"around"`` the
    optimizer's own.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, after an `LRRangeTest` of the same
    Trainer, whatever their order in the list of callbacks; it then uses the learning rates that the test found. Skipped
    with ``fast_dev_run``; a resumed fit continues with the result in its checkpoint.

    *Changes* (with ``apply``) the ``weight_decay`` of the optimizer's groups, coupled (SGD, Adam) or decoupled (AdamW):
    groups at 0 stay at 0 and the others keep their ratios; if all groups are at 0, all get the value. With one
    optimizer also the module's ``weight_decay`` or ``wd``, and those in ``hparams``, by the same factor, where the
    module's code uses them.

    *Restores* everything else, as `LRRangeTest` does. Validation runs the module's ``validation_step`` and its hooks.

    Args:
        weight_decays: ``"search"``, see above; or candidates >= 0, none twice, such as Smith's for an unknown problem,
            ``(1e-3, 1e-4, 1e-5, 0.0)``; or ``"around"``: the optimizer's own and its two neighbours that halve the
            exponent, e.g. 3e-4, 1e-4 and 3e-5.
        num_steps: Optimizer steps of each cycle, >= 10.
        mode: ``"rise"``: the lr rises linearly from ``min_lr`` to ``max_lr`` while momentum falls. ``"cycle"``: the
            run's whole cycle, up, down and annihilated, in ``num_steps``.
        max_lr: Peak of the cycle, > ``min_lr``; None for the peak of the run: the one that an `LRRangeTest` found, or
            the optimizer's own.
        min_lr: Learning rate at the start of the rise, > 0; the default is that of a range test.
        refine: True also tries the two neighbours of the best of several candidates, if it is clearly the best; the
            search refines by itself.
        early_stop_threshold: Rise of the loss, in multiples of its fall so far, at which a candidate has diverged and
            is discarded, see `first_explosion`. None stops early only at a loss that is not finite.
        val_batches: Number of batches of each validation loader, the same at each of ten checkups; with 0 the training
            loss decides.
        monitor: Name of the logged metric that is the validation loss; if it is not logged, the return value of
            ``validation_step`` is used. In place of ``"val_loss"`` a name such as ``val/loss`` or ``valid_loss`` is
            recognized, and what an EarlyStopping, a ModelCheckpoint or the scheduler's config monitors, if validation
            logs it and it should be low.
        optimizer: Index of the optimizer whose weight decay is found, in the order of ``configure_optimizers``.
        apply: False only suggests.
        report: False writes no files, and logs no curves and no picture.

    Attributes:
        curves: After a run, weight decay -> `LossCurve`.
        suggestion: After a run, a `Choice` with ``value``, ``reason``, ``margin`` and ``noise``, or None.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, if the module has no such optimizer, the optimizer has no weight decay,
            or no learning rate is known.

    Example:
        >>> probe = WeightDecayProbe((1e-3, 1e-4))  # for Trainer(callbacks=[LRRangeTest(), probe])
        >>> probe.num_steps, probe.mode
        (100, 'rise')

    References:
        arXiv:1803.09820, section 4.4. Differs: Smith compares by eye the validation and training loss of
        whole range tests; here the cycle ends at ``max_lr``, so that only unsuitable candidates diverge. The search
        is measured in ``benchmarks/weight_decay.py``.
    """

    title = "Weight decay probe"
    rank = 1
    value_name = "weight_decay"
    result_name = "weight_decay"
    curve_prefix = "wd"
    accepted_words = ("search", "around")
    settings = (*Probe.settings, "weight_decays")

    def __init__(
        self,
        weight_decays: Sequence[float] | Literal["search", "around"] = "search",
        num_steps: int = 100,
        *,
        mode: ProbeMode = "rise",
        max_lr: float | None = None,
        min_lr: float = 1e-7,
        refine: bool = False,
        early_stop_threshold: float | None = 4.0,
        val_batches: int = 4,
        monitor: str = "val_loss",
        optimizer: int = 0,
        apply: bool = True,
        report: bool = True,
    ) -> None:
        weight_decays, refine = plain(weight_decays), plain(refine)
        expect_bool("refine", refine)
        super().__init__(
            weight_decays,
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
        self.weight_decays = weight_decays
        self.refine = refine

    @override
    def _check_candidate(self, value: Any) -> None:
        expect_number("weight_decays", value, minimum=0)

    @override
    def _candidates(self, optimizer: Optimizer) -> list[float]:
        own = weight_decay_of(optimizer, MisconfigurationException)
        if not isinstance(self.weight_decays, str):
            return [float(value) for value in self.weight_decays]
        if self.weight_decays == "search":
            return [own]
        if own == 0:
            raise MisconfigurationException(
                "There is no weight decay to search around: the optimizer's is 0. Pass numbers as `weight_decays`."
            )
        return [own, *_halved(own)]

    @override
    def _search(self, run: RunOptimizer) -> Choice | Refusal:
        if self.weight_decays != "search":
            return super()._search(run)
        start = START_DECOUPLED if is_decoupled(run.optimizer) else START_COUPLED
        search = DecaySearch(self._value_before(run), start, epochs_left(run.trainer))
        most = SEARCHED * self.num_steps
        with self._progress(run, most) as advance:
            while self._steps_taken() <= most - self.num_steps:
                value = search.next_decay(self.curves)
                if value is None:
                    break
                self._try_each(run, [value], advance)
        return search.choice(self.curves)

    @override
    def _most(self, run: RunOptimizer) -> int:
        return SEARCHED if self.weight_decays == "search" else super()._most(run)

    @override
    def _choose_among_equals(self, values: Sequence[float]) -> float:
        own = self.before
        if self.weight_decays == "around" and own is not None and own in values:
            return own
        return super()._choose_among_equals(values)

    @override
    def _neighbours(self, value: float) -> list[float]:
        return _halved(value) if self.refine and value > 0 else []

    @override
    def _prepare(self, optimizer: Optimizer, value: float) -> None:
        write_weight_decay(optimizer, value)

    @override
    def _value_before(self, run: RunOptimizer) -> float:
        return weight_decay_of(run.optimizer)

    @override
    def _label(self, value: float) -> str:
        mantissa, _, exponent = f"{value:.5e}".partition("e")  # 1.00000e-04
        return (
            f"{self.curve_prefix}={mantissa.rstrip('0').rstrip('.')}e{exponent}" if value else f"{self.curve_prefix}=0"
        )

    @override
    def _use(self, run: RunOptimizer, value: float) -> list[str]:
        return run.use_weight_decay(value)


def _halved(value: float) -> list[float]:
    """Return the neighbours of a value that halve the exponent, to one digit of the factor: 1e-4 -> 3e-4, 3e-5."""
    return [float(f"{value * factor:.6g}") for factor in (3.0, 0.3)]
