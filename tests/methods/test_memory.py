"""The example memory: uniform, balanced, bounded, and the same after a save and a load."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare

from clora_exp.errors import ConfigError, DataError
from clora_exp.methods.base import Method
from clora_exp.methods.memory import ExampleMemory, Kept
from clora_exp.models.batches import Batch
from clora_exp.states import read_state, write_state
from clora_exp.tasks.stream import load_stream


def _example(i: int, label: int = 0, task: int = 0, length: int = 3) -> Kept:
    return Kept({"input_ids": torch.full((length,), i, dtype=torch.int32)}, label, task)


def _kept(memory: ExampleMemory) -> list[int]:
    return [int(e.inputs["input_ids"][0]) for e in memory.examples]


def _through_a_file(memory: ExampleMemory, tmp_path) -> ExampleMemory:
    write_state(tmp_path / "memory.safetensors", memory.state_dict())
    fresh = ExampleMemory(memory.selection, memory.capacity, memory.capacity_bytes, seed=999)
    fresh.load_state_dict(read_state(tmp_path / "memory.safetensors"))
    return fresh


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_reservoir_keeps_every_example_as_often_also_after_a_save_and_a_load(is_reloaded: bool) -> None:
    num, capacity, trials = 60, 12, 600
    counts = np.zeros(num)
    for seed in range(trials):
        memory = ExampleMemory("reservoir", capacity, seed=seed)
        for i in range(num):
            if is_reloaded and i == 35:
                fresh = ExampleMemory("reservoir", capacity, seed=10_000)
                fresh.load_state_dict(memory.state_dict())
                memory = fresh
            memory.offer(_example(i))
        kept = _kept(memory)
        assert len(kept) == len(set(kept)) == capacity
        counts[kept] += 1
    # keeping is without replacement: a count varies as a binomial, and all together have num − 1 degrees of freedom
    share = capacity / num
    statistic = ((counts - trials * share) ** 2).sum() / (trials * share * (1 - share)) * (num - 1) / num
    assert 0.001 < chi2.sf(statistic, num - 1) < 0.999


def test_a_reservoir_that_forgot_its_counter_would_not_pass() -> None:
    """What the trial above finds: without the counter late examples crowd out early ones."""
    counts = np.zeros(60)
    for seed in range(200):
        memory = ExampleMemory("reservoir", 12, seed=seed)
        for i in range(60):
            if i == 35:
                memory.num_seen.clear()
            memory.offer(_example(i))
        counts[_kept(memory)] += 1
    assert counts[35:].mean() > 1.5 * counts[:35].mean()


@pytest.mark.parametrize("selection", ["reservoir", "class_balanced"])
def test_what_is_decided_next_is_the_same_after_a_save_and_a_load(selection, tmp_path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(4, size=300)
    memory = ExampleMemory(selection, 20, seed=1)
    for i in range(150):
        memory.offer(_example(i, int(labels[i]), task=int(labels[i]) // 2, length=1 + i % 5))
    other = _through_a_file(memory, tmp_path)
    for i in range(150, 300):
        for m in (memory, other):
            m.offer(_example(i, int(labels[i]), task=int(labels[i]) // 2, length=1 + i % 5))
    assert _kept(memory) == _kept(other)
    assert memory.num_seen == other.num_seen
    assert memory.num_seen.total() == 300
    for a, b in zip(memory.examples, other.examples, strict=True):
        assert (a.label, a.task, a.inputs["input_ids"].tolist()) == (b.label, b.task, b.inputs["input_ids"].tolist())


def test_stored_logits_of_differing_width_survive_a_save_and_a_load(tmp_path) -> None:
    memory = ExampleMemory("reservoir", 5)
    for width in (2, 4, 3):
        memory.offer(Kept({"pixel_values": torch.rand(1, 2, 2)}, 0, 0, torch.arange(float(width))))
    fresh = _through_a_file(memory, tmp_path)
    assert [e.logits.tolist() for e in fresh.examples] == [[0, 1], [0, 1, 2, 3], [0, 1, 2]]
    assert torch.equal(fresh.examples[1].inputs["pixel_values"], memory.examples[1].inputs["pixel_values"])


def test_a_balanced_memory_holds_as_many_of_each_class_as_can_be() -> None:
    """Of an imbalanced stream: all of a rare class, and of the others the same number, up to one."""
    rng = np.random.default_rng(0)
    labels = rng.permutation([0] * 400 + [1] * 200 + [2] * 100 + [3] * 6)
    memory = ExampleMemory("class_balanced", 40, seed=0)
    for i, label in enumerate(labels):
        memory.offer(_example(i, int(label)))
    counts = np.bincount([e.label for e in memory.examples])
    assert counts[3] == 6
    assert counts.sum() == 40
    assert counts[:3].max() - counts[:3].min() <= 1


def test_within_a_class_a_balanced_memory_is_uniform() -> None:
    counts = np.zeros(40)
    for seed in range(400):
        memory = ExampleMemory("class_balanced", 10, seed=seed)
        for i in range(40):
            memory.offer(_example(i, i % 2))
        counts[_kept(memory)] += 1
    assert chisquare(counts).pvalue > 0.01  # errs towards passing; early against late is the next line
    assert abs(counts[:20].sum() / counts.sum() - 0.5) < 0.03


@pytest.mark.parametrize("selection", ["reservoir", "class_balanced"])
def test_a_bound_in_bytes_is_kept(selection) -> None:
    memory = ExampleMemory(selection, None, capacity_bytes=1000, seed=0)
    for i in range(200):
        memory.offer(_example(i, i % 3, length=1 + i % 40))
        assert memory.size_bytes <= 1000
    assert len(memory) == 1000 // (8 + 8 + 8 + 40 * 4)
    stored = memory.state_dict()
    packed = [*stored["inputs"]["input_ids"].values(), stored["labels"], stored["tasks"]]
    assert sum(t.numel() * t.element_size() for t in packed) == memory.size_bytes
    places = sorted(place for key in {e.key for e in memory.examples} for place in memory._places[key])
    assert places == list(range(len(memory)))


def test_a_bound_smaller_than_one_example_is_an_error() -> None:
    memory = ExampleMemory("reservoir", None, capacity_bytes=10)
    with pytest.raises(DataError, match="capacity_bytes=10: an example has 36 bytes already"):
        memory.offer(_example(0))


def test_logits_of_a_diverged_step_do_not_end_in_the_memory_s_arithmetic(tiny) -> None:
    model = Method(tiny("method=frozen"), load_stream(tiny("method=frozen").tasks, 0)).model
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}
    memory = ExampleMemory("reservoir", 4)
    logits = torch.tensor([[torch.nan, torch.nan, -torch.inf], [1.0, torch.inf, -torch.inf]])
    memory.offer_batch(Batch(inputs, torch.zeros(2, dtype=torch.int64), 0, torch.arange(2)), model, logits)
    assert [len(kept.logits) for kept in memory.examples] == [2, 2]


def test_a_dark_memory_has_a_bound(tiny) -> None:
    with pytest.raises(ConfigError, match="set capacity or capacity_bytes"):
        tiny("method=der", "method.der.capacity=null")
    tiny("method=derpp", "method.derpp.capacity=null", "method.derpp.capacity_bytes=20000")


def test_a_memory_without_bounds_keeps_all_and_knows_whose_they_are() -> None:
    memory = ExampleMemory("reservoir")
    for i in range(10):
        memory.offer(_example(i, label=i % 2, task=i // 5))
    assert memory.of_task(1) == [5, 6, 7, 8, 9]
    assert _kept(memory) == list(range(10))
