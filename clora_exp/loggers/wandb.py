"""Weights & Biases: live where there is an account, offline with WANDB_MODE=offline and `wandb sync` later.

Its files are in `results_dir/.wandb/`. A run of ours is one run there, whose id begins as its folder is called and goes
on with it; six digits more keep runs apart that are the same, made again or made by others in the same project.
"""

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from typing import Any

from clora_exp.config import STRICT, Flag
from clora_exp.errors import RunError
from clora_exp.loggers.base import TASKS_LEARNED, Ending, Logger, Point, Started, need

INIT_TIMEOUT_S = 30.0  # until the network counts as down, and the run is logged offline
FINISH_TIMEOUT_S = 600.0  # for what is not uploaded when a run ends; it stays on disk
OFFLINE = ("offline", "dryrun")


@dataclass(frozen=True)
class Config:
    """Where runs go, and what of them."""

    __pydantic_config__ = STRICT
    project: str = "clora-exp"
    entity: str | None = None  # a user or a team; null: your own default
    group: str | None = None  # null: the runs that can be compared, see `group_of`
    adapters: Flag = True  # each task's adapter as an artifact


def check() -> None:
    """Raises RunError where wandb is not installed, or the run is to be logged online and there is no API key."""
    need("wandb", "wandb")
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if (os.environ.get("WANDB_MODE") or wandb.setup().settings.mode) not in ("online", "shared"):
        return
    try:
        is_let_in = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise RunError(f"logger=wandb: {error}") from error
    if not is_let_in:
        raise RunError(
            "logger=wandb needs an API key: run wandb login, or set WANDB_API_KEY; without one log offline, "
            "WANDB_MODE=offline python run.py …, and upload later with wandb sync"
        )


def group_of(run: Started) -> str:
    """Return what a run shares with those it can be compared with: tasks in order, their data, model, what is measured.

    A sweep over methods and seeds is one group, a run's method its job type.
    """
    config = run.config
    shared = [run.stream.names, run.stream.fingerprints(), run.model_sha256, config.scenario, config.eval_split]
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]
    return f"{config.tasks.name}-{config.model.name}-{digest}"


class WeightsAndBiases(Logger):
    """Losses by a task's own steps, accuracies and costs by tasks learned, matrix, figures, adapters with lineage."""

    def start(self, known: str | None) -> tuple[str, str]:
        """Begin a run there, or go on with the one that is known; offline where the network is down."""
        import wandb

        if os.environ.get("WANDB_MODE") in OFFLINE:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline is offline
        called = known or f"{self.run.path.name}-{secrets.token_hex(3)}"
        self._keys: set[str] = set()
        trouble = ""
        try:
            self._run = self._init(called, os.environ.get("WANDB_MODE"))
        except wandb.errors.CommError as error:
            wandb.teardown()  # else the id may count as in use still
            self._run = self._init(called, "offline")
            trouble = f" ({str(error).splitlines()[0]})"
        if self._run.offline:
            return called, f"offline{trouble}; to upload it: wandb sync {self.place}/offline-run-*-{called}"
        return called, self._run.url or "disabled"

    def _init(self, called: str, mode: str | None) -> Any:
        import wandb

        self.place.mkdir(parents=True, exist_ok=True)  # where wandb finds a .wandb, its files go there
        config = self.run.config
        settings: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        for name, seconds in (("init_timeout", INIT_TIMEOUT_S), ("finish_timeout", FINISH_TIMEOUT_S)):
            if f"WANDB_{name.upper()}" not in os.environ:
                settings[name] = seconds
        return wandb.init(
            dir=str(self.place.parent),
            mode=mode,  # type: ignore[arg-type]  # the user's word
            entity=self.settings.entity,
            project=self.settings.project,
            group=self.settings.group or group_of(self.run),
            job_type=config.method.name,
            name=self.run.title,
            tags=[config.tasks.name, config.model.name, config.scenario],
            config=self.run.described(),
            id=called,
            resume="allow",
            reinit="create_new",  # a sweep in one process makes runs of their own
            settings=wandb.Settings(**settings),
        )

    def log(self, points: list[Point]) -> None:
        """Log every point as a step of the run, each number on the axis of its task."""
        for point in points:
            for key in point.values.keys() - self._keys:
                self._run.define_metric(point.axis, hidden=True)
                self._run.define_metric(key, step_metric=point.axis)
                self._keys.add(key)
            self._run.log(point.values | {point.axis: point.x}, step=point.number, commit=True)
            for task in point.learned if self.settings.adapters else ():
                self._log_adapter(task)

    def _log_adapter(self, task: str) -> None:
        """Log a task's adapter as a version of the run's artifact; what it was learned from is the version before.

        Files are taken from the run's folder, not copied. `use_artifact` needs a network; what it calls for an artifact
        that it is handed does not, and says by the content which version is meant.
        """
        names = self.run.stream.names
        before = names.index(task) - 1
        if before >= 0 and self.run.config.method.protocol == "sequence":
            used = self._artifact(names[before])
            self._run._log_artifact(used, aliases=[names[before]], is_user_created=True, use_after_commit=True)
        self._run.log_artifact(self._artifact(task), aliases=[task])

    def _artifact(self, task: str) -> Any:
        import wandb

        folder = self.run.path / "adapters"
        about = json.loads((folder / task / "adapter.json").read_text(encoding="utf-8"))
        kept = ("task", "index", "labels", "model", "num_parameters", "sha256", "data_sha256")
        artifact = wandb.Artifact(
            f"{self.run.title}-adapters", "adapter", about["description"], {key: about[key] for key in kept}
        )
        files = [path for path in sorted((folder / task).rglob("*")) if path.is_file()]
        for path in [*files, *folder.glob("basis.safetensors")]:
            start = folder / task if path in files else folder
            artifact.add_file(str(path), name=path.relative_to(start).as_posix(), policy="immutable")
        return artifact

    def finish(self, ending: Ending) -> None:
        """Log matrix and figures of a finished run, and end it there: as failed where it is not finished."""
        import wandb

        try:
            if ending.run is not None:
                matrix = ending.run.matrix
                rows = [[n, *map(_cell, v)] for n, v in zip(matrix.rows, matrix.values.tolist(), strict=True)]
                table = wandb.Table(columns=["after", *matrix.tasks], data=rows)
                images = {f"figures/{name}": wandb.Image(str(path)) for name, path in ending.figures.items()}
                self._run.log({"accuracy_matrix": table, TASKS_LEARNED: len(matrix.tasks)} | images)
            self._run.summary.update({"status": ending.status, "error": ending.message})
        finally:
            self._run.finish(exit_code=0 if ending.status == "done" else 1)


def _cell(value: float) -> float | None:
    return value if value == value else None  # not measured
