"""A search from its first trial to its last, and on from where it was stopped. Optuna proposes, the loop runs.

`<results_dir>/.searches/<tasks>-<method>-<hash>/` holds `journal.log` (Optuna's, JSON lines) and `trials.csv`. A
trial's runs are ordinary run directories, on validation data. What a trial proposes follows from those before it and
the search's seed, so a search that was killed ends as one that was not.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pytorch_lightning import Callback
from rich.console import Console

from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig, TrainerConfig
from clora_exp.errors import CloraError, ConfigError, RunError
from clora_exp.files import csv_text, write_atomically
from clora_exp.loop import run
from clora_exp.reports.progress import Bars, Lines, Watch
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import duration
from clora_exp.search.space import Space
from clora_exp.sweeps.jobs import Folders

ALWAYS = ["eval_split=validation", "report=false"]
SEED_STRIDE = 1_000_003  # the seeds of two searches' samplers never meet

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Budget:
    """How much a search may do in all, its earlier calls included; whichever ends first."""

    trials: int | None
    minutes: float | None

    def is_left(self, num_trials: int, seconds: float) -> bool:
        """Tell whether another trial may begin."""
        within_trials = self.trials is None or num_trials < self.trials
        return within_trials and (self.minutes is None or seconds < 60 * self.minutes)

    def left_s(self, num_trials: int, seconds: float) -> float:
        """Return about how many seconds the rest takes."""
        by_trials = math.inf if self.trials is None else seconds / num_trials * (self.trials - num_trials)
        return max(0.0, min(by_trials, math.inf if self.minutes is None else 60 * self.minutes - seconds))


class Search:
    """The trials of a space; `metric` is averaged over the seeds, and the larger the better."""

    def __init__(self, space: Space, metric: str, seed: int) -> None:
        """Find the search's folder; makes none.

        Raises:
            CloraError: what is fixed cannot be run.
        """
        self.space, self.metric, self._seed = space, metric, seed
        base = compose_experiment([*space.fixed, *ALWAYS])
        if base.reproduce is not None or base.dry_run:
            raise ConfigError("a search trains: leave out reproduce and dry_run")
        run_hash = Folders().of(base).name.rpartition("-s")[0]  # of data, model and all that is fixed
        identity = f"{run_hash} {space.identity} {metric} {seed}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        root = Path(base.results_dir).expanduser() / ".searches"
        self.folder = root / f"{base.tasks.name}-{base.method.name}-{digest}"

    def open(self) -> None:
        """Read the trials that there are; the folder exists."""
        storage = JournalStorage(JournalFileBackend(str(self.folder / "journal.log")))
        self._study = optuna.create_study(
            storage=storage, study_name="search", direction="maximize", load_if_exists=True
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that have ended."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if self.record(trial)]

    def record(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's seconds, values by seed and error; nothing of one that has not ended."""
        return self._study.user_attrs.get(str(trial.number), {}) if trial.state.is_finished() else {}

    @property
    def seconds(self) -> float:
        """What the trials took, in all calls of the search together."""
        return sum(self.record(trial)["seconds"] for trial in self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """The first of the best trials; None where all have failed."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: trial.values[0], default=None)

    def go_on(self, budget: Budget, say: Callable[[str], None], check: Callable[[], None]) -> None:
        """Run trials until the budget is spent; `check` raises `Interrupted` where a signal has come between two.

        Raises:
            Interrupted: by a signal; the same search goes on.
        """
        while budget.is_left(len(self.trials), self.seconds):
            check()
            number, params = self._next()
            ordinal = len(self.trials) + 1
            of = f"/{budget.trials}" if budget.trials else ""
            say(f"trial {ordinal}{of}  {' '.join(self.space.words(params))}")
            self._run(number, params, say)
            write_atomically(self.folder / "trials.csv", csv_text(self.table()).encode())
            left_s = budget.left_s(len(self.trials), self.seconds)
            if self.best is not None and left_s:
                best = f"best {self.best.values[0]:.4f}"
                say(f"  {best}; about {duration(round(left_s)).replace('.0 s', ' s')} left")

    def _next(self) -> tuple[int, dict[str, Any]]:
        """Return the trial that was stopped, or ask for one: number and parameters."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.params.keys() == self.space.searched.keys():
                return trial.number, trial.params
            if not trial.state.is_finished():  # killed before it had all its parameters: asked for again
                self._study.tell(trial.number, state=TrialState.FAIL)
        seed = (self._seed * SEED_STRIDE + len(self.trials)) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        asked = self._study.ask(self.space.searched)
        return asked.number, asked.params

    def _run(self, number: int, params: dict[str, Any], say: Callable[[str], None]) -> None:
        """Run a trial, and write how it ended."""
        started, values, error = time.monotonic(), list[float](), ""
        try:
            for seed in self.space.seeds:
                words = [*self.space.fixed, *self.space.words(params), f"seed={seed}", *ALWAYS]
                values.append(self._value(compose_experiment(words), "python run.py " + " ".join(words)))
        except CloraError as mistake:
            error = str(mistake).splitlines()[0]
        seconds = round(time.monotonic() - started, 1)
        self._study.set_user_attr(str(number), {"seconds": seconds, "values": values, "error": error})
        if error:
            self._study.tell(number, state=TrialState.FAIL)
            say(f"  failed: {error}")
            return
        mean = sum(values) / len(values)
        self._study.tell(number, mean)
        say(f"  {self.metric} {mean:.4f}, {duration(seconds)}")

    def _value(self, config: ExperimentConfig, command: str) -> float:
        found = run(config, command, ProgressOnly()).read().metrics
        if self.metric not in found or (value := found[self.metric].value) is None:
            reason = found[self.metric].reason if self.metric in found else f"have: {', '.join(found)}"
            raise RunError(f"--metric {self.metric}: not defined here, {reason}")
        return value

    def table(self) -> pd.DataFrame:
        """Return a row a trial, in their order."""
        rows = []
        for ordinal, trial in enumerate(self.trials, 1):
            record = self.record(trial)
            mean = trial.values[0] if trial.values else math.nan
            used = dict(word.split("=", 1) for word in self.space.words(trial.params))
            of_seeds = dict(zip((f"seed {seed}" for seed in self.space.seeds), record["values"], strict=False))
            row = {"trial": ordinal, **used, self.metric: mean, **of_seeds}
            rows.append(row | {"seconds": record["seconds"], "error": record["error"]})
        return pd.DataFrame(rows)


class ProgressOnly(Terminal):
    """Shows how far a run is, and nothing else of it."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), quiet=True), interval_s=60.0)
        self._shown = Console(highlight=False, markup=False)

    def watching(self, trainer: TrainerConfig, first: Sequence[Callback]) -> Watch:
        """Return what shows the progress of the run, as a context."""
        view = Bars(self._shown) if self._shown.is_terminal else Lines(self._shown, self.interval_s)
        return Watch(view, trainer, first)
