"""Does training adapters pay? The runs of `med_legal_code_comparison` against `frozen`, and the README's table of them.

Run: python experiments/against_frozen.py, after `python run.py -m experiment=med_legal_code_comparison` and the `strip`
that experiments/med_legal_code_comparison.md has. Reads results/med_legal_code_comparison/runs; writes
against_frozen.md, against_frozen.csv and accuracy_matrix.png beside them, and the table in the project's README.md.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from clora_exp.evaluation.predictions import correct_right_after_learning, read_predictions
from clora_exp.evaluation.statistics import mcnemar
from clora_exp.files import csv_text, write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.reports.figures import draw_all
from clora_exp.reports.found import find_runs, with_progress
from clora_exp.reports.words import markdown_row, p_value, signed, size, threads
from clora_exp.runs import StoredRun, read_run

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "med_legal_code_comparison"
FIRST = [
    "frozen",
    "full",
    "lora",
    "lora_per_task",
    "clora",
    "clora_gated",
    "clora_xs",
    "clora_shared",
    "joint",
    "single",
]
PAGE = "results/med_legal_code_comparison/comparison.md"
BEGIN, END = "<!-- methods: begin, written by experiments/against_frozen.py -->", "<!-- methods: end -->"

Runs = dict[str, list[StoredRun]]  # method → its run of each seed


def main() -> None:
    runs: Runs = {method: [] for method in FIRST}
    for one in with_progress(find_runs([FOLDER / "runs"]), "reading runs"):
        stored = read_run(one.path)
        runs.setdefault(stored.method, []).append(stored)
    for of_method in runs.values():
        of_method.sort(key=lambda stored: stored.seed)
    write({method: of_method for method, of_method in runs.items() if of_method})


def write(runs: Runs) -> None:
    """Write the page, the figure and the README's table."""
    tests = tests_against_frozen(runs)
    write_atomically(FOLDER / "against_frozen.md", page(tests).encode())
    write_atomically(FOLDER / "against_frozen.csv", csv_text(tests).encode())
    with tempfile.TemporaryDirectory() as folder:
        draw_all(runs["clora"][0], Path(folder))
        write_atomically(FOLDER / "accuracy_matrix.png", (Path(folder) / "accuracy_matrix.png").read_bytes())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    shown = f"{comparison(runs)}\n\n{_tests_in_words(tests)} Details: [results/med_legal_code_comparison]({PAGE})."
    write_atomically(ROOT / "README.md", f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}".encode())


def tests_against_frozen(runs: Runs) -> pd.DataFrame:
    """Return McNemar's exact test of each method against `frozen` on each task right after learning it, by seed."""
    rows = []
    for method in runs:
        for stored, frozen in zip(runs[method], runs["frozen"], strict=True):
            if method == "frozen" or stored.protocol == "joint":
                continue
            answers = [read_predictions(r.path / "predictions.csv.gz") for r in (stored, frozen)]
            for task in stored.matrix.tasks:
                first, second = (correct_right_after_learning(frame, task) for frame in answers)
                assert first.index.equals(second.index)
                found = mcnemar(first.to_numpy(), second.to_numpy())
                rows.append(
                    {
                        "method": method,
                        "task": task,
                        "seed": stored.seed,
                        "only_method_right": found.only_first,
                        "only_frozen_right": found.only_second,
                        "difference": (found.only_first - found.only_second) / len(first),
                        "p_value": found.p_value,
                    }
                )
    return pd.DataFrame(rows)


def comparison(runs: Runs) -> str:
    """Return the table of the README: each method's matrix from the diagonal down, and its metrics, over the seeds."""
    tasks = next(iter(runs.values()))[0].matrix.tasks
    heads = ["method", *tasks, "right after learning", "at the end", "forgetting", "bytes a task"]
    lines = [markdown_row(heads), "|" + " --- |" * len(heads)]
    for method, of_method in runs.items():
        values = np.stack([stored.matrix.values for stored in of_method]).mean(axis=0)
        cells = [" → ".join(f"{v:.3f}" for v in values[j + 1 :, j] if not np.isnan(v)) for j in range(len(tasks))]
        cost = of_method[0].costs["adapter_bytes"].iloc[-1]
        measures = [_spread(of_method, m) for m in ("learning_accuracy", "average_accuracy", "forgetting")]
        lines.append(markdown_row([f"`{method}`", *cells, *measures, size(cost)]))
    num_seeds, stored = len(next(iter(runs.values()))), runs["frozen"][0]
    trainer = stored.config["trainer"]
    passes = "one pass" if trainer["epochs"] == 1 else f"{trainer['epochs']} passes"
    examples = ", ".join(f"{n} {task}" for task, n in _examples(stored).items())
    seeds = "One seed." if num_seeds == 1 else f"Means over {num_seeds} seeds, ± their standard deviation."
    return "\n".join(lines) + (
        f"\n\n{seeds} A task's cell is its accuracy on the test "
        f"split ({examples}) after it was learned → after each later task; `joint` and `single`, references with "
        "`lora`'s setting, have one value. Bytes are those of the last task's `adapter.safetensors`. For every method "
        f"{passes} over each task's training examples, `trainer.precision={trainer['precision']}`, on "
        f"{threads(stored.environment['torch_threads'])} of the CPU."
    )


def page(tests: pd.DataFrame) -> str:
    """Return the result as one Markdown page."""
    return "\n\n".join(
        [
            "# Does training adapters pay? Against `frozen`, right after learning each task",
            "`python experiments/against_frozen.py`",
            _tests_in_words(tests),
            "McNemar's exact test on the same test examples; a cell is the difference in accuracy to `frozen`, its "
            "mean over the seeds, and the p-value of each seed. Bold: better with p < 0.05 on every seed.",
            _table_of_tests(tests) + "\n",
        ]
    )


def _tests_in_words(tests: pd.DataFrame) -> str:
    cells = tests.groupby(["method", "task"])
    is_better = cells.apply(lambda rows: bool(((rows["p_value"] < 0.05) & (rows["difference"] > 0)).all()))
    return (
        f"Right after learning, {int(is_better.sum())} of {len(is_better)} pairs of method and task are better than "
        "`frozen` by McNemar's exact test on the test examples (p < 0.05 on every seed)."
    )


def _table_of_tests(tests: pd.DataFrame) -> str:
    tasks = list(dict.fromkeys(tests["task"]))
    lines = [markdown_row(["method", *tasks]), "|" + " --- |" * (1 + len(tasks))]
    for method, rows in tests.groupby("method", sort=False):
        cells = []
        for task in tasks:
            of_task = rows[rows["task"] == task]
            text = f"{signed(of_task['difference'].mean(), 3)} (p {', '.join(p_value(p) for p in of_task['p_value'])})"
            is_better = (of_task["p_value"] < 0.05).all() and (of_task["difference"] > 0).all()
            cells.append(f"**{text}**" if is_better else text)
        lines.append(markdown_row([f"`{method}`", *cells]))
    return "\n".join(lines)


def _spread(of_method: list[StoredRun], name: str) -> str:
    values = [stored.metrics[name].value for stored in of_method]
    if any(value is None for value in values):
        return "–"
    found = np.array(values, dtype=float)
    if not found.any():
        return "0"
    return f"{found.mean():.3f}".replace("-", "−") + (f" ± {found.std(ddof=1):.3f}" if len(found) > 1 else "")


def _examples(stored: StoredRun) -> dict[str, int]:
    frame = read_predictions(stored.path / "predictions.csv.gz")
    return {task: int(((frame["after"] == "init") & (frame["task"] == task)).sum()) for task in stored.matrix.tasks}


if __name__ == "__main__":
    ended_in_order(main)
