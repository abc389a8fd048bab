"""MLflow's store, read back by MLflow. Making one takes seconds, so these are slow."""

from pathlib import Path
from typing import Any

import pytest
from followed import name_of, stopped, stopped_and_gone_on, tasks_of
from trials import quiet

from clora_exp.config import ExperimentConfig
from clora_exp.loop import run
from clora_exp.results import RunDirectory

pytestmark = pytest.mark.slow


def read_back(config: ExperimentConfig, name: str) -> tuple[Any, Any]:
    """Return a client of the store and the one run of that folder."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{config.results_dir}/.mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("words")
    (found,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = 'lora-{name}'")
    return client, found


def curve(client: Any, found: Any, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, key))


@pytest.fixture(scope="module")
def finished(small) -> RunDirectory:
    return run(small("logger=mlflow"), "python run.py", quiet())


def assert_has_every_loss_once(folder: RunDirectory, client: Any, found: Any) -> None:
    for task, rows in folder.read().history.query("metric == 'train_loss'").groupby("task"):
        assert curve(client, found, f"loss/{task}") == list(zip(rows["step"], rows["value"], strict=True))


def test_losses_metrics_settings_and_files_are_there(finished: RunDirectory) -> None:
    client, found = read_back(finished.config, finished.path.name)
    assert_has_every_loss_once(finished, client, found)
    stored = finished.read()
    defined = {name: metric.value for name, metric in stored.metrics.items() if metric.value is not None}
    assert {name: found.data.metrics[f"metrics/{name}"] for name in defined} == pytest.approx(defined)
    assert curve(client, found, f"accuracy/{stored.matrix.tasks[0]}") == list(enumerate(stored.matrix.values[:, 0]))
    assert (found.data.params["method/rank"], found.data.params["seed"]) == ("4", "0")
    assert (found.data.tags["method"], found.data.tags["status"], found.info.status) == ("lora", "done", "FINISHED")
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"report.md", "accuracy_matrix.csv", "metrics.json", "metrics.csv", "cost.csv", "figures"}
    place = Path(finished.config.results_dir) / ".mlflow" / "artifacts" / found.info.run_id / "artifacts"
    matrix = "accuracy_matrix.csv"
    assert (place / matrix).read_bytes() == (finished.path / matrix).read_bytes()
    assert (place / "figures" / "accuracy_matrix.png").exists()


def test_a_run_that_goes_on_is_the_same_run_and_says_nothing_twice(small) -> None:
    folder = stopped_and_gone_on(small("logger=mlflow", "seed=1", "trainer.checkpoint_every=0"))
    client, found = read_back(folder.config, folder.path.name)
    assert_has_every_loss_once(folder, client, found)
    assert found.info.status == "FINISHED"


def test_a_failed_run_is_marked_so(small) -> None:
    config = small("logger=mlflow", "seed=2")
    stopped(config, tasks_of(config)[1], 2, RuntimeError("out of luck"))
    _, found = read_back(config, name_of(config))
    assert found.info.status == "FAILED"
    assert (found.data.tags["status"], found.data.tags["error"]) == ("failed", "RuntimeError: out of luck")
