"""What finished runs say: a run's page, comparisons over methods and seeds, and whether a report's numbers are true.

python -m clora_exp.reports list results/runs
python -m clora_exp.reports page results/runs/med_legal_code/clora/1a2b3c4d-s0
python -m clora_exp.reports compare results/runs/med_legal_code --out results/comparison
python -m clora_exp.reports verify results/comparison
python -m clora_exp.reports cross results/runs/med_legal_code

`python -m clora_exp.reports RUN` is short for `page RUN`; COMMAND --help says more. docs/reports.md explains it all.
"""

import argparse
import importlib
import sys
from pathlib import Path

from clora_exp.errors import CloraError, ConfigError, unknown

COMMANDS = {  # name → its module here, with add_arguments(parser) and main(options), and its line of help
    "list": ("listing", "every run below a folder, finished or not, with its status"),
    "page": ("page", "figures and page of runs, made again"),
    "compare": ("compare", "methods over seeds: tables, tests, figures, as Markdown, CSV and HTML"),
    "verify": ("verify", "compute a comparison's numbers again from the runs, and find any that differ"),
    "strip": ("strip", "copy runs without their weights: what compare and verify need, small enough to commit"),
    "diff": ("diff", "two runs: settings, metrics with paired intervals, matrices, the examples newly wrong and right"),
    "cross": ("cross", "each task's adapter on every task's data, measured; compare then draws it"),
    "ledger": ("ledger", "every published definition of transfer and forgetting side by side, for a run"),
    "wandb": ("wandb_report", "the comparison as a report of a Weights & Biases workspace"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status: 0, 1 where `verify` finds a difference, 2 for a mistake."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if not words or words[0] in ("-h", "--help"):
            _overview().print_help()
            return 0 if words else 2
        name, rest = (words[0], words[1:]) if words[0] in COMMANDS else ("page", words)
        if words[0] not in COMMANDS and not _may_be_a_folder(words[0]):
            raise ConfigError(unknown("command", words[0], COMMANDS))
        module = importlib.import_module(f"clora_exp.reports.{COMMANDS[name][0]}")
        parser = argparse.ArgumentParser(prog=f"python -m clora_exp.reports {name}", description=module.__doc__)
        module.add_arguments(parser)
        return int(module.main(parser.parse_args(rest)))
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _overview() -> argparse.ArgumentParser:
    """Return the parser that lists the commands; it imports none of them."""
    parser = argparse.ArgumentParser(
        prog="python -m clora_exp.reports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (_, help_line) in COMMANDS.items():
        commands.add_parser(name, help=help_line)
    return parser


def _may_be_a_folder(word: str) -> bool:
    return word.startswith("-") or "/" in word or "\\" in word or Path(word).exists()


if __name__ == "__main__":
    sys.exit(main())
