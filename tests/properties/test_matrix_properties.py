"""The accuracy matrix through CSV, and the table of answers through its file: exact, whatever names and texts hold."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clora_exp.evaluation import predictions
from clora_exp.evaluation.matrix import INIT, AccuracyMatrix
from clora_exp.evaluation.written import Written
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import RESERVED, Example, Task, TaskStream

odd = st.sampled_from(
    ["a,b", 'a"b', "a\nb", "a\rb", "\r", "NA", "nan", "None", "1", "1.0", "é ü", "#", " a ", "=1+1", "\ufeff", "\0"]
)
texts = odd | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # what UTF-8 can say
folder_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,6}", fullmatch=True).filter(lambda n: n not in RESERVED)
names = texts.filter(lambda name: name and name not in RESERVED)
accuracies = st.floats(0, 1) | st.just(float("nan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@given(st.data(), st.lists(names, min_size=1, max_size=4, unique=True))
def test_a_matrix_reads_back_from_csv_to_the_last_bit(folder: Path, data: st.DataObject, tasks: list[str]) -> None:
    size = (len(tasks) + 1) * len(tasks)
    values = np.reshape(data.draw(st.lists(accuracies, min_size=size, max_size=size)), (len(tasks) + 1, len(tasks)))
    text = AccuracyMatrix(tasks, values).to_csv()
    (folder / "accuracy_matrix.csv").write_bytes(text.encode())
    for again in (AccuracyMatrix.from_csv(text), AccuracyMatrix.from_csv(folder / "accuracy_matrix.csv")):
        assert again.tasks == tasks
        np.testing.assert_array_equal(again.values, values)
        assert again.to_csv() == text


@st.composite
def streams(draw: st.DrawFn) -> TaskStream:
    """One to three tasks with two to four labels and one to five test examples each."""
    tasks = []
    for name in draw(st.lists(folder_names, min_size=1, max_size=3, unique=True)):
        labels = draw(st.lists(texts, min_size=2, max_size=4, unique=True))
        ids = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
        both = [Example(label, "x", label, f"{split}{label}") for split in "tv" for label in labels]
        test = [Example(i, "x", draw(st.sampled_from(labels)), f"test{i}") for i in ids]
        tasks.append(Task(name, "", "", "", labels, both[: len(labels)], both[len(labels) :], test))
    return TaskStream("s", tasks)


@st.composite
def answered(draw: st.DrawFn) -> tuple[TaskStream, pd.DataFrame]:
    """A stream and the table of some evaluations of it, by label or as written."""
    stream = draw(streams())
    found = {}
    for i, t in draw(st.sets(st.tuples(st.integers(0, len(stream)), st.integers(0, len(stream) - 1)), min_size=1)):
        task = stream.tasks[t]
        n = len(task.test)
        if draw(st.booleans()):
            found[i, t] = np.array(draw(st.lists(st.integers(0, len(task.labels) - 1), min_size=n, max_size=n)))
        else:
            written = draw(st.lists(texts, min_size=n, max_size=n))
            found[i, t] = Written(written, np.zeros(n), np.zeros(n))
    return stream, predictions.to_frame(Scenario("task_incremental", stream), "test", found)


def to_bytes(frame: pd.DataFrame) -> bytes:
    return predictions.HEADER + predictions.packed(frame.to_numpy().tolist())


def read_back(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    (folder / "p.csv.gz").write_bytes(to_bytes(frame))
    return predictions.read_predictions(folder / "p.csv.gz")


@given(answered())
def test_answers_read_back_as_they_were_and_are_written_to_the_same_bytes(folder: Path, found: tuple) -> None:
    _, frame = found
    again = read_back(folder, frame)
    assert again.columns.tolist() == predictions.COLUMNS
    assert again.to_numpy().tolist() == frame.to_numpy().tolist()
    assert to_bytes(again) == to_bytes(frame)


@given(texts)
@example("cut\rhere")
@example("cut\r\nhere")
def test_a_written_answer_stays_one_cell_of_one_row(folder: Path, text: str) -> None:
    rows = [["init", "t", "1", "x", text], ["init", "t", "2", text, "y"]]
    assert read_back(folder, pd.DataFrame(rows, columns=predictions.COLUMNS)).to_numpy().tolist() == rows


@given(answered(), st.randoms(use_true_random=False))
def test_the_matrix_is_the_share_of_right_answers_whatever_the_order_of_the_rows(found: tuple, random) -> None:
    stream, frame = found
    order = list(range(len(frame)))
    random.shuffle(order)
    matrix = predictions.accuracy_matrix(frame.iloc[order], stream.names)
    for i, after in enumerate([INIT, *stream.names]):
        for t, task in enumerate(stream.names):
            cells = [row for row in frame.itertuples() if row.after == after and row.task == task]
            right = [row.label == row.predicted for row in cells]
            expected = sum(right) / len(right) if right else float("nan")
            assert matrix.values[i, t] == pytest.approx(expected, abs=1e-15, nan_ok=True)


@given(answered(), st.randoms(use_true_random=False))
def test_renaming_the_labels_changes_no_accuracy(found: tuple, random) -> None:
    stream, frame = found
    known = sorted({*frame["label"], *frame["predicted"]})
    new = [f"label {i}" for i in range(len(known))]
    random.shuffle(new)
    renamed = frame.assign(**{c: frame[c].map(dict(zip(known, new, strict=True))) for c in ("label", "predicted")})
    before, after = (predictions.accuracy_matrix(f, stream.names).values for f in (frame, renamed))
    np.testing.assert_array_equal(after, before)
