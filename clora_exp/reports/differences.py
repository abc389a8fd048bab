"""Where two CSV tables differ, cell by cell: numbers by value, as another machine may round otherwise."""

import io
import math

import pandas as pd

TOLERANCE = 1e-9
NAMES = ("set", "label", "metric", "seed", "after", "adapter", "task", "family")  # the columns that say which row it is


def csv_differences(name: str, stored: str, expected: str, most: int = 8) -> list[str]:
    """Return a line for each cell of `stored` that is not as `expected`; none where numbers agree to nine digits."""
    try:
        first, second = _table(stored), _table(expected)
    except ValueError as error:
        return [f"{name}: is no table: {error}"]
    if list(first) != list(second):
        return [f"{name}: has the columns {', '.join(first)}; the runs give {', '.join(second)}"]
    if len(first) != len(second):
        return [f"{name}: has {len(first)} rows; the runs give {len(second)}"]
    problems = []
    for column in first:
        for i, (says, should) in enumerate(zip(first[column], second[column], strict=True)):
            if says != should and not _equal(says, should):
                row = ", ".join(second[key][i] for key in NAMES if key in second and second[key][i])
                problems.append(f"{name}, {row}: {column} is {says or 'empty'}, the runs give {should or 'nothing'}")
    more = len(problems) - most
    return problems[:most] + ([f"{name}: {more} more cells differ"] if more > 0 else [])


def _table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _equal(first: str, second: str) -> bool:
    try:
        return math.isclose(float(first), float(second), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False
