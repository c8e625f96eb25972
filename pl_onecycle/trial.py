"""Train a few isolated steps under a policy and record the loss: policy -> `LossCurve`.

The steps are real ones, with the module's hooks, precision, strategy, clipping and accumulation of the fit in
which they run; afterwards model, optimizer and Trainer are as before.
"""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from pl_onecycle.curve import LossCurve
from pl_onecycle.isolation import isolated
from pl_onecycle.policy import Policy
from pl_onecycle.recorder import Looks, OnStep, Recorder
from pl_onecycle.schedules import optimizer_of


def run_trial(
    trainer: pl.Trainer,
    policy: Policy,
    *,
    optimizer: int = 0,
    early_stop_threshold: float | None = 4.0,
    on_step: OnStep | None = None,
    prepare: Callable[[torch.optim.Optimizer], object] | None = None,
    looks: Looks | None = None,
) -> LossCurve:
    """Train ``policy.total_steps`` steps of an optimizer in isolation and return the loss after each.

    The group with the largest lr follows the policy, the others keep their ratio to it; other optimizers train with
    their own lr. One more step than the policy has is run, because the loss of step k + 1 is what shows the effect of
    the lr of step k. A train loader that is shorter starts over; ``max_epochs`` and ``max_steps`` of the Trainer do not
    count.

    The loss of a step is what its gradient is of. With automatic optimization that is the mean over the micro-batches;
    with manual optimization the sum of what went to ``manual_backward`` since an optimizer last stepped, or, for a
    module that calls ``backward`` itself, what ``training_step`` returns. On several processes it is the mean over
    them, and they agree at every step on going on: what stops one of them stops all at the same step.

    Args:
        trainer: A Trainer within ``fit``, with its train loader set up.
        policy: Learning rate, and momentum if not None, of each step.
        optimizer: Index of the optimizer that follows the policy, in the order of ``configure_optimizers``.
        early_stop_threshold: When the sweep has diverged, see `first_explosion`; None never stops early
            but at a loss that is not finite.
        on_step: Called with the number of steps done and the last known loss.
        prepare: Called with the optimizer before the first step, to write what is on trial into its groups.
        looks: When to validate, and to ask whether it is worth going on.

    Returns:
        The curve, with one point for each step after which a loss was measured.

    Raises:
        MisconfigurationException: The module has no such optimizer, it has no usable lr, or its loss is never seen.
        TrialFailedElsewhere: Another process failed in the trial.
    """
    chosen = optimizer_of(trainer, optimizer)
    recorder = Recorder(trainer, policy, chosen, early_stop_threshold, on_step, looks)
    with isolated(trainer, recorder, looks.val_batches if looks else 0, recorder.is_validation_due) as loop:
        try:
            if prepare is not None:
                prepare(chosen)
            recorder.begin()
            _train(trainer, loop, recorder)
            recorder.look()
        except Exception as error:
            if recorder.is_divergence(error):
                rank_zero_warn(f"A trial has diverged and ended in {type(error).__name__}: {error}")
            elif isinstance(error, StopIteration):  # would end the user's fit without a word
                raise RuntimeError("A hook of the module raised StopIteration in a trial.") from error
            else:
                raise
    return recorder.curve()


def _train(trainer: pl.Trainer, loop: _FitLoop, recorder: Recorder) -> None:
    """Train until the recorder has enough, or an epoch brought it no step."""
    # One long epoch: hooks that count epochs must not run past the end of the user's.
    loop.on_advance_start()
    before = -1
    while not recorder.done and recorder.step > before:
        if trainer.current_epoch == 0:  # from the second epoch on the loop does it itself
            iter(loop._data_fetcher)  # type: ignore[arg-type]  # set up
        before = recorder.step
        loop.advance()
        if trainer.should_stop:
            return
