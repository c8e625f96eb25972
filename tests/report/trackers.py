"""Loggers that work offline, and readers of what they have written, each with the packages of its tracker."""

import csv
import importlib
import io
import json
import os
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from tests.report.made import NAME, events

Row = dict[str, Any]


class Tracker(ABC):
    """A logger in a directory, and what its tracker shows of its last run.

    Args:
        root: Where it writes.
    """

    package: str
    logger: Any

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logger = self._make()

    @abstractmethod
    def _make(self) -> Logger: ...

    def close(self) -> None:  # noqa: B027  # most need nothing
        """End the run, as a user would."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """All metrics of the run that are not of a range test."""

    @abstractmethod
    def found(self) -> Row:
        """The hyperparameters of the group ``one_cycle``."""

    @abstractmethod
    def curve(self, name: str) -> list[tuple[float, float]]:
        """The points of the range test: lr and a value."""

    @abstractmethod
    def pictures(self) -> list[Image.Image]:
        """The pictures of the range test."""

    def runs(self) -> int:
        """Number of runs."""
        return 0


def ours(name: str) -> bool:
    return name.startswith(NAME)


class TensorBoard(Tracker):
    package = "tensorboard"

    def _make(self) -> TensorBoardLogger:
        return TensorBoardLogger(self.root, "runs")

    def _values(self, tag: str) -> list[Row]:
        return [{"step": it.step, tag: it.value} for it in events(self.logger).Scalars(tag)]

    def rows(self) -> list[Row]:
        tags = events(self.logger).Tags()["scalars"]
        return [row for tag in tags if not ours(tag) for row in self._values(tag)]

    def found(self) -> Row:
        written = yaml.safe_load(Path(str(self.logger.log_dir), "hparams.yaml").read_text())
        return dict(written.get("one_cycle", {}))

    def curve(self, name: str) -> list[tuple[float, float]]:
        tags = [f"{NAME}/lr", f"{NAME}/{name}"]
        if not {*tags} <= {*events(self.logger).Tags()["scalars"]}:
            return []
        lrs, values = ({row["step"]: row[tag] for row in self._values(tag)} for tag in tags)
        return [(lrs[step], value) for step, value in values.items()]

    def pictures(self) -> list[Image.Image]:
        reader = events(self.logger)
        images = [it for tag in reader.Tags()["images"] if ours(tag) for it in reader.Images(tag)]
        return [Image.open(io.BytesIO(it.encoded_image_string)) for it in images]


class Tables(Tracker):
    """A CSVLogger: curve and picture are files next to its own."""

    package = "csv"

    def _make(self) -> CSVLogger:
        return CSVLogger(self.root, "runs")

    @property
    def _folder(self) -> Path:
        return Path(str(self.logger.log_dir))

    def rows(self) -> list[Row]:
        with open(self._folder / "metrics.csv", newline="") as handle:
            return list(csv.DictReader(handle))

    def found(self) -> Row:
        return dict(yaml.safe_load((self._folder / "hparams.yaml").read_text()).get("one_cycle", {}))

    def curve(self, name: str) -> list[tuple[float, float]]:
        table = self._folder / NAME / "curve.csv"
        rows = csv.DictReader(table.read_text().splitlines() if table.exists() else [])
        return [(float(row["lr"]), float(row[name])) for row in rows if row[name] != "nan"]

    def pictures(self) -> list[Image.Image]:
        return [Image.open(path) for path in self._folder.glob(f"{NAME}/*.png")]


class Wandb(Tracker):
    package = "wandb"

    def _make(self) -> WandbLogger:
        return WandbLogger(project="runs", save_dir=self.root, offline=True)

    def close(self) -> None:
        import wandb

        self.logger.experiment.finish()
        wandb.teardown()

    def records(self, kind: str) -> list[Any]:
        messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")  # has no types

        [path] = self.root.glob("wandb/offline-run-*/run-*.wandb")
        records = [messages.Record.FromString(content) for content in _wandb_contents(path)]
        return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]

    def history(self) -> list[Row]:
        return [
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
            for row in self.records("history")
        ]

    def rows(self) -> list[Row]:
        """With the step counter of the run; a row that has only a picture or a point is none."""
        times = {"_timestamp", "_runtime"}
        rows = [{key: value for key, value in row.items() if key not in times} for row in self.history()]
        return [
            {key: value for key, value in row.items() if not ours(key)}
            for row in rows
            if not all(ours(key) or key == "_step" for key in row)
        ]

    def found(self) -> Row:
        updates = [item for record in self.records("config") for item in record.update if item.key == "one_cycle"]
        return dict(json.loads(updates[-1].value_json)) if updates else {}

    def curve(self, name: str) -> list[tuple[float, float]]:
        keys = (f"{NAME}/lr", f"{NAME}/{name}")
        return [(row[keys[0]], row[keys[1]]) for row in self.history() if keys[1] in row]

    def pictures(self) -> list[Image.Image]:
        return [Image.open(path) for path in self.root.glob(f"wandb/offline-run-*/files/media/images/{NAME}*.png")]

    def runs(self) -> int:
        return len([*self.root.glob("wandb/offline-run-*")])


def _wandb_contents(path: Path) -> Iterator[bytes]:
    """Yield the records of an offline run: LevelDB's log format in blocks of 32 KiB, after seven bytes."""
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a full one, or its last part
            yield record
            record = b""


class MLFlow(Tracker):
    package = "mlflow"

    def _make(self) -> MLFlowLogger:
        uri, artifacts = f"sqlite:///{self.root}/runs.db", (self.root / "artifacts").as_uri()
        return MLFlowLogger("runs", tracking_uri=uri, artifact_location=artifacts)

    @property
    def _data(self) -> Any:
        return self.logger.experiment.get_run(self.logger.version).data

    def _values(self, name: str) -> dict[int, float]:
        points = self.logger.experiment.get_metric_history(self.logger.version, name)
        return {it.step: it.value for it in points}

    def rows(self) -> list[Row]:
        names = [name for name in self._data.metrics if not ours(name)]
        return [{"step": step, name: value} for name in names for step, value in self._values(name).items()]

    def found(self) -> Row:
        params = self._data.params
        return {
            key.partition("/")[2]: float(value) for key, value in params.items() if key.partition("/")[0] == "one_cycle"
        }

    def curve(self, name: str) -> list[tuple[float, float]]:
        lrs = self._values(f"{NAME}/lr")
        return [(lrs[step], value) for step, value in self._values(f"{NAME}/{name}").items()]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.glob(f"artifacts/*/artifacts/{NAME}/*"))

    def pictures(self) -> list[Image.Image]:
        return [Image.open(path) for path in self.root.glob(f"artifacts/*/artifacts/{NAME}/*.png")]

    def runs(self) -> int:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.root}/runs.db")
        return sum(len(client.search_runs([it.experiment_id])) for it in client.search_experiments())


class Comet(Tracker):
    package = "comet_ml"

    def _make(self) -> CometLogger:
        import comet_ml

        logger = CometLogger(online=False, project="runs", offline_directory=str(self.root))
        # Lightning disables the experiment that it makes offline.
        logger._experiment = comet_ml.OfflineExperiment(
            offline_directory=str(self.root),
            project_name="runs",
            log_code=False,
            log_env_details=False,
            log_git_metadata=False,
            log_graph=False,
            auto_output_logging=None,
            parse_args=False,
            display_summary_level=0,
        )
        return logger

    def close(self) -> None:
        self.logger.experiment.end()

    @property
    def _archive(self) -> zipfile.ZipFile:
        [path] = self.root.glob("*.zip")
        return zipfile.ZipFile(path)

    def _messages(self, kind: str) -> list[Row]:
        with self._archive as archive:
            messages = map(json.loads, archive.read("messages.json").decode().splitlines())
        return [message["payload"] for message in messages if message["type"] == kind]

    def _uploads(self, kind: str) -> list[tuple[Row, bytes]]:
        uploads = [it for it in self._messages("file_upload") if it["upload_type"] == kind]
        with self._archive as archive:
            return [(it["additional_params"], archive.read(os.path.basename(it["file_path"]))) for it in uploads]

    def rows(self) -> list[Row]:
        metrics = [message["metric"] for message in self._messages("metric_msg")]
        return [
            it for it in metrics if it["metricName"] != "process duration" and not it["metricName"].startswith("sys.")
        ]

    def found(self) -> Row:
        params = [message["param"] for message in self._messages("parameter_msg")]
        return {
            name.partition("|")[2]: it["paramValue"]
            for it in params
            if (name := it["paramName"]).startswith("one_cycle|")
        }

    def curve(self, name: str) -> list[tuple[float, float]]:
        curves = [json.loads(content) for _, content in self._uploads("curve")]
        return [
            point for it in curves if it["name"] == f"{NAME}/{name}" for point in zip(it["x"], it["y"], strict=True)
        ]

    def pictures(self) -> list[Image.Image]:
        images = self._uploads("visualization")
        return [Image.open(io.BytesIO(content)) for params, content in images if params["figName"] == NAME]

    def runs(self) -> int:
        return 0  # its logger begins one when it is made


TRACKERS: dict[str, type[Tracker]] = {
    "TensorBoard": TensorBoard,
    "CSV": Tables,
    "W&B": Wandb,
    "MLflow": MLFlow,
    "Comet": Comet,
}
