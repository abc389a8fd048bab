"""Compare methods over seeds: every finished run below the folders, what can be compared averaged and tested.

Writes comparison.md, .html (one file, for any browser) and .csv, runs.csv, matrices.csv, tests.csv, figures/ (PNG, SVG)
and sources.json, which says from which runs. Unfinished, damaged and incomparable runs stand apart, with why.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from clora_exp.errors import RunError
from clora_exp.reports.comparison import Left
from clora_exp.reports.evidence import Evidence, read_evidence
from clora_exp.reports.found import find_runs, with_progress
from clora_exp.reports.report import make, name_from
from clora_exp.reports.tables import best


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="where runs are, e.g. results/runs/med_legal_code"
    )
    parser.add_argument("--out", type=Path, metavar="OUT", help="where to write (default: FOLDER/comparison)")
    parser.add_argument(
        "--against",
        metavar="METHOD",
        help="the method, or setting as the report names it, that the others are tested against (default: clora, else "
        "lora, else the most accurate)",
    )


def main(options: argparse.Namespace) -> int:
    """Write the report; print the result and where it is."""
    out = options.out or options.folders[0] / "comparison"
    evidence, left = read_all(options.folders, out)
    comparison = make(out, evidence, left, options.against)
    console = Console(highlight=False)
    for found in comparison.sets:
        name = f"set {found.name}, " if len(comparison.sets) > 1 else ""
        console.print(Text(f"{name}{found.scenario.replace('_', '-')}", style="bold"))
        for line in best(found):
            console.print(Text(f"  {line}"), soft_wrap=True)
    if comparison.left:
        console.print(Text(f"{len(comparison.left)} runs left out, see the end of the page", style="yellow"))
    console.print(Text(f"{out / 'comparison.md'}\n{out / 'comparison.html'}"), soft_wrap=True)
    return 0


def read_all(folders: list[Path], out: Path) -> tuple[list[Evidence], list[Left]]:
    """Return what the finished runs below the folders give, and the others, named as seen from `out`.

    Raises:
        RunError: a folder is not there, or has no run.
    """
    evidence, left = [], []
    for run in with_progress(find_runs(folders), "reading runs"):
        name = name_from(out, run.path)
        if run.status != "done":
            left.append(Left(name, run.status, run.message or "it is not finished"))
            continue
        try:
            found = read_evidence(run.path, name)
        except RunError as error:
            left.append(Left(name, "damaged", str(error).splitlines()[0]))
            continue
        if found.problems:
            left.append(Left(name, "damaged", f"its files and its answers disagree: {found.problems[0]}"))
        else:
            evidence.append(found)
    return evidence, left
