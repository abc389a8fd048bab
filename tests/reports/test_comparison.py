"""Which runs are averaged, which stand apart and why, and what is tested: on runs whose answers are known."""

from math import isnan
from pathlib import Path

import pytest
from made_runs import BEFORE, known_runs, learned, made_run, mean, ones

from clora_exp.errors import RunError
from clora_exp.evaluation.metrics import Metric
from clora_exp.reports.comparison import ComparableSet, Comparison, compared
from clora_exp.reports.evidence import read_evidence
from clora_exp.reports.found import find_runs
from clora_exp.reports.settings import Setting

GOOD = learned(ones(9), ones(9), ones(9))


def _compared(root: Path, **more) -> Comparison:
    return compared([read_evidence(run.path) for run in find_runs([root])], **more)


def _setting(found: ComparableSet, label: str) -> Setting:
    return next(s for s in found.settings if s.label == label)


def test_the_seeds_of_a_setting_are_averaged_and_the_most_accurate_comes_first(tmp_path: Path) -> None:
    (found,) = _compared(known_runs(tmp_path)).sets
    assert [(s.label, s.seeds) for s in found.settings] == [
        ("joint", [0]), ("clora", [0, 1, 2]), ("ewc", [0, 2]), ("lora", [0, 1, 2])]  # fmt: skip
    lora = _setting(found, "lora")
    assert lora.values["average_accuracy"] == pytest.approx({0: 0.7, 1: 0.75, 2: 0.65})
    spread = lora.spread["average_accuracy"]
    assert (spread.n, spread.mean, spread.sd) == (3, pytest.approx(0.7), pytest.approx(0.05))
    assert lora.mean("forgetting") == pytest.approx(mean([0.4, 0.3, 0.5]))
    assert lora.mean("bytes_a_task") == 1000
    assert lora.mean("train_seconds") == 4.0  # 3, 4 and 5
    assert lora.mean("evaluation_ms") == pytest.approx(1000 * 0.2 / 20)
    assert lora.mean("accuracy at the end: a") == pytest.approx(mean([0.5, 0.6, 0.4]))
    assert lora.mean("accuracy right after learning: a") == pytest.approx(0.9)


def test_references_have_the_one_accuracy_of_a_task_that_they_measure(tmp_path: Path) -> None:
    joint = _setting(_compared(known_runs(tmp_path)).sets[0], "joint")
    assert joint.mean("accuracy at the end: b") == 1.0
    assert joint.reasons["accuracy right after learning: b"] == "this was not evaluated"
    assert "all tasks are learned at once" in joint.reasons["forgetting"]
    assert isnan(joint.mean("forgetting"))


def test_other_data_model_scenario_split_or_examples_make_another_set_with_the_reason(tmp_path: Path) -> None:
    known_runs(tmp_path / "runs")
    for seed in (0, 1):
        made_run(tmp_path / "runs", "gem", seed, GOOD, environment={"model_sha256": "f" * 64})
    first, second = _compared(tmp_path / "runs").sets
    assert [s.label for s in second.settings] == ["gem"]
    assert second.differs == [f"model: vit_digits {'f' * 16}, not vit_digits {'e' * 16}"]
    assert "gem" not in [s.label for s in first.settings]


@pytest.mark.parametrize(
    ("key", "changes", "environment"),
    [
        ("data", {}, {"data_sha256": {"a": {"test": "other"}}}),
        ("scenario", {"scenario": "domain_incremental"}, {}),
        ("evaluated on", {"eval_split": "validation"}, {}),
        ("data seed", {"data_seed": 7}, {}),
    ],
)
def test_a_run_that_nothing_is_comparable_with_is_left_out_with_the_reason(
    key: str, changes: dict, environment: dict, tmp_path: Path
) -> None:
    known_runs(tmp_path)
    made_run(tmp_path, "gem", 0, GOOD, changes=changes, environment=environment)
    comparison = _compared(tmp_path)
    assert len(comparison.sets) == 1
    (left,) = comparison.left
    assert left.path.endswith("gem/00000000-s0")
    assert left.why.startswith(f"not comparable with any other run: {key}: ")


def test_other_examples_are_not_comparable_whatever_the_fingerprints_say(tmp_path: Path) -> None:
    known_runs(tmp_path)
    fewer = {after: (first[:-1], second) for after, (first, second) in GOOD.items()}
    made_run(tmp_path, "gem", 0, fewer)
    (left,) = _compared(tmp_path).left
    assert "examples: 19, " in left.why


def test_where_no_two_runs_are_comparable_it_is_refused_with_what_differs(tmp_path: Path) -> None:
    made_run(tmp_path, "lora", 0, GOOD)
    made_run(tmp_path, "clora", 0, GOOD, environment={"model_sha256": "f" * 64})
    with pytest.raises(RunError, match=r"no two of these runs are comparable:(.|\n)*model: vit_digits e+, not vit_dig"):
        _compared(tmp_path)


def test_one_run_alone_has_a_page_and_no_comparison(tmp_path: Path) -> None:
    path = made_run(tmp_path, "lora", 0, GOOD)
    with pytest.raises(RunError, match=rf"only one finished run(.|\n)*reports page {path}"):
        _compared(tmp_path)


def test_two_settings_of_a_method_stand_apart_and_are_called_by_what_differs(tmp_path: Path) -> None:
    for digest, rank in (("aaaaaaaa", 16), ("bbbbbbbb", 8)):
        for seed in (0, 1):
            made_run(tmp_path, "clora", seed, GOOD, digest=digest, changes={"method.rank": rank})
    made_run(tmp_path, "lora", 0, GOOD, changes={"trainer.epochs": 5})
    (found,) = _compared(tmp_path).sets
    assert sorted(s.label for s in found.settings) == ["clora rank=16", "clora rank=8", "lora"]
    assert all(len(s.runs) == 2 for s in found.settings if s.method == "clora")
    assert found.budgets() == {"trainer.epochs": [2, 5]}


def test_settings_that_differ_in_much_are_called_by_their_hash(tmp_path: Path) -> None:
    for digest, value in (("aaaaaaaa", 0.25), ("bbbbbbbb", 0.5)):
        long = {"method.dropout": value, "method.gate_start": value, "method.routing_std": value}
        made_run(tmp_path, "clora", 0, GOOD, digest=digest, changes=long)
    (found,) = _compared(tmp_path).sets
    assert sorted(s.label for s in found.settings) == ["clora@aaaaaaaa", "clora@bbbbbbbb"]


def test_a_run_that_is_there_twice_is_counted_once(tmp_path: Path) -> None:
    known_runs(tmp_path / "one")
    made_run(tmp_path / "two", "clora", 0, GOOD)
    comparison = _compared(tmp_path)
    assert _setting(comparison.sets[0], "clora").seeds == [0, 1, 2]
    assert comparison.left[0].why.startswith("the same run as ")


def test_pairs_are_the_seeds_that_both_sides_have(tmp_path: Path) -> None:
    (found,) = _compared(known_runs(tmp_path)).sets
    assert found.reference is not None
    assert found.reference.label == "clora"
    tests = {(test.label, test.name): test for test in found.over_seeds}
    ewc = tests["ewc", "average_accuracy"]
    assert ewc.seeds == [0, 2]
    assert ewc.difference.mean == pytest.approx(mean([0.75 - 0.9, 0.85 - 0.9]))
    assert ewc.test is not None
    assert ewc.test.p_value == ewc.test.smallest_p == 0.5
    joint = tests["joint", "average_accuracy"]
    assert (joint.seeds, joint.test) == ([0], None)
    assert isnan(joint.corrected)
    lora = tests["lora", "average_accuracy"]
    assert lora.test is not None
    assert (lora.test.p_value, lora.corrected) == (0.25, 0.5)  # of a family of two
    assert ("joint", "forgetting") not in tests


def test_over_examples_every_seed_is_tested_and_the_least_sure_one_counts(tmp_path: Path) -> None:
    (found,) = _compared(known_runs(tmp_path)).sets
    lora = next(test for test in found.over_examples if test.label == "lora")
    assert [(t.only_first, t.only_second) for t in lora.tests] == [(0, 4), (0, 3), (0, 5)]
    assert [t.p_value for t in lora.tests] == pytest.approx([2 / 2**4, 2 / 2**3, 2 / 2**5])
    assert lora.p_value == 0.25
    assert lora.difference == pytest.approx(mean([-4 / 20, -3 / 20, -5 / 20]))
    ewc = next(test for test in found.over_examples if test.label == "ewc")
    assert [(t.only_first, t.only_second) for t in ewc.tests] == [(0, 3), (0, 1)]
    assert ewc.seeds == [0, 2]


def test_the_reference_can_be_chosen_and_an_unknown_one_names_those_there_are(tmp_path: Path) -> None:
    known_runs(tmp_path)
    (found,) = _compared(tmp_path, against="lora").sets
    assert found.reference is not None
    assert found.reference.label == "lora"
    with pytest.raises(RunError, match=r"unknown method 'lroa'; have: clora, ewc, joint, lora\. Did you mean 'lora'"):
        _compared(tmp_path, against="lroa")


def test_metrics_that_other_runs_define_are_taken_as_they_are_given(tmp_path: Path) -> None:
    known_runs(tmp_path)
    extra = {tmp_path / "lora" / "00000000-s1": {"transfer_gain": Metric(0.05)}}
    lora = _setting(_compared(tmp_path, extra=extra).sets[0], "lora")
    assert lora.values["transfer_gain"] == {1: 0.05}
    assert lora.spread["transfer_gain"].n == 1


def test_unfinished_runs_have_their_status_and_only_folders_with_one_are_runs(tmp_path: Path) -> None:
    made_run(tmp_path, "lora", 0, BEFORE, status="failed\nOSError: no space\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("")
    (run,) = find_runs([tmp_path, tmp_path / "lora"])
    assert (run.status, run.message) == ("failed", "OSError: no space")
    with pytest.raises(RunError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(RunError, match="no run below"):
        find_runs([tmp_path / "other"])
