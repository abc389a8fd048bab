"""Several processes at one store, readers beside a writer, and writers that are killed at any moment."""

import multiprocessing
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import writers
from made import basis_of, content_of, files_of, published, routed_of, version_of
from writers import Version

from clora_exp.store.checking import verify
from clora_exp.store.collect import collect, garbage
from clora_exp.store.container import same_bytes
from clora_exp.store.folder import Store
from clora_exp.store.index import listing
from clora_exp.store.opening import opened

PATIENCE_S = 60
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["clora_exp.store.collect", "clora_exp.store.opening"])


def started(action: Callable[..., None], *words: Any) -> Any:
    process = processes.Process(target=action, args=words, daemon=True)
    process.start()
    return process


def status(process: Any) -> int:
    """Return how a process ended: 0, or minus the signal that killed it."""
    process.join(PATIENCE_S)
    assert process.exitcode is not None
    return process.exitcode


def plain(task: str, seed: int, **changes: Any) -> Version:
    return (*version_of(task, seed, **changes), None)


def routed(task: str, seed: int) -> Version:
    return (*routed_of(task, seed), basis_of())


def problems(store: Store) -> list[str]:
    return [f"{found.what}: {found.problem}" for found in verify(store) if found.problem]


def unfinished(store: Store) -> list[str]:
    """Return what lies in a store that is no part of it, locks aside."""
    names = [str(path.relative_to(store.path)) for path in store.path.rglob(".*")]
    return [name for name in names if name != ".lock"]


def test_processes_that_add_at_once_give_each_version_its_own_number(tmp_path: Path) -> None:
    """Three processes, each with versions of a task of its own and of one that all have; the first makes the store."""
    path, together = tmp_path / "store", processes.Barrier(3)
    shared = {k: [routed("shared", 100 * k + i) for i in range(5)] for k in range(3)}
    own = {k: [plain(f"own{k}", 100 * k + i) for i in range(3)] for k in range(3)}
    mixed = {
        k: [version for pair in zip(shared[k], [*own[k], *own[k][:2]], strict=True) for version in pair] for k in shared
    }
    crowd = [started(writers.make_and_add, path, mixed[k], together) for k in range(3)]
    assert [status(process) for process in crowd] == [0, 0, 0]
    store = Store(path)
    assert store.versions("shared") == [f"v{i}" for i in range(1, 16)]
    added = sorted(manifest.weights.sha256 for k in shared for manifest, _, _ in shared[k])
    assert sorted(store.manifest("shared", version).weights.sha256 for version in store.versions("shared")) == added
    for k in range(3):
        assert store.versions(f"own{k}") == [f"v{i}" for i in range(1, 6)]
        sums = [store.manifest(f"own{k}", version).weights.sha256 for version in store.versions(f"own{k}")]
        assert sums[:3] == [manifest.weights.sha256 for manifest, _, _ in own[k]]
    assert problems(store) == []
    assert unfinished(store) == []
    assert len(list((path / "bases").iterdir())) == 1


def test_processes_that_make_a_store_at_once_all_have_it(tmp_path: Path) -> None:
    for k in range(5):
        together = processes.Barrier(3)
        path = tmp_path / f"store{k}"
        crowd = [started(writers.make_and_add, path, [plain("legal", i)], together) for i in range(3)]
        assert [status(process) for process in crowd] == [0, 0, 0]
        assert Store(path).versions("legal") == ["v1", "v2", "v3"]


def test_threads_that_add_at_once_give_each_version_its_own_number(store: Store) -> None:
    versions = [version_of("legal", seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda version: Store(store.path).add(*version), versions))
    assert sorted(manifest.number for manifest in added) == list(range(1, 25))
    for manifest, (_, content) in zip(added, versions, strict=True):
        assert store.read("legal", manifest.version).manifest == manifest
        assert manifest.weights.num_bytes == len(content)
    assert problems(store) == []


def test_readers_never_see_an_error_or_half_of_a_change_while_another_process_promotes(store: Store) -> None:
    added = [published(store, seed=i) for i in range(3)]
    tensors = {manifest.id: opened(manifest, content_of(i)) for i, manifest in enumerate(added)}
    seen: set[str] = set()
    errors: list[Exception] = []
    is_over = threading.Event()

    def reads() -> None:
        while not is_over.is_set():
            found = store.read("legal")
            assert found.id == found.manifest.id
            assert same_bytes(found.tensors, tensors[found.id])
            seen.add(found.id)

    def lists() -> None:
        while not is_over.is_set():
            rows = listing(store)
            assert [row.id for row in rows] == [manifest.id for manifest in added]
            assert sorted(name for row in rows for name in row.aliases) == ["best", "current", "previous"]

    def watched(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # of a thread: it is raised nowhere else
            errors.append(error)

    together = processes.Barrier(2)
    writer = started(writers.promote_in_turn, store.path, "legal", ["v1", "v2", "v3"], 150, together)
    threads = [threading.Thread(target=watched, args=(work,)) for work in (reads, reads, lists)]
    for thread in threads:
        thread.start()
    together.wait(PATIENCE_S)
    assert status(writer) == 0
    is_over.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seen == tensors.keys()
    assert problems(store) == []


def test_a_store_is_whole_after_writers_were_killed_at_random_moments(store: Store) -> None:
    first = store.add(*routed_of("legal"), basis=basis_of())
    draw = random.Random(0)
    highest = 1
    for k in range(8):
        ours, theirs = processes.Pipe()
        versions = [routed("legal", 10 * k + i) if i % 2 else plain("legal", 10 * k + i) for i in range(5)]
        process = started(writers.add_for_ever, store.path, versions, theirs)
        assert ours.poll(PATIENCE_S)
        time.sleep(draw.uniform(0, 0.12))
        process.kill()
        assert status(process) == -signal.SIGKILL
        again = Store(store.path)
        assert problems(again) == []
        assert again.read("legal", first.id).manifest == first
        assert listing(again) == listing(again, is_new=True)
        numbers = [int(version[1:]) for version in again.versions("legal")]
        assert numbers == list(range(1, len(numbers) + 1))
        highest = max(highest, *numbers)
        highest += 1
        assert published(again, seed=1000 + k).version == f"v{highest}"
    collect(store)
    assert unfinished(store) == []
    assert problems(store) == []
    assert published(store, seed=9999).version == f"v{highest + 1}"


def deaths(action: Callable[..., None], *words: Any) -> Iterator[int]:
    """Do something over and over, each time dying a step later, until it ends; yield after each death."""
    for num_steps in range(1, 200):
        for is_after in (False, True):
            ended = status(started(writers.dying, action, words, num_steps, is_after))
            if ended == 0:
                return
            assert ended == -signal.SIGKILL
            yield num_steps
    raise AssertionError("it never ends")


def test_a_store_is_whole_after_a_writer_died_at_any_step_of_a_version(store: Store) -> None:
    published(store, seed=0, metrics={"accuracy": 0.1})
    highest, num_deaths = 1, 0
    for _ in deaths(writers.add_one, store.path, (*routed_of("legal", 1, metrics={"accuracy": 0.9}), basis_of())):
        num_deaths += 1
        assert problems(store) == []
        assert listing(store) == listing(store, is_new=True)
        highest = max(highest, *(int(version[1:]) for version in store.versions("legal")))
        collect(store)
        assert unfinished(store) == []
        highest += 1
        assert published(store, seed=num_deaths, metrics={"accuracy": 0.1}).version == f"v{highest}"
    assert num_deaths > 20
    assert problems(store) == []


def test_a_new_task_is_whole_after_its_first_writer_died_at_any_step(store: Store) -> None:
    for i, _ in enumerate(deaths(writers.add_one, store.path, routed("legal", 1))):
        assert problems(store) == []
        assert listing(store) == listing(store, is_new=True)
        added = published(store, seed=i)
        assert store.read("legal").manifest == added
        shutil.rmtree(store.path / "tasks/legal")
        collect(store)
    assert problems(store) == []
    assert unfinished(store) == []


def test_collecting_goes_on_where_it_died(store: Store) -> None:
    for i in range(3):
        published(store, seed=i, promote=False)
    store.add(*routed_of("legal", 3), basis=basis_of(), promote=False)
    first = store.read("legal").manifest
    for _ in deaths(writers.collect_all, store.path):
        assert problems(store) == []
        assert listing(store) == listing(store, is_new=True)
        assert store.read("legal").manifest == first
    assert garbage(store).versions == []
    assert store.versions("legal") == ["v1"]
    assert unfinished(store) == []
    assert files_of(store.path / "bases") == {}
    assert published(store, seed=9).version == "v5"


def test_a_store_is_made_where_the_one_who_began_it_died(tmp_path: Path) -> None:
    """Each one is killed a step later than the one before, and goes on with what that one left."""
    num_deaths = sum(1 for _ in deaths(writers.make, tmp_path / "store"))
    assert num_deaths > 5
    assert published(Store(tmp_path / "store")).version == "v1"
    assert problems(Store(tmp_path / "store")) == []
