"""What a run's answers give again is what the run wrote, of every protocol, scenario and kind of answer."""

import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import change_file, learned, made_run, ones
from trials import quiet

from clora_exp.loop import run
from clora_exp.reports.evidence import read_evidence


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=lora",),
        ("method=joint",),
        ("method=single",),
        ("method=lora", "scenario=class_incremental"),
        ("method=clora", "scenario=domain_incremental", "tasks=same_words"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_matrix_and_metrics_of_a_real_run_come_out_of_its_answers(overrides: tuple[str, ...], tiny) -> None:
    stored = run(tiny(*overrides, "trainer.epochs=1"), "", quiet()).read()
    found = read_evidence(stored.path)
    assert found.problems == []
    np.testing.assert_allclose(found.run.matrix.values, stored.matrix.values, rtol=1e-12)
    assert set(found.run.metrics) == set(stored.metrics)
    for name, metric in stored.metrics.items():
        assert found.run.metrics[name].value == pytest.approx(metric.value), name


def test_free_form_answers_are_scored_again_and_perplexity_is_the_files(tiny_words) -> None:
    config = tiny_words("causal_lm", "method=lora", "tasks=responses", "trainer.max_steps=2")
    stored = run(config, "", quiet()).read()
    found = read_evidence(stored.path)
    assert found.problems == []
    for name in ("exact_match", "token_f1", "rouge_l", "answer_perplexity"):
        value, expected = found.run.metrics[name].value, stored.metrics[name].value
        assert value is not None
        assert math.isfinite(value)
        assert value == pytest.approx(expected), name


def test_examples_are_counted_once_a_task_and_right_answers_are_those_of_the_last_row(tmp_path: Path) -> None:
    found = read_evidence(made_run(tmp_path, "lora", 0, learned(ones(9), ones(5), ones(8))))
    assert found.num_examples.tolist() == [10, 10]
    assert found.right is not None
    assert found.right.tolist() == [True] * 5 + [False] * 5 + [True] * 8 + [False] * 2


def test_a_run_that_answers_only_some_examples_at_the_end_has_none_right_to_compare(tmp_path: Path) -> None:
    alone = {"init": (ones(5), ones(5)), "a": (ones(9), ""), "b": ("", ones(8))}
    found = read_evidence(made_run(tmp_path, "single", 0, alone))
    assert found.problems == []
    assert found.right is None


def test_files_that_say_otherwise_are_problems_each_with_both_numbers(tmp_path: Path) -> None:
    path = made_run(tmp_path, "lora", 0, learned(ones(9), ones(5), ones(8)))
    change_file(path / "metrics.json", '"forgetting": {"value": 0.4', '"forgetting": {"value": 0.1')
    change_file(path / "accuracy_matrix.csv", "b,0.5,0.8", "b,,0.8")
    assert read_evidence(path).problems == [
        "accuracy_matrix.csv: a after b is nan, its answers give 0.5",
        "metrics.json: forgetting is 0.1, its answers give 0.4",
    ]


def test_answers_to_tasks_that_the_matrix_has_not_are_a_problem(tmp_path: Path) -> None:
    path = made_run(tmp_path, "lora", 0, learned(ones(9), ones(5), ones(8)))
    change_file(path / "accuracy_matrix.csv", "after,a,b", "after,a,c")
    change_file(path / "accuracy_matrix.csv", "\nb,", "\nc,")
    assert "predictions.csv.gz has the task 'b', which accuracy_matrix.csv has not" in read_evidence(path).problems
