"""Make the figures and the page of runs again, of unfinished ones too: python -m clora_exp.reports RUN_FOLDER …

`python -m clora_exp.reports wandb ENTITY/PROJECT` builds the comparison as a report of Weights & Biases.
"""

import argparse
import importlib
import sys
from pathlib import Path

from clora_exp.errors import CloraError
from clora_exp.reports.run import write_report


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["wandb"]:
        return _command("wandb", "wandb_report", words[1:])
    parser = argparse.ArgumentParser(prog="python -m clora_exp.reports", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="a run directory (has config.yaml)")
    try:
        for folder in parser.parse_args(words).folders:
            print(write_report(folder))
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _command(name: str, module_name: str, words: list[str]) -> int:
    """Run a command that is a module here, with `add_arguments(parser)` and `main(options)`."""
    module = importlib.import_module(f"clora_exp.reports.{module_name}")
    parser = argparse.ArgumentParser(prog=f"python -m clora_exp.reports {name}", description=module.__doc__)
    module.add_arguments(parser)
    try:
        return int(module.main(parser.parse_args(words)))
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
