"""Make the figures and the page of runs again, of unfinished ones too: python -m clora_exp.reports RUN_FOLDER …

python -m clora_exp.reports diff RUN_A RUN_B
python -m clora_exp.reports ledger RUN
python -m clora_exp.reports wandb ENTITY/PROJECT
"""

import argparse
import importlib
import sys
from pathlib import Path

from clora_exp.errors import CloraError
from clora_exp.reports.run import write_report

COMMANDS = {  # name → its module here, with add_arguments(parser) and main(options), and its line of help
    "diff": ("diff", "two runs: settings, metrics with paired intervals, matrices, the examples newly wrong and right"),
    "ledger": ("ledger", "every published definition of transfer and forgetting side by side, for a run"),
    "wandb": ("wandb_report", "the comparison as a report of a Weights & Biases workspace"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] in COMMANDS:
            name = words[0]
            module = importlib.import_module(f"clora_exp.reports.{COMMANDS[name][0]}")
            parser = argparse.ArgumentParser(prog=f"python -m clora_exp.reports {name}", description=module.__doc__)
            module.add_arguments(parser)
            return int(module.main(parser.parse_args(words[1:])))
        parser = argparse.ArgumentParser(
            prog="python -m clora_exp.reports",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        help_line = "a run directory (has config.yaml)"
        parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help=help_line)
        for path in parser.parse_args(words).folders:
            print(write_report(path))
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
