"""Train a few isolated steps under a policy and record the loss: policy -> `LossCurve`.

The steps are real ones, with the module's hooks, precision, strategy, clipping and accumulation of the fit in
which they run; afterwards model, optimizer and Trainer are as before.
"""

from collections.abc import Callable

from torch.optim import Optimizer

from pl_onecycle._lightning import _FitLoop, pl, rank_zero_warn
from pl_onecycle.curves import LossCurve
from pl_onecycle.policy import Policy
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial.checkups import Checkups
from pl_onecycle.trial.isolation import isolated
from pl_onecycle.trial.recorder import OnStep, Recorder


def run_trial(
    run: RunOptimizer,
    policy: Policy,
    *,
    early_stop_threshold: float | None = 4.0,
    on_step: OnStep | None = None,
    prepare: Callable[[Optimizer], object] | None = None,
    checkups: Checkups | None = None,
) -> LossCurve:
    """Train ``policy.total_steps`` steps of an optimizer in isolation and return the loss after each.

    The group with the largest lr follows the policy, the others keep their ratio to it; other optimizers train with
    their own lr. One more step than the policy has is run, because the loss of step k + 1 is what shows the effect of
    the lr of step k. A train loader that is shorter starts over; ``max_epochs`` and ``max_steps`` of the Trainer do not
    count.

    The loss of a step is the one whose gradient the optimizer uses. With automatic optimization that is the mean over
    the micro-batches; with manual optimization the sum of what went to ``manual_backward`` since an optimizer last
    stepped, or, for a module that calls ``backward`` itself, what ``training_step`` returns. With several processes it
    is the mean over them, and all decide together at every step whether to continue: what stops one of them stops all
    at the same step.

    Args:
        run: The optimizer that follows the policy, in a Trainer whose train loader is set up.
        policy: Learning rate, and momentum if not None, of each step.
        early_stop_threshold: When the trial has diverged, see `first_explosion`; None stops early only at a loss that
            is not finite.
        on_step: Called with the number of steps done and the last known loss.
        prepare: Called with the optimizer before the first step, to write the candidate into its groups.
        checkups: When to validate, and to ask whether to end the trial.

    Returns:
        The curve, with one point for each step after which a loss was measured.

    Raises:
        MisconfigurationException: The module's loss is never seen.
        TrialFailedElsewhere: Another process failed in the trial.
    """
    checkups = checkups or Checkups()
    recorder = Recorder(run, policy, early_stop_threshold, on_step, checkups)
    with isolated(run.trainer, recorder, checkups.val_batches, recorder.is_validation_due) as loop:
        try:
            if prepare is not None:
                prepare(run.optimizer)
            recorder.begin()
            _train(run.trainer, loop, recorder)
            recorder.fetch_losses()
        except Exception as error:
            if recorder.record_divergence(error):
                rank_zero_warn(f"A trial has diverged and ended in {type(error).__name__}: {error}")
            elif isinstance(error, StopIteration):  # would end the user's fit without a word
                raise RuntimeError("A hook of the module raised StopIteration in a trial.") from error
            else:
                raise
    return recorder.curve()


def _train(trainer: pl.Trainer, loop: _FitLoop, recorder: Recorder) -> None:
    """Train until the recorder has enough, or an epoch ends without a step."""
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
