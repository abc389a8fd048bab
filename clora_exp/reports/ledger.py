"""Every published definition of transfer, forgetting and accuracy for one run, with divisor, source and value."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from clora_exp.evaluation.ledger import ACCURACY, Entry, Known, ledger
from clora_exp.evaluation.metrics import INCOMPLETE, MISSING
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.evaluation.references import accuracies_of, command
from clora_exp.reports.siblings import accuracies_beside
from clora_exp.reports.words import signed
from clora_exp.runs import StoredRun, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory (has config.yaml)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def main(options: argparse.Namespace) -> int:
    """Print the ledger; return the exit status.

    Raises:
        RunError: it is no run directory, or cannot be read.
    """
    run = read_run(options.run)
    entries = of_run(run)
    if options.json:
        print(json.dumps(as_json(entries), indent=2, ensure_ascii=False))
        return 0
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    show(run, entries, console)
    return 0


def of_run(run: StoredRun) -> list[Entry]:
    """Return every definition for a stored run, with the references that lie beside it."""
    beside = accuracies_beside(run) if run.protocol == "sequence" and run.status == "done" else {}
    answers = read_predictions(run.path / "predictions.csv.gz").drop_duplicates(["task", "example"])
    counts = answers["task"].value_counts()
    known = Known(
        run.matrix.values,
        np.array([counts.get(task, 0) for task in run.matrix.tasks], dtype=np.float64),
        *(accuracies_of(beside[kind]) if kind in beside else None for kind in ("single", "joint")),
    )
    missing = MISSING.get(run.protocol, INCOMPLETE)
    without = {kind: f"needs the `{kind}` reference: {command(run, kind)}" for kind in ("single", "joint")}
    without = {kind: missing if run.protocol != "sequence" else why for kind, why in without.items()}
    early = run.metrics["forward_transfer"]
    without |= {"before": early.reason} if early.value is None else {}
    return ledger(known, missing, {need: why for need, why in without.items() if need not in beside})


def as_json(entries: list[Entry]) -> list[dict[str, Any]]:
    """Return the entries as plain values."""
    return [
        {
            "name": entry.definition.key,
            "family": entry.definition.family,
            "formula": entry.definition.formula,
            "divisor": entry.definition.divisor,
            "source": entry.definition.source,
            "ours": entry.definition.ours or None,
            "value": entry.metric.value,
            "reason": entry.metric.reason,
        }
        for entry in entries
    ]


def show(run: StoredRun, entries: list[Entry], console: Console) -> None:
    """Print the entries, a block a family."""
    console.print(Text(f"{run.method} on {run.config['tasks']['name']}, seed {run.seed}", style="bold"))
    console.print("a[i,j]: accuracy on task j after task i of T; row 0 is before training.")
    console.print("* what this project calls so, see clora_exp/evaluation/metrics.py")
    family = ""
    for entry in entries:
        if entry.definition.family != family:
            family = entry.definition.family
            console.print(Text(f"\n{family}", style="bold"))
        _show(entry, console)


def _show(entry: Entry, console: Console) -> None:
    definition, metric = entry.definition, entry.metric
    is_share = definition.family == ACCURACY
    value = "—" if metric.value is None else f"{metric.value:.4f}" if is_share else signed(metric.value, 4)
    name = definition.key + (" *" if definition.ours else "")
    line = Text(f"{name:<30}").append(f"{value:>8}", style="bold").append(f"   divided by {definition.divisor}")
    console.print(Padding(line, (0, 0, 0, 2), expand=False))
    console.print(Padding(Text(definition.formula), (0, 0, 0, 6), expand=False))
    console.print(Padding(Text(definition.source, style="dim"), (0, 0, 0, 6), expand=False))
    if metric.value is None:
        console.print(Padding(Text(f"undefined: {metric.reason}", style="yellow"), (0, 0, 0, 6), expand=False))
