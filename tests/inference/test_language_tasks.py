"""Tasks of language models: labels scored, texts written on, each with its own version."""

import pytest
import torch
from trials import quiet

from clora_exp.adapters.active import answering
from clora_exp.errors import ModelError
from clora_exp.inference.engine import Answer, Failure, Request, TaskEngine, Text
from clora_exp.inference.places import Place
from clora_exp.loop import run
from clora_exp.saved import load_task
from clora_exp.store.folder import Store
from clora_exp.store.saving import import_run
from clora_exp.tasks.stream import Example

TEXTS = ["red one", "one gold one", "blue", "two tin two"]


@pytest.fixture(params=["causal_lm", "seq2seq"])
def family(request, tiny_words, tiny_lm, tiny_t5, tmp_path):
    folder = run(tiny_words(request.param, "method=clora_gated", "trainer.learning_rate=1e-2"), "", quiet()).path
    store = Store(tmp_path / "store", is_new=True)
    import_run(store, folder)
    path = {"causal_lm": tiny_lm, "seq2seq": tiny_t5}[request.param]
    return folder, store, TaskEngine(Place(store, str(path)))


def test_labels_are_scored_as_in_the_run_also_in_a_mixed_batch(family) -> None:
    folder, _, engine = family
    requests = [Request(task, text) for text in TEXTS for task in ("first", "second")]
    answers = engine.batch(requests)
    for task in ("first", "second"):
        saved = load_task(folder, task)
        logits = saved.logits([Example(str(i), text, "", str(i)) for i, text in enumerate(TEXTS)])
        expected = torch.softmax(logits.double(), -1)
        mine = [answer for answer in answers if answer.task == task]
        found = torch.tensor([list(answer.probabilities.values()) for answer in mine], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_a_task_writes_is_what_the_runs_model_writes(family) -> None:
    folder, store, engine = family
    written = {}
    for task in ("first", "third"):
        saved = load_task(folder, task)
        model = saved.model
        inputs = model.tokenizer(["red one two"], return_tensors="pt")
        with torch.inference_mode(), answering(0):
            ids = model.backbone.generate(
                **inputs, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
            )
        start = 0 if model.backbone.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        expected = model.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
        written[task] = engine.generate(task, "red one two", max_new_tokens=6, do_sample=False)
        target = store.resolve(task)
        assert written[task] == Text(task, target.version, target.id, expected)
    assert store.resolve("first").version == "v1"


@pytest.mark.parametrize(
    "words", [["tasks=responses"], ["model.causal_lm.scoring=generation"]], ids=["free-form", "generation"]
)
def test_a_task_that_writes_its_answers_writes_and_says_that_it_has_no_labels(
    tiny_words, tiny_lm, tmp_path, words
) -> None:
    folder = run(tiny_words("causal_lm", "method=lora_per_task", "trainer.epochs=1", *words), "", quiet()).path
    store = Store(tmp_path / "store", is_new=True)
    import_run(store, folder)
    engine = TaskEngine(Place(store, str(tiny_lm)))
    task = store.tasks()[0]
    failure, text = engine.batch([Request(task, "red one")])[0], engine.generate(task, "red one", max_new_tokens=3)
    assert isinstance(failure, Failure)
    assert "writes its answers, it has no labels to choose among; use generate" in failure.error
    assert (text.task, text.id) == (task, store.resolve(task).id)


def test_a_task_on_a_base_in_half_precision_answers_as_it_was_probed(tiny_words, tiny_lm, tmp_path) -> None:
    config = tiny_words("causal_lm", "method=lora_per_task", "trainer.epochs=1", "model.causal_lm.dtype=bfloat16")
    store = Store(tmp_path / "store", is_new=True)
    import_run(store, run(config, "", quiet()).path)
    assert isinstance(TaskEngine(Place(store, str(tiny_lm))).batch([Request("first", "red one")])[0], Answer)


def test_more_than_the_base_has_room_for_and_options_that_it_does_not_take_are_refused(family) -> None:
    _, _, engine = family
    with pytest.raises(ModelError, match=r"unknown option of generate 'temperatur'; .*Did you mean 'temperature'"):
        engine.generate("first", "red", temperatur=3)
    with pytest.raises(ModelError, match=r"task 'first': .*temperature"):
        engine.generate("first", "red", temperature=-1.0, do_sample=True)
    if engine._loader.base.backbone.config.is_encoder_decoder:
        return
    with pytest.raises(ModelError, match=r"a prompt of 4 tokens and max_new_tokens=5000: the base has room for"):
        engine.generate("first", "red one two", max_new_tokens=5000)
