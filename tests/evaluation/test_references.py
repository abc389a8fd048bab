"""References are found among runs, and only those that fit: on hand-made runs with known answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.evaluation.references import command, referenced, setting
from clora_exp.runs import StoredRun

METHOD = {"rank": 4, "alpha": 32.0, "trainable": "adapters", "target_modules": None, "rank_pattern": None,
          "backend": "peft", "routing": "none", "save_weights": False, "trained_classes": "seen",
          "identifier": "gaussian", "learning_rate": None, "head_learning_rate": None}  # fmt: skip
TRAINER = {"epochs": 2, "max_steps": None, "batch_size": 8, "num_workers": 0, "checkpoint_every": 30.0}
NAN = np.nan
ROWS = {
    "sequence": [[0.1, 0.2, 0.3], [0.9, 0.25, 0.2], [0.7, 0.8, 0.4], [0.6, 0.85, 0.7]],
    "single": [[0.1, 0.2, 0.3], [0.9, NAN, NAN], [NAN, 0.7, NAN], [NAN, NAN, 0.75]],
    "joint": [[0.1, 0.2, 0.3], [NAN, NAN, NAN], [NAN, NAN, NAN], [0.85, 0.9, 0.8]],
}
GAIN, LACK = ((0.80 - 0.70) + (0.70 - 0.75)) / 2, ((0.85 - 0.90) + (0.90 - 0.80) + (0.80 - 0.70)) / 3


def _run(name: str, protocol: str = "sequence", *, seed: int = 0, method: dict[str, Any] | None = None, **more: Any):
    config = {
        "method": {"name": name, "protocol": protocol, **METHOD, **(method or {})},
        "tasks": {"name": "words"},
        "model": {"name": "tiny", "path": f"/somewhere/{protocol}", "text_encoder": {"pooling": "mean"}},
        "trainer": TRAINER | more.pop("trainer", {}),
        "scenario": more.pop("scenario", "task_incremental"),
        "eval_split": more.pop("eval_split", "test"),
        "seed": seed,
    }
    data = {task: {"test": more.pop(task, f"sha of {task}")} for task in ("a", "b", "c")}
    return StoredRun(
        path=Path("runs/words") / name / f"{protocol}{len(more)}-s{seed}",
        status=more.pop("status", "done"),
        config=config,
        command=more.pop("command", f"python run.py method={name} tasks=words seed={seed}"),
        environment={"model_sha256": more.pop("weights", "w"), "data_sha256": data},
        matrix=AccuracyMatrix(["a", "b", "c"], np.array(more.pop("rows", ROWS[protocol]))),
        metrics={},
        history=pd.DataFrame(),
        costs=pd.DataFrame(),
    )


def _found(run: StoredRun, *others: StoredRun) -> dict[str, Metric]:
    return referenced([run, *others])[run.path]


def test_both_metrics_come_from_the_presets_where_the_setting_is_theirs() -> None:
    found = _found(_run("lora"), _run("single", "single"), _run("joint", "joint"))
    assert found["transfer_gain"].value == pytest.approx(GAIN, abs=1e-12)
    assert found["intransigence"].value == pytest.approx(LACK, abs=1e-12)
    assert found["transfer_gain"].reason == "against single/single0-s0"


def test_the_runs_own_setting_comes_before_loras() -> None:
    own = {"routing": "per_task"}
    better = [[0.1, 0.2, 0.3], [0.9, NAN, NAN], [NAN, 0.8, NAN], [NAN, NAN, 0.7]]
    mine = _run("clora_xs", "single", method=own, rows=better)
    found = _found(_run("clora_xs", method=own), _run("single", "single"), mine, _run("joint", "joint"))
    assert found["transfer_gain"].value == pytest.approx(0.0, abs=1e-12)
    assert found["transfer_gain"].reason == f"against clora_xs/{mine.path.name}"
    assert found["intransigence"].value == pytest.approx(LACK, abs=1e-12)
    assert found["intransigence"].reason == "against joint/joint0-s0, `lora`'s setting: its own is not there"


def test_strategies_are_no_part_of_the_setting_nor_keys_that_decide_nothing_here() -> None:
    replay = _run("derpp", method={"derpp": {"alpha": 0.1}, "trained_classes": "all", "save_weights": True})
    assert setting(replay) == setting(_run("lora"))
    assert _found(replay, _run("single", "single"))["transfer_gain"].reason == "against single/single0-s0"
    classes = {"scenario": "class_incremental"}
    assert setting(_run("derpp", method={"trained_classes": "all"}, **classes)) != setting(_run("lora", **classes))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"a": "other data"},
        {"weights": "other weights"},
        {"trainer": {"epochs": 3}},
        {"eval_split": "validation"},
        {"scenario": "domain_incremental"},
        {"status": "interrupted"},
        {"method": {"rank": 8}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_does_not_fit_is_no_reference_and_the_command_that_makes_one_is_named(other: dict[str, Any]) -> None:
    found = _found(_run("lora"), _run("single", "single", **other))
    assert found["transfer_gain"].value is None
    asked = "python run.py method=lora method.protocol=single tasks=words seed=0"
    assert found["transfer_gain"].reason == f"needs the `single` reference of seed 0: {asked}"


def test_workers_checkpoints_and_where_the_model_lies_change_nothing() -> None:
    other = _run("single", "single", trainer={"num_workers": 4, "checkpoint_every": 0})
    assert _found(_run("lora"), other)["transfer_gain"].value == pytest.approx(GAIN, abs=1e-12)


def test_loras_reference_of_another_rank_does_not_stand_in() -> None:
    run = _run("clora", method={"routing": "additive", "rank": 8})
    assert _found(run, _run("single", "single"))["transfer_gain"].value is None
    full = _run("full", method={"trainable": "all", "rank": 8})
    assert _found(full, _run("single", "single"))["transfer_gain"].value is not None


def test_references_and_unfinished_runs_have_none() -> None:
    single = _run("single", "single")
    assert _found(single)["intransigence"] == Metric(None, "it is a `single` reference itself")
    assert _found(_run("lora", status="running"), single)["transfer_gain"] == Metric(None, "the run is running")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (_run("clora"), "python run.py method=clora method.protocol=joint tasks=words seed=0"),
        (
            _run("ewc", method={"ewc": {"strength": 1.0}}, command="python run.py method=ewc method.ewc.strength=1.0"),
            "python run.py method=ewc '~method.ewc' method.protocol=joint seed=0",
        ),
        (
            _run("full", method={"ewc": {}}, command="python run.py -m method=full,lora +method.ewc={} seed=0,1"),
            "python run.py method=full method.protocol=joint seed=0",
        ),
        (
            _run("lora", command="torchrun --nproc-per-node=2 run.py"),
            "python run.py method=lora method.protocol=joint seed=0",
        ),
    ],
)
def test_the_command_is_the_runs_own_without_its_strategies(run: StoredRun, expected: str) -> None:
    assert command(run, "joint") == expected


def test_every_run_asked_for_has_an_answer() -> None:
    runs = [_run("lora"), _run("single", "single"), replace(_run("lora"), path=Path("elsewhere"))]
    assert set(referenced(runs)) == {run.path for run in runs}
