"""Make the figures and the page of runs again, of unfinished ones too."""

import argparse
from pathlib import Path

from clora_exp.reports.run import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `page`."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run directory (has config.yaml)")


def main(options: argparse.Namespace) -> int:
    """Write each run's page; print where it is."""
    for folder in options.folders:
        print(write_report(folder))
    return 0
