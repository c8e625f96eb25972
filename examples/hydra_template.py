"""Handwritten digits from a Hydra config: optimizer, schedule and range test stand in ``conf/train.yaml``.

The module is written as the templates for Lightning and Hydra are: it completes partials of an optimizer and of a
scheduler and asks for a step once an epoch. A `OneCycleScheduler` without ``total_steps`` takes its length from the
run and is stepped after every optimizer step all the same. Needs hydra-core.

    python examples/hydra_template.py trainer.max_epochs=8 +model.scheduler.pct_annihilation=0.2
"""

import warnings
from collections.abc import Callable
from typing import Any

import hydra
import lightning.pytorch as pl
from digits import ConvNet
from omegaconf import DictConfig


class PartialNet(ConvNet):
    """The net of ``digits.py`` with optimizer and schedule from a config.

    Args:
        optimizer: Returns the optimizer of parameters.
        scheduler: Returns the scheduler of an optimizer.
    """

    def __init__(self, optimizer: Callable[..., Any], scheduler: Callable[..., Any]) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def configure_optimizers(self) -> Any:
        optimizer = self.hparams["optimizer"](params=self.parameters())
        scheduler = self.hparams["scheduler"](optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "frequency": 1}}


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Train and test."""
    pl.seed_everything(config.seed)
    parts = [hydra.utils.instantiate(config[name]) for name in ("model", "data", "callbacks", "logger")]
    model, data, callbacks, logger = parts
    trainer = hydra.utils.instantiate(config.trainer, callbacks=[*callbacks.values()], logger=logger)
    trainer.fit(model, data)
    print(f"Test accuracy: {trainer.test(model, data, verbose=False)[0]['test_accuracy']:.1%}")


if __name__ == "__main__":
    # The data are small: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    main()
