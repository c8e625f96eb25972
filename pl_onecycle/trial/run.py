"""Train a few isolated steps under a policy and record the loss: policy -> `LossCurve`.

The steps are real ones, with the module's hooks, precision, strategy, clipping and accumulation of the fit in
which they run; afterwards model, optimizer and Trainer are as before.

An exception in a trial that values which are not finite do not explain is the learning rate's fault if it does not come
in the same batches at a low lr, and comes again with the policy's own. Otherwise it is the user's and propagates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from torch.optim import Optimizer

from pl_onecycle._lightning import MisconfigurationException, _FitLoop, pl, rank_zero_warn
from pl_onecycle.curves import LossCurve
from pl_onecycle.policy import HeldPolicy, Policy
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.sentences import in_a_line
from pl_onecycle.trial.agreement import Agreement, TrialFailedElsewhere
from pl_onecycle.trial.checkups import Checkups
from pl_onecycle.trial.isolation import isolated
from pl_onecycle.trial.recorder import OnStep, Recorder

# Prepares the optimizer before the first step.
Prepare = Callable[[Optimizer], object]


def run_trial(
    run: RunOptimizer,
    policy: Policy,
    *,
    early_stop_threshold: float | None = 4.0,
    on_step: OnStep | None = None,
    prepare: Prepare | None = None,
    checkups: Checkups | None = None,
) -> LossCurve:
    """Train ``policy.total_steps`` steps of an optimizer in isolation and return the loss after each.

    The group with the largest lr follows the policy, the others keep their ratio to it; other optimizers train with
    their own lr. One more step than the policy has is run, because the loss of step k + 1 is what shows the effect of
    the lr of step k. A train loader that is shorter starts over; ``max_epochs`` and ``max_steps`` of the Trainer do not
    count.

    The loss of a step is the one whose gradient the optimizer uses. With automatic optimization that is the mean over
    the micro-batches; with manual optimization the sum of what went to ``manual_backward`` since an optimizer last
    stepped, which optimizers that step one after the other share, or, for a module that calls ``backward`` itself, what
    ``training_step`` returns. With several processes it is the mean over them, and all decide together whether to
    continue: what stops one of them stops all at the same step.

    An exception that too large an lr has caused ends the trial as diverged, with a warning. Unless weights, gradients
    or losses that are not finite explain it, the batches up to it are repeated, at a tenth of the policy's lowest lr
    and then with the policy: it must not come in the former, and must come again in the latter.

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
    failure = _try(recorder, run, checkups, prepare)
    if failure is not None:
        try:
            if not failure.is_explained and not _is_caused_by_lr(failure, policy, run, checkups, prepare):
                propagate(failure.error)
            recorder.record_divergence()
            rank_zero_warn(f"A trial has diverged and ended in {in_a_line(failure.error)}")
        finally:
            del failure  # its traceback refers to this frame and to the tensors of the step
    return recorder.curve()


@dataclass(frozen=True)
class _Failure:
    """How a trial has failed.

    Attributes:
        error: The exception that has ended it.
        batches: How many batches had begun.
        is_explained: Whether values that are not finite explain the exception.
    """

    error: Exception
    batches: int
    is_explained: bool


def propagate(error: Exception) -> NoReturn:
    """Raise what a trial has ended in."""
    if isinstance(error, StopIteration):  # would end the user's fit without a word
        raise RuntimeError("A hook of the module raised StopIteration in a trial.") from error
    raise error


def _try(recorder: Recorder, run: RunOptimizer, checkups: Checkups, prepare: Prepare | None) -> _Failure | None:
    """Run an isolated trial; return how it has failed, if it has."""
    with isolated(run.trainer, recorder, checkups.val_batches, recorder.is_validation_due) as loop:
        try:
            if prepare is not None:
                prepare(run.optimizer)
            recorder.begin()
            train(run.trainer, loop, recorder)
            recorder.end()
        except Exception as error:
            return _Failure(error, recorder.batches, recorder.explains(error))
    return None


class Counts(Protocol):
    """What `train` asks the callback of a trial."""

    @property
    def step(self) -> int:
        """How far the trial is."""

    @property
    def done(self) -> bool:
        """Whether the trial has all that it needs."""


def train(trainer: pl.Trainer, loop: _FitLoop, recorder: Counts) -> None:
    """Train in an isolated loop until the recorder has enough, or an epoch ends without a step."""
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


# ----------------------------------------------------------------------------------- whose fault a failure is
def _is_caused_by_lr(
    failure: _Failure, policy: Policy, run: RunOptimizer, checkups: Checkups, prepare: Prepare | None
) -> bool:
    """Repeat the batches up to a failure at a low lr and with the policy, and return whether only the policy fails.

    The former has the user's own momentum and weight decay, as a candidate may be at fault as well. One batch more is
    run, for an exception while the next batch was fetched. The second repeat rules out what has come once by chance,
    such as a row that could not be read. All processes take part, and return the same.
    """
    processes = Agreement(run.trainer)
    batches = processes.least(failure.batches)  # another process may have begun the next one
    # No lr has had an effect in the first batch.
    if processes.anywhere(isinstance(failure.error, MisconfigurationException)) or batches < 2:
        return False
    checkups = replace(checkups, should_end=None)
    low = HeldPolicy(min(policy.lr(step) for step in range(policy.total_steps)) / 10)
    recorder = Recorder(run, low, None, None, checkups, batches + 1)
    is_well = _try(recorder, run, checkups, None) is None and not recorder.has_exploded
    if processes.anywhere(not is_well or recorder.batches < batches):
        return False
    recorder = Recorder(run, policy, None, None, checkups, batches + 1)
    again = _try(recorder, run, checkups, prepare)
    is_alike = again is not None and type(again.error) is type(failure.error)
    return processes.anywhere(is_alike and not isinstance(failure.error, TrialFailedElsewhere))
