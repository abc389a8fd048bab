"""Sixteen threads ask for random tasks while versions are promoted and unloaded: each answer is its version's."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from copies import copies

from clora_exp.inference.engine import Answer, Request, TaskEngine
from clora_exp.store.folder import Store

TEXTS = ["red iron red", "one gold", "cat three cat", "blue", "dog iron dog", "two tin two", "gold", "bird bird"]
NUM_THREADS, BATCH = 16, 8


def references(engine: TaskEngine, store: Store) -> dict[tuple[str, str, str], tuple[str, float]]:
    """What every version answers every text, asked one by one."""
    found = {}
    for task in store.tasks():
        for version in store.versions(task):
            for text, answer in zip(TEXTS, engine.predict(task, TEXTS, version), strict=True):
                found[task, answer.id, text] = answer.label, answer.probability
    return found


def ask(engine: TaskEngine, expected: dict, seed: int, num_batches: int) -> int:
    """Ask for random tasks; return how many answers were the references of exactly the versions that they name."""
    draw, num_right = random.Random(seed), 0
    for _ in range(num_batches):
        requests = [Request(draw.choice(engine.tasks()), draw.choice(TEXTS)) for _ in range(BATCH)]
        for request, answer in zip(requests, engine.batch(requests), strict=True):
            assert isinstance(answer, Answer), answer
            assert answer.task == request.task
            label, probability = expected[answer.task, answer.id, request.text]
            num_right += answer.label == label and abs(answer.probability - probability) < 1e-5
    return num_right


@pytest.mark.parametrize(
    ("num_batches", "max_bytes"),
    [(6, None), (3, 1), (6, 150_000), pytest.param(79, None, marks=pytest.mark.slow)],
    ids=["all-in-memory", "none-kept", "some-kept", "ten-thousand-requests"],
)
def test_each_answer_is_that_of_the_version_it_names_also_while_versions_are_promoted(
    made, own_store, num_batches: int, max_bytes: int | None
) -> None:
    store = Store(own_store)
    if max_bytes == 150_000:  # of 11 tasks: rows move while others are asked
        copies(store, "colours", 4)
        copies(store, "animals", 4)
    expected = references(made.engine(own_store), store)
    engine, is_over, seen = made.engine(own_store, max_bytes), threading.Event(), set()

    def promote() -> int:
        count = 0
        while not is_over.is_set():
            store.promote("numbers", f"v{count % 2 + 1}")
            seen.add(engine.predict("numbers", ["one"])[0].version)
            count += 1
        return count

    with ThreadPoolExecutor(NUM_THREADS + 1) as pool:
        promoting = pool.submit(promote)
        asking = [pool.submit(ask, engine, expected, seed, num_batches) for seed in range(NUM_THREADS)]
        num_right = sum(future.result() for future in asking)
        is_over.set()
        assert promoting.result() > 2
    assert num_right == NUM_THREADS * num_batches * BATCH
    assert seen == {"v1", "v2"}


def test_fifty_loads_and_unloads_leave_no_tensor(made) -> None:
    """Bytes that torch and Python hold on to, not the process': what an allocator keeps is the allocator's."""
    import gc

    import torch

    engine = made.engine()
    engine.load_task("animals")

    def living() -> int:
        gc.collect()
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
        return sum(found.numel() * found.element_size() for found in tensors)

    def cycles(count: int) -> None:
        for _ in range(count):
            engine.load_task("colours")
            engine.unload("colours")

    cycles(3)
    before = living()
    cycles(50)
    assert living() == before
    assert engine.counts == {"loads": 54, "unloads": 53}
