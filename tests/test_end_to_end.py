"""The real model on the real data, a few steps: what the two commands of the README rest on."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from clora_exp.compose import compose_experiment
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.loop import run
from clora_exp.models.weights import weights_folder
from clora_exp.reports.terminal import Terminal

pytestmark = pytest.mark.slow

FEW = [
    "report=false",  # nothing here looks at the figures; the README's commands draw them
    "trainer.max_steps=6",
    "tasks.icd10.test_per_class=3",
    "tasks.licences.test_per_class=10",
    "tasks.libraries.test_per_class=5",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict:
    """Five methods once, on the stream with few steps and few test examples."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for method in ("frozen", "lora", "clora", "clora_xs", "clora_gated"):
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
    assert len({values[1:].tobytes() for values in matrices.values()}) == 5


def test_nothing_is_forgotten_where_tasks_own_their_parts(finished) -> None:
    for method in ("frozen", "clora_xs", "clora_gated"):
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
    block = 4 * 16 * (384 + 384) + 2 * 16 * (384 + 1536)  # query, key, value, output; the two of the feed-forward
    assert size["lora"] - head == 6 * block
    assert size["clora_xs"] - head == 36 * (16 * 16 + 1)
    assert size["lora"] - head > 40 * (size["clora_xs"] - head)


def test_metrics_csv_holds_curves_and_accuracies(finished) -> None:
    table = pd.read_csv(finished["clora"].path / "metrics.csv")
    assert list(table.columns) == ["task", "metric", "value", "step", "seconds"]
    losses = table[table.metric == "train_loss"]
    assert losses.groupby("task").step.apply(list).to_dict() == {
        t: [1, 2, 3, 4, 5, 6] for t in ("medical", "legal", "code")
    }
    assert len(table[table.metric.str.startswith("accuracy after")]) == 12


@pytest.mark.parametrize("method", ["clora", "clora_gated", "clora_xs"])
def test_an_exported_adapter_gives_the_stored_predictions_in_a_process_that_knows_only_peft(
    finished, method: str
) -> None:
    folder = finished[method]
    frame = read_predictions(folder.path / "predictions.csv.gz")
    rows = frame[(frame.after == "legal") & (frame.task == "legal")]
    texts = {example.id: example.text for example in folder.stream.tasks[1].test}
    exported = folder.path / "adapters" / "legal" / "peft"
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[1]
    given = {
        "BASE": str(weights_folder(folder.config.model)),
        "HERE": str(exported),
        "texts": [texts[i] for i in rows.example],
    }
    given_lines = [f"{name} = {value!r}" for name, value in given.items()]
    unaided = "assert not any(name.startswith('clora') for name in sys.modules)"
    script = "\n".join(["import sys", *given_lines, code, unaided, "print(json.dumps(predicted))"])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=exported)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == rows.predicted.tolist()
