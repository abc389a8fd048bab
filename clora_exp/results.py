"""The run directory: the only code that writes a run. Every write is atomic; the same command finds the same directory.

results/runs/<tasks>/<method>/<hash8>-s<seed>/
  STATUS                 running | interrupted | done | failed, and the error on the second line
  config.yaml            what ran; command.txt how to run it again; environment.json versions, hardware, data
  accuracy_matrix.csv    first column `after`: init, then the tasks; one column a task
  metrics.json           each metric's value, or null and the reason; metrics.csv losses and accuracies, long
  run.log                what happened when
  adapters/<task>/       what answered the task when it had just been learned
  checkpoint/            what the next task needs; gone when the run is done
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import save as save_tensors

from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, Interrupted, RunError
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.files import folder_written_atomically, write_atomically
from clora_exp.states import pack_layers, read_state, write_state
from clora_exp.tasks.stream import Task, TaskStream

if TYPE_CHECKING:  # reading a run needs no Lightning
    from clora_exp.session import Step

log = logging.getLogger("clora_exp")

NOT_IN_HASH = ("seed", "results_dir", "overwrite")  # what does not change the numbers, and what a seed average spans


@dataclasses.dataclass
class Progress:
    """How far a run is: what resume starts from, and what every result file is made from."""

    matrix: AccuracyMatrix
    num_tasks_done: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # rows of metrics.csv

    def add_row(self, after: str, i: int, accuracies: list[float], seconds: float) -> None:
        """Enter row i of the matrix."""
        self.matrix.values[i] = accuracies
        for task, accuracy in zip(self.matrix.tasks, accuracies, strict=True):
            self.history.append(_row(task, f"accuracy after {after}", accuracy, i, seconds))

    def add_steps(self, task: str, steps: "list[Step]") -> None:
        """Enter the training curve of a session."""
        self.history += [_row(task, "train_loss", s.loss, s.step, s.seconds) for s in steps]


def _row(task: str, metric: str, value: float, step: int, seconds: float) -> dict[str, Any]:
    return {"task": task, "metric": metric, "value": value, "step": step, "seconds": round(seconds, 3)}


class RunDirectory:
    """One run's folder."""

    def __init__(self, config: ExperimentConfig, stream: TaskStream, model_sha256: str) -> None:
        """Name the folder; touches no disk."""
        self.config, self.stream, self.model_sha256 = config, stream, model_sha256
        digest = run_hash(config, stream, model_sha256)
        root = Path(config.results_dir).expanduser()
        self.path = root / config.tasks.name / config.method.name / f"{digest}-s{config.seed}"
        self._checkpoint = self.path / "checkpoint" / "state.safetensors"

    @property
    def status(self) -> str | None:
        """Return the first line of STATUS, or None where no run has begun."""
        try:
            return (self.path / "STATUS").read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError):
            return None

    def prepare(self, command: str, environment: dict[str, Any]) -> None:
        """Make the folder, anew with `overwrite`, and write what identifies the run.

        Raises:
            RunError: the folder cannot be written.
        """
        try:
            if self.config.overwrite and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("config.yaml", yaml.safe_dump(plain_config(self.config), sort_keys=False, allow_unicode=True))
            self._write("command.txt", command + "\n")
            self._write("environment.json", _json(self._with_earlier(environment)))
        except OSError as error:
            raise RunError(f"results_dir={self.config.results_dir}: cannot be written: {error.strerror}") from error

    def _with_earlier(self, environment: dict[str, Any]) -> dict[str, Any]:
        """Return what ran first, with each later environment under `resumed`."""
        try:
            first = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return environment
        return first | {"resumed": [*first.get("resumed", []), environment]}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep STATUS and run.log true while the block runs, however it ends."""
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            self._write("STATUS", "running\n")
            yield
        except (Interrupted, KeyboardInterrupt) as error:
            self._end("interrupted", str(error) or "stopped by Ctrl-C")
            raise
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}", exc_info=not isinstance(error, CloraError))
            raise
        finally:
            log.removeHandler(handler)
            handler.close()

    def _end(self, status: str, message: str, exc_info: bool = False) -> None:
        log.error(message, exc_info=exc_info)
        self._write("STATUS", f"{status}\n{message}\n")

    def load_progress(self) -> tuple[Progress, dict[str, Any] | None]:
        """Return how far the run is and the method's state then; a fresh start where there is no checkpoint.

        Raises:
            RunError: a checkpoint that cannot be read.
        """
        if not self._checkpoint.exists():
            return Progress(AccuracyMatrix(self.stream.names)), None
        try:
            state = read_state(self._checkpoint)
            matrix = AccuracyMatrix.from_csv(state["matrix"])
            return Progress(matrix, state["num_tasks_done"], state["history"]), state["method"]
        except (ValueError, KeyError, OSError) as error:
            raise RunError(f"{self._checkpoint} cannot be read ({error}); overwrite=true starts again") from error

    def save_progress(self, progress: Progress, method_state: dict[str, Any]) -> None:
        """Write the result files, then the checkpoint they can be made again from."""
        self._write("accuracy_matrix.csv", progress.matrix.to_csv())
        frame = pd.DataFrame(progress.history, columns=["task", "metric", "value", "step", "seconds"])
        self._write("metrics.csv", frame.to_csv(index=False, lineterminator="\n"))
        self._checkpoint.parent.mkdir(exist_ok=True)
        state = {
            "matrix": progress.matrix.to_csv(),
            "num_tasks_done": progress.num_tasks_done,
            "history": progress.history,
            "method": method_state,
        }
        write_state(self._checkpoint, state)

    def save_adapter(self, t: int, task: Task, state: dict[str, Any], basis: dict[str, Any]) -> None:
        """Write `adapters/<task>/`: the tensors stacked over layers, and a manifest of what they are."""
        folder = self.path / "adapters"
        folder.mkdir(exist_ok=True)
        if basis and not (folder / "basis.safetensors").exists():
            write_state(folder / "basis.safetensors", basis)
        heads = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
        tensors, layers = pack_layers({name: tensor for name, tensor in state.items() if name not in heads})
        tensors |= {name: tensor.detach().cpu() for name, tensor in heads.items()}
        weights = save_tensors(tensors)
        method = plain_config(self.config)["method"]
        manifest = {
            "format": 1,
            "task": task.name,
            "index": t,
            "description": task.description,
            "labels": task.labels,
            "model": {"name": self.config.model.name, "sha256": self.model_sha256},
            "method": method,
            "layers": layers,
            "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "data_sha256": task.sha256,
        }
        with folder_written_atomically(folder / task.name) as new:
            (new / "adapter.safetensors").write_bytes(weights)
            (new / "adapter.json").write_text(_json(manifest), encoding="utf-8")

    def finish(self, metrics: dict[str, Metric]) -> None:
        """Write metrics.json, mark the run done and drop the checkpoint."""
        self._write("metrics.json", _json({name: dataclasses.asdict(metric) for name, metric in metrics.items()}))
        log.info("done")
        self._write("STATUS", "done\n")
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    def read_result(self) -> tuple[AccuracyMatrix, dict[str, Metric]]:
        """Return matrix and metrics of a finished run.

        Raises:
            RunError: a file of the run is missing or cannot be read.
        """
        try:
            matrix = AccuracyMatrix.from_csv(self.path / "accuracy_matrix.csv")
            stored = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
            return matrix, {name: Metric(**metric) for name, metric in stored.items()}
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{self.path} is marked done but cannot be read ({error}); overwrite=true runs it again"
            ) from error

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text.encode())


def plain_config(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as Hydra composed it: parts stand under their own names again."""
    plain = dataclasses.asdict(config)
    for section, key in (("method", "strategies"), ("tasks", "sources")):
        plain[section] |= plain[section].pop(key)
    kind = plain["model"].pop("kind")
    plain["model"][kind] = plain["model"].pop("settings")
    return plain


def run_hash(config: ExperimentConfig, stream: TaskStream, model_sha256: str) -> str:
    """Return eight hex digits of what decides the numbers of a run, its seed apart.

    Content stands in for places: the data's fingerprints, and the weights' hash in place of where they lie.
    """
    plain = plain_config(config)
    for key in NOT_IN_HASH:
        del plain[key]
    for key in ("path", "package", "subfolder"):
        del plain["model"][key]
    del plain["tasks"]["description"]
    identity = {"config": plain, "data": stream.fingerprints(), "tasks": stream.names, "model": model_sha256}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain_number) + "\n"


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
