"""What a logger is told of a run, and what it must be able to do. `logs.py` tells it; no logger sees a Trainer.

A logger `x` is `loggers/x.py`: a frozen dataclass `Config`, whose fields are the keys under `x:` in
`conf/logger/x.yaml`, a function `check()`, and one subclass of `Logger`. Its package is imported when a run starts:
composing needs none.
"""

import importlib.util
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clora_exp import discovery
from clora_exp.config import ExperimentConfig
from clora_exp.errors import RunError
from clora_exp.identity import plain_config
from clora_exp.runs import OF_ENVIRONMENT, StoredRun
from clora_exp.tasks.stream import TaskStream

TASKS_LEARNED = "tasks_learned"  # the axis of what is measured after a task; 0: before the first


@dataclass(frozen=True)
class Point:
    """Numbers of one moment of a run: an optimiser step, or the measuring after a task.

    `number` counts all points of a run from 0, so that one that goes on says nothing twice; `x` is where the moment
    stands on its axis, a step of one task or a number of tasks. `learned` are the tasks whose adapters are new then.
    """

    number: int
    axis: str
    x: int
    values: dict[str, float]
    learned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """A run that begins or goes on."""

    path: Path  # its folder
    config: ExperimentConfig
    stream: TaskStream
    model_sha256: str

    @property
    def title(self) -> str:
        """What the run is called among others: method, setting, seed."""
        return f"{self.config.method.name}-{self.path.name}"

    def described(self) -> dict[str, Any]:
        """Return every setting, and what the run ran on."""
        environment = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        about = {key: environment[key] for key in OF_ENVIRONMENT}
        return plain_config(self.config) | {"setting": self.path.name.rpartition("-s")[0], "environment": about}


@dataclass(frozen=True)
class Ending:
    """How a run ended, and of a finished one what it has come to."""

    status: str  # done, interrupted or failed
    message: str = ""
    run: StoredRun | None = None
    figures: dict[str, Path] = field(default_factory=dict)  # name → PNG


class Logger(ABC):
    """Follows one run. Whatever a method raises is said once, and the run goes on without this logger."""

    def __init__(self, settings: Any, run: Started, place: Path) -> None:
        """Take note; `place` is the folder of this logger's own below `results_dir`, shared by all its runs."""
        self.settings, self.run, self.place = settings, run, place

    @abstractmethod
    def start(self, known: str | None) -> tuple[str, str]:
        """Begin to follow; return what the run is called there, and in words where it can be seen.

        `known` is the name from before an interruption, None where the run is new. Another name that comes back means
        that nothing of the run is there.
        """

    @abstractmethod
    def log(self, points: list[Point]) -> None:
        """Take points in, each once and in order."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """Stop following; called once, whatever happened."""


def logger_class(name: str) -> type[Logger]:
    """Return the one class of a logger."""
    found = [c for c in vars(discovery.loggers.load(name)).values() if isinstance(c, type) and issubclass(c, Logger)]
    (own,) = (c for c in found if c is not Logger)
    return own


def check_loggers(config: ExperimentConfig) -> None:
    """Look, before any work, whether the loggers asked for can be had.

    Raises:
        RunError: a package is missing, or what a logger needs to be let in.
    """
    for name in config.logger.loggers:
        discovery.loggers.load(name).check()


def need(name: str, *packages: str) -> None:
    """Raises RunError where a package of the logger is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise RunError(
                f"logger={name} needs the package {package}; run: pip install -e '.[{name}]' -c constraints.txt"
            )
