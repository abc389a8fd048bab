"""Run one experiment: python run.py method=clora tasks=med_legal_code. See --help, README.md and clora_exp/loop.py."""

import os
import shlex
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clora_exp.compose import CONF, experiment, in_words
from clora_exp.errors import CloraError


def cli() -> int:
    """Compose, check, run; return the exit status: 0, or 2 after one clear line about what the user can mend."""
    mistakes: list[CloraError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> None:
        try:
            config = experiment(composed)
            from clora_exp.loop import run  # torch takes seconds to import: only once the configuration is right
            from clora_exp.reports.terminal import Terminal

            run(config, command=shlex.join(["python", "run.py", *sys.argv[1:]]), terminal=Terminal())
        except CloraError as mistake:  # kept: Hydra would print lines of its own around it
            mistakes.append(mistake)

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        mistakes.append(in_words(error, sys.argv[1:]))
    for mistake in mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    return 2 if mistakes else 0


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print and end with status 1
    sys.exit(cli())
