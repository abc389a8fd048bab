"""Do two processes learn what one learns? Every method, by torchrun on the CPU.

Run: python experiments/robustness/distribution.py [--methods lora,gem] (ten minutes on two cores).
Writes results/robustness/distribution/ (README.md, table.csv).

The same run in one process and in two: the two take the same batches, half the rows each, so what they learn differs by
the order of sums alone. (Dropout is off: each process draws for its own rows.) Compared are every training loss, every
answer and the accuracy matrix. Where a method is not within the tolerance, how far rounding alone carries it is
measured: five runs in one process, whose trained weights are disturbed by half a unit in the last place as each task
begins. (LwF begins where its term has no gradient but rounding, and Adam makes full steps of that.) Two processes may
then differ by twice the largest difference of those five. A method that needs one process must say so, before any work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from clora_exp.compose import CONF, compose_experiment
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.methods.suitable import strategy_class
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row
from clora_exp.runs import read_run
from clora_exp.tasks.stream import Task

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "results" / "robustness" / "distribution"
WORDS = ["model=vit_digits", "tasks=split_digits", "trainer.epochs=2", "method.dropout=0", "report=false"]
SCENARIOS = ("task_incremental", "class_incremental")
LARGEST_LOSS_DIFFERENCE = 1e-3  # relative: sums in another order, over a few hundred steps
LARGEST_CELL_DIFFERENCE = 0.02  # of the matrix: two answers of ninety, near a boundary


class Row(NamedTuple):
    """What came of a method in a scenario; without numbers where it is refused, with the reason."""

    method: str
    scenario: str
    losses: int = 0
    largest_loss_difference: float = 0.0  # relative
    answers: int = 0
    other_answers: int = 0
    largest_cell_difference: float = 0.0
    disturbed_loss_difference: float = 0.0
    disturbed_cell_difference: float = 0.0
    refused: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it is equal within the tolerance, or refused."""
        loss = max(LARGEST_LOSS_DIFFERENCE, 2 * self.disturbed_loss_difference)
        cell = max(LARGEST_CELL_DIFFERENCE, 2 * self.disturbed_cell_difference)
        return bool(self.refused) or (self.largest_loss_difference <= loss and self.largest_cell_difference <= cell)


def start(words: list[str], num: int) -> "subprocess.CompletedProcess[str]":
    """Run `run.py` in so many processes."""
    python = (
        [sys.executable] if num == 1 else [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={num}"]
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*python, "run.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def disturbed(words: list[str], seed: int) -> None:
    """Run in this process, with the trained weights moved by half a unit in the last place as each task begins."""
    real, draw = Method.before_task, torch.Generator().manual_seed(seed)

    def before_task(self: Method, t: int, task: Task) -> None:
        real(self, t, task)
        with torch.no_grad():
            for parameter in self.trained_parameters():
                parameter.mul_(1 + 2**-24 * torch.randn(parameter.shape, generator=draw))

    Method.before_task = before_task  # type: ignore[method-assign]
    try:
        run(compose_experiment(words), "", Terminal.silent())
    finally:
        Method.before_task = real  # type: ignore[method-assign]


def compare(method: str, scenario: str, num: int = 2, more: Sequence[str] = ()) -> Row:
    """Run a method in one process and in several, and compare; `more` are further overrides."""
    with tempfile.TemporaryDirectory() as root:
        words = [f"method={method}", f"scenario={scenario}", *WORDS, *more]
        several = start([*words, f"results_dir={root}/several"], num)
        if several.returncode and "runs in one process" in several.stderr:
            line = next(line for line in several.stderr.splitlines() if "runs in one process" in line)
            return Row(method, scenario, refused=line.removeprefix("error: "))
        one = start([*words, f"results_dir={root}/one"], 1)
        for done in (one, several):
            if done.returncode:
                sys.exit(f"{method} {scenario}: status {done.returncode}\n{done.stderr[-2000:]}")
        folders = [next(Path(root, name).rglob("config.yaml")).parent for name in ("one", "several")]
        runs = [read_run(folder) for folder in folders]
        losses = [run.history[run.history.metric == "train_loss"].value.to_numpy() for run in runs]
        answers = [read_predictions(folder / "predictions.csv.gz") for folder in folders]
        cells = [run.matrix.values for run in runs]
        row = Row(
            method,
            scenario,
            len(losses[0]),
            far(losses[0], losses[1]),
            len(answers[0]),
            int((answers[0].predicted != answers[1].predicted).sum()),
            float(np.nanmax(np.abs(cells[0] - cells[1]))),
        )
        for seed in () if row.is_right else range(5):
            disturbed([*words, f"results_dir={root}/{seed}"], seed)
            other = read_run(next(Path(root, str(seed)).rglob("config.yaml")).parent)
            moved = far(losses[0], other.history[other.history.metric == "train_loss"].value.to_numpy())
            row = row._replace(
                disturbed_loss_difference=max(row.disturbed_loss_difference, moved),
                disturbed_cell_difference=max(
                    row.disturbed_cell_difference, float(np.nanmax(np.abs(cells[0] - other.matrix.values)))
                ),
            )
        return row


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest relative difference of losses."""
    return float(np.max(np.abs(one - other) / np.abs(one).clip(1e-3)))


def main() -> None:
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(every), help="some of them: they run, and nothing is written")
    options = parser.parse_args()
    methods = options.methods.split(",")
    torch.set_num_threads(1)
    rows: list[Row] = []
    pairs = [(m, s) for s in SCENARIOS for m in methods if (m, s) != ("single", "class_incremental")]
    started = time.monotonic()
    for i, (method, scenario) in enumerate(pairs, 1):
        rows.append(compare(method, scenario))
        left = (time.monotonic() - started) / i * (len(pairs) - i)
        print(f"{'right' if rows[-1].is_right else 'WRONG'} {rows[-1]}; about {left:.0f} s left", flush=True)
    if set(methods) == set(every):
        write(rows)
    sys.exit(0 if all(row.is_right for row in rows) else 1)


def write(rows: list[Row]) -> None:
    """Write table and page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(FOLDER / "table.csv", index=False, lineterminator="\n")
    compared = [row for row in rows if not row.refused]
    loss, cell = LARGEST_LOSS_DIFFERENCE, LARGEST_CELL_DIFFERENCE
    inside = [r for r in compared if r.largest_loss_difference <= loss and r.largest_cell_difference <= cell]
    lines = ["# Two processes against one\n", "`python experiments/robustness/distribution.py`\n"]
    lines.append((__doc__ or "").split("\n\n")[2].strip() + "\n")
    lines.append(
        f"{len(compared)} pairs of runs, `{' '.join(WORDS)}`. Within the tolerance ({loss:.0e} of a loss, {cell} of a "
        f"cell of the matrix): {len(inside)}; of those {sum(r.other_answers for r in inside)} of "
        f"{sum(r.answers for r in inside)} answers differ, and no loss by more than "
        f"{max(r.largest_loss_difference for r in inside):.1e}. Differences of losses are relative.\n"
    )
    head = ["method", "scenario", "losses", "largest difference", "disturbed", "answers", "other", "cell", "disturbed"]
    lines += [markdown_row([*head, "its state"]), markdown_row(["---"] * (len(head) + 1))]
    for r in rows:
        disturbed = (
            ["", ""] if r in inside else [f"{r.disturbed_loss_difference:.1e}", f"{r.disturbed_cell_difference:.3f}"]
        )
        losses = [str(r.losses), f"{r.largest_loss_difference:.1e}", disturbed[0]]
        answers = [str(r.answers), str(r.other_answers)]
        cells = [f"{r.largest_cell_difference:.3f}", disturbed[1]]
        numbers = ["—"] * 7 if r.refused else [*losses, *answers, *cells]
        lines.append(markdown_row([r.method, r.scenario, *numbers, r.refused or kept(r.method)]))
    write_atomically(FOLDER / "README.md", ("\n".join(lines) + "\n").encode())


def kept(method: str) -> str:
    """Return what is said of a strategy's state in several processes."""
    keys = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())
    sections = [name for name, value in keys.items() if isinstance(value, dict) and name != "rank_pattern"]
    return "; ".join(strategy_class(name).in_processes for name in sections)


if __name__ == "__main__":
    ended_in_order(main)
