"""Every method, found by listing conf/method, through the same trials of a whole run on a tiny model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from trials import METHODS, SETTINGS, content, quiet

from clora_exp import loop
from clora_exp.errors import Interrupted
from clora_exp.evaluation.predictions import accuracy_matrix, read_predictions
from clora_exp.loop import run
from clora_exp.methods.suitable import not_exportable
from clora_exp.session import Session
from clora_exp.tasks.stream import load_stream


@pytest.fixture(scope="module")
def whole_runs() -> dict:
    return {}


@pytest.fixture(params=METHODS, scope="module")  # so that a method's trials follow each other and share its run
def method(request) -> str:
    return request.param


@pytest.fixture
def whole(method: str, tiny, whole_runs: dict, tmp_path_factory):
    """The method's finished run, made once for all trials."""
    if method not in whole_runs:
        config = tiny(f"method={method}", f"results_dir={tmp_path_factory.mktemp(method)}")
        whole_runs[method] = run(config, f"python run.py method={method}", quiet())
    return whole_runs[method]


def test_a_run_fills_the_cells_its_protocol_promises(whole) -> None:
    values = whole.read().matrix.values
    expected = {
        "sequence": np.ones((4, 3), bool),
        "joint": np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]], bool),
        "single": np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool),
    }[whole.config.method.protocol]
    np.testing.assert_array_equal(~np.isnan(values), expected)


def test_the_matrix_follows_from_the_stored_predictions(whole) -> None:
    stored = whole.read()
    frame = read_predictions(whole.path / "predictions.csv.gz")
    assert list(frame.columns) == ["after", "task", "example", "label", "predicted"]
    np.testing.assert_array_equal(accuracy_matrix(frame, stored.matrix.tasks).values, stored.matrix.values)


def test_every_metric_has_a_value_or_a_reason(whole) -> None:
    for name, metric in whole.read().metrics.items():
        assert (metric.value is None) == bool(metric.reason), name


def test_methods_that_share_nothing_forget_exactly_nothing(whole) -> None:
    stored = whole.read()
    if stored.protocol == "sequence" and not whole.config.method.forgets:
        assert stored.metrics["backward_transfer"].value == 0
        frame = read_predictions(whole.path / "predictions.csv.gz")
        for task in ("first", "second"):
            rows = [frame[(frame.after == a) & (frame.task == task)].predicted.tolist() for a in (task, "third")]
            assert rows[0] == rows[1]


def test_cost_says_what_was_trained(whole) -> None:
    costs = whole.read().costs
    heads = 3 * 32 + 3
    assert costs.task.tolist() == (
        ["all tasks"] if whole.config.method.protocol == "joint" else ["first", "second", "third"]
    )
    expected = {
        "frozen": heads,
        "joint": 4 * 4 * 64 + 3 * heads,
        "lora": 4 * 4 * 64 + heads,
        "clora_xs": 4 * 17 + heads,
    }
    if whole.config.method.name in expected:
        assert costs.trainable_parameters.tolist() == [expected[whole.config.method.name]] * len(costs)
    size = (whole.path / "adapters" / "third" / "adapter.safetensors").stat().st_size
    assert costs.adapter_bytes.iloc[-1] == size
    assert (costs.peak_memory_bytes > 50e6).all()
    assert (costs.train_seconds > 0).all()


def test_a_run_resumes_after_the_last_finished_task_with_the_same_bytes(
    method: str, whole, tiny, tmp_path, monkeypatch
) -> None:
    real, sessions = loop.fit, ["all tasks"] if method == "joint" else ["first", "second", "third"]
    alone = method in SETTINGS or method in ("joint", "single")
    for k in range(len(sessions)) if alone else [len(sessions) - 1]:  # a strategy's state goes through the file too
        config, calls = tiny(f"method={method}", f"results_dir={tmp_path / str(k)}"), []

        def dies(*arguments, calls=calls, k=k, **more):
            calls.append(arguments[2])
            if len(calls) == k + 1:
                raise KeyboardInterrupt
            return real(*arguments, **more)

        monkeypatch.setattr(loop, "fit", dies)
        with pytest.raises(Interrupted):
            run(config, "", quiet())
        learned: list[str] = []
        monkeypatch.setattr(loop, "fit", lambda *a, learned=learned, **m: (learned.append(a[2]), real(*a, **m))[1])
        cut = run(config, "", quiet())
        assert learned == sessions[k:]
        assert content(cut) == content(whole)


def test_a_run_killed_in_the_middle_of_a_task_goes_on_there_with_the_same_bytes(
    method: str, tiny, tmp_path, monkeypatch
) -> None:
    """Dropout and accumulation are on: generators, optimiser, schedule and the place among the batches all count."""
    settings = [f"method={method}", "method.dropout=0.2", "trainer.accumulate=2"]
    whole = run(tiny(*settings, f"results_dir={tmp_path / 'whole'}"), "", quiet())
    config = tiny(*settings, f"results_dir={tmp_path / 'cut'}", "trainer.checkpoint_every=0", "trainer.num_workers=1")
    num_steps = len(whole.read().history.query("metric == 'train_loss'"))
    first = Session.training_step
    calls: list[int] = []

    def dies(self, batch, index):
        calls.append(index)
        if len(calls) == 2 * (num_steps * 3 // 5) + 1:
            raise KeyboardInterrupt
        return first(self, batch, index)

    monkeypatch.setattr(Session, "training_step", dies)
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    again: list[int] = []
    monkeypatch.setattr(
        Session, "training_step", lambda self, batch, index: (again.append(index), first(self, batch, index))[1]
    )
    cut = run(config, "", quiet())
    assert len(again) == 2 * num_steps - (len(calls) - 1)  # nothing is learned twice
    assert content(cut) == content(whole)
    assert cut.path.name == whole.path.name


def test_an_exported_adapter_gives_the_stored_predictions_with_peft_alone(whole, tiny_bert: Path) -> None:
    frame = read_predictions(whole.path / "predictions.csv.gz")
    protocol = whole.config.method.protocol
    for task in load_stream(whole.config.tasks, whole.config.data_seed):
        folder = whole.path / "adapters" / task.name / "peft"
        if not_exportable(whole.config.method):
            assert not folder.exists()
            continue
        code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
        assert "clora" not in code
        scope = {"BASE": str(tiny_bert), "HERE": str(folder), "texts": [example.text for example in task.test]}
        exec(code, scope)
        after = "third" if protocol == "joint" else task.name
        rows = frame[(frame.after == after) & (frame.task == task.name)]
        assert scope["predicted"] == rows.predicted.tolist()
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(config["target_modules"])
