"""How do the methods compare? Every method over three seeds: accuracies, forgetting, cost, and tests against `frozen`.

Run: python experiments/methods.py [--seeds 0,1,2] [--methods lora,clora] (about an hour on two idle cores). Every run
is the ordinary `python run.py method=<name> tasks=med_legal_code seed=<n>`, so what is finished is not repeated. Writes
results/methods/ (README.md, runs.csv, matrices.csv, mcnemar.csv, a figure) and the table in the project's README.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from clora_exp.compose import CONF, compose_experiment
from clora_exp.evaluation.metrics import intransigence, transfer_gain
from clora_exp.evaluation.predictions import correct_right_after_learning, read_predictions
from clora_exp.evaluation.statistics import mcnemar
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row, p_value, signed, size, threads
from clora_exp.runs import StoredRun

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "methods"
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
BEGIN, END = "<!-- methods: begin, written by experiments/methods.py -->", "<!-- methods: end -->"

Runs = dict[str, list[StoredRun]]  # method → its run of each seed


def main() -> None:
    there = {path.stem for path in (CONF / "method").glob("*.yaml")}
    every = [*FIRST, *sorted(there - set(FIRST))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="default 0,1,2")
    parser.add_argument(
        "--methods", default=",".join(every), help="some of them only: they run, and nothing is written"
    )
    options = parser.parse_args()
    methods, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    for method in methods:
        if method not in every:
            parser.error(f"unknown method {method!r}; have: {', '.join(every)}")
    runs: Runs = {method: [] for method in methods}
    for seed in seeds:
        for method in methods:
            overrides = [f"method={method}", "tasks=med_legal_code", f"seed={seed}"]
            command = f"python run.py {' '.join(overrides)}"
            print(f"\n$ {command}", file=sys.stderr, flush=True)
            runs[method].append(run(compose_experiment(overrides), command, Terminal(interval_s=30)).read())
    if methods == every:
        write(runs)


def write(runs: Runs) -> None:
    """Write the tables and the two pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    tests = tests_against_frozen(runs)
    for name, table in (("runs", each_run(runs)), ("matrices", matrices(runs)), ("mcnemar", tests)):
        write_atomically(FOLDER / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(FOLDER / "README.md", page(runs, tests).encode())
    figure = runs["clora"][0].path / "figures" / "accuracy_matrix.png"
    write_atomically(FOLDER / "accuracy_matrix.png", figure.read_bytes())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    shown = f"{comparison(runs)}\n\n{_tests_in_words(tests)} Details: `results/methods/README.md`."
    write_atomically(ROOT / "README.md", f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}".encode())


def each_run(runs: Runs) -> pd.DataFrame:
    """Return one row a run: its metrics and its cost."""
    rows = []
    for method, of_method in runs.items():
        for stored in of_method:
            metrics = {name: metric.value for name, metric in stored.metrics.items()}
            if method == "lora":  # joint and single are the references of its adapter setting
                metrics |= _against_references(runs, stored)
            cost = stored.costs
            rows.append(
                {
                    "method": method,
                    "seed": stored.seed,
                    **metrics,
                    "trainable_parameters": int(cost["trainable_parameters"].iloc[-1]),
                    "adapter_bytes": int(cost["adapter_bytes"].iloc[-1]),
                    "seconds": round(_seconds(stored), 1),
                    "peak_memory_bytes": int(cost["peak_memory_bytes"].max()),
                }
            )
    return pd.DataFrame(rows)


def _against_references(runs: Runs, lora: StoredRun) -> dict[str, float]:
    same_seed = {name: next(r for r in runs[name] if r.seed == lora.seed).matrix.values for name in ("joint", "single")}
    return {
        "transfer_gain": transfer_gain(lora.matrix.values, np.diagonal(same_seed["single"][1:])),
        "intransigence": intransigence(lora.matrix.values, same_seed["joint"][-1]),
    }


def matrices(runs: Runs) -> pd.DataFrame:
    """Return every cell of every accuracy matrix: method, seed, after, task, accuracy."""
    rows = []
    for method, of_method in runs.items():
        for stored in of_method:
            for i, after in enumerate(stored.matrix.rows):
                for j, task in enumerate(stored.matrix.tasks):
                    if not np.isnan(stored.matrix.values[i, j]):
                        cell = (method, stored.seed, after, task, stored.matrix.values[i, j])
                        rows.append(dict(zip(("method", "seed", "after", "task", "accuracy"), cell, strict=True)))
    return pd.DataFrame(rows)


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
    examples = ", ".join(f"{n} {task}" for task, n in _examples(stored).items())
    seeds = "One seed." if num_seeds == 1 else f"Means over {num_seeds} seeds, ± their standard deviation."
    return "\n".join(lines) + (
        f"\n\n{seeds} A task's cell is its accuracy on the test "
        f"split ({examples}) after it was learned → after each later task; `joint` and `single`, references with "
        "`lora`'s setting, have one value. Bytes are those of the last task's `adapter.safetensors`. Run on "
        f"{threads(stored.environment['torch_threads'])} of the CPU."
    )


def page(runs: Runs, tests: pd.DataFrame) -> str:
    """Return the result as one Markdown page."""
    extra = each_run(runs)
    lora = extra[extra["method"] == "lora"]
    references = " and ".join(
        f"{name.replace('_', ' ')} of {signed(lora[name].mean(), 3)} against `{against}`"
        for name, against in (("transfer_gain", "single"), ("intransigence", "joint"))
    )
    return (
        "\n".join(
            [
                "# How the methods compare\n",
                f"`python experiments/methods.py --seeds {','.join(str(r.seed) for r in runs['frozen'])}`\n",
                comparison(runs) + "\n",
                f"Mean over the seeds, `lora` has {references}. Every number of every run is in `runs.csv`, every "
                "cell of every matrix in `matrices.csv`.\n",
                "## Does training adapters pay? Against `frozen`, right after learning each task\n",
                _tests_in_words(tests) + "\n",
                "McNemar's exact test on the same test examples; a cell is the difference in accuracy to `frozen`, its "
                "mean over the seeds, and the p-value of each seed. Bold: better with p < 0.05 on every seed.\n",
                _table_of_tests(tests),
            ]
        )
        + "\n"
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


def _seconds(stored: StoredRun) -> float:
    evaluations = stored.history[stored.history["metric"].str.startswith("accuracy after")]
    measured = evaluations.groupby("metric", sort=False)["seconds"].first().sum()  # one time a row of the matrix
    return float(stored.costs["train_seconds"].sum() + measured)


def _examples(stored: StoredRun) -> dict[str, int]:
    frame = read_predictions(stored.path / "predictions.csv.gz")
    return {task: int(((frame["after"] == "init") & (frame["task"] == task)).sum()) for task in stored.matrix.tasks}


if __name__ == "__main__":
    ended_in_order(main)
