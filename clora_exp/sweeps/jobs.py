"""The jobs of a sweep: which there are, where each one's run lies, and which are done already. Imports no Lightning.

A run's folder follows the content of data and weights; both are looked at once for all the jobs that share them.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser

from clora_exp import discovery
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, ConfigError
from clora_exp.identity import run_folder
from clora_exp.locks import LOCK
from clora_exp.models.weights import make_weights
from clora_exp.runs import status_of
from clora_exp.tasks.stream import load_stream


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its number from 1, what to type for it, and its folder; or what is wrong with it."""

    number: int
    overrides: list[str]
    label: str  # of the overrides those that are not the same in all jobs
    folder: Path | None = None  # None: of a run that is reproduced
    is_done: bool = False
    problem: str = ""

    @property
    def command(self) -> str:
        """What runs it alone, and does what is missing."""
        return shlex.join(
            ["python", "run.py", *(o for o in self.overrides if not o.lstrip("+").startswith("overwrite="))]
        )


def expand(
    params: Mapping[str, Any], grids: Mapping[str, Mapping[str, Any]], typed: Sequence[str], loader: ConfigLoader
) -> list[list[str]]:
    """Return the overrides of every job: of each grid, or of none, all combinations; each job once.

    An experiment's `params` go with every grid; a grid's keys win over them, and what was typed over both.

    Raises:
        ConfigError: an interval, which has no list of values.
    """
    jobs: dict[tuple[str, ...], None] = {}
    for grid in list(grids.values()) or [{}]:
        words = [*(f"{key}={value}" for key, value in {**params, **grid}.items()), *typed]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                key = override.key_or_group
                raise ConfigError(
                    f"{override.input_line}: an interval is for a search, python -m clora_exp.search …; a sweep needs "
                    f"a list, {key}=1,2,3 or {key}=range(1,10,2)"
                )
        for batch in BasicSweeper.split_arguments(overrides, None):
            jobs |= dict.fromkeys(map(tuple, batch))
    return [list(job) for job in jobs]


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return of each job's overrides those that are not the same in all; of one job all."""
    common = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
    return [" ".join(word for word in job if word not in common) for job in jobs]


@dataclass(frozen=True)
class _Facts:
    """What a run's folder needs to know of a stream."""

    names: list[str]
    of: dict[str, dict[str, str]]

    def fingerprints(self) -> dict[str, dict[str, str]]:
        return self.of


class Folders:
    """Finds runs' folders; data and weights are read once for all runs that have the same."""

    def __init__(self) -> None:
        self._streams: dict[str, _Facts] = {}
        self._models: dict[str, str] = {}

    def of(self, config: ExperimentConfig) -> Path:
        """Return where a run lies, or would.

        Raises:
            CloraError: its data or its model cannot be had.
        """
        return run_folder(config, self._stream(config), self._model(config))

    def _stream(self, config: ExperimentConfig) -> _Facts:
        limit = config.trainer.max_eval_examples
        key = _key(dataclasses.asdict(config.tasks), config.data_seed, config.eval_split, limit)
        if key not in self._streams:
            stream = load_stream(config.tasks, config.data_seed, lambda source: _terminal().preparing(source))
            stream = stream.thinned(config.eval_split, limit)
            self._streams[key] = _Facts(stream.names, stream.fingerprints())
        return self._streams[key]

    def _model(self, config: ExperimentConfig) -> str:
        key = _key(dataclasses.asdict(config.model))
        if key not in self._models:
            make_weights(config.model, lambda what, total: _terminal().making(what, total))
            self._models[key] = discovery.model_kinds.load(config.model.kind).identity(config.model)
        return self._models[key]


def _terminal() -> Any:
    """Return what shows that data are prepared or weights made; it takes seconds to import, and is seldom needed."""
    from clora_exp.reports.terminal import Terminal

    return Terminal()


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=str)


def find(number: int, overrides: list[str], label: str, config: ExperimentConfig, folders: Folders) -> Job:
    """Return the job of a configuration; one whose data or model cannot be had has a problem."""
    job = Job(number, overrides, label)
    if config.reproduce is not None:
        return job
    try:
        folder = folders.of(config)
    except CloraError as mistake:
        return dataclasses.replace(job, problem=str(mistake))
    return dataclasses.replace(job, folder=folder, is_done=is_done(folder, config))


def is_done(folder: Path, config: ExperimentConfig) -> bool:
    """Tell whether nothing is left to do for a run."""
    if config.overwrite or status_of(folder) != "done":
        return False
    return not (folder / LOCK).exists() and (not config.report or (folder / "report.md").exists())
