"""Two runs compared: what differs, with known answers; what cannot be compared is one line."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from trials import quiet

from clora_exp.errors import RunError
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import metrics_of_run
from clora_exp.evaluation.predictions import accuracy_matrix, read_predictions
from clora_exp.loop import run
from clora_exp.reports.__main__ import main
from clora_exp.reports.diff import compare, differing
from clora_exp.runs import StoredRun, read_run


@pytest.fixture
def stored(tiny) -> StoredRun:
    return run(tiny("method=lora", "trainer.epochs=1"), "python run.py method=lora", quiet()).read()


def _edited(stored: StoredRun, path: Path, edit) -> StoredRun:
    """Return a copy of a run whose table of answers is what `edit` makes of it, and whose matrix follows from that."""
    shutil.copytree(stored.path, path)
    (path / "SHA256SUMS").unlink()
    frame = edit(read_predictions(path / "predictions.csv.gz"))
    with gzip.open(path / "predictions.csv.gz", "wt") as file:
        frame.to_csv(file, index=False)
    matrix = accuracy_matrix(frame, stored.matrix.tasks)
    (path / "accuracy_matrix.csv").write_text(matrix.to_csv())
    return replace(read_run(path), matrix=matrix, metrics=metrics_of_run(matrix))


def _last(frame: pd.DataFrame, task: str) -> pd.Series:
    return (frame.after == "third") & (frame.task == task)


def _all_right_but_four(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame.index[_last(frame, "first")]
    frame.loc[rows, "predicted"] = frame.loc[rows, "label"]
    frame.loc[rows[:4], "predicted"] = "wrong"
    return frame


def _all_right(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame.index[_last(frame, "first")]
    frame.loc[rows, "predicted"] = frame.loc[rows, "label"]
    return frame


def test_newly_wrong_and_right_examples_and_the_cell_they_make_are_found(stored, tmp_path: Path) -> None:
    first, second = _edited(stored, tmp_path / "a", _all_right), _edited(stored, tmp_path / "b", _all_right_but_four)
    found = compare(first, second)
    n = int(_last(read_predictions(stored.path / "predictions.csv.gz"), "first").sum())
    assert [len(c.newly_wrong) for c in found.changed.values()] == [4, 0, 0]
    assert found.changed["first"].newly_wrong[0]["second"] == "wrong"
    assert found.changed["first"].newly_wrong[0]["first"] == found.changed["first"].newly_wrong[0]["label"]
    assert found.changed["first"].p_value == pytest.approx(2 / 2**4)
    expected = np.zeros((4, 3))
    expected[3, 0] = -4 / n
    np.testing.assert_allclose(found.matrix, expected, atol=1e-12)
    assert found.low[3, 0] < -4 / n < found.high[3, 0] <= 0
    assert (found.low[:3] == 0).all()
    assert (found.high[:, 1:] == 0).all()
    average = found.metrics["average_accuracy"]
    assert average.value == pytest.approx(-4 / n / 3)
    assert (average.low, average.high) == pytest.approx((found.low[3, 0] / 3, found.high[3, 0] / 3))
    assert (found.metrics["learning_accuracy"].low, found.metrics["learning_accuracy"].high) == (0, 0)
    back = compare(second, first)
    assert len(back.changed["first"].newly_right) == 4
    assert back.metrics["average_accuracy"].high == pytest.approx(-average.low)


def test_settings_data_and_environment_that_differ_are_named_with_dots() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": [1], "gone": {}}, {"a": {"b": 1, "c": 3}, "d": [1], "came": None}
    assert differing(old, new) == {"a.c": (2, 3), "gone": ({}, "(not there)"), "came": ("(not there)", None)}
    assert differing(old, old) == {}


def test_a_run_does_not_differ_from_itself(stored, capsys) -> None:
    assert main(["diff", str(stored.path), str(stored.path)]) == 0
    printed = capsys.readouterr().out
    assert "settings: the same" in printed
    assert "data and weights: the same" in printed
    assert "newly wrong," not in printed
    assert main(["diff", "--json", str(stored.path), str(stored.path)]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (
        plain["metrics"]["average_accuracy"] | {"difference": 0, "low": 0, "high": 0}
        == (plain["metrics"]["average_accuracy"])
    )
    assert plain["matrix"]["rows"] == ["init", "first", "second", "third"]


def test_the_text_names_both_runs_their_settings_and_the_answers(tiny, stored, capsys) -> None:
    other = run(tiny("method=clora_xs", "trainer.epochs=2"), "", quiet()).read()
    assert main(["diff", str(stored.path), str(other.path), "--resamples", "200"]) == 0
    printed = capsys.readouterr().out
    flat = " ".join(printed.split())
    assert "method.name lora → clora_xs" in flat
    assert "trainer.epochs 1 → 2" in flat
    assert "200 resamples of the test examples within each task" in printed
    assert "McNemar's p" in printed
    gained = other.metrics["average_accuracy"].value - stored.metrics["average_accuracy"].value
    assert f"{gained:+.4f}".replace("-", "−").removeprefix("+0.0000") in printed


def test_other_examples_are_refused_in_one_line_that_names_the_task(tiny, stored, tmp_path: Path, capsys) -> None:
    fewer = run(tiny("method=lora", "trainer.max_eval_examples=10", "trainer.epochs=1"), "", quiet())
    assert main(["diff", str(stored.path), str(fewer.path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: these runs cannot be compared: task 'first' was measured on other test examples (36 and"
    )
    assert error.count("\n") == 1
    validation = run(tiny("method=lora", "eval_split=validation", "trainer.epochs=1"), "", quiet())
    assert main(["diff", str(stored.path), str(validation.path)]) == 2
    assert "on the test split of task 'first'" in capsys.readouterr().err
    two = run(tiny("method=lora", "tasks.words.names=[first,second]", "trainer.epochs=1"), "", quiet())
    assert main(["diff", str(stored.path), str(two.path)]) == 2
    assert f"task 'third' is in {stored.path}, not in {two.path}" in capsys.readouterr().err


def test_a_run_that_is_not_done_is_refused(stored, capsys) -> None:
    (stored.path / "STATUS").write_text("interrupted\n")
    assert main(["diff", str(stored.path), str(stored.path)]) == 2
    assert "is interrupted, not done; finish it first: python run.py method=lora" in capsys.readouterr().err
    assert main(["diff", str(stored.path), str(stored.path), "--resamples", "9"]) == 2


def test_tasks_in_another_order_have_no_difference_matrix_but_metrics(tiny, stored, capsys) -> None:
    turned = run(tiny("method=lora", "+tasks.order=[third,first,second]", "trainer.epochs=1"), "", quiet()).read()
    found = compare(stored, turned, 200)
    assert found.matrix is None
    assert found.metrics["average_accuracy"].low is not None
    assert found.metrics["average_accuracy"].value == pytest.approx(
        turned.matrix.values[-1].mean() - stored.matrix.values[-1].mean()
    )
    assert main(["diff", str(stored.path), str(turned.path)]) == 0
    assert "the tasks were learned in another order" in capsys.readouterr().out


def test_a_joint_run_is_compared_where_both_are_defined(tiny, stored) -> None:
    joint = run(tiny("method=joint", "trainer.epochs=1"), "", quiet()).read()
    found = compare(stored, joint, 200)
    assert set(found.metrics) == {"average_accuracy"}
    assert np.isnan(found.matrix[1:3]).all()
    assert len(found.changed) == 3


def test_scores_that_are_no_shares_have_no_interval_and_say_why(stored) -> None:
    scored = AccuracyMatrix(stored.matrix.tasks, stored.matrix.values * 0.5)
    found = compare(stored, replace(stored, matrix=scored), 200)
    assert found.metrics["average_accuracy"].low is None
    assert "task first, second, third, is no share" in found.metrics["average_accuracy"].reason
    assert found.low is None


def test_a_table_of_answers_that_contradicts_itself_is_one_line(stored, tmp_path: Path) -> None:
    broken = _edited(stored, tmp_path / "c", lambda frame: frame.drop(index=frame.index[_last(frame, "second")][:1]))
    with pytest.raises(RunError, match="was not measured on the same examples throughout"):
        compare(stored, broken)


def test_yaml_of_a_run_is_compared_key_by_key(stored, tmp_path: Path) -> None:
    config = yaml.safe_load((stored.path / "config.yaml").read_text())
    found = compare(stored, replace(stored, config=config | {"method": config["method"] | {"rank": 8}}), 100)
    assert found.settings == {"method.rank": (4, 8)}
