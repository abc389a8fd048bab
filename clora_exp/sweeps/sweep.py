"""A sweep from its command to its end: python run.py -m method=lora,clora seed=0,1, or -m experiment=<name>.

Hydra composes and its launchers launch (`hydra/launcher=joblib`, …); which jobs there are and how they ended is here:
what is done already is not launched, and a job that fails stops no other.
"""

import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import track

from clora_exp.compose import CONF, experiment, in_words
from clora_exp.errors import ConfigError, Interrupted
from clora_exp.runs import unwritable
from clora_exp.sweeps.announcements import Announcements, Watcher
from clora_exp.sweeps.jobs import Folders, Job, expand, find, labels
from clora_exp.sweeps.outcomes import STOP, Outcome, tidy
from clora_exp.sweeps.worker import Worker


def sweep(words: Sequence[str]) -> int:
    """Run what is missing of the jobs that a command line asks for; return the exit status.

    0; 2 where a job failed over something the user can mend, 1 where one failed otherwise; 128 + the signal's number.

    Raises:
        ConfigError: what does not compose; no job is run then.
        RunError: nothing can be written.
        KeyboardInterrupt: stopped by a signal, while there was nothing to be kept.
    """
    started = time.monotonic()
    with composition(words) as (master, context), _signals() as signals:
        jobs, is_dry = _plan(master, context, words)
        announcements = Announcements(jobs)
        if is_dry:
            announcements.table()
            return 0
        folder = _folder(master)
        try:
            _announce_what_is_known(jobs, announcements, folder)
            missing = [job for job in jobs if not job.is_done and not job.problem]
            if missing:
                _launch(missing, master, context, announcements, folder, signals)
        except KeyboardInterrupt as stop:
            signals.received = stop.args[0] if stop.args else signal.SIGINT
        status = announcements.summary(_again(words), time.monotonic() - started, signals.received is not None)
        done = {o.number for o in announcements.outcomes.values() if o.status == "done"}
        tidy(folder, done | {job.number for job in jobs if job.is_done}, len(jobs))
        if signals.received is None:
            return status
    stop_ = Interrupted(signals.received)
    print(f"\n{stop_}; what was finished is kept, the same command goes on: {_again(words)}", file=sys.stderr)
    return 128 + signals.received


@contextmanager
def composition(words: Sequence[str]) -> Iterator[tuple[DictConfig, HydraContext]]:
    """Compose what is not swept: its launcher, its experiment, its place.

    Raises:
        ConfigError: it does not compose, in our words.
    """
    options = get_args_parser().parse_args(list(words))
    place = Path(options.config_path).absolute() if options.config_path else CONF
    with initialize_config_dir(str(place), version_base="1.3", job_name="run"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        typed = [*_found(options), f"hydra.sweep.dir='${{results_dir}}/.sweeps/{secrets.token_hex(4)}'"]
        try:
            master = hydra.compose_config(
                options.config_name or "config",
                [*typed, *options.overrides],
                RunMode.MULTIRUN,
                with_log_configuration=False,
            )
        except (HydraException, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
            raise in_words(error, words) from error
        yield master, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))


def _found(options: Any) -> list[str]:
    """Return the override that finds the user's own configurations."""
    return [f"hydra.searchpath=[file://{Path(options.config_dir).absolute()}]"] if options.config_dir else []


def _plan(master: DictConfig, context: HydraContext, words: Sequence[str]) -> tuple[list[Job], bool]:
    """Return the jobs, and whether they are to be shown only.

    Raises:
        ConfigError: a job does not compose.
    """
    swept, typed = master.hydra.sweeper, OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    assert isinstance(typed, list)
    try:
        every = expand(swept.params, swept.grids, typed, context.config_loader)
    except (HydraException, ValueError) as error:
        raise in_words(error, words) from error
    errors = Console(stderr=True)
    if len(every) > 20 and not errors.is_terminal:
        print(f"looking which of {len(every)} jobs are done", file=sys.stderr, flush=True)
    shown: dict[str, Any] = {"console": errors, "transient": True, "disable": not errors.is_terminal}
    jobs, is_dry, folders = [], False, Folders()
    options = get_args_parser().parse_args(list(words))
    of_jobs = list(zip(every, labels(every), strict=True))
    for number, (overrides, label) in enumerate(track(of_jobs, "looking what is done", **shown), 1):
        try:
            composed = context.config_loader.load_sweep_config(master, overrides)
            with open_dict(composed):
                del composed["hydra"]
        except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            where = ["--config-dir", options.config_dir] if options.config_dir else []
            raise in_words(error, [*where, *overrides]) from error
        try:
            config = experiment(composed)
        except ConfigError as mistake:
            jobs.append(Job(number, overrides, label, problem=str(mistake)))
            continue
        is_dry = is_dry or config.dry_run
        jobs.append(find(number, overrides, label, config, folders))
    return jobs, is_dry


def _folder(master: DictConfig) -> Path:
    """Make the sweep's folder.

    Raises:
        RunError: it cannot be made.
    """
    folder = Path(master.hydra.sweep.dir).expanduser()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritable(str(folder.parent.parent), error.strerror) from error
    return folder


def _announce_what_is_known(jobs: Sequence[Job], announcements: Announcements, folder: Path) -> None:
    for job in jobs:
        if job.is_done:
            announcements.done_before(job)
        elif job.problem:
            announcements.ended(Outcome(job.number, "failed", error=job.problem, is_mistake=True))


def _launch(
    missing: list[Job],
    master: DictConfig,
    context: HydraContext,
    announcements: Announcements,
    folder: Path,
    signals: "Signals",
) -> None:
    """Run the jobs by the launcher that was chosen: one after another in this process, or elsewhere, watched."""
    is_here = master.hydra.runtime.choices["hydra/launcher"] == "basic"
    worker = Worker(folder, missing, announcements if is_here else None)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=worker, config=master)
    overrides = [job.overrides for job in missing]
    if is_here:
        launcher.launch(overrides, initial_job_idx=0)
        return
    signals.stop_file = folder / STOP
    with Watcher(folder, [job.number for job in missing], announcements):
        try:
            launcher.launch(overrides, initial_job_idx=0)
        except Exception as error:  # a process that was killed, a cluster that is not there, …
            if signals.received is None:
                name = type(error).__name__
                print(f"the launcher failed: {name}: {(str(error).splitlines() or [''])[0]}", file=sys.stderr)


class Signals:
    """SIGINT and SIGTERM in a sweep: an ordinary Ctrl-C, or where jobs run elsewhere a word to end in order.

    A job that runs in this process has a handler of its own while it trains, see `interrupts.py`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stop_file: Path | None = None  # where jobs run elsewhere

    def receive(self, number: int, frame: FrameType | None) -> None:
        """End the sweep; the second signal at once."""
        if self.stop_file is None or self.received is not None:
            raise KeyboardInterrupt(number)
        self.received = number
        with suppress(OSError):
            self.stop_file.touch()
        print("\nending in order: jobs at hand are stopped, a second signal ends at once", file=sys.stderr, flush=True)
        if number == signal.SIGTERM or not os.isatty(0):  # Ctrl-C comes to every process of a terminal by itself
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.send_signal(signal.SIGTERM)


@contextmanager
def _signals() -> Iterator[Signals]:
    signals = Signals()
    before = {number: signal.signal(number, signals.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(words: Sequence[str]) -> str:
    """Return the sweep's command, such that it does what is missing."""
    return shlex.join(["python", "run.py", *(o for o in words if not o.lstrip("+").startswith("overwrite="))])
