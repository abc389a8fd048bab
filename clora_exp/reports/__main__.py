"""Make the figures and the page of runs again, of unfinished ones too: python -m clora_exp.reports RUN_FOLDER …"""

import argparse
import sys
from pathlib import Path

from clora_exp.errors import CloraError
from clora_exp.reports.run import write_report


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m clora_exp.reports", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="a run directory (has config.yaml)")
    try:
        for folder in parser.parse_args(arguments).folders:
            print(write_report(folder))
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
