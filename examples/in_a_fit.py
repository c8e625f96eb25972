"""Find learning rate and weight decay at the start of a fit, on handwritten digits.

The quickstart's first two ways to use the package: the helper and the callbacks.

    python examples/in_a_fit.py
"""

import lightning as L
import torch
from sklearn.datasets import load_digits

from pl_onecycle import LRRangeTest, WeightDecayProbe, configure_one_cycle


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        return configure_one_cycle(self, optimizer)  # max_lr is each group's own lr, until a range test finds better


def loaders():
    images, labels = load_digits(return_X_y=True)
    digits = torch.utils.data.TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, val = torch.utils.data.random_split(digits, [0.8, 0.2])
    return torch.utils.data.DataLoader(train, 32, shuffle=True), torch.utils.data.DataLoader(val, 90)


if __name__ == "__main__":
    trainer = L.Trainer(max_epochs=5, callbacks=[LRRangeTest(), WeightDecayProbe()])
    trainer.fit(Net(), *loaders())
