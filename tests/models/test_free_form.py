"""Free-form tasks: written answers, their scores against values worked by hand, and a whole run."""

import json
import math

import numpy as np
import pytest
import torch
from trials import content, quiet

from clora_exp import loop
from clora_exp.adapters.__main__ import main
from clora_exp.errors import ConfigError, DataError, Interrupted
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.evaluation.written import Written, free_form_scores
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.tasks.stream import load_stream


def _written(*texts: str, nll=(0.0,), tokens=(1,)) -> Written:
    return Written(list(texts), np.array(nll), np.array(tokens))


@pytest.mark.parametrize(
    ("text", "response", "exact", "f1", "rouge"),
    [
        ("The cat sat.", "cat sat", 1, 1, 4 / 5),  # articles and punctuation count for ROUGE: 2 of 3, 2 of 2
        ("a red cat", "the blue cat", 0, 1 / 2, 1 / 3),  # red cat, blue cat: 1 of 2 each; ROUGE 1 of 3 each
        ("one two three", "three two one", 0, 1, 1 / 3),  # order counts for ROUGE alone
        ("one two tin three", "one two three four", 0, 3 / 4, 3 / 4),
        ("", "red", 0, 0, 0),
        ("cat cat", "cat", 0, 2 / 3, 2 / 3),  # 1 of 2, 1 of 1
    ],
)
def test_scores_worked_by_hand(text, response, exact, f1, rouge) -> None:
    found = free_form_scores(_written(text), [response])
    assert (found["exact_match"], found["token_f1"]) == (exact, pytest.approx(f1))
    assert found["rouge_l"] == pytest.approx(rouge)


def test_scores_are_means_over_examples_and_perplexity_is_over_tokens() -> None:
    written = _written("red", "tin", nll=(math.log(2), 3 * math.log(8)), tokens=(1, 3))
    found = free_form_scores(written, ["red", "gold"])
    assert found == {
        "exact_match": 0.5,
        "token_f1": 0.5,
        "rouge_l": 0.5,
        "answer_perplexity": pytest.approx(2 ** ((1 + 9) / 4)),
    }


def test_parts_of_a_split_come_back_in_its_order() -> None:
    parts = [(np.array([2, 0]), _written("c", "a", nll=(3, 1), tokens=(9, 7))), (np.array([1]), _written("b", nll=[2]))]
    assert Written.gathered(parts).texts == ["a", "b", "c"]
    assert Written.gathered(parts).nll.tolist() == [1, 2, 3]
    state = json.loads(json.dumps(Written.gathered(parts).state_dict()))
    assert Written.from_state(state).num_tokens.tolist() == [7, 1, 9]


def test_perplexity_is_that_of_whole_sequences(tiny_words, tiny_lm) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    method = Method(config := tiny_words("causal_lm", "method=lora", "tasks=responses"), load_stream(config.tasks, 0))
    task = method.scenario.stream.tasks[0]
    written = method.predicted(method.encode(0, task, "test")[[0, 1, 2, 3]])
    plain = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    for row in range(4):
        prompt = tokenizer(task.test[row].text)["input_ids"]
        answer = [*tokenizer(task.test[row].label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        loss = plain(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        assert written.nll[row] / written.num_tokens[row] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize(("kind", "score"), [("causal_lm", "rouge_l"), ("seq2seq", "token_f1")])
def test_a_run_keeps_what_was_written_and_every_score(tiny_words, tmp_path, monkeypatch, capsys, kind, score) -> None:
    words = (kind, "method=clora_gated", "tasks=responses", "trainer.epochs=1", f"model.{kind}.free_form_score={score}")
    whole = run(tiny_words(*words, f"results_dir={tmp_path / 'whole'}"), "", quiet())
    stored, frame = whole.read(), read_predictions(whole.path / "predictions.csv.gz")
    assert stored.metrics["forgetting"].value == 0
    responses = {e.id: e.label for e in load_stream(whole.config.tasks, 0).tasks[0].test}
    first = frame[(frame.after == "loud") & (frame.task == "loud")]
    assert [responses[example] for example in first.example] == first.label.tolist()
    scores = free_form_scores(_written(*first.predicted), first.label.tolist())
    history = stored.history.set_index(["task", "metric"]).value
    for name in ("exact_match", "token_f1", "rouge_l"):
        assert history["loud", f"{name} after loud"] == scores[name]
        last = [history[task, f"{name} after twice"] for task in ("loud", "twice")]
        assert stored.metrics[name].value == pytest.approx(np.mean(last))
    assert stored.matrix.values[1, 0] == scores[score]
    assert history["loud", "answer_perplexity after loud"] > 1

    fit = loop.fit

    def stopped(method, split, what, *arguments):
        if what == "twice":
            raise Interrupted(2)
        return fit(method, split, what, *arguments)

    config = tiny_words(*words, f"results_dir={tmp_path / 'resumed'}")
    monkeypatch.setattr(loop, "fit", stopped)
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    monkeypatch.setattr(loop, "fit", fit)
    assert content(run(config, "", quiet())) == content(whole)

    assert main(["export", str(whole.path), "loud", str(tmp_path / "out")]) == 0
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert certificate["largest_error_of_a_logit"] <= 1e-5
    assert certificate["same_answers"]


def test_free_form_tasks_are_not_for_heads_nor_for_unknown_tasks(tiny, tiny_words) -> None:
    config = tiny("tasks=responses", "method=lora")
    method = Method(config, load_stream(config.tasks, 0))
    with pytest.raises(DataError, match="have no labels; a text encoder needs texts with labels"):
        method.encode(0, method.scenario.stream.tasks[0], "train")
    config = tiny_words("causal_lm", "tasks=responses", "scenario=class_incremental")
    with pytest.raises(ConfigError, match="task 'loud' is free-form, it has no labels"):
        Method(config, load_stream(config.tasks, 0))


def test_the_fisher_information_of_a_response_is_that_of_its_likelihood(tiny_words) -> None:
    config = tiny_words("causal_lm", "tasks=responses", "method=lora")
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    method.before_task(0, stream.tasks[0])
    batch = method.encode(0, stream.tasks[0], "train")[[0]]
    parameters = method.trained_parameters()
    log_p = method.log_probabilities(batch)
    assert log_p.tolist() == [[0.0]]
    found = torch.autograd.grad(log_p[0, 0], parameters)
    expected = torch.autograd.grad(method.loss(batch, method.answer(batch)) * -3, parameters)  # a mean of three tokens
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
