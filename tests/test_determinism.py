"""The same seed, the same bytes: whatever makes the batches; and what evaluation in other batches may change."""

import numpy as np
import pytest
import torch
from trials import content, quiet

from clora_exp import loop
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.loop import run

UNIT_ROUNDOFF = 2.0**-24  # of float32


@pytest.mark.parametrize("method", ["clora", "clora_replay", "joint"])
def test_runs_with_and_without_workers_and_dropout_are_the_same_bytes(method: str, tiny) -> None:
    settings = [f"method={method}", "method.dropout=0.2", "trainer.epochs=1"]
    whole = content(run(tiny(*settings), "", quiet()))
    torch.manual_seed(99)  # nothing of before the run is left in it
    for workers in (0, 1, 2):
        again = run(tiny(*settings, f"trainer.num_workers={workers}", "overwrite=true"), "", quiet())
        assert content(again) == whole


def test_an_answer_depends_on_the_evaluation_batch_by_rounding_alone(tiny, monkeypatch) -> None:
    """A tiny BERT sums some thousand terms on the way to a logit: 256 unit roundoffs of the largest are plenty."""
    logits: dict[int, list[np.ndarray]] = {}

    def evaluated(method, splits, tasks, config, progress, watch):
        of = logits.setdefault(config.trainer.eval_batch_size, [])
        with torch.inference_mode():
            for t in (tasks := list(tasks)):
                batches = list(splits[t].evaluation_batches(config.trainer.eval_batch_size))
                rows = torch.cat([batch.rows for batch in batches]).argsort()
                of.append(torch.cat([method.logits(batch) for batch in batches])[rows].numpy())
        return real(method, splits, tasks, config, progress, watch)

    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", evaluated)
    runs = {size: run(tiny("method=clora", f"trainer.eval_batch_size={size}"), "", quiet()) for size in (32, 1, 7, 100)}
    usual = np.concatenate(logits[32])
    bound = 256 * UNIT_ROUNDOFF * np.abs(usual).max()
    first, second = np.sort(usual, axis=1)[:, -1], np.sort(usual, axis=1)[:, -2]
    answers = {size: read_predictions(folder.path / "predictions.csv.gz")["predicted"] for size, folder in runs.items()}
    adapters = {
        size: {name: found for name, found in content(folder).items() if name.startswith("adapters/")}
        for size, folder in runs.items()
    }
    for size in (1, 7, 100):
        assert np.abs(np.concatenate(logits[size]) - usual).max() <= bound
        is_other = (answers[size] != answers[32]).to_numpy()
        assert len(is_other) == len(usual)
        assert ((first - second)[is_other] <= 2 * bound).all()
        assert adapters[size] == adapters[32]  # it is no matter of training
