"""Every answer of a run, one row an evaluated example: what any metric and any paired test can be computed from.

`predictions.csv.gz` has the columns after (`init` or the task just learned), task, example (its id), label, predicted
(both by name; of a free-form task response and what was written). Equal answers are equal bytes: the gzip header
holds neither time nor name. Stripped runs have the same table a fifth as large: a row an example, a column an
evaluation, see `to_packed_bytes`; `read_predictions` reads both.
"""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import pandas as pd

from clora_exp.errors import RunError
from clora_exp.evaluation.matrix import INIT, AccuracyMatrix
from clora_exp.evaluation.metrics import Identified
from clora_exp.evaluation.written import Predicted, Written
from clora_exp.files import csv_text
from clora_exp.received import unpacked
from clora_exp.tasks.scenario import Scenario

COLUMNS = ["after", "task", "example", "label", "predicted"]


def names_of(scenario: Scenario, t: int, answers: Predicted) -> list[str]:
    """Return the answers to task t as label names, or as they were written."""
    return answers.texts if isinstance(answers, Written) else [scenario.labels(t)[answer] for answer in answers]


def to_frame(scenario: Scenario, split: str, predicted: Mapping[tuple[int, int], Predicted]) -> pd.DataFrame:
    """Return the table of all answers, by row of the accuracy matrix, then task, then the order of the split.

    Args:
        predicted: (row i, task index) → the answers to every example.
    """
    stream = scenario.stream
    rows = [INIT, *stream.names]
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}  # one table: a table a block takes far longer
    for (i, t), answers in sorted(predicted.items()):
        task = stream.tasks[t]
        examples = task.split(split)
        columns["after"] += [rows[i]] * len(examples)
        columns["task"] += [task.name] * len(examples)
        columns["example"] += [example.id for example in examples]
        columns["label"] += [example.label for example in examples]
        columns["predicted"] += names_of(scenario, t, answers)
    return pd.DataFrame(columns, columns=COLUMNS)


def row_to_bytes(scenario: Scenario, split: str, i: int, answers: Mapping[int, Predicted]) -> bytes:
    """Return the answers of row i of the accuracy matrix, packed; `HEADER` and the rows make the file.

    A gzip file is one after another of them, so what earlier rows hold need not be packed anew.
    """
    after = [INIT, *scenario.stream.names][i]
    columns = []
    for t, found in sorted(answers.items()):
        task = scenario.stream.tasks[t]
        examples = task.split(split)
        ids, labels = [example.id for example in examples], [example.label for example in examples]
        columns.append(zip(repeat(after), repeat(task.name), ids, labels, names_of(scenario, t, found), strict=False))
    return packed(list(chain(*columns)))


def packed(lines: Sequence[Sequence[str]]) -> bytes:
    """Return lines of the table as gzipped CSV; where a cell has a carriage return all are quoted, see `csv_text`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    if "\r" in text.getvalue():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(lines)
    return _gzipped(text.getvalue())


def _gzipped(text: str) -> bytes:
    content = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=content, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(text.encode())
    return content.getvalue()


HEADER = packed([COLUMNS])


def to_bytes(frame: pd.DataFrame) -> bytes:
    """Return a table as gzipped CSV, the same bytes for the same answers."""
    return _gzipped(csv_text(frame))


def to_packed_bytes(frame: pd.DataFrame) -> bytes:
    """Return the table with task, example and label once, and a column for each row of the accuracy matrix.

    A cell is "=" and the answer, or empty where the example was not evaluated. Nothing is lost: `read_predictions`
    gives `frame` again.
    """
    numbered = frame.assign(
        number=frame.groupby(["after", "task"], sort=False).cumcount(), cell="=" + frame["predicted"]
    )
    keys = ["task", "number", "example", "label"]
    table = numbered.drop_duplicates(keys)[keys]
    for after, rows in numbered.groupby("after", sort=False):
        table = table.merge(rows[[*keys, "cell"]].rename(columns={"cell": f"after {after}"}), "left", on=keys)
    return to_bytes(table.drop(columns="number").fillna(""))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read `predictions.csv.gz`, packed or not; every column is text, whatever the labels look like.

    Raises:
        RunError: it cannot be read, lacks a column, or unpacks to far more than a table of answers does.
    """
    try:
        frame = pd.read_csv(unpacked(path), dtype=str, keep_default_na=False)
        frame = _unpacked(frame) if any(name.startswith("after ") for name in frame) else frame
        if list(frame) != COLUMNS:
            raise ValueError(f"it has the columns {', '.join(frame)}, not {', '.join(COLUMNS)}")
        return frame
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _unpacked(packed: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a row an answer, as it was before `to_packed_bytes`."""
    parts = []
    for name in packed.columns[3:]:
        rows = packed[packed[name] != ""]
        answers = {"after": name.removeprefix("after "), "predicted": rows[name].str[1:]}
        parts.append(rows[["task", "example", "label"]].assign(**answers))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def accuracy_matrix(frame: pd.DataFrame, tasks: list[str]) -> AccuracyMatrix:
    """Return the accuracy matrix that the answers give, of tasks with labels; NaN where nothing was evaluated."""
    matrix = AccuracyMatrix(tasks)
    correct = (frame["label"] == frame["predicted"]).groupby([frame["after"], frame["task"]]).mean()
    for (after, task), accuracy in correct.items():
        matrix.values[matrix.rows.index(after), tasks.index(task)] = accuracy
    return matrix


def correct_right_after_learning(frame: pd.DataFrame, task: str) -> pd.Series:
    """Return for every example of `task`, by id, whether it was answered right when the task had just been learned."""
    rows = frame[(frame["after"] == task) & (frame["task"] == task)]
    return (rows["label"] == rows["predicted"]).set_axis(rows["example"])


def identified(frame: pd.DataFrame, classes: dict[str, str]) -> Identified:
    """Return how often the answers after the last task are of the right task, and then right; classes: label → task."""
    last = frame[frame["after"] == frame["after"].iloc[-1]]
    is_task = last["predicted"].map(classes) == last["task"]
    is_right = last["predicted"] == last["label"]
    return Identified(float(is_task.mean()), float(is_right[is_task].mean()))
