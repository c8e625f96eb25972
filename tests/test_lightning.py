"""`_lightning`: which of Lightning's two names the package uses, and what the other one gets."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest

from pl_onecycle import OneCycleTuner, _lightning, configure_one_cycle
from pl_onecycle._lightning import NAME, NAMES, VARIABLE, expect_module, expect_trainer
from tests.fits import SmallNet

NEITHER: list[str] = []


def chosen(installed: list[str], imported: list[str], asked: str = "") -> str:
    """Choose as if these were installed, imported and asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, asked)
        patch.setattr(_lightning, "find_spec", lambda name: name if name in installed else None)
        patch.setattr(_lightning.sys, "modules", {name: ModuleType(name) for name in imported})
        return _lightning._choose()


@pytest.mark.parametrize(
    ("installed", "imported", "asked", "expected"),
    [
        ([*NAMES], NEITHER, "", "lightning"),
        ([*NAMES], ["lightning"], "", "lightning"),
        ([*NAMES], ["pytorch_lightning"], "", "pytorch_lightning"),
        ([*NAMES], [*NAMES], "", "lightning"),
        ([*NAMES], ["lightning"], "pytorch_lightning", "pytorch_lightning"),
        ([*NAMES], ["pytorch_lightning"], "lightning", "lightning"),
        (["pytorch_lightning"], NEITHER, "", "pytorch_lightning"),
        (["lightning"], NEITHER, "", "lightning"),
        (NEITHER, NEITHER, "", "lightning"),  # whose import then fails with its own sentence
    ],
)
def test_the_imported_one_is_used_and_lightning_in_doubt(
    installed: list[str], imported: list[str], asked: str, expected: str
) -> None:
    assert chosen(installed, imported, asked) == expected


def test_the_environment_variable_takes_one_of_two_names() -> None:
    with pytest.raises(ValueError, match=f"`{VARIABLE}` to be one of .*'lightning', 'pytorch_lightning'.*got 'pl'"):
        chosen([*NAMES], NEITHER, "pl")


def test_both_names_bring_the_same_names() -> None:
    tree = ast.parse(Path(_lightning.__file__).read_text())
    branch, _ = [node for node in tree.body if isinstance(node, ast.If) and node.orelse]  # the other one is the parser
    one, other = ([ast.unparse(node) for node in nodes] for nodes in (branch.body, branch.orelse))
    assert [line.replace("lightning.pytorch", "pytorch_lightning") for line in one] == other
    assert len(one) == len({*one}) > 10


# ------------------------------------------------------------------------------------------------- the other one
def other_of(kind: str) -> Any:
    """An object whose class says that it comes from the name that is not used."""
    home = next(name for name in NAMES if name != NAME)
    return type(kind, (), {"__module__": f"{home}.pytorch.core"})()


def test_a_trainer_of_the_other_name_gets_one_sentence_with_both_ways_out() -> None:
    other = next(name for name in NAMES if name != NAME)
    sentence = (
        f"This Trainer is one of `{other}`, but `pl_onecycle` uses `{NAME}`: import from `{NAME}`, or set the"
        f" environment variable {VARIABLE}={other} before `pl_onecycle` is imported."
    )
    for use in (expect_trainer, OneCycleTuner):
        with pytest.raises(Exception, match="This Trainer is one of") as error:
            use(other_of("Trainer"))
        assert str(error.value) == sentence


def test_a_module_of_the_other_name_gets_the_sentence_from_the_helper_and_from_tune() -> None:
    quiet = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    for use in (lambda module: configure_one_cycle(module, None), OneCycleTuner(quiet).tune):  # type: ignore[arg-type]
        with pytest.raises(Exception, match="This LightningModule is one of"):
            use(other_of("LightningModule"))


def test_what_is_of_neither_name_gets_the_usual_sentence() -> None:
    with pytest.raises(TypeError, match="Expected argument `trainer` to be a Trainer but got 'int'"):
        expect_trainer(7)
    with pytest.raises(TypeError, match="Expected argument `module` to be a model but got 'list'"):
        expect_module([], "a model")
    expect_trainer(pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"))
    expect_module(SmallNet(), "a model")


FIT = """
import logging, sys, warnings
warnings.simplefilter("ignore")
import {first} as first
from pl_onecycle import LRRangeTest, configure_one_cycle
from pl_onecycle._lightning import NAME
assert NAME == "{name}", NAME
assert "{never}" not in sys.modules
import torch, {second} as second

def run(pl, callback):
    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 1)
        def training_step(self, batch, batch_idx):
            return self.net(batch[0]).square().mean()
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return configure_one_cycle(self, optimizer) if pl is first else optimizer
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 2)), 4)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=1, callbacks=[callback], **quiet)
    trainer.fit(Net(), data)
    return trainer

test = LRRangeTest(num_steps=8, report=False)
trainer = run(first, test)
print("steps", trainer.global_step, test.curve is not None)
try:
    run(second, LRRangeTest(num_steps=8, report=False))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "name", "second"), [
    ("lightning.pytorch", "lightning", "pytorch_lightning"),
    ("pytorch_lightning", "pytorch_lightning", "lightning.pytorch"),
])  # fmt: skip
def test_a_fit_of_each_name_works_and_one_of_the_other_ends_in_the_sentence(first: str, name: str, second: str) -> None:
    code = FIT.format(first=first, name=name, second=second, never=second.partition(".")[0])
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps 16 True" in done.stdout
    other = second.partition(".")[0]
    if "ValueError Expected a parent" in done.stdout and version("lightning") < "2.6":
        pytest.skip("the Trainer of this version refuses a callback of the other name before the callback sees it")
    assert f"MisconfigurationException This Trainer is one of `{other}`, but `pl_onecycle` uses `{name}`" in done.stdout
