"""What the answers of a run give, computed again: its accuracy matrix and metrics, beside what its files say.

Everything that `predictions.csv.gz` decides comes from there. The rest, perplexities of free-form answers and what
each task cost, is the run's own files'. A run whose files and answers do not agree has `problems`, and is not averaged.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from clora_exp.evaluation import predictions
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Identified, Metric, metrics_of_run
from clora_exp.evaluation.references import answers_in_words
from clora_exp.evaluation.written import SCORES, Written, free_form_scores
from clora_exp.reports.adapter_task import read_adapter_task
from clora_exp.runs import StoredRun, read_run

FROM_FILES = ("answer_perplexity",)  # of likelihoods, which are no answers
OF_CLASSES = ("task_identification", "within_task_accuracy")  # from the files where the answers leave them open
OF_OTHER_RUNS = ("transfer_gain", "intransigence")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Evidence:
    """A finished run; `run` has the matrix and the metrics that its answers give.

    `problems` are the numbers in which its own files differ from that, one line each. `name` is what it is called.
    """

    name: str
    run: StoredRun
    problems: list[str]
    num_examples: np.ndarray  # of each task, (T,)
    examples_sha256: str  # of task, id and label of each, in the order of `right`
    right: np.ndarray | None  # (n,) whether each is answered right after the last task; None if some are not answered
    adapter_task: np.ndarray | None = None  # (T, T) accuracy of each adapter on every task; None: `cross` measures it


def read_evidence(path: Path, name: str | None = None) -> Evidence:
    """Read a finished run and compute again what its answers decide.

    Raises:
        RunError: it cannot be read.
    """
    run, name = read_run(path), name or path.as_posix()
    answers = predictions.read_predictions(path / "predictions.csv.gz")
    examples = _examples(answers)
    counts = examples["task"].value_counts()
    num_examples = np.array([counts.get(task, 0) for task in run.matrix.tasks])
    problems, adapter_task = _strangers(run, answers), None
    if not problems:
        scores = _written_scores(run, answers)
        matrix = _matrix(run, answers, scores)
        metrics = _metrics(run, answers, matrix, scores, num_examples)
        problems = [*_of_matrix(run.matrix, matrix), *_of_metrics(run, metrics)]
        adapter_task, wrong = read_adapter_task(path, matrix, num_examples)
        problems += wrong
        run = replace(run, matrix=matrix, metrics=metrics)
    lines = "\n".join("\0".join(row) for row in examples.itertuples(index=False, name=None))
    examples_sha256 = hashlib.sha256(lines.encode()).hexdigest()
    right = _right(run, answers, len(examples))
    return Evidence(name, run, problems, num_examples, examples_sha256, right, adapter_task)


def _examples(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the examples that were evaluated, each once, sorted: task, example, label."""
    first = answers.groupby("task")["after"].transform("first")
    keys = ["task", "example", "label"]
    return answers.loc[answers["after"] == first, keys].sort_values(keys, kind="stable")


def _right(run: StoredRun, answers: pd.DataFrame, count: int) -> np.ndarray | None:
    last = answers[answers["after"] == run.matrix.rows[-1]].sort_values(["task", "example", "label"], kind="stable")
    return (last["label"] == last["predicted"]).to_numpy(dtype=bool) if len(last) == count else None


def _strangers(run: StoredRun, answers: pd.DataFrame) -> list[str]:
    """Return what makes the answers those of another run."""
    return [
        f"predictions.csv.gz has the {column} {name!r}, which accuracy_matrix.csv has not"
        for column, names in (("after", run.matrix.rows), ("task", run.matrix.tasks))
        for name in answers[column].unique()
        if name not in names
    ]


def _written_scores(run: StoredRun, answers: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Return (after, task) → the scores of its answers, of free-form tasks; metrics.csv says which those are."""
    scored = run.history[run.history["metric"].str.startswith(f"{SCORES[0]} after ")]
    found = {}
    for (after, task), rows in answers.groupby(["after", "task"]):
        if task in set(scored["task"]):
            ones = np.ones(len(rows))
            found[after, task] = free_form_scores(Written(list(rows["predicted"]), ones, ones), list(rows["label"]))
    return found


def _matrix(run: StoredRun, answers: pd.DataFrame, scores: dict[tuple[str, str], dict[str, float]]) -> AccuracyMatrix:
    matrix = predictions.accuracy_matrix(answers, run.matrix.tasks)
    kinds = [part for part in run.config["model"].values() if isinstance(part, dict)]
    for (after, task), found in scores.items():
        matrix.values[matrix.rows.index(after), matrix.tasks.index(task)] = found[kinds[0]["free_form_score"]]
    return matrix


def _metrics(
    run: StoredRun,
    answers: pd.DataFrame,
    matrix: AccuracyMatrix,
    scores: dict[tuple[str, str], dict[str, float]],
    num_examples: np.ndarray,
) -> dict[str, Metric]:
    scenario, last = run.config.get("scenario", "task_incremental"), matrix.rows[-1]
    at_the_end = [found for (after, _), found in scores.items() if after == last]
    written = {name: float(np.mean([found[name] for found in at_the_end])) for name in (SCORES if at_the_end else ())}
    for name in FROM_FILES:
        stored = run.metrics[name].value if name in run.metrics else None
        if name in written:
            written[name] = float("nan") if stored is None else float(stored)
    identified = _identified(run, answers) if scenario == "class_incremental" else None
    metrics = metrics_of_run(
        matrix,
        scenario=scenario,
        protocol=run.protocol,
        num_examples=num_examples,
        identified=identified,
        answers_untrained=answers_in_words(run),
        written=written,
    )
    if identified is None:
        metrics |= {name: run.metrics[name] for name in OF_CLASSES if name in run.metrics}
    return metrics


def _identified(run: StoredRun, answers: pd.DataFrame) -> Identified | None:
    """Return how often the task was identified at the end; None where the answers alone do not say.

    That is so where a class is answered that no example has, so that its task is not known here.
    """
    classes = dict(zip(answers["label"], answers["task"], strict=True))
    last = answers[answers["after"] == run.matrix.rows[-1]]
    return predictions.identified(answers, classes) if last["predicted"].isin(classes).all() else None


def _of_matrix(stored: AccuracyMatrix, found: AccuracyMatrix) -> list[str]:
    return [
        f"accuracy_matrix.csv: {task} after {after} is {stored.values[i, j]:.6g}, its answers give "
        f"{found.values[i, j]:.6g}"
        for i, after in enumerate(found.rows)
        for j, task in enumerate(found.tasks)
        if not _equal(stored.values[i, j], found.values[i, j])
    ]


def _of_metrics(run: StoredRun, found: dict[str, Metric]) -> list[str]:
    """Return the metrics that differ; those that other runs define, and those that the answers leave open, do not."""
    problems = []
    for name, metric in found.items():
        stored = run.metrics.get(name)
        if stored is None or metric.value is None:
            if stored is not None and stored.value is not None and name not in OF_OTHER_RUNS:
                problems.append(f"metrics.json: {name} is {stored.value:.6g}, its answers leave it undefined")
        elif not _equal(np.nan if stored.value is None else stored.value, metric.value):
            problems.append(f"metrics.json: {name} is {stored.value}, its answers give {metric.value:.6g}")
    return problems


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (np.isnan(first) and np.isnan(second))
