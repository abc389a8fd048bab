"""Methods on a tiny decoder: every strategy that can, every scenario, mixed batches, and what is refused."""

import numpy as np
import pytest
import torch
from test_contract import Run
from trials import IN_TURN, quiet

from clora_exp.adapters.active import UNLEARNED, answering
from clora_exp.errors import ConfigError
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.methods.suitable import check_strategies
from clora_exp.models.batches import mixed_batch
from clora_exp.tasks.stream import load_stream

HEADS_ONLY = ["der", "derpp", "lwf", "frozen"]
TRAINED = ["trainer.learning_rate=1e-2", "trainer.epochs=1"]


@pytest.mark.parametrize("method", [name for name in IN_TURN if name not in HEADS_ONLY])
def test_a_method_learns_in_words_and_goes_on_the_same_from_its_state(tiny_words, method: str) -> None:
    config = tiny_words("causal_lm", f"method={method}", *TRAINED)
    check_strategies(config)
    whole = Run(config)
    before = whole.logits(0)
    for t in range(2):
        steps = whole.learn(t)
        assert np.mean([s.loss for s in steps[-2:]]) < np.mean([s.loss for s in steps[:2]])
    assert not torch.equal(whole.logits(0), before)
    fresh = Run(config)
    fresh.method.load_state_dict(whole.method.state_dict())
    for part in (whole, fresh):
        part.learn(2)
    for t in range(3):
        assert torch.equal(fresh.logits(t), whole.logits(t))


@pytest.mark.parametrize("method", ["clora", "clora_gated", "olora"])
def test_class_incremental_answers_are_among_the_classes_seen(tiny_words, method: str) -> None:
    config = tiny_words("causal_lm", f"method={method}", "scenario=class_incremental", *TRAINED)
    trial = Run(config)
    for t in range(2):
        trial.learn(t)
        scores = torch.cat([trial.method.logits(batch) for batch in trial.test[0].evaluation_batches(64)])
        assert scores.shape[1] == 9
        assert (scores[:, 3 * (t + 1) :] == -torch.inf).all()
        is_seen = scores[:, : 3 * (t + 1)].isfinite()
        assert is_seen.sum(1).tolist() == [3 if trial.method.outputs.identifies else 3 * (t + 1)] * len(scores)
    batch = trial.test[1][[0]]
    assert trial.method.model.tokenizer.decode(batch.inputs["input_ids"][0]).endswith(" Answer:")
    assert "words" not in trial.method.model.tokenizer.decode(batch.inputs["input_ids"][0])
    if method == "clora_gated":  # what answers is the identified task, its own labels, its own adapters
        tasks = trial.method.outputs.identified(batch)
        told, first = trial.method.outputs._told(int(tasks[0]))
        own = trial.method.outputs._run(
            lambda inputs: trial.method.model.scores(inputs, told), batch.inputs, int(tasks[0])
        )
        torch.testing.assert_close(trial.method.logits(batch)[:, first : first + 3], own)


@pytest.mark.parametrize(
    ("scenario", "method"),
    [
        ("domain_incremental", "clora"),
        ("domain_incremental", "clora_gated"),
        ("class_incremental", "clora_ewc"),
        ("task_incremental", "progressive"),
        ("class_incremental", "progressive"),
    ],
)
def test_a_run_is_whole(tiny_words, scenario: str, method: str) -> None:
    tasks = "same_words" if scenario == "domain_incremental" else "words"
    stored = run(
        tiny_words("causal_lm", f"method={method}", f"scenario={scenario}", f"tasks={tasks}", *TRAINED), "", quiet()
    ).read()
    assert stored.metrics["average_accuracy"].value is not None
    assert (stored.metrics["forward_transfer"].value is None) == (scenario == "class_incremental")


def test_columns_do_not_write_and_a_free_form_task_is_refused_at_once(tiny_words) -> None:
    with pytest.raises(ConfigError, match=r"composition=columns writes no answers; task '.*' is free-form"):
        run(tiny_words("causal_lm", "method=progressive", "tasks=responses"), "", quiet())


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq"])
def test_inflora_sees_no_padding(tiny_words, kind: str) -> None:
    made = Run(tiny_words(kind, "method=inflora", *TRAINED)).method
    task = made.scenario.stream.tasks[0]
    made.before_task(0, task)
    (strategy,) = made.strategies
    split = made.encode(0, task, "train")
    assert len(set(np.diff(split.starts))) > 1  # prompts of several lengths: a batch has padding
    found = strategy._input_grams(0, task)
    expected: dict[str, torch.Tensor] = {}
    with torch.no_grad(), strategy._watching(expected, [None]):
        for row in range(len(split)):
            made.answer(split[[row]])
    for name, gram in expected.items():
        torch.testing.assert_close(found[name], gram)


def test_a_mixed_batch_is_answered_and_trained_as_its_rows(tiny_words) -> None:
    trial = Run(tiny_words("causal_lm", "method=clora_gated", *TRAINED))
    trial.learn(0)
    trial.method.before_task(1, trial.stream.tasks[1])
    trial.method.model.eval()
    which = [(1, 0), (0, 3), (0, 5), (1, 7)]
    batch, rows = mixed_batch(trial.test, which), [trial.test[i][[row]] for i, row in which]
    answers = torch.cat([trial.method.logits(row) for row in rows])
    torch.testing.assert_close(trial.method.logits(batch), answers, rtol=0, atol=1e-5)
    losses = torch.stack([trial.method.loss(row, trial.method.answer(row)) for row in rows])
    torch.testing.assert_close(trial.method.loss(batch, trial.method.answer(batch)), losses.mean(), rtol=0, atol=1e-5)


def test_generation_scores_what_was_written_and_keeps_what_is_no_label(tiny_words) -> None:
    config = tiny_words("causal_lm", "method=lora", "model.causal_lm.scoring=generation", "trainer.epochs=6",
                        "trainer.learning_rate=3e-2", "method.target_modules=all-linear")  # fmt: skip
    folder = run(config, "", quiet())
    stored, frame = folder.read(), read_predictions(folder.path / "predictions.csv.gz")
    method = Method(config, stream := load_stream(config.tasks, 0))
    with answering(UNLEARNED):
        untrained = method.model.write(method.encode(0, stream.tasks[0], "test")[list(range(36))].inputs)
    rows = frame[(frame.after == "init") & (frame.task == "first")]
    labels = {label.casefold(): label for label in stream.tasks[0].labels}
    assert rows.predicted.tolist() == [labels.get(text.casefold(), text) for text in untrained]
    assert set(rows.predicted) - set(labels)  # not only labels are written
    assert stored.matrix.values[0, 0] == (rows.predicted == rows.label).mean()
    assert stored.metrics["learning_accuracy"].value > stored.matrix.values[0].mean() + 0.2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=frozen"], "method.trainable=heads: model=causal_lm has no heads, nothing trains"),
        (["method=full", "model.causal_lm.dtype=bfloat16"], "model.causal_lm.dtype=bfloat16 is too coarse for steps"),
        (["method=lora", "method.head=cosine"], "method.head=cosine: model=causal_lm has no heads"),
        (["method=derpp"], "method.derpp keeps the logits of every example"),
        (["method=lwf"], "method.lwf keeps the logits of every example"),
        (["method=progressive", "model.causal_lm.scoring=generation"], "method.composition=columns writes no answers"),
    ],
)
def test_what_needs_heads_is_refused_before_work_starts(tiny_words, overrides, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_strategies(tiny_words("causal_lm", *overrides))


def test_a_template_for_a_task_that_is_not_there_or_not_known_is_refused(tiny_words) -> None:
    config = tiny_words("causal_lm", '+model.causal_lm.prompts.frist="{text}"')
    with pytest.raises(ConfigError, match=r"prompts: unknown task 'frist'; have: .*Did you mean 'first'"):
        Method(config, load_stream(config.tasks, 0))
    config = tiny_words("causal_lm", '+model.causal_lm.prompts.first="{text}"', "scenario=class_incremental")
    with pytest.raises(ConfigError, match=r"prompts\.first: scenario=class_incremental does not know the task"):
        Method(config, load_stream(config.tasks, 0))
