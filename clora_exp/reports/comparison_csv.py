"""The numbers of a comparison as CSV: each setting's, each run's, each cell of the mean matrices, each test.

Of the matrices of adapters and tasks the rows are called `adapter`; those of settings that have none are left out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from clora_exp.files import csv_text
from clora_exp.reports.comparison import ComparableSet, Comparison
from clora_exp.reports.settings import Setting

OF_TESTS = ("family", "against", "seed", "n", "difference", "low", "high", "only_label", "only_against", "p", "p_holm")


def csv_files(comparison: Comparison) -> dict[str, str]:
    """Return the CSV files by name."""
    rows: dict[str, list[dict[str, Any]]] = {
        "comparison": [], "runs": [], "matrices": [], "adapter_task": [], "tests": []
    }  # fmt: skip
    for found in comparison.sets:
        for setting in found.settings:
            own = {"set": found.name, "scenario": found.scenario}
            own |= {"method": setting.method, "setting": setting.digest, "label": setting.label}
            rows["comparison"] += [own | row for row in _numbers(setting)]
            rows["runs"] += [own | row for row in _runs(setting)]
            first, crossed = setting.first.run.matrix, setting.adapter_task()
            rows["matrices"] += [own | row for row in _cells(setting.matrices(), "after", first.rows, first.tasks)]
            if crossed is not None:
                rows["adapter_task"] += [own | row for row in _cells(crossed, "adapter", first.tasks, first.tasks)]
        rows["tests"] += _tests(found)
    return {f"{name}.csv": csv_text(pd.DataFrame(table)) for name, table in rows.items() if table}


def _numbers(setting: Setting) -> list[dict[str, Any]]:
    return [
        {"metric": name, "n": s.n, "mean": s.mean, "sd": s.sd, "low": s.low, "high": s.high, "interval": s.interval}
        for name, s in setting.spread.items()
    ]


def _runs(setting: Setting) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "run": evidence.name}
        | {name: by_seed[seed] for name, by_seed in setting.values.items() if seed in by_seed}
        for seed, evidence in setting.runs.items()
    ]


def _cells(matrices: np.ndarray, of_rows: str, rows: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row a cell of matrices of n seeds, (n, rows, tasks), that all of them have."""
    n = len(matrices)
    return [
        {
            of_rows: row,
            "task": task,
            "n": n,
            "mean": matrices[:, i, j].mean(),
            "sd": matrices[:, i, j].std(ddof=1) if n > 1 else np.nan,
        }
        for i, row in enumerate(rows)
        for j, task in enumerate(tasks)
        if not np.isnan(matrices[:, i, j]).any()
    ]


def _tests(found: ComparableSet) -> list[dict[str, Any]]:
    """Return a row a test; of McNemar's one a seed, and one without seed for the claim of every seed."""
    rows: list[dict[str, Any]] = []
    against = found.reference.label if found.reference else ""
    for test in found.over_seeds:
        rows.append(
            {
                "label": test.label,
                "family": f"seeds: {test.name}",
                "n": len(test.seeds),
                "difference": test.difference.mean,
                "low": test.difference.low,
                "high": test.difference.high,
                "p": test.test.p_value if test.test else np.nan,
                "p_holm": test.corrected,
            }
        )
    for pair in found.over_examples:
        for seed, one in zip(pair.seeds, pair.tests, strict=True):
            difference = (one.only_first - one.only_second) / pair.num_examples
            counts = {"only_label": one.only_first, "only_against": one.only_second}
            rows.append(
                {"label": pair.label, "family": "examples", "seed": seed, "n": pair.num_examples}
                | {"difference": difference, "p": one.p_value}
                | counts
            )
        rows.append(
            {"label": pair.label, "family": "examples, every seed", "n": len(pair.seeds)}
            | {"difference": pair.difference, "p": pair.p_value, "p_holm": pair.corrected}
        )
    ordered = [{"set": found.name, "label": row["label"], "against": against} | row for row in rows]
    return [{key: row.get(key) for key in ("set", "label", *OF_TESTS)} for row in ordered]
