"""What an engine holds in memory: bounded, freed, and never moved under who is answering."""

import gc
import threading

import pytest
import torch
from copies import copies

from clora_exp.inference.engine import Answer, Request
from clora_exp.store.folder import Store


def living() -> tuple[int, int]:
    """Return the bytes of all tensors, and how many modules there are."""
    gc.collect()
    found = gc.get_objects()
    tensors = sum(one.numel() * one.element_size() for one in found if isinstance(one, torch.Tensor))
    return tensors, sum(isinstance(one, torch.nn.Module) for one in found)


def answers_of(engine, names: list[str]) -> dict[str, float]:
    return {name: engine.predict(name, ["red iron"])[0].probability for name in names}


@pytest.mark.parametrize("task", ["colours", "animals"])
def test_a_batch_of_many_tasks_leaves_no_more_than_the_bound_and_the_rows_that_moved_answer_as_before(
    made, own_store, task: str
) -> None:
    store = Store(own_store)
    names = copies(store, task, 20)
    expected = answers_of(made.engine(own_store), names)
    assert len(set(expected.values())) == 20
    few = made.engine(own_store)
    for name in names[:4]:
        few.load_task(name)
    engine = made.engine(own_store, max_bytes=few.num_bytes)
    found = engine.batch([Request(name, "red iron") for name in names])
    assert [answer.probability for answer in found] == pytest.approx(list(expected.values()), abs=1e-6)
    assert engine.num_bytes <= few.num_bytes
    assert [entry.task for entry in engine.loaded()] == names[-4:]
    assert answers_of(engine, names[-4:]) == pytest.approx({name: expected[name] for name in names[-4:]}, abs=1e-6)
    assert engine.counts["unloads"] == 16
    assert answers_of(engine, names) == pytest.approx(expected, abs=1e-6)
    assert engine.num_bytes <= few.num_bytes


def test_a_task_of_many_labels_costs_itself_alone_and_goes_as_a_whole(made, own_store) -> None:
    (large,) = copies(Store(own_store), "colours", 1, labels=300)
    engine = made.engine(own_store)
    for task in ("colours", "numbers", "animals"):
        engine.load_task(task)
    before = engine.num_bytes
    row = engine.load_task(large).num_bytes
    assert engine.num_bytes < before + 8 * row
    assert len(engine.predict(large, ["red"])[0].probabilities) == 300
    mixed = engine.batch([Request(large, "red"), Request("colours", "red")])
    assert [len(answer.probabilities) for answer in mixed] == [300, 3]
    engine.unload(large)
    assert engine.num_bytes == before


def test_banks_whose_tasks_have_gone_are_freed_all_but_one(made, own_store) -> None:
    names = copies(Store(own_store), "animals", 8, own_basis=True)
    engine = made.engine(own_store, max_bytes=1)
    engine.predict(names[0], ["red"])
    held, before = engine.num_bytes, living()
    for name in names:
        engine.predict(name, ["red"])
    assert engine.num_bytes == held
    tensors, modules = living()
    assert modules == before[1]
    assert tensors == before[0]


def test_a_task_is_loaded_while_another_writes_or_answers(made) -> None:
    """A long text of one client does not stop the others: rows are written that nobody reads."""
    engine = made.engine()
    engine.load_task("colours")
    with engine._quiet.asking():  # as a forward pass does
        asking = threading.Thread(target=lambda: engine.predict("animals", ["cat"]))
        asking.start()
        asking.join(60)
        assert {entry.task for entry in engine.loaded()} == {"colours", "animals"}
        assert isinstance(engine.batch([Request("colours", "red")])[0], Answer)
