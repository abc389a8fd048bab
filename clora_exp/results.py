"""The run directory: the only code that writes a run. Every write is atomic; the same command finds the same directory.

results/runs/<tasks>/<method>/<hash8>-s<seed>/
  STATUS                 running | interrupted | done | failed, and the error on the second line
  config.yaml            what ran; command.txt how to run it again; environment.json versions, hardware, data
  accuracy_matrix.csv    first column `after`: init, then the tasks; one column a task
  predictions.csv.gz     every answer of every evaluation, by example
  metrics.json           each metric's value, or null and the reason; metrics.csv losses and accuracies, long
  cost.csv               parameters, bytes, seconds and memory of each task
  answers.jsonl          of a language model: ten answers, word for word
  run.log                what happened when
  adapters/<task>/       what answered the task when it had just been learned; peft/ the same as a plain PEFT LoRA
  report.md, figures/    the run as a page, see reports/run.py
  checkpoint/            what the next task needs, and how far the session at hand is; gone when the run is done
  SHA256SUMS             what each file was when it was written, see sums.py
  .lock, .holder.json    which process writes the run
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import save as save_tensors
from torch import Tensor

from clora_exp.adapters.export import write_peft
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, Interrupted, RunError
from clora_exp.evaluation.cost import TaskCost
from clora_exp.files import csv_text, folder_written_atomically, place_of, remove_unfinished, write_atomically
from clora_exp.identity import plain_config, run_folder
from clora_exp.locks import HOLDER, LOCK, held
from clora_exp.methods.base import Method
from clora_exp.methods.suitable import not_exportable
from clora_exp.progress import Progress
from clora_exp.runs import StoredRun, read_run, status_of, unwritable
from clora_exp.saved import ADAPTER_FORMAT
from clora_exp.states import pack_layers, read_state, write_state
from clora_exp.sums import check_sums, keep_sums
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import TaskStream

log = logging.getLogger("clora_exp")

CHECKPOINT_FORMAT = 4
RESULTS = ("accuracy_matrix.csv", "predictions.csv.gz", "metrics.csv", "metrics.json", "cost.csv")
GOES_ON = "what was finished is kept, and the same command goes on when this is mended"


class RunDirectory:
    """One run's folder."""

    writes = True

    def __init__(self, config: ExperimentConfig, stream: TaskStream, model_sha256: str) -> None:
        """Name the folder; touches no disk."""
        self.config, self.stream, self.model_sha256 = config, stream, model_sha256
        self.scenario = Scenario(config.scenario, stream)
        self.path = run_folder(config, stream, model_sha256)
        self._checkpoint = self.path / "checkpoint" / "state.safetensors"
        self._session = self.path / "checkpoint" / "session.safetensors"

    @property
    def status(self) -> str | None:
        """Return the first line of STATUS, or None where no run has begun."""
        return status_of(self.path)

    @contextmanager
    def held(self, command: str) -> Iterator[None]:
        """Make the folder, anew with `overwrite`, and keep other processes from writing it while the block runs.

        Raises:
            RunError: the folder cannot be written, or another process writes it.
        """
        with ExitStack() as stack:
            stack.callback(self._leave_no_empty_folder)
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path, command))
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def _leave_no_empty_folder(self) -> None:
        """Remove what `held` made where nothing came of it, e.g. since the model cannot be adapted as asked."""
        with suppress(OSError):  # one that holds something stays
            for folder in (self.path, self.path.parent, self.path.parent.parent):
                folder.rmdir()

    def prepare(self, command: str, environment: dict[str, Any]) -> None:
        """Write what identifies the run; with `overwrite` what there was before is removed.

        Raises:
            RunError: the folder cannot be written, or what there was before can neither be shown nor gone on with.
        """
        if not self.config.overwrite:
            self._check_goes_on()
        try:
            for path in self.path.iterdir() if self.config.overwrite else ():
                if path.name not in (LOCK, HOLDER):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            remove_unfinished(self.path)
            self._write("config.yaml", yaml.safe_dump(plain_config(self.config), sort_keys=False, allow_unicode=True))
            self._write("command.txt", command + "\n")
            self._write("environment.json", _json(self._with_earlier(environment)))
            keep_sums(self.path, [self.path / name for name in ("config.yaml", "command.txt", "environment.json")])
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return unwritable(self.config.results_dir, f"{error.strerror}, {error.filename or self.path}; {GOES_ON}")

    def _with_earlier(self, environment: dict[str, Any]) -> dict[str, Any]:
        """Return what ran first, with each later environment under `resumed`."""
        try:
            first = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
            return first | {"resumed": [*first.get("resumed", []), environment]}
        except (OSError, ValueError, TypeError, AttributeError):
            is_lost = self._checkpoint.exists()
            return environment | (
                {"began_on": "lost with an environment.json that could not be read"} if is_lost else {}
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep STATUS and run.log true while the block runs, however it ends.

        Raises:
            RunError: a file cannot be written or read, e.g. on a full disk.
        """
        try:
            handler = _RunLog(self.path / "run.log", encoding="utf-8")
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
                is_ours = not isinstance(error, CloraError | OSError)
                self._end("failed", f"{type(error).__name__}: {error}", exc_info=is_ours)
                raise
            finally:
                log.removeHandler(handler)
                with suppress(OSError):  # what could not be written is tried once more
                    handler.close()
        except OSError as error:
            raise RunError(f"{place_of(error, self.path)}; {GOES_ON}") from error

    def _end(self, status: str, message: str, exc_info: bool = False) -> None:
        with suppress(OSError):  # on a full disk there is no room for the reason either
            log.error(message, exc_info=exc_info)
        with suppress(OSError):
            self._write("STATUS", f"{status}\n{message}\n")

    def _check_goes_on(self) -> None:
        """Raises RunError for adapters without a checkpoint, a damaged checkpoint, or adapters that have changed."""
        if not self._checkpoint.exists():
            if not any(self.path.glob("adapters/*/*")):
                return
            what = f"STATUS says {self.status or 'nothing'}, not done, and there is no checkpoint to go on from"
            raise RunError(f"{self.path}: holds what was learned; {what}. Restore it, or overwrite=true starts again")
        progress, _ = self.load_progress()
        self.load_session(progress)
        of_tasks = [f"adapters/{task.name}/" for task in self.stream.tasks[: progress.num_tasks_done]]
        if of_tasks:
            basis = ["adapters/basis.safetensors"] if self.config.method.basis == "svd" else []
            check_sums(self.path, "overwrite=true starts again", [*of_tasks, *basis])

    def load_progress(self) -> tuple[Progress, dict[str, Any] | None]:
        """Return how far the run is and the method's state then; a fresh start where there is no checkpoint.

        Raises:
            RunError: a checkpoint that cannot be read.
        """
        progress = Progress(self.scenario, self.config)
        state = self._read_checkpoint(self._checkpoint)
        if state is None:
            return progress, None
        try:
            progress.load_state_dict(state["progress"])
            return progress, state["method"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(error) from error

    def load_session(self, progress: Progress) -> dict[str, Any] | None:
        """Return how far the session after the tasks that are done is; None where nothing of it has been kept.

        Raises:
            RunError: a checkpoint that cannot be read.
        """
        state = self._read_checkpoint(self._session)
        return state["session"] if state is not None and state["num_tasks_done"] == progress.num_tasks_done else None

    def _read_checkpoint(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            state = read_state(path)
            if state["format"] != CHECKPOINT_FORMAT:
                raise ValueError(f"format {state['format']}, this version reads {CHECKPOINT_FORMAT}")
            if state["run"] != self.path.name:
                raise ValueError(f"it is of the run {state['run']}")
            return state
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self.damaged(error, path) from error

    def damaged(self, error: Exception, path: Path | None = None) -> RunError:
        """Return the error of a checkpoint that cannot be gone on with."""
        return RunError(f"{path or self._checkpoint} cannot be read ({error}); overwrite=true starts again")

    def save_progress(self, progress: Progress, method_state: dict[str, Any]) -> None:
        """Write the result files, then the checkpoint they can be made again from."""
        self._write_results(progress)
        keep_sums(self.path, [self.path / name for name in RESULTS])
        state = {"format": CHECKPOINT_FORMAT, "run": self.path.name, "progress": progress.state_dict()}
        self._checkpoint.parent.mkdir(exist_ok=True)
        write_state(self._checkpoint, state | {"method": method_state})
        self._session.unlink(missing_ok=True)  # of the task that has ended

    def save_session(self, progress: Progress, session: dict[str, Any]) -> None:
        """Write how far the session at hand is."""
        state = {"format": CHECKPOINT_FORMAT, "run": self.path.name, "num_tasks_done": progress.num_tasks_done}
        write_state(self._session, state | {"session": session})

    def _write_results(self, progress: Progress) -> None:
        self._write("accuracy_matrix.csv", progress.matrix.to_csv())
        write_atomically(self.path / "predictions.csv.gz", progress.predictions())
        self._write_csv("metrics.csv", progress.history, ["task", "metric", "value", "step", "seconds"])
        columns = [field.name for field in dataclasses.fields(TaskCost)]
        metrics = progress.metrics()
        self._write("metrics.json", _json({name: dataclasses.asdict(metric) for name, metric in metrics.items()}))
        self._write_csv("cost.csv", [dataclasses.asdict(cost) for cost in progress.costs], columns)

    def _write_csv(self, name: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
        self._write(name, csv_text(pd.DataFrame(rows, columns=columns)))

    def save_adapter(self, t: int, method: Method) -> int:
        """Write `adapters/<task>/` and return the size of its adapter.safetensors in bytes.

        The tensors are stacked over layers, adapter.json says what they are; `peft/` is the same as a plain LoRA.
        """
        task, state = self.stream.tasks[t], method.state_of(t)
        folder = self.path / "adapters"
        folder.mkdir(exist_ok=True)
        basis, basis_file = method.adapters.basis() if method.adapters else {}, folder / "basis.safetensors"
        if basis and not basis_file.exists():
            write_state(basis_file, basis)
        parent, parent_file = method.adapters.parent if method.adapters else {}, folder / "parent.safetensors"
        if parent and not parent_file.exists():
            write_state(parent_file, {name: list(pair) for name, pair in parent.items()})
        tensors, layers = packed(state)
        weights = save_tensors(tensors)
        manifest = {
            "format": ADAPTER_FORMAT,
            "task": task.name,
            "index": t,
            "description": task.description,
            "labels": method.outputs.head_labels(t),
            "model": {"name": self.config.model.name, "sha256": self.model_sha256},
            "method": plain_config(self.config)["method"],
            "layers": layers,
            "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "basis_sha256": hashlib.sha256(basis_file.read_bytes()).hexdigest() if basis else None,
            "parent_sha256": hashlib.sha256(parent_file.read_bytes()).hexdigest() if parent else None,
            "data_sha256": task.sha256,
        }
        with folder_written_atomically(folder / task.name) as new:
            (new / "adapter.safetensors").write_bytes(weights)
            (new / "adapter.json").write_text(_json(manifest), encoding="utf-8")
            if not_exportable(self.config.method) is None:
                write_peft(new / "peft", method.exported(t, task, self.config.model.base_name))
            if self.config.method.save_weights:
                (new / "backbone.safetensors").write_bytes(save_tensors(method.backbone_weights()))
        shared = [*([basis_file] if basis else []), *([parent_file] if parent else [])]
        keep_sums(self.path, [folder / task.name, *shared])
        return len(weights)

    def save_samples(self, samples: list[dict[str, Any]]) -> None:
        """Write some answers word for word, where a model answers in words."""
        if samples:
            self._write("answers.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples))

    def finish(self, progress: Progress) -> None:
        """Write the result files once more, mark the run done and drop the checkpoint."""
        self._write_results(progress)
        answers = self.path / "answers.jsonl"
        keep_sums(self.path, [*(self.path / name for name in RESULTS), *([answers] if answers.exists() else [])])
        (self.path / "report.md").unlink(missing_ok=True)  # one made of the unfinished run
        log.info("done")
        self._write("STATUS", "done\n")
        self.drop_checkpoint()

    @property
    def was_killed(self) -> bool:
        """Whether a process that wrote the folder is writing still, or did not come to its end."""
        return (self.path / LOCK).exists()

    def tidy(self) -> None:
        """Remove what a process left that was killed when the run was done."""
        remove_unfinished(self.path)

    def drop_checkpoint(self) -> None:
        """Remove what the next task would need, also where a finished run was killed before it could.

        Raises:
            RunError: STATUS says done, and the checkpoint that the run is not.
        """
        if self._checkpoint.exists():
            progress, _ = self.load_progress()
            if progress.num_tasks_done < len(self.stream):
                done = f"{progress.num_tasks_done} of {len(self.stream)} tasks"
                raise RunError(f"{self.path}: STATUS says done, and its checkpoint has {done}; remove STATUS to go on")
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    def read(self) -> StoredRun:
        """Return the run as it lies on disk.

        Raises:
            RunError: a file of the run is missing or cannot be read.
        """
        return read_run(self.path)

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text.encode())


def packed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return what `adapter.safetensors` holds of a task's state, and which layers its stacked tensors are of."""
    heads = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    tensors, layers = pack_layers({name: tensor for name, tensor in state.items() if name not in heads})
    return tensors | {name: tensor.detach().cpu() for name, tensor in heads.items()}, layers


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain_number) + "\n"


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


class _RunLog(logging.FileHandler):
    """A log whose trouble is an error of the run, not a traceback on the screen."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]  # what the write raised
        if isinstance(error, OSError):
            error.filename = self.baseFilename
        raise
