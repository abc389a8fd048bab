"""The real model on the real data, a few steps: what the two commands of the README rest on."""

import json

import numpy as np
import pandas as pd
import pytest

from clora_exp.compose import compose_experiment
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal

pytestmark = pytest.mark.slow

FEW = [
    "trainer.max_steps=6",
    "tasks.icd10.test_per_class=3",
    "tasks.licences.test_per_class=10",
    "tasks.stdlib.test_per_class=5",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict:
    """Every method once, on the stream with few steps and few test examples."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for method in ("frozen", "lora", "clora", "clora_xs"):
        config = compose_experiment([f"method={method}", f"results_dir={folder}", *FEW])
        runs[method] = run(config, f"python run.py method={method}", Terminal())
    return runs


def test_every_method_finishes_with_matrix_and_metrics(finished) -> None:
    for method, folder in finished.items():
        assert folder.status == "done"
        stored = folder.read()
        matrix, metrics = stored.matrix, stored.metrics
        assert matrix.tasks == ["medical", "legal", "code"]
        assert ((matrix.values >= 0) & (matrix.values <= 1)).all(), method
        assert metrics["average_accuracy"].value == pytest.approx(matrix.values[-1].mean())


def test_the_methods_start_equal_and_learn_apart(finished) -> None:
    matrices = {method: folder.read().matrix.values for method, folder in finished.items()}
    for values in matrices.values():
        np.testing.assert_array_equal(values[0], matrices["frozen"][0])
    assert len({values[1:].tobytes() for values in matrices.values()}) == 4


def test_nothing_is_forgotten_where_tasks_own_their_parts(finished) -> None:
    for method in ("frozen", "clora_xs"):
        stored = finished[method].read()
        matrix, metrics = stored.matrix, stored.metrics
        assert metrics["backward_transfer"].value == 0
        for j in range(3):
            assert (matrix.values[j + 1 :, j] == matrix.values[j + 1, j]).all()


def test_an_adapter_of_clora_xs_is_a_small_part_of_a_lora(finished) -> None:
    size = {
        m: json.loads((finished[m].path / "adapters/code/adapter.json").read_text())["num_parameters"] for m in finished
    }
    head = size["frozen"]
    assert head == 12 * 384 + 12
    assert size["lora"] - head == 18 * 2 * 16 * 384
    assert size["clora_xs"] - head == 18 * (16 * 16 + 1)
    assert size["lora"] - head > 40 * (size["clora_xs"] - head)


def test_metrics_csv_holds_curves_and_accuracies(finished) -> None:
    table = pd.read_csv(finished["clora"].path / "metrics.csv")
    assert list(table.columns) == ["task", "metric", "value", "step", "seconds"]
    losses = table[table.metric == "train_loss"]
    assert losses.groupby("task").step.apply(list).to_dict() == {
        t: [1, 2, 3, 4, 5, 6] for t in ("medical", "legal", "code")
    }
    assert len(table[table.metric.str.startswith("accuracy after")]) == 12
