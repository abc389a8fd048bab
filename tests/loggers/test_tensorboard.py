"""TensorBoard's event files, read back by TensorBoard."""

from pathlib import Path

import numpy as np
import pytest
from followed import stopped_and_gone_on
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trials import quiet

from clora_exp.loop import run
from clora_exp.results import RunDirectory


def read_back(folder: RunDirectory) -> EventAccumulator:
    config = folder.config
    place = Path(config.results_dir) / ".tensorboard" / config.tasks.name / config.method.name / folder.path.name
    found = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def curve(board: EventAccumulator, key: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board.Scalars(key)]


@pytest.fixture(scope="module")
def finished(small) -> RunDirectory:
    return run(small("logger=tensorboard"), "python run.py", quiet())


def assert_has_all(folder: RunDirectory, board: EventAccumulator) -> None:
    """Every loss and every accuracy stands there once, in single precision."""
    stored = folder.read()
    for task, rows in stored.history.query("metric == 'train_loss'").groupby("task"):
        found = curve(board, f"loss/{task}")
        assert [step for step, _ in found] == rows["step"].tolist()
        np.testing.assert_allclose([value for _, value in found], rows["value"], rtol=1e-6)
    for j, task in enumerate(stored.matrix.tasks):
        found = curve(board, f"accuracy/{task}")
        measured = np.flatnonzero(~np.isnan(stored.matrix.values[:, j])).tolist()
        assert [step for step, _ in found] == measured
        np.testing.assert_allclose([v for _, v in found], stored.matrix.values[measured, j], rtol=1e-6)
    for name, metric in stored.metrics.items():
        if metric.value is not None:
            ((step, value),) = curve(board, f"metrics/{name}")
            assert (step, value) == (len(stored.matrix.tasks), pytest.approx(metric.value, rel=1e-6))


def test_losses_accuracies_metrics_and_costs_stand_at_their_own_steps(finished: RunDirectory) -> None:
    board = read_back(finished)
    assert_has_all(finished, board)
    assert [value for _, value in curve(board, "cost/adapter_bytes")] == finished.read().costs["adapter_bytes"].tolist()


def test_figures_matrix_and_status_are_there(finished: RunDirectory) -> None:
    board = read_back(finished)
    images = {f"figures/{path.stem}" for path in (finished.path / "figures").glob("*.png")}
    assert set(board.Tags()["images"]) == images
    (image,) = board.Images("figures/accuracy_matrix")
    assert image.encoded_image_string[:4] == b"\x89PNG"
    (text,) = board.Tensors("accuracy_matrix/text_summary")
    lines = [line.strip() for line in text.tensor_proto.string_val[0].decode().strip().splitlines()]
    assert lines == finished.read().matrix.to_csv().splitlines()
    assert board.Tensors("status/text_summary")[0].tensor_proto.string_val == [b"done"]


def test_a_run_that_goes_on_says_nothing_twice(small) -> None:
    folder = stopped_and_gone_on(small("logger=tensorboard", "seed=1", "trainer.checkpoint_every=0"))
    assert_has_all(folder, read_back(folder))


def test_overwrite_takes_the_earlier_curves_away(small) -> None:
    run(small("logger=tensorboard", "seed=2"), "python run.py", quiet())
    folder = run(small("logger=tensorboard", "seed=2", "overwrite=true"), "python run.py", quiet())
    assert_has_all(folder, read_back(folder))
