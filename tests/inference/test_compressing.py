"""Smaller versions: what a scheme does to bytes and answers, measured beside its source; and plain PEFT folders."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

from clora_exp.errors import StoreError
from clora_exp.inference.compressing import Compressor
from clora_exp.inference.distilling import TEMPERATURE, distillation
from clora_exp.inference.exporting import export
from clora_exp.inference.places import Place
from clora_exp.store.folder import Store
from clora_exp.store.parents import own_pairs


@pytest.fixture
def compressor(made, own_store) -> Compressor:
    return Compressor(made.place(own_store))


@pytest.mark.parametrize("scheme", ["bf16", "int8", "prune0.5+int8", "svd2", "fp16+zstd19", "plain"])
def test_a_smaller_version_is_derived_measured_and_answers_through_the_engine(
    made, own_store, compressor, scheme: str
) -> None:
    made_smaller = compressor.compress("colours", scheme)
    store = Store(own_store)
    manifest = store.manifest("colours", "v2")
    assert manifest == made_smaller.manifest
    assert (manifest.derived_from.version, manifest.derivation["scheme"]) == ("v1", scheme)
    assert made_smaller.bytes_after == manifest.weights.num_bytes
    assert made_smaller.bytes_after < made_smaller.bytes_before + 100 * (scheme == "plain")
    assert store.resolve("colours").version == "v1"  # it is not promoted by itself
    texts = [example.text for example in compressor._data.task(manifest).test]
    answers = [answer.label for answer in made.engine(own_store).predict("colours", texts, "v2")]
    assert answers == made_smaller.after.predicted
    assert manifest.metrics == {"accuracy": made_smaller.after.accuracy, "num_examples": len(texts)}
    assert made_smaller.num_changed == sum(a != b for a, b in zip(answers, made_smaller.before.predicted, strict=True))


def test_a_full_rank_is_kept_to_the_bit_by_what_loses_nothing(compressor) -> None:
    for scheme in ("plain", "zstd19"):
        assert compressor.compress("animals", scheme, keep=False).num_changed == 0


def test_nothing_is_kept_where_it_is_only_tried(compressor, own_store) -> None:
    compressor.compress("colours", "int8", keep=False)
    assert Store(own_store).versions("colours") == ["v1"]


def test_a_student_of_a_smaller_rank_answers_more_alike_than_the_truncated_update(made, own_store, compressor) -> None:
    plain = compressor.compress("colours", "svd1", keep=False)
    student = compressor.compress("colours", "distil1", promote=True)
    store = Store(own_store)
    assert store.resolve("colours").version == student.manifest.version
    assert student.manifest.weights.rank == 1
    assert student.bytes_after < 0.5 * student.bytes_before
    assert student.num_changed <= plain.num_changed
    assert all(len(A) == 1 for A, _ in own_pairs(store, store.read("colours")).values())
    assert student.manifest.derivation["training"]["epochs"] == 2


def test_the_loss_of_distillation_is_the_divergence_times_the_temperature_squared() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))

    def shares(logits: np.ndarray) -> np.ndarray:
        exponents = np.exp(logits / TEMPERATURE)
        return exponents / exponents.sum(axis=1, keepdims=True)

    p, q = shares(teacher), shares(student)
    expected = TEMPERATURE**2 * (p * np.log(p / q)).sum(axis=1).mean()
    assert float(distillation(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "scheme", "message"),
    [
        ("animals", "svd2", "this one is a routing of r² numbers a layer already"),
        ("colours", "svd4", "needs a rank below 4"),
        ("colours", "tiny", "unknown scheme 'tiny'"),
        ("colors", "int8", "Did you mean 'colours'"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(compressor, task: str, scheme: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        compressor.compress(task, scheme)


def test_other_data_than_it_was_measured_on_is_refused(made, own_store, tmp_path) -> None:
    import shutil

    from word_tables import write_tables

    other = tmp_path / "tables"
    write_tables(other)
    shutil.copy(other / "colours" / "validation.csv", other / "colours" / "test.csv")
    with pytest.raises(StoreError, match="its data is another now than it was trained on"):
        Compressor(made.place(own_store), [f"tasks.path={other}"]).compress("colours", "int8")


@pytest.mark.parametrize(
    ("task", "version"), [("colours", "v1"), ("animals", "v1"), ("numbers", "v1"), ("numbers", "v2")]
)
def test_every_stored_version_leaves_as_a_plain_peft_lora_and_loads_there(made, tmp_path, task, version) -> None:
    store = Store(made.store)
    stored = store.read(task, version)
    certificate = export(Place(store, str(made.bert)), stored, tmp_path / "out")
    assert certificate["largest_error_of_an_update"] < 1e-5
    base = AutoModel.from_pretrained(made.bert)
    plain = {name: x.clone() for name, x in base.state_dict().items()}
    model = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload().state_dict()
    for name, (A, B) in own_pairs(store, stored).items():
        update = model[f"{name}.weight"].double() - plain[f"{name}.weight"].double()
        torch.testing.assert_close(update, B @ A, rtol=1e-4, atol=1e-6)
    assert AutoTokenizer.from_pretrained(made.bert)("red")["input_ids"]
    with pytest.raises(StoreError, match="exists; name a new folder"):
        export(Place(store, str(made.bert)), stored, tmp_path / "out")
