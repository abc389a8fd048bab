"""MLflow, by Lightning's logger: by default a SQLite file, `results_dir/.mlflow/mlflow.db`, without a network.

`mlflow ui --backend-store-uri sqlite:///results/runs/.mlflow/mlflow.db` shows it. mlflow-skinny is enough to write.
"""

import logging
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora_exp.config import STRICT
from clora_exp.loggers.base import Ending, Logger, Point, need

if TYPE_CHECKING:
    pass

BATCH = 1000  # metrics, the most that MLflow takes at once
FILES = ("report.md", "accuracy_matrix.csv", "metrics.json", "metrics.csv", "cost.csv")


@dataclass(frozen=True)
class Config:
    """Which experiment of which store."""

    __pydantic_config__ = STRICT
    experiment: str | None = None  # null: the stream's name
    tracking_uri: str | None = None  # null: MLFLOW_TRACKING_URI, or a file below results_dir


def check() -> None:
    """Raises RunError where MLflow, or what its SQLite store needs, is not installed."""
    need("mlflow", "mlflow", "sqlalchemy", "alembic")


class MLflow(Logger):
    """Metrics of every point by their own steps, settings as parameters, figures and tables as artifacts."""

    def start(self, known: str | None) -> tuple[str, str]:
        """Open the store; go on with the run that is known there, where it still is, or begin one."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent that nobody asked for
        from mlflow.exceptions import MlflowException
        from pytorch_lightning.loggers import MLFlowLogger

        for name in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):  # a new store is no news
            logging.getLogger(name).setLevel(logging.ERROR)
        config = self.run.config
        own = f"sqlite:///{self.place}/mlflow.db"
        uri = self.settings.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        about: dict[str, Any] = {
            "experiment_name": self.settings.experiment or config.tasks.name,
            "run_name": self.run.title,
            "tracking_uri": uri,
            "artifact_location": (self.place / "artifacts").as_uri() if uri == own else None,
            "tags": {"method": config.method.name, "seed": str(config.seed), "folder": str(self.run.path)},
        }
        self._flow: MLFlowLogger = MLFlowLogger(**about, run_id=known)
        try:
            client, called = self._flow.experiment, self._flow.run_id
        except MlflowException:
            if known is None:
                raise
            self._flow = MLFlowLogger(**about)  # the store was emptied
            client, called = self._flow.experiment, self._flow.run_id
        assert called is not None
        if called == known:
            client.update_run(called, status="RUNNING")
        else:
            self._flow.log_hyperparams(self.run.described())
        return called, f"mlflow ui --backend-store-uri {uri}"

    def log(self, points: list[Point]) -> None:
        """Write every number at its place on its own axis, many at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(key), value, now, point.x) for point in points for key, value in point.values.items()]
        for start in range(0, len(metrics), BATCH):
            self._flow.experiment.log_batch(self._flow.run_id, metrics=metrics[start : start + BATCH])

    def finish(self, ending: Ending) -> None:
        """Keep figures and tables of a finished run, and say how it ended."""
        client, called = self._flow.experiment, self._flow.run_id
        client.set_tag(called, "status", ending.status)
        if ending.message:
            client.set_tag(called, "error", ending.message)
        for path in ending.figures.values():
            client.log_artifact(called, str(path), "figures")
        for path in (self.run.path / name for name in FILES if ending.run is not None):
            if path.exists():
                client.log_artifact(called, str(path))
        self._flow.finalize("success" if ending.status == "done" else "failed")


def _name(key: str) -> str:
    """Return a metric's name as MLflow takes it, whatever a task is called."""
    return re.sub(r"[^\w\-. :/]", "_", key)
