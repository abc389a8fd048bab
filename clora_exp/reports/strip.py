"""Copy finished runs without weights, figures and logs: what compare and verify need, small enough to be committed.

Answers are packed (the same table, a fifth as large), training losses are left out of metrics.csv, and SHA256SUMS lists
what is there. Folders keep their names, so that settings and seeds do.
"""

import argparse
import shutil
from pathlib import Path

from clora_exp.errors import RunError
from clora_exp.evaluation.predictions import read_predictions, to_packed_bytes
from clora_exp.files import csv_text, folder_written_atomically
from clora_exp.reports.adapter_task import NAME as ADAPTER_TASK
from clora_exp.reports.found import find_runs, with_progress
from clora_exp.reports.words import size
from clora_exp.runs import read_run
from clora_exp.sums import keep_sums

COPIED = ("config.yaml", "command.txt", "environment.json", "STATUS", "accuracy_matrix.csv", "metrics.json", "cost.csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `strip`."""
    parser.add_argument(
        "folder", type=Path, metavar="RUNS_FOLDER", help="where runs are, e.g. results/runs/split_digits"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="where the small copies go, e.g. results/split_digits/runs"
    )


def main(options: argparse.Namespace) -> int:
    """Copy every finished run; print how large the copies are."""
    found = find_runs([options.folder])
    done = [run.path for run in found if run.status == "done"]
    if not done:
        raise RunError(f"{options.folder}: none of its {len(found)} runs is done")
    if options.out.resolve().is_relative_to(options.folder.resolve()):
        raise RunError(
            f"{options.out} lies in {options.folder}: the copies would be found as runs; choose another place"
        )
    before = after = 0
    for path in with_progress(done, "copying runs"):
        copy = options.out / path.relative_to(options.folder)
        strip(path, copy)
        before, after = before + _bytes(path), after + _bytes(copy)
    left = f"; {len(found) - len(done)} unfinished left out" if len(found) > len(done) else ""
    each = f"{size(before / len(done))} → {size(after / len(done))} a run"
    print(f"{options.out}: {len(done)} run{'s' * (len(done) > 1)}, {each}, {size(after)} in all{left}")
    return 0


def strip(path: Path, copy: Path) -> None:
    """Write the small copy of a run.

    Raises:
        RunError: the run cannot be read, or has changed since it was written.
    """
    run = read_run(path)
    answers = read_predictions(path / "predictions.csv.gz")
    evaluations = run.history[run.history["metric"] != "train_loss"]
    with folder_written_atomically(copy) as new:
        for name in (*COPIED, *([ADAPTER_TASK] if (path / ADAPTER_TASK).exists() else [])):
            shutil.copyfile(path / name, new / name)
        (new / "metrics.csv").write_text(csv_text(evaluations), encoding="utf-8")
        (new / "predictions.csv.gz").write_bytes(to_packed_bytes(answers))
        keep_sums(new, [file for file in sorted(new.iterdir()) if file.name != "STATUS"])


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
