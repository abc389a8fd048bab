"""Run one experiment: python run.py method=clora tasks=med_legal_code. See --help, README.md and clora_exp/loop.py."""

import os
import shlex
import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clora_exp.compose import CONF, experiment, in_words
from clora_exp.errors import CloraError, Interrupted
from clora_exp.help import answer
from clora_exp.models.weights import check_backend, check_layers
from clora_exp.reports.notices import collected_notices
from clora_exp.runs import check_writable


def cli() -> int:
    """Compose, check, run; return the exit status.

    0; 2 after one clear line about what the user can mend; 128 + the signal's number when stopped by one.
    """
    mistakes: list[Exception] = []
    is_composed = False

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        overrides = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+").startswith("overwrite=")]
        command = shlex.join(["python", "run.py", *overrides])
        try:
            config = experiment(composed)
            check_writable(config.results_dir)
            check_layers(config)
            check_backend(config.method.backend)
            from clora_exp.loop import run  # Lightning takes seconds to import: only for a right configuration
            from clora_exp.reports.terminal import Terminal

            terminal = Terminal()
            with collected_notices(terminal.notices):
                run(config, command, terminal)
        except Interrupted as stop:  # as an ordinary Ctrl-C, so that a sweep stops too
            print(f"\n{stop}; finished tasks are kept, the same command goes on: {command}", file=sys.stderr)
            raise KeyboardInterrupt(stop.signal_number) from stop
        except CloraError as mistake:  # kept: Hydra would print lines of its own around it
            mistakes.append(mistake)

    try:
        text = answer(sys.argv[1:])
        print(text) if text is not None else job()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if is_composed:
            raise
        mistakes.append(in_words(error, sys.argv[1:]))
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    for mistake in mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    return 2 if mistakes else 0


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print and end with status 1
    sys.exit(cli())
