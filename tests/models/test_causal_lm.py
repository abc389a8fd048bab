"""A decoder's loss, likelihoods and answers, against transformers on unpadded rows and the naive computation."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from language import save_causal_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from clora_exp.adapters.active import answering
from clora_exp.errors import ModelError
from clora_exp.methods.base import Method
from clora_exp.models import causal_lm, likelihood
from clora_exp.models.likelihood import label_scores
from clora_exp.models.prompts import Told
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream

KINDS = ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel"]
MORE = {
    "LlamaForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 16, "num_key_value_heads": 1},
    "Gemma3ForCausalLM": {
        "head_dim": 16,
        "num_key_value_heads": 1,
        "sliding_window": 6,
        "final_logit_softcapping": 5.0,
    },
    "GPT2LMHeadModel": {},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    made = {}
    for kind in KINDS:
        made[kind] = tmp_path_factory.mktemp(kind)
        save_causal_lm(made[kind], kind, **MORE[kind])
    return made


@pytest.fixture(params=KINDS)
def case(request, folders, tiny_words):
    """A model of ours, the same of transformers, its tokenizer, an encoded split and its task."""
    folder = folders[request.param]
    config = tiny_words("causal_lm", f"model.path={folder}", "method=clora_gated")
    stream = load_stream(config.tasks, 0)
    model = causal_lm.build(config.model)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return (
        model,
        plain,
        AutoTokenizer.from_pretrained(folder),
        model.encode(0, stream.tasks[0], "test"),
        stream.tasks[0],
    )


def text_of(task, row: int) -> str:
    return f"{task.test[row].text}\n{task.description} ({', '.join(task.labels)})\nAnswer:"


def test_the_loss_is_transformers_own_with_the_prompt_left_out(case) -> None:
    model, plain, tokenizer, split, task = case
    batch = split[list(range(6))]
    _, logits = model.taught(batch.inputs)
    losses = F.cross_entropy(logits, model.targets(batch), reduction="none")
    start = 0
    for row in range(6):
        prompt = tokenizer(text_of(task, row))["input_ids"][-16:]
        answer = [*tokenizer(f" {task.test[row].label}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        expected = plain(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        found = losses[start : start + len(answer)].mean()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        start += len(answer)
    assert start == len(losses)


def test_only_supervised_positions_go_through_the_vocabulary_s_projection(case) -> None:
    model, _, _, split, task = case
    rows: list[int] = []
    model.backbone.get_output_embeddings().register_forward_hook(lambda _, x, y: rows.append(x[0].shape[:-1].numel()))
    batch = split[list(range(8))]
    model.taught(batch.inputs)
    assert rows == [int(batch.inputs["answer_mask"].sum())] == [16]  # a word and what ends it
    rows.clear()
    model.features(batch.inputs)
    assert rows == [0]
    model.scores(batch.inputs, model.told(task))
    assert rows[1:] == [8, 8 * 3]  # the prompts; behind each of three labels


def test_a_batch_is_its_rows_one_by_one_whatever_the_padding(case) -> None:
    model, _, _, split, task = case
    rows = list(range(8))
    assert len({len(split.example(row)[0]) for row in rows}) > 2
    batch, told = split[rows], model.told(task)
    each = [split[[row]].inputs for row in rows]
    for function in (model.features, lambda x: model.taught(x)[1], lambda x: model.scores(x, told)):
        torch.testing.assert_close(function(batch.inputs), torch.cat([function(x) for x in each]), rtol=0, atol=1e-5)
    back = model.collate(model.unbatch(batch.inputs))
    assert all(torch.equal(back[name], batch.inputs[name]) for name in batch.inputs)


LABELS = ["red", "red green", "red green blue", "green", "cat dog", "cat bird", "tin"]


@pytest.mark.parametrize("normalise", ["none", "tokens"])
@pytest.mark.parametrize("most_rows", [256, 24])
def test_likelihoods_are_those_of_whole_sequences(case, monkeypatch, normalise, most_rows) -> None:
    """Also of labels that begin alike, in chunks, and with the gradient of the naive computation."""
    model, plain, tokenizer, split, task = case
    monkeypatch.setattr(likelihood, "MOST_ROWS", most_rows)
    model.config = dataclasses.replace(model.config, normalise=normalise)
    told = Told(task.name, task.description, tuple(LABELS))
    weights = [next(m.backbone.parameters() if hasattr(m, "backbone") else m.parameters()) for m in (model, plain)]
    for weight in weights:
        weight.requires_grad_(True)
    found = model.scores(split[list(range(8))].inputs, told)
    expected = torch.stack([_naive(plain, tokenizer, split.example(row)[0], normalise) for row in range(8)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    ours, theirs = (torch.autograd.grad(x[:, 1].sum(), w)[0] for x, w in zip((found, expected), weights, strict=True))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def _naive(plain, tokenizer, prompt: np.ndarray, normalise: str) -> torch.Tensor:
    scores = []
    for label in LABELS:
        answer = [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt.tolist(), *answer]])
        log_p = plain(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        each = log_p[range(len(answer)), answer]
        scores.append(each.mean() if normalise == "tokens" else each.sum())
    return torch.stack(scores)


def test_what_is_written_is_transformers_greedy_generation(case) -> None:
    model, plain, tokenizer, split, _ = case
    model.backbone.generation_config.update(do_sample=True, temperature=2.0, repetition_penalty=3.0)
    written = model.write(split[list(range(8))].inputs)
    for row, text in enumerate(written):
        ids = torch.tensor([split.example(row)[0].tolist()])
        mask = torch.ones_like(ids)
        whole = plain.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=4, pad_token_id=0)
        assert text == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_what_a_folder_says_of_generation_changes_no_answer(tiny_words, tiny_lm, tmp_path) -> None:
    folder = shutil.copytree(tiny_lm, tmp_path / "lm")
    own = {"min_new_tokens": 4, "suppress_tokens": [5, 6, 7], "no_repeat_ngram_size": 1, "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(own))
    written = []
    for path in (tiny_lm, folder):
        config = tiny_words("causal_lm", f"model.path={path}")
        model = causal_lm.build(config.model)
        split = model.encode(0, load_stream(config.tasks, 0).tasks[0], "test")
        written.append(model.write(split[list(range(8))].inputs))
    assert written[0] == written[1]


def test_a_long_text_is_cut_and_question_and_answer_are_not(tiny_words) -> None:
    config = tiny_words("causal_lm", "model.causal_lm.max_length=8")
    task = load_stream(config.tasks, 0).tasks[0]
    model = causal_lm.build(config.model)
    long = dataclasses.replace(task, test=[dataclasses.replace(e, text="red " * 40) for e in task.test])
    prompt, answer = model.encode(0, long, "test").example(0)
    assert model.tokenizer.decode(prompt) == "<s> red red red red red words Answer:"
    assert model.tokenizer.decode(answer) == f"{task.test[0].label} </s>"


def test_prompt_and_answer_longer_than_the_model_reads_are_refused(tiny_words) -> None:
    config = tiny_words("causal_lm", "model.causal_lm.max_length=63")
    with pytest.raises(ModelError, match=r"task 'first': prompt and answer take 67 tokens, the model has 64"):
        causal_lm.build(config.model).encode(0, load_stream(config.tasks, 0).tasks[0], "test")


def test_labels_that_are_the_same_tokens_are_refused(tiny_words) -> None:
    model = causal_lm.build(tiny_words("causal_lm").model)
    with pytest.raises(ModelError, match="labels 'purple' and 'mauve' are the same tokens"):
        model.label_ids(Told("t", "", ("red", "purple", "mauve")))


def test_a_template_of_one_s_own_for_all_tasks_or_for_one(tiny_words) -> None:
    overrides = ['model.causal_lm.prompt="{labels} {text}\\n"', '+model.causal_lm.prompts.second="say {task} {text}"']
    model = causal_lm.build(tiny_words("causal_lm", *overrides).model)
    assert model.prompts.around(Told("first", "words", ("red", "tin"))) == ("red, tin ", "\n")
    assert model.prompts.around(Told("second", "words", ("red", "tin"))) == ("say second ", "")
    assert model.prompts.around(Told("first", "words", ("red",), is_known=False)) == (" ", "\n")
    assert model.prompts.around(Told("third", "", ())) == ("", "")
    assert [model.prompts.answer_start(Told(name, "", ("red",))) for name in ("first", "second")] == ["", " "]


@pytest.mark.parametrize("name", ["clora", "clora_gated", "progressive"])
def test_bfloat16_weights_train_with_adapters_in_float32(name: str, tiny_words) -> None:
    config = tiny_words("causal_lm", f"method={name}", "model.causal_lm.dtype=bfloat16", "trainer.epochs=1")
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    method.before_task(0, stream.tasks[0])
    steps = fit(method, method.encode(0, stream.tasks[0], "train"), "first", config.trainer, 0)
    assert all(np.isfinite(step.loss) for step in steps)
    assert {p.dtype for n, p in method.model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    assert {p.dtype for n, p in method.model.named_parameters() if "lora_" in n} == {torch.float32}
    method.after_task(0, stream.tasks[0])
    assert {buffer.dtype for n, buffer in method.model.named_buffers() if "lora_" in n} == {torch.float32}


def test_the_output_layer_cannot_be_adapted(tiny_words) -> None:
    config = tiny_words("causal_lm", "method=lora", "method.target_modules=[lm_head]")
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    with pytest.raises(ModelError, match="the output layer of a language model is not adapted"):
        method.logits(method.encode(0, stream.tasks[0], "test")[[0]])


def test_one_task_in_the_adapters_scores_as_the_rows_of_a_repeated_cache(tiny_words) -> None:
    """A tensor of tasks, one a row, goes along when the cache is repeated for the labels."""
    config = tiny_words("causal_lm", "method=clora_gated")
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    for t in range(2):
        method.before_task(t, stream.tasks[t])
        for parameter in method.trained_parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        method.after_task(t, stream.tasks[t])
    inputs = method.encode(0, stream.tasks[0], "test")[[0, 1, 2]].inputs
    answers = method.model.label_ids(method.model.told(stream.tasks[0]))
    with torch.no_grad(), answering(torch.tensor([1, 0, 1])):
        mixed = label_scores(method.model, inputs, answers, 2**20)
    for t in (0, 1):
        with torch.no_grad(), answering(t):
            own = label_scores(method.model, inputs, answers, 2**20)
        rows = [0, 2] if t else [1]
        torch.testing.assert_close(mixed[rows], own[rows], rtol=0, atol=1e-5)
