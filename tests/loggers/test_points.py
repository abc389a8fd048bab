"""A run's history as points: one a step, one a measuring, numbered without gap; metrics and totals at the end."""

from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd

from clora_exp.evaluation.cost import TaskCost
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.loggers.points import last_point, points_of, step_points


def row(task: str, metric: str, value: float, step: int) -> dict:
    return {"task": task, "metric": metric, "value": value, "step": step, "seconds": 0.0}


def progress(protocol: str = "sequence") -> SimpleNamespace:
    """Two tasks in turn, two steps and one, as `Progress` keeps them."""
    measured = [[row(task, f"accuracy after {after}", 0.1 * i, i) for task in "ab"] for i, after in enumerate("0ab")]
    history = [
        *measured[0],
        row("a", "train_loss", 2.0, 1),
        row("a", "train_loss", 1.5, 2),
        *measured[1],
        row("b", "train_loss", 3.0, 1),
        *measured[2],
    ]
    costs = [TaskCost(task, 10 * n, 20 * n, 1.0 * n, 0.5 * n, 100 * n) for n, task in enumerate("ab", 1)]
    return SimpleNamespace(history=history, costs=costs, protocol=protocol, stream=SimpleNamespace(names=["a", "b"]))


def test_every_step_and_every_measuring_is_a_point_on_its_axis() -> None:
    found = points_of(progress())
    assert [point.number for point in found] == list(range(6))
    assert [(point.axis, point.x) for point in found] == [
        ("tasks_learned", 0),
        ("step/a", 1),
        ("step/a", 2),
        ("tasks_learned", 1),
        ("step/b", 1),
        ("tasks_learned", 2),
    ]
    assert found[0].values == {"accuracy/a": 0.0, "accuracy/b": 0.0}
    assert found[2].values == {"loss/a": 1.5}
    assert [point.learned for point in found] == [(), (), (), ("a",), (), ("b",)]


def test_a_measuring_has_the_costs_of_the_session_before_it() -> None:
    found = points_of(progress())
    assert found[3].values["cost/adapter_bytes"] == 20
    assert found[5].values["cost/train_seconds"] == 2.0
    assert "cost/task" not in found[5].values
    assert not any(key.startswith("cost/") for key in found[0].values)


def test_costs_that_are_no_numbers_are_left_out() -> None:
    """An energy that nobody has measured is None with a word for why."""

    @dataclass(frozen=True)
    class Cost(TaskCost):
        energy_joules: float | None = None
        energy_source: str = "off"

    of_run = progress()
    of_run.costs = [Cost("a", 1, 2, 3.0, 4.0, 5), Cost("b", 1, 2, 3.0, 4.0, 5, 0, 0, 7.5, "measured")]
    found = points_of(of_run)
    assert "cost/energy_joules" not in found[3].values
    assert found[5].values["cost/energy_joules"] == 7.5
    assert "cost/energy_source" not in found[5].values


def test_where_all_tasks_are_learned_together_all_adapters_are_new_at_once() -> None:
    of_run = progress("joint")
    of_run.history = of_run.history[:2] + of_run.history[5:]
    assert [point.learned for point in points_of(of_run)][-1] == ("a", "b")


def test_the_steps_of_a_session_at_hand_go_on_from_the_points_before_them() -> None:
    steps = [SimpleNamespace(step=k, loss=float(k)) for k in (1, 2, 3)]
    assert [(p.number, p.x) for p in step_points(6, "c", steps, since=0)] == [(6, 1), (7, 2), (8, 3)]
    assert [(p.number, p.x) for p in step_points(6, "c", steps, since=8)] == [(8, 3)]
    assert step_points(6, "c", steps, since=9) == []


def test_a_finished_run_ends_with_its_metrics_and_totals() -> None:
    run = SimpleNamespace(
        metrics={"average_accuracy": Metric(0.75), "forward_transfer": Metric(None, "why")},
        costs=pd.DataFrame({"task": ["a", "b"], "train_seconds": [1.0, 2.0], "adapter_bytes": [5, 6]}),
        matrix=AccuracyMatrix(["a", "b"]),
    )
    point = last_point(6, run)
    assert (point.number, point.axis, point.x) == (6, "tasks_learned", 2)
    assert point.values == {"metrics/average_accuracy": 0.75, "total/train_seconds": 3.0}
