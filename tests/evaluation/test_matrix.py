import numpy as np
import pytest

from clora_exp.evaluation.matrix import AccuracyMatrix


def test_csv_round_trip_is_exact_and_keeps_missing_cells() -> None:
    values = np.array([[1 / 3, np.nan], [0.1 + 0.2, 2 / 7], [0.0, 1.0]])
    text = AccuracyMatrix(["medical", "legal"], values).to_csv()
    again = AccuracyMatrix.from_csv(text)
    assert again.tasks == ["medical", "legal"]
    np.testing.assert_array_equal(again.values, values)
    assert again.to_csv() == text


def test_csv_names_its_rows_and_columns() -> None:
    lines = AccuracyMatrix(["a", "b"], np.zeros((3, 2))).to_csv().splitlines()
    assert lines[0] == "after,a,b"
    assert [line.split(",")[0] for line in lines[1:]] == ["init", "a", "b"]


def test_a_matrix_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        AccuracyMatrix(["a", "b"], np.zeros((2, 2)))


def test_a_matrix_that_was_read_lies_in_memory_as_one_that_was_filled() -> None:
    """Else a mean over it adds in another order, and a run that was resumed has other metrics in the last place."""
    filled = AccuracyMatrix(["a", "b", "c"])
    filled.values[:] = np.random.default_rng(0).random((4, 3))
    read = AccuracyMatrix.from_csv(filled.to_csv())
    assert read.values.strides == filled.values.strides
    assert AccuracyMatrix(["a", "b", "c"], np.asfortranarray(filled.values)).values.strides == filled.values.strides
