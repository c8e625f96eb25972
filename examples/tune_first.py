"""Find learning rate and weight decay before any fit, on handwritten digits.

python examples/tune_first.py
"""

from in_a_fit import Net, loaders

from pl_onecycle import OneCycleTrainer

net, (train, val) = Net(), loaders()
trainer = OneCycleTrainer(max_epochs=5)
result = trainer.tune(net, train, val)  # prints a table, writes tuned.yaml; the net is as before
result.apply(net)  # from now on every fit of the net trains with these values
trainer.fit(net, train, val)
