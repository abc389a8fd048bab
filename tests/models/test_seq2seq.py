"""An encoder-decoder's loss, likelihoods and answers, against transformers and the naive computation."""

import pytest
import torch
import torch.nn.functional as F
from language import save_tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
)

from clora_exp.models import seq2seq
from clora_exp.models.prompts import Told
from clora_exp.tasks.stream import load_stream

LABELS = ["red", "red green", "red green blue", "cat dog", "cat bird"]


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory):
    """Its positions are learned and counted from where the cache ends; its logits have a bias of their own."""
    folder = tmp_path_factory.mktemp("tiny_bart")
    size = len(save_tokenizer(folder, ends_texts=True))
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
             (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=size, d_model=32, max_position_embeddings=64, init_std=0.3, **sides, **special)
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["t5", "bart"])
def case(request, tiny_t5, tiny_bart, tiny_words):
    """A model of ours, the same of transformers, its tokenizer, an encoded split and its task."""
    folder = {"t5": tiny_t5, "bart": tiny_bart}[request.param]
    config = tiny_words("seq2seq", f"model.path={folder}")
    task = load_stream(config.tasks, 0).tasks[0]
    model = seq2seq.build(config.model)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, plain, AutoTokenizer.from_pretrained(folder), model.encode(0, task, "test"), task


def test_the_loss_is_transformers_own_and_features_are_the_encoder_s_mean(case) -> None:
    model, plain, tokenizer, split, task = case
    batch = split[list(range(6))]
    losses = F.cross_entropy(model.taught(batch.inputs)[1], model.targets(batch), reduction="none").view(6, 2)
    features = model.features(batch.inputs)
    for row in range(6):
        prompt = torch.tensor([split.example(row)[0].tolist()])
        answer = tokenizer(task.test[row].label, return_tensors="pt")["input_ids"]
        assert prompt[0, -1] == answer[0, -1] == tokenizer.eos_token_id
        output = plain(input_ids=prompt, labels=answer)
        torch.testing.assert_close(losses[row].mean(), output.loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(features[row], output.encoder_last_hidden_state[0].mean(0), rtol=0, atol=1e-5)


def test_likelihoods_are_those_of_whole_answers(case) -> None:
    model, plain, tokenizer, split, task = case
    found = model.scores(split[list(range(6))].inputs, Told(task.name, task.description, tuple(LABELS)))
    for row in range(6):
        prompt = torch.tensor([split.example(row)[0].tolist()])
        for i, label in enumerate(LABELS):
            answer = tokenizer(label, return_tensors="pt")["input_ids"]
            log_p = plain(input_ids=prompt, labels=answer).logits[0].log_softmax(-1)
            expected = log_p.gather(1, answer[0, :, None]).sum()
            torch.testing.assert_close(found[row, i], expected, rtol=0, atol=1e-4)


def test_only_supervised_positions_go_through_the_vocabulary_s_projection(case) -> None:
    model, _, _, split, task = case
    rows: list[int] = []
    model.backbone.get_output_embeddings().register_forward_hook(lambda _, x, y: rows.append(x[0].shape[:-1].numel()))
    batch = split[list(range(8))]
    model.taught(batch.inputs)
    assert rows == [16]  # a word and what ends it
    model.scores(batch.inputs, model.told(task))
    assert rows[1:] == [8, 8 * 3]  # the decoder's first token; behind each of three labels


def test_what_is_written_is_transformers_greedy_generation(case) -> None:
    model, plain, tokenizer, split, _ = case
    tokens = {name: getattr(plain.config, name) for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id")}
    plain.generation_config = GenerationConfig(**tokens)  # BART's own forces the last token to end the answer
    for row, text in enumerate(model.write(split[list(range(8))].inputs)):
        ids = torch.tensor([split.example(row)[0].tolist()])
        whole = plain.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4)
        assert text == tokenizer.decode(whole[0], skip_special_tokens=True).strip()
