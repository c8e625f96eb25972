"""Modules that take their own steps, override hooks or ask their Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from tests.scenarios.nets import Momentum, Scheduled
from tests.scenarios.record import Recording, in_trial


class Manual(Momentum):
    """Optimizes by itself, two batches to a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if batch_idx % 2 == 1:
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
            optimizer.zero_grad()


class ManualSchedule(Scheduled):
    """Optimizes by itself, and steps a schedule that may not be stepped more often than the run has steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        schedule.step()


class GAN(Recording):
    """A generator and a critic, each with its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 8)
        self.critic = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        optimizers: Any = self.optimizers()
        generating, criticising = optimizers
        made = self.generator(torch.randn(len(batch[0]), 4))
        self.toggle_optimizer(generating)
        self._step(generating, -self.critic(made).mean(), "generator_loss")
        self.untoggle_optimizer(generating)
        self.toggle_optimizer(criticising)
        difference = self.critic(made.detach()).mean() - self.critic(batch[0]).mean()
        self._step(criticising, difference, "critic_loss")
        self.untoggle_optimizer(criticising)

    def _step(self, optimizer: Any, loss: Tensor, name: str) -> None:
        self.log(name, loss)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        critic = torch.optim.SGD(self.critic.parameters(), lr=0.01, momentum=0.9)
        return torch.optim.Adam(self.generator.parameters(), lr=1e-3), critic


AROUND_A_BATCH = (
    "on_train_batch_start",
    "optimizer_step",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "on_train_batch_end",
)


class Hooked(Momentum):
    """Records its hooks, and checks that those around a batch run in a trial as they do in a fit."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def on_train_start(self) -> None:
        self.ready = True
        self.record.hooks.append("on_train_start")

    def on_train_epoch_start(self) -> None:
        if not in_trial(self):
            self.record.hooks.append("on_train_epoch_start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.ready, "on_train_start has not been called"
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        self.record.hooks.append("on_train_end")
        if in_trial(self) or not self.record.trial_hooks:
            return
        hooks = [name for name in self.record.hooks if name in AROUND_A_BATCH]
        of_a_batch = hooks[: len(hooks) // len(self.record.batches)]
        assert set(of_a_batch) == set(AROUND_A_BATCH), "hooks have not been called"
        batches = len(self.record.trial_hooks) // len(of_a_batch)
        assert self.record.trial_hooks == of_a_batch * batches, "other hooks in the trial than in the fit"


def written_down(name: str) -> Callable[..., Any]:
    def hook(self: Hooked, *args: Any, **kwargs: Any) -> Any:
        (self.record.trial_hooks if in_trial(self) else self.record.hooks).append(name)
        return getattr(super(Hooked, self), name)(*args, **kwargs)

    return hook


for hook in AROUND_A_BATCH:
    setattr(Hooked, hook, written_down(hook))


class OwnSteps(Momentum):
    """Does in hooks what a trial must do too: changes batches, clips gradients, takes every second step only."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(0.5)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.2, gradient_clip_algorithm="value")

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class SometimesNone(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class LogsNothing(Momentum):
    def log(self, *_: Any, **__: Any) -> None:
        """A barebones Trainer takes no metrics."""


class UsesLogger(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.logger is not None, "no logger"
        self.logger.log_metrics({"by_hand": float(batch_idx)}, step=self.global_step)
        assert Path(str(self.trainer.log_dir)).name == "version_0", "another log_dir"
        return super().training_step(batch, batch_idx)


class WritesIntoBatch(Recording):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(1.01)


class AsksItsTrainer(Scheduled):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        schedule: Any = self.lr_schedulers()
        self.log("lr", schedule.get_last_lr()[0])
        assert isinstance(self.logger, CSVLogger), "another logger"
        assert self.trainer.max_steps == 11, "another max_steps"
        assert self.current_epoch < 2, "more epochs than the fit has"
        self.trainer.save_checkpoint("in_the_trial.ckpt" if in_trial(self) else "in_the_fit.ckpt")
        assert not Path("in_the_trial.ckpt").exists(), "a checkpoint saved in the trial"
        return super().training_step(batch, batch_idx)


class TwoLoaders(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see(batch, batch_idx)
        return sum(self.loss(part) for part in batch.values() if part is not None)


class OfPairs(Recording):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch.features, batch.labels], batch_idx)


class ReadsItsLoader(Recording):
    """Keeps the loader's state at every batch, as a checkpoint in the middle of an epoch would."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not in_trial(self):
            loader: Any = self.trainer.train_dataloader
            self.record.loader_states.append(loader.state_dict())
