"""Run one experiment: python run.py method=clora tasks=med_legal_code. See --help, README.md and clora_exp/loop.py."""

import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from clora_exp import processes
from clora_exp.compose import CONF, check_words, experiment, in_words
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, ConfigError, Differs, Interrupted
from clora_exp.help import answer
from clora_exp.loggers.base import check_loggers
from clora_exp.models.weights import check_backend, check_layers
from clora_exp.reports.notices import collected_notices
from clora_exp.runs import check_writable, read_run


def cli() -> int:
    """Compose, check, run; return the exit status.

    0; 1 where a run is not reproduced; 2 after one clear line about what the user can mend; 128 + the signal's number
    when stopped by one.
    """
    mistakes: list[Exception] = []
    findings: list[str] = []
    is_composed = False

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # ${…} stands as it was typed
        overrides = [str(o) for o in words if not str(o).lstrip("+").startswith("overwrite=")]
        others = [o for o in overrides if not o.lstrip("+").startswith("reproduce=")]
        command = shlex.join([*processes.launcher(), "run.py", *overrides])
        try:
            finding = carry_out(checked(composed, others), command)
            if finding is not None:
                findings.append(finding)
        except Interrupted as stop:  # as an ordinary Ctrl-C, so that a sweep stops too
            again = sweep() if HydraConfig.get().mode == RunMode.MULTIRUN else command
            if processes.rank() == 0:
                print(f"\n{stop}; finished tasks are kept, the same command goes on: {again}", file=sys.stderr)
            raise KeyboardInterrupt(stop.signal_number) from stop
        except CloraError as mistake:  # kept: Hydra would print lines of its own around it
            mistakes.append(mistake)

    if processes.world_size() > 1 and {"-m", "--multirun"} & set(sys.argv):
        print(f"error: {processes.NO_SWEEP}", file=sys.stderr)
        return 2
    try:
        text = answer(sys.argv[1:])
        if text is None:
            check_words(sys.argv[1:])
        print(text, flush=True) if text is not None else job()
    except ConfigError as mistake:
        mistakes.append(mistake)
    except BrokenPipeError:  # who reads, e.g. head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        return 141  # what a shell says of SIGPIPE
    except Exception as error:
        if is_composed:
            raise
        mistakes.append(in_words(error, sys.argv[1:]))
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        if not isinstance(stop.__cause__, Interrupted) and processes.rank() == 0:  # before training, or after it
            again = shlex.join([*processes.launcher(), "run.py", *sys.argv[1:]])
            print(f"\nstopped by {signal.Signals(number).name}; the same command goes on: {again}", file=sys.stderr)
        return 128 + number
    for mistake in mistakes if processes.rank() == 0 else ():
        print(f"error: {mistake}", file=sys.stderr)
    for finding in findings:
        print(finding, file=sys.stderr)
    return 2 if mistakes else 1 if findings else 0


def checked(composed: DictConfig, others: list[str]) -> ExperimentConfig:
    """Return the configuration, looked at as far as it takes no seconds; `others` is typed beside `reproduce`.

    Raises:
        CloraError: what cannot be.
    """
    config = experiment(composed)
    if config.reproduce is not None and others:
        raise ConfigError(f"reproduce={config.reproduce} runs what was recorded; leave out {' '.join(others)}")
    if config.reproduce is not None and processes.world_size() > 1:
        raise ConfigError(f"reproduce={config.reproduce} runs in one process; leave torchrun out")
    check_writable(config)
    if config.reproduce is not None:
        read_run(Path(config.reproduce))
    check_layers(config)
    check_backend(config.method.backend)
    check_loggers(config)
    return config


def carry_out(config: ExperimentConfig, command: str) -> str | None:
    """Run, or run again what was recorded; return where that differs, if it does."""
    from clora_exp.loop import run  # Lightning takes seconds to import: only for a right configuration
    from clora_exp.reports.terminal import Terminal
    from clora_exp.reproduction import reproduce

    terminal = Terminal() if processes.rank() == 0 else Terminal.silent()
    with processes.joined(), collected_notices(terminal.notices):
        if config.reproduce is None:
            run(config, command, terminal)
            return None
        try:
            print(reproduce(Path(config.reproduce), terminal))
        except Differs as finding:
            return f"{config.reproduce} differs: {finding}"
    return None


def sweep() -> str:
    """Return the command of the sweep that runs, such that it does what is missing."""
    return shlex.join(["python", "run.py", *(o for o in sys.argv[1:] if not o.lstrip("+").startswith("overwrite="))])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end what is being prepared as Ctrl-C does; in training `clora_exp/interrupts.py` takes over."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print and end with status 1
    sys.exit(cli())
