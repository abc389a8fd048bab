"""What an engine answers is what the runs' own models answer, alone and mixed, and says which version it was."""

import dataclasses
import gc
import os
import weakref

import pytest
import torch

from clora_exp.errors import ModelError, StoreError
from clora_exp.inference.engine import Answer, Failure, Request, TaskEngine
from clora_exp.saved import load_task
from clora_exp.store.folder import Store
from clora_exp.tasks.stream import Example

TEXTS = ["red iron red", "one gold", "cat three cat", "blue", "dog iron dog", "two tin two"]


def by_the_run(made, method: str, task: str, texts: list[str]) -> torch.Tensor:
    """The run's own model, without a store or a bank."""
    saved = load_task(made.runs[method], task)
    logits = saved.logits([Example(str(i), text, "", str(i)) for i, text in enumerate(texts)])
    return torch.softmax(logits.double(), -1)


@pytest.mark.parametrize(
    ("task", "version", "method"),
    [
        ("colours", "current", "lora_per_task"),
        ("numbers", "v1", "lora_per_task"),
        ("numbers", "current", "clora_xs"),
        ("animals", "current", "clora_xs"),
    ],
)
def test_a_stored_task_answers_as_the_runs_own_model(made, task: str, version: str, method: str) -> None:
    answers = made.engine().predict(task, TEXTS, version)
    found = torch.tensor([list(answer.probabilities.values()) for answer in answers], dtype=torch.float64)
    torch.testing.assert_close(found, by_the_run(made, method, task, TEXTS), rtol=1e-4, atol=1e-5)
    for answer in answers:
        assert answer.label == max(answer.probabilities, key=answer.probabilities.__getitem__)
        assert answer.probability == answer.probabilities[answer.label]


def test_a_mixed_batch_is_answered_as_its_requests_one_by_one_and_in_order(made) -> None:
    engine = made.engine()
    names = [("colours", "current"), ("numbers", "v1"), ("animals", "current"), ("numbers", "v2")]
    requests = [Request(*names[i % 4][:1], TEXTS[i % 6], names[i % 4][1]) for i in range(24)]
    mixed = engine.batch(requests)
    assert [answer.task for answer in mixed] == [request.task for request in requests]
    for request, answer in zip(requests, mixed, strict=True):
        (alone,) = engine.batch([request])
        assert isinstance(answer, Answer)
        assert (answer.version, answer.id, answer.label) == (alone.version, alone.id, alone.label)
        assert answer.probability == pytest.approx(alone.probability, abs=1e-5)


def test_every_answer_names_the_version_and_the_id_that_the_store_has(made) -> None:
    store = Store(made.store)
    for task in store.tasks():
        for version in store.versions(task):
            (answer,) = made.engine().predict(task, ["gold"], version)
            assert (answer.task, answer.version, answer.id) == (task, version, store.manifest(task, version).id)


def test_a_request_that_has_no_answer_is_an_error_of_its_own(made) -> None:
    engine = made.engine()
    found = engine.batch(
        [Request("colours", "red"), Request("colors", "red"), Request("numbers", "one", "v9"), Request("../x", "one")]
    )
    assert isinstance(found[0], Answer)
    assert all(isinstance(failure, Failure) for failure in found[1:])
    assert "Did you mean 'colours'" in found[1].error
    assert "v9" in found[2].error
    assert "v2" in found[2].error
    assert "names have up to 100 letters" in found[3].error
    with pytest.raises(StoreError, match="unknown task 'colors'"):
        engine.predict("colors", ["red"])
    assert engine.batch([]) == []


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (Request("colours", 3), "text=3 is no string"),
        (Request("colours", ("a", "b")), "text=('a', 'b') is no string"),
        (Request("colours", "\ud800"), "the text is no UTF-8"),
        (Request(["x"], "red"), "task=['x'] is no string"),
        (Request("colours", "red", None), "version=None is no string"),
        (Request("auto", "red"), "no identification of tasks has been learned"),
    ],
)
def test_a_request_that_is_none_fails_alone(made, odd: Request, reason: str) -> None:
    failure, answer = made.engine().batch([odd, Request("colours", "red")])
    assert isinstance(failure, Failure)
    assert reason in failure.error
    assert isinstance(answer, Answer)


def test_one_text_in_place_of_a_list_is_refused(made) -> None:
    with pytest.raises(TypeError, match="give a list of texts"):
        made.engine().predict("colours", "red")


def test_a_store_that_is_gone_is_an_error_of_each_request(made, own_store) -> None:
    engine = made.engine(own_store)
    own_store.rename(own_store.parent / "moved")
    (failure,) = engine.batch([Request("colours", "red")])
    assert isinstance(failure, Failure)
    with pytest.raises(StoreError, match="tasks"):
        engine.tasks()
    (own_store.parent / "moved").rename(own_store)
    assert engine.predict("colours", ["red"])[0].version == "v1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"newer": 1}}, "model encoder: its settings in the store are not this version's"),
        ({"kind": "causal_lm"}, "model encoder is a text_encoder here, and a causal_lm is needed"),
    ],
)
def test_a_base_that_this_version_cannot_build_is_an_error_of_the_request(made, change, message: str) -> None:
    engine = made.engine()
    manifest = Store(made.store).manifest("colours")
    base = dataclasses.replace(manifest.base, **change)
    with pytest.raises(ModelError, match=message):
        engine._place.build(base)


@pytest.mark.parametrize("logits", [[[0.0]], [[0.0, 1.0], [1.0]], []])
def test_a_probe_of_another_shape_is_refused(made, logits: list) -> None:
    stored = Store(made.store).read("colours")
    probe = dataclasses.replace(stored.manifest.probe, logits=logits)
    changed = dataclasses.replace(stored, manifest=dataclasses.replace(stored.manifest, probe=probe))
    with pytest.raises(StoreError, match="colours@v1: its probe is of other shape than its answers"):
        made.engine()._loader.take_in(changed)


def test_aliases_that_have_just_been_written_are_read_again(made, own_store) -> None:
    """Two writes within a tick of the clock may have one stamp."""
    engine = made.engine(own_store)
    Store(own_store).promote("numbers", "v1")
    assert engine.predict("numbers", ["one"])[0].version == "v1"
    assert "numbers" not in engine._place._aliases
    path = own_store / "tasks" / "numbers" / "aliases.json"
    os.utime(path, ns=(path.stat().st_mtime_ns - 3_000_000_000,) * 2)
    assert engine.predict("numbers", ["one"])[0].version == "v1"
    assert "numbers" in engine._place._aliases


def test_a_promotion_is_seen_by_the_next_request_and_only_by_it(made, own_store) -> None:
    engine, store = made.engine(own_store), Store(own_store)
    assert engine.predict("numbers", ["one"])[0].version == "v2"
    store.rollback("numbers")
    (answer,) = engine.predict("numbers", ["one"])
    assert (answer.version, answer.id) == ("v1", store.manifest("numbers", "v1").id)
    assert {entry.version for entry in engine.loaded()} == {"v1", "v2"}


def test_a_damaged_version_is_refused_and_the_others_go_on(made, own_store) -> None:
    path = own_store / "tasks" / "colours" / "v1" / "adapter.clora"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    engine = made.engine(own_store)
    failure, answer = engine.batch([Request("colours", "red"), Request("numbers", "one")])
    assert isinstance(failure, Failure)
    assert "colours@v1: adapter.clora has the SHA-256" in failure.error
    assert isinstance(answer, Answer)
    assert engine.counts == {"loads": 1}


def test_a_probe_that_is_answered_otherwise_is_refused_and_nothing_stays(made) -> None:
    engine = made.engine()
    engine.load_task("colours")
    engine.load_task("numbers", "v1")
    engine.unload("colours")
    stored = Store(made.store).read("colours")
    probe = stored.manifest.probe
    other = dataclasses.replace(probe, logits=[[value + 0.5 for value in row] for row in probe.logits])
    changed = dataclasses.replace(stored, manifest=dataclasses.replace(stored.manifest, probe=other))
    before = engine.num_bytes
    with pytest.raises(StoreError, match=r"colours@v1: its probe is answered .* away from what it was"):
        engine._loader.take_in(changed)
    assert engine.num_bytes == before
    assert engine.predict("colours", ["red red"])[0].version == "v1"


def test_another_base_model_is_refused(made, tmp_path) -> None:
    from encoders import save_bert

    from clora_exp.inference.places import Place

    save_bert(tmp_path / "other", seed=1)
    engine = TaskEngine(Place(Store(made.store), str(tmp_path / "other")))
    with pytest.raises(ModelError, match=r"model encoder: its weights are [0-9a-f]{12} here, and [0-9a-f]{12}"):
        engine.load_task("colours")


def test_memory_is_bounded_by_bytes_and_the_least_recently_used_goes_first(made) -> None:
    two = made.engine()
    for task in ("numbers", "animals"):
        two.load_task(task)
    engine = made.engine(max_bytes=two._loader.used_bytes)
    for task in ("colours", "numbers", "animals"):
        engine.load_task(task)
    assert [entry.task for entry in engine.loaded()] == ["numbers", "animals"]
    engine.predict("numbers", ["one"])
    assert [entry.task for entry in engine.loaded()] == ["animals", "numbers"]
    assert engine.counts == {"loads": 3, "unloads": 1}
    assert engine.predict("colours", ["red"])[0].version == "v1"  # it comes back


def test_what_answers_now_stays_although_it_is_too_large(made) -> None:
    engine = made.engine(max_bytes=1)
    answers = engine.batch([Request("colours", "red"), Request("numbers", "one"), Request("animals", "cat")])
    assert all(isinstance(answer, Answer) for answer in answers)
    assert engine.loaded() == []


def test_what_is_unloaded_is_freed(made) -> None:
    engine = made.engine()
    engine.load_task("colours")
    bank = engine._loader._banks[0]
    stacks = [weakref.ref(rows.stack) for rows in bank._rows.values()]
    assert engine.unload("colours") == 1
    assert engine.unload("colours") == 0
    gc.collect()
    assert [stack() for stack in stacks] == [None] * len(stacks)
    assert engine.num_bytes == bank.fixed_bytes


def test_a_row_that_nothing_owns_answers_with_nan_and_never_with_the_base_model(made) -> None:
    engine = made.engine()
    entry = engine.load_task("colours")
    engine.load_task("numbers", "v1")
    engine.unload("colours")
    assert engine._loader.logits([entry], ["red"]).isnan().all()
