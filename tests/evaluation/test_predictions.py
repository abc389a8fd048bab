import time

import numpy as np
import pandas as pd
import pytest

from clora_exp.errors import RunError
from clora_exp.evaluation import predictions
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import Example, Task, TaskStream


@pytest.fixture
def stream() -> TaskStream:
    tasks = []
    for name in ("one", "two"):
        rows = {
            split: [Example(f"{split}{i}", "x", label, f"{split}{i}") for i, label in enumerate(["None", "1", "None"])]
            for split in ("train", "validation", "test")
        }
        tasks.append(Task(name, "", "", "", ["None", "1"], **rows))
    return TaskStream("s", tasks)


def test_rows_come_in_the_order_of_the_matrix_with_names_for_labels(stream: TaskStream) -> None:
    answers = {(1, 0): np.array([0, 1, 0]), (0, 1): np.array([1, 1, 1]), (0, 0): np.array([0, 0, 0])}
    frame = predictions.to_frame(Scenario("task_incremental", stream), "test", answers)
    assert frame.after.tolist() == ["init"] * 6 + ["one"] * 3
    assert frame.task.tolist() == ["one"] * 3 + ["two"] * 3 + ["one"] * 3
    assert frame.predicted.tolist() == ["None"] * 3 + ["1"] * 3 + ["None", "1", "None"]
    assert frame.example.tolist()[:3] == ["test0", "test1", "test2"]


def test_labels_that_look_like_numbers_or_nothing_come_back_as_text_and_bytes_are_stable(
    stream: TaskStream, tmp_path, monkeypatch
) -> None:
    scenario, answers = Scenario("task_incremental", stream), np.array([0, 1, 1])
    frame = predictions.to_frame(scenario, "test", {(2, 1): answers})
    first = predictions.HEADER + predictions.row_to_bytes(scenario, "test", 2, {1: answers})
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert predictions.HEADER + predictions.row_to_bytes(scenario, "test", 2, {1: answers}) == first
    (tmp_path / "p.csv.gz").write_bytes(first)
    again = predictions.read_predictions(tmp_path / "p.csv.gz")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    matrix = predictions.accuracy_matrix(again, ["one", "two"])
    assert matrix.values[2, 1] == 2 / 3
    assert np.isnan(matrix.values).sum() == 5
    right = predictions.correct_right_after_learning(again, "two")
    assert right.to_dict() == {"test0": True, "test1": True, "test2": False}


def test_a_packed_table_is_the_same_table_cells_that_were_not_evaluated_and_empty_answers_included(
    stream: TaskStream, tmp_path
) -> None:
    answers = {(0, 0): np.array([0, 0, 1]), (0, 1): np.array([1, 1, 1]), (1, 0): np.array([0, 1, 0]),
               (2, 1): np.array([1, 0, 1])}  # fmt: skip
    frame = predictions.to_frame(Scenario("task_incremental", stream), "test", answers)
    frame.loc[0, "predicted"] = ""  # as a language model may write
    frame.loc[7, "predicted"] = '=1, or\n"so"'
    (tmp_path / "p.csv.gz").write_bytes(predictions.to_packed_bytes(frame))
    pd.testing.assert_frame_equal(predictions.read_predictions(tmp_path / "p.csv.gz"), frame, check_dtype=False)


def test_a_table_with_other_columns_is_refused(tmp_path) -> None:
    (tmp_path / "p.csv.gz").write_bytes(predictions.to_bytes(pd.DataFrame({"after": ["init"], "answer": ["x"]})))
    with pytest.raises(RunError, match="it has the columns after, answer, not after, task, example, label, predicted"):
        predictions.read_predictions(tmp_path / "p.csv.gz")
