"""`TuneResult`: the values that tuning found, as a table, as a config, and applied to a model."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.jupyter import JupyterMixin
from rich.table import Table

from pl_onecycle._lightning import pl
from pl_onecycle.checks import expect
from pl_onecycle.module_attributes import BATCH_NAMES, set_attributes
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.sentences import short
from pl_onecycle.settings_callback import OneCycleSettings, check_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
# A range to sweep reaches at least this factor to either side of the value found.
SPREAD = 3.0


@dataclass(frozen=True)
class TuneResult(JupyterMixin):
    """The values that tuning found. Printing a result shows a small table, and so does a notebook.

    Attributes:
        max_lr: Peak learning rate for the group with the largest one; None if none was found.
        weight_decay: Weight decay to train with; None if none was found.
        batch_size: Largest batch size that fits; None if the search was not requested.
        tuned_for: Class name of the tuned model.
        before: The model's values before tuning, by name.
        reasons: For each requested value, the reason for it, or the reason why there is none.
        directory: Directory of the files; None if they could not be written, or on processes other than rank zero.
        on_data: Whether the batch size belongs to the data module instead of the model.
        optimizer: Index of the tuned optimizer, in the order of ``configure_optimizers``.
        max_momentum: Largest momentum of the cycle; None if none was found.
        attr_name: Name of the model's learning rate, with dots, that is scaled as the peak is; an empty string for
            those that its code uses.
        batch_size_key: Key of a config that sets the batch size, with dots; an empty string for ``data.batch_size`` or
            ``model.batch_size``, None if no key does.
        planned: The one-cycle schedule that training follows with these values; None for other schedules.
        intervals: For values that were found, between which others lie that could be as good, by name.
    """

    max_lr: float | None
    weight_decay: float | None
    batch_size: int | None
    tuned_for: str
    before: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    on_data: bool = False
    optimizer: int = 0
    max_momentum: float | None = None
    attr_name: str = ""
    batch_size_key: str | None = ""
    planned: OneCyclePolicy | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def apply(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None) -> None:
        """Make every later fit of ``model`` train with the values found; nothing is trained here.

        The learning rate becomes the peak of the fit's schedule, whatever its kind, as with `LRRangeTest`.
        ``batch_size`` of the model and its ``hparams`` is set here, if it exists; its learning rate and weight decay
        are set when a fit begins.

        Args:
            model: The tuned model, or another instance of its class.
            datamodule: Data module that receives the batch size.

        Raises:
            ValueError: The values were tuned for another model, or neither model nor data module has a ``batch_size``.

        Example:
            >>> result = TuneResult(max_lr=0.1, weight_decay=1e-4, batch_size=None, tuned_for="Net")
            >>> result.apply(pl.LightningModule())
            Traceback (most recent call last):
            ...
            ValueError: These values were tuned for Net, and this model is LightningModule: tune it, or leave them out.
        """
        model = plain(model)
        check_model(model, self.tuned_for)
        if self.batch_size is not None:
            taken = [set_attributes(holder, BATCH_NAMES, self.batch_size) for holder in (model, datamodule)]
            is_set = any(not label.startswith("not in ") for labels in taken for label in labels)
            expect(is_set, "datamodule", "one with a `batch_size`, as the tuned one", datamodule)
        settings = OneCycleSettings(**self._values, **self._places, tuned_for=self.tuned_for)
        users = model.on_fit_start
        own = users.users if isinstance(users, _Applied) else users
        model.on_fit_start = _Applied(model, own, settings)  # type: ignore[method-assign]

    def plot(self, ax: "Axes | None" = None) -> Any:
        """Draw the one-cycle schedule that training follows with these values.

        Args:
            ax: Axes to draw into, instead of a new figure.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            RuntimeError: The schedule of the tuned model is another one.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if self.planned is None:
            raise RuntimeError(f"There is nothing to plot: {self.tuned_for} trains with no one-cycle schedule.")
        return self.planned.plot(ax)

    def config(self) -> dict[str, Any]:
        """Return the values as a config for `OneCycleCLI`, the content of ``tuned.yaml``."""
        config: dict[str, Any] = {"one_cycle": {**self._values, **self._places, "tuned_for": self.tuned_for}}
        if self.batch_size is not None and self.batch_size_key is not None:
            key = self.batch_size_key or f"{'data' if self.on_data else 'model'}.batch_size"
            *sections, name = key.split(".")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = self.batch_size
        return config

    def search_space(self) -> dict[str, dict[str, Any]]:
        """Return a range around each value that was found, for a sweep of them by Optuna or the like.

        A range has the arguments of Optuna's ``trial.suggest_float``: ``low``, ``high`` and ``log``. With v the value:

        - ``max_lr`` and ``weight_decay``: from v / 3 to 3 v, and further where the interval of v is wider; ``log`` is
          True. The interval of an lr is that of its `Suggestion`, and that of a weight decay reaches to the next
          candidates that were tried. For v = 0 it is from 0 to the next candidate, and ``log`` is False.
        - ``max_momentum``: from 2 v - 1 to (1 + v) / 2, and to the next candidates; ``log`` is False.

        The ends have three digits.

        Returns:
            A range by name, where the names are those of the arguments of `OneCycleSettings`: empty if nothing was
            found. A batch size has none, as it is the largest that fits, and neither has a value of 0 that was the only
            candidate.

        Example:
            >>> intervals = {"max_lr": (0.01, 0.09), "weight_decay": (0.0, 1e-5)}
            >>> result = TuneResult(0.06, 0.0, None, "Net", intervals=intervals)
            >>> for name, values in result.search_space().items():
            ...     print(name, values)
            max_lr {'low': 0.01, 'high': 0.18, 'log': True}
            weight_decay {'low': 0.0, 'high': 1e-05, 'log': False}
            >>> def objective(trial):
            ...     space = result.search_space()
            ...     found = {name: trial.suggest_float(name, **values) for name, values in space.items()}
            ...     trainer = pl.Trainer(max_epochs=5, callbacks=[OneCycleSettings(**found)])
        """
        space: dict[str, dict[str, Any]] = {}
        for name, value in self._values.items():
            low, high = self.intervals.get(name, (value, value))
            if name == "max_momentum":
                low, high = max(min(low, 2 * value - 1), 0.0), max(high, (1 + value) / 2)
            elif value > 0:
                low, high = low if 0 < low < value / SPREAD else value / SPREAD, max(high, SPREAD * value)
            if low < high:
                is_log = value > 0 and name != "max_momentum"
                space[name] = {"low": float(f"{low:.3g}"), "high": float(f"{high:.3g}"), "log": is_log}
        return space

    @property
    def _values(self) -> dict[str, Any]:
        """The values of the schedule and the optimizer that were found."""
        found = {"max_lr": self.max_lr, "weight_decay": self.weight_decay, "max_momentum": self.max_momentum}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _places(self) -> dict[str, Any]:
        """Where the values belong, other than to the defaults of `OneCycleSettings`."""
        places = {"optimizer": self.optimizer, "attr_name": self.attr_name}
        return {name: place for name, place in places.items() if place}

    def __rich__(self) -> Table:
        where = None if self.directory is None else f"{self.directory}/tuned.yaml"
        table = Table(title=f"Tuned {self.tuned_for}", caption=where, caption_justify="left")
        for heading in ("", "before", "found", "why"):
            table.add_column(heading)
        for name, reason in self.reasons.items():
            before, found = self.before.get(name), getattr(self, name)
            cells = ("-" if value is None else short(value) for value in (before, found))
            table.add_row(name, *cells, reason)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120, force_jupyter=False)  # there it would show it at once
        console.print(self)
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


class _Applied:
    """An ``on_fit_start`` that calls the module's own and then applies settings; copied and pickled with the module."""

    def __init__(self, model: pl.LightningModule, users: Callable[[], None], settings: OneCycleSettings) -> None:
        self.model, self.users, self.settings = model, users, settings

    def __call__(self) -> None:
        self.users()
        self.settings.on_fit_start(self.model.trainer, self.model)


def plain(model: Any) -> Any:
    """Return the original module of one that ``torch.compile`` wrapped."""
    return getattr(model, "_orig_mod", model)
