"""The example memory under any stream of offers: bounded, exact in its counts, and unmoved by a save and a load."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clora_exp.methods.memory import ExampleMemory, Kept
from clora_exp.states import read_state, write_state

FEWER = settings(max_examples=settings.default.max_examples // 2)  # of what writes files
LARGEST = 16 + 8 + 8 * 4 + 8 + 6 * 4  # bytes of the largest example below


@st.composite
def offers(draw: st.DrawFn, with_logits: bool = False) -> list[Kept]:
    """Examples of up to six classes in two tasks, each known by its number, of one to eight tokens."""
    stream = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(1, 8)), min_size=1, max_size=60))
    found = []
    for i, (task, label, length) in enumerate(stream):
        logits = torch.full((3 + label,), float(i)) if with_logits else None
        found.append(Kept({"input_ids": torch.full((length,), i, dtype=torch.int32)}, label, task, logits))
    return found


@st.composite
def memories(draw: st.DrawFn) -> ExampleMemory:
    selection = draw(st.sampled_from(["reservoir", "class_balanced"]))
    capacity = draw(st.none() | st.integers(1, 12))
    capacity_bytes = draw(st.none() | st.integers(LARGEST, 10 * LARGEST))
    return ExampleMemory(selection, capacity, capacity_bytes, seed=draw(st.integers(0, 1000)))


def numbers(memory: ExampleMemory) -> list[int]:
    return [int(kept.inputs["input_ids"][0]) for kept in memory.examples]


def like(memory: ExampleMemory) -> ExampleMemory:
    return ExampleMemory(memory.selection, memory.capacity, memory.capacity_bytes, seed=10_000)


@given(memories(), offers())
def test_a_memory_is_never_above_its_bounds_and_counts_all_it_was_shown(memory: ExampleMemory, stream) -> None:
    for i, example in enumerate(stream):
        memory.offer(example)
        assert memory.capacity is None or len(memory) <= memory.capacity
        assert memory.capacity_bytes is None or memory.size_bytes <= memory.capacity_bytes
        assert memory.num_seen == Counter(e.key for e in stream[: i + 1])
        kept = numbers(memory)
        assert len(set(kept)) == len(kept)
        for number, found in zip(kept, memory.examples, strict=True):
            assert number <= i
            assert found is stream[number]


@given(memories(), offers())
def test_a_memory_is_as_full_as_its_bounds_allow(memory: ExampleMemory, stream) -> None:
    """A bound in bytes counts every example as the largest so far; what such a bound cost is not offered again."""
    most = 0
    for i, example in enumerate(stream):
        memory.offer(example)
        largest = max(e.size_bytes for e in stream[: i + 1])
        bounds = [most + 1, memory.capacity, memory.capacity_bytes and memory.capacity_bytes // largest]
        most = min(bound for bound in bounds if bound is not None)
        assert len(memory) == most


@given(memories(), offers())
def test_the_index_names_each_place_once_under_its_class(memory: ExampleMemory, stream) -> None:
    for example in stream:
        memory.offer(example)
        by_class = {e.key: [i for i, kept in enumerate(memory.examples) if kept.key == e.key] for e in stream}
        index = {tuple(key): sorted(places) for key, places in memory.state_dict()["places"] if places}
        assert index == {key: places for key, places in by_class.items() if places}
        for t in (0, 1):
            assert memory.of_task(t) == [i for i, kept in enumerate(memory.examples) if kept.task == t]


@given(st.integers(1, 12), offers(), st.integers(0, 1000))
def test_a_balanced_memory_lacks_of_a_class_only_what_no_other_class_has_two_more_of(capacity, stream, seed) -> None:
    memory = ExampleMemory("class_balanced", capacity, seed=seed)
    for example in stream:
        memory.offer(example)
        held = Counter(kept.key for kept in memory.examples)
        for key, num_seen in memory.num_seen.items():
            assert held[key] == num_seen or held[key] >= max(held.values()) - 1


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory") / "state"


@FEWER
@given(memories(), st.booleans().flatmap(offers), st.data())
def test_a_save_and_a_load_at_any_point_change_no_decision(file: Path, memory: ExampleMemory, stream, data) -> None:
    at = data.draw(st.integers(0, len(stream)))
    other = like(memory)
    for i, example in enumerate([*stream, None]):
        if i == at:
            write_state(file, memory.state_dict())
            other.load_state_dict(read_state(file))
        if example is not None:
            for each in [memory, other] if i >= at else [memory]:
                each.offer(example)
    assert numbers(other) == numbers(memory)
    assert other.num_seen == memory.num_seen
    assert other.was_largest == memory.was_largest
    assert [(e.label, e.task) for e in other.examples] == [(e.label, e.task) for e in memory.examples]
    for ours, theirs in zip(other.examples, memory.examples, strict=True):
        assert torch.equal(ours.inputs["input_ids"], theirs.inputs["input_ids"])
        assert (ours.logits is None) == (theirs.logits is None)
        assert ours.logits is None or torch.equal(ours.logits, theirs.logits)
    count = data.draw(st.integers(1, 20))
    assert other.places(count) == memory.places(count)
    write_state(file, memory.state_dict())
    content = file.read_bytes()
    write_state(file, other.state_dict())
    assert file.read_bytes() == content


@given(memories(), offers(), st.integers(1, 80))
def test_what_is_sampled_is_kept_and_no_example_comes_twice(memory: ExampleMemory, stream, count: int) -> None:
    for example in stream:
        memory.offer(example)
    assume(len(memory) > 0)
    places = memory.places(count)
    assert len(places) == len(set(places)) == min(count, len(memory))
    assert set(places) <= set(range(len(memory)))
