"""What a point of accuracy costs, on hand-made runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clora_exp.evaluation.cost_per_point import cost_per_point, joules
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.runs import StoredRun


def _run(name: str, accuracy: float | None, **columns: list[Any]) -> StoredRun:
    costs = {"train_seconds": [20.0, 40.0], "adapter_bytes": [100, 300]} | columns
    metric = Metric(accuracy) if accuracy is not None else Metric(None, "each task is learned alone")
    matrix = AccuracyMatrix(["a", "b"], np.zeros((3, 2)))
    metrics = {"average_accuracy": metric}
    return StoredRun(
        Path(f"runs/{name}/x-s0"), "done", {}, "", {}, matrix, metrics, pd.DataFrame(), pd.DataFrame(costs)
    )


COUNTED = {"energy_joules": [500.0, 700.0], "energy_source": ["measured", "estimated"]}
OFF = {"energy_joules": [np.nan, np.nan], "energy_source": ["off", "off"]}


def test_points_are_those_above_the_frozen_backbone() -> None:
    found = cost_per_point(_run("lora", 0.65, **COUNTED), _run("frozen", 0.5))
    assert found["seconds_per_point"].value == pytest.approx(60 / 15)
    assert found["bytes_per_point"].value == pytest.approx(200 / 15)
    assert found["joules_per_point"].value == pytest.approx(1200 / 15)
    assert found["seconds_per_point"].reason == "of the points above frozen/x-s0"
    assert found["joules_per_point"].reason == "estimated, of the points above frozen/x-s0"


def test_without_it_every_point_counts() -> None:
    found = cost_per_point(_run("lora", 0.6, **COUNTED))
    assert found["seconds_per_point"] == Metric(pytest.approx(1.0), "of all points")


def test_where_no_point_is_gained_nothing_is_divided() -> None:
    for accuracy in (0.5, 0.4):
        found = cost_per_point(_run("lora", accuracy), _run("frozen", 0.5))
        assert found["seconds_per_point"] == Metric(None, "no point is gained over frozen/x-s0")
    frozen = _run("frozen", 0.5)
    assert cost_per_point(frozen, frozen)["bytes_per_point"].value is None
    assert cost_per_point(_run("single", None))["bytes_per_point"] == Metric(None, "each task is learned alone")
    assert cost_per_point(_run("lora", 0.0))["bytes_per_point"] == Metric(None, "no point is reached")


def test_joules_say_how_they_were_counted_or_why_not() -> None:
    assert joules(_run("lora", 0.6, **COUNTED | {"energy_source": ["measured"] * 2})) == Metric(1200.0, "measured")
    assert joules(_run("lora", 0.6)) == Metric(None, "the run is of a version that did not count energy")
    assert joules(_run("lora", 0.6, **OFF)) == Metric(None, "energy was not counted, trainer.energy=true counts it")
    interrupted = {
        "energy_joules": [500.0, np.nan],
        "energy_source": ["measured", "unknown: the session was interrupted"],
    }
    assert joules(_run("lora", 0.6, **interrupted)) == Metric(None, "unknown: the session was interrupted")
