"""Show every run below a folder, finished or not: its status, and what it has reached."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clora_exp.errors import RunError
from clora_exp.reports.found import Found, find_runs
from clora_exp.reports.words import number
from clora_exp.runs import read_run

STYLES = {"done": "green", "failed": "bold red", "interrupted": "yellow", "running": "cyan"}
SHOWN = ("average_accuracy", "forgetting")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("results/runs"),
        metavar="FOLDER",
        help="where to look (default results/runs)",
    )


def main(options: argparse.Namespace) -> int:
    """Print a line a run, and what failed runs said."""
    found = find_runs([options.folder])
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("run", "status", "scenario"):
        table.add_column(name, overflow="fold")
    for name in ("at the end", "forgetting"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in found:
        table.add_row(*_row(run, options.folder))
    console = Console(highlight=False)
    console.print(table)
    counts = {status: sum(run.status == status for run in found) for status in dict.fromkeys(r.status for r in found)}
    console.print(Text("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()), style="bold"))
    for run in found:
        if run.message:
            console.print(Text(f"{run.path}: {run.message}"))
    return 0


def _row(found: Found, folder: Path) -> list[str | Text]:
    name = found.path.relative_to(folder).as_posix()
    status = Text(found.status, style=STYLES.get(found.status, ""))
    try:
        run = read_run(found.path)
    except RunError:  # before its first row there is nothing to read
        return [name, Text("damaged", style=STYLES["failed"]) if found.status == "done" else status, "", "", ""]
    values = [run.metrics[metric].value if metric in run.metrics else None for metric in SHOWN]
    cells = ["–" if value is None else number(metric, value) for metric, value in zip(SHOWN, values, strict=True)]
    return [name, status, run.config.get("scenario", "task_incremental").split("_")[0], *cells]
