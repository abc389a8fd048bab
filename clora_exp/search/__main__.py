"""python -m clora_exp.search: find settings on validation data; see `command.py`, and --help."""

import importlib.util
import sys


def main() -> int:
    """Run the command where what it needs is installed; return the exit status."""
    if importlib.util.find_spec("optuna") is None:
        print("error: a search needs Optuna: pip install -e '.[search]' -c constraints.txt", file=sys.stderr)
        return 2
    from clora_exp.search.command import main as search

    return search()


if __name__ == "__main__":
    sys.exit(main())
