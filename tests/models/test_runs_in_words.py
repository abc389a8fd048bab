"""Whole runs of tiny language models: matrix, metrics, resume, answers in the run directory."""

import json

import numpy as np
import pytest
from trials import content, quiet

from clora_exp import loop
from clora_exp.errors import Interrupted
from clora_exp.evaluation.predictions import accuracy_matrix, read_predictions
from clora_exp.loop import run

KINDS = ["causal_lm", "seq2seq"]


@pytest.mark.parametrize("method", ["clora", "clora_gated"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_measures_untrained_tasks_and_resumes_to_the_same_bytes(tiny_words, tmp_path, monkeypatch, kind, method):
    words = (kind, f"method={method}", "trainer.epochs=1")
    whole = run(tiny_words(*words, f"results_dir={tmp_path / 'whole'}"), "", quiet())
    stored = whole.read()
    assert not np.isnan(stored.matrix.values).any()
    forward = [stored.matrix.values[j - 1, j - 1] - stored.matrix.values[0, j - 1] for j in (2, 3)]
    assert stored.metrics["forward_transfer"].value == pytest.approx(np.mean(forward))
    frame = read_predictions(whole.path / "predictions.csv.gz")
    np.testing.assert_array_equal(accuracy_matrix(frame, stored.matrix.tasks).values, stored.matrix.values)
    assert len(stored.answers) == 10
    assert {row["task"] for row in stored.answers} == {"first", "second", "third"}

    fit = loop.fit

    def stopped(method, split, what, *arguments):
        if what == "second":
            raise Interrupted(2)
        return fit(method, split, what, *arguments)

    config = tiny_words(*words, f"results_dir={tmp_path / 'resumed'}")
    monkeypatch.setattr(loop, "fit", stopped)
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    monkeypatch.setattr(loop, "fit", fit)
    assert content(run(config, "", quiet())) == content(whole)


def test_a_run_learns_and_isolated_tasks_forget_nothing(tiny_words) -> None:
    config = tiny_words("causal_lm", "method=clora_gated", "trainer.epochs=6", "method.learning_rate=1e-2")
    stored = run(config, "", quiet()).read()
    assert stored.metrics["forgetting"].value == 0
    assert stored.metrics["learning_accuracy"].value > 0.6
    assert json.loads((stored.path / "metrics.json").read_text())["forward_transfer"]["value"] is not None
