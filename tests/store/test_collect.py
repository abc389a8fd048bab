"""Collecting removes what nothing needs, to the byte that it says, and never more."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import basis_of, bytes_on_disk, edited, files_of, published, routed_of, version_of

from clora_exp.errors import StoreError
from clora_exp.store.checking import verify
from clora_exp.store.collect import Garbage, collect, garbage
from clora_exp.store.folder import Store
from clora_exp.store.index import listing
from clora_exp.store.manifest import Manifest, Source


def names(found: Garbage) -> list[str]:
    return [f"{task}@{version}" for task, version, _ in found.versions]


def source(manifest: Manifest) -> Source:
    return Source(manifest.task, manifest.version, manifest.id)


def kept(store: Store) -> list[str]:
    return [f"{task}@{version}" for task in store.tasks() for version in store.versions(task)]


def test_versions_that_an_alias_means_stay(store: Store) -> None:
    for i, accuracy in enumerate([0.1, 0.9, 0.2, 0.3, 0.4]):
        published(store, seed=i, metrics={"accuracy": accuracy})
    assert names(garbage(store)) == ["legal@v1", "legal@v3"]
    assert kept(store) == [f"legal@v{i}" for i in range(1, 6)]  # to ask removes nothing
    assert names(collect(store)) == ["legal@v1", "legal@v3"]
    assert kept(store) == ["legal@v2", "legal@v4", "legal@v5"]
    assert not [found for found in verify(store) if found.problem]


def test_collected_versions_are_sorted_by_number(store: Store) -> None:
    for i in range(12):
        published(store, seed=i, promote=False)
    assert names(garbage(store)) == [f"legal@v{i}" for i in range(2, 13)]


def test_a_parent_stays_as_long_as_a_version_that_stays_needs_it(store: Store) -> None:
    root = published(store, "law", seed=1)
    old = published(store, "law", seed=2, parent=source(root))
    published(store, "law", seed=3, metrics={"accuracy": 0.9})
    published(store, "law", seed=4)
    child = published(store, "legal", seed=5, parent=source(old))
    assert names(collect(store)) == []  # v1 is the parent of v2, which is the parent of legal@v1
    published(store, "legal", seed=6, metrics={"accuracy": 0.8})
    published(store, "legal", seed=7)
    published(store, "legal", seed=8)
    assert child.version == "v1"
    assert names(collect(store)) == ["law@v1", "law@v2", "legal@v1"]
    assert not [found for found in verify(store) if found.problem]


def test_what_a_smaller_version_was_made_from_may_go(store: Store) -> None:
    one = published(store, seed=1)
    for i in range(2):
        published(store, seed=2 + i, derived_from=source(one), metrics={"accuracy": 0.6})
    assert names(collect(store)) == ["legal@v1"]


def test_two_versions_that_are_each_others_parents_are_collected(store: Store) -> None:
    published(store, seed=1)
    for version in ("v2", "v3"):
        published(store, seed=2, promote=False)
        edited(store, "legal", version, parent=Source("legal", {"v2": "v3", "v3": "v2"}[version], "0" * 64))
    assert names(collect(store)) == ["legal@v2", "legal@v3"]


@pytest.mark.parametrize("task", ["../x", "auto", "nowhere"])
def test_a_parent_whose_name_leads_nowhere_stops_nothing(store: Store, task: str) -> None:
    published(store, seed=1)
    published(store, seed=2, promote=False)
    edited(store, "legal", "v1", parent=Source(task, "v1", "0" * 64))
    assert names(collect(store)) == ["legal@v2"]


def test_a_basis_goes_with_the_last_version_of_it(store: Store) -> None:
    bases = [basis_of(seed) for seed in range(3)]
    sums = [hashlib.sha256(basis).hexdigest() for basis in bases]
    store.add(*routed_of("legal", 1, bases[0]), basis=bases[0])
    store.add(*routed_of("medical", 2, bases[0]))
    store.add(*routed_of("medical", 3, bases[1]), basis=bases[1], promote=False)
    (store.path / "bases" / f"{sums[2]}.clora").write_bytes(bases[2])
    found = collect(store)
    assert names(found) == ["medical@v2"]
    assert found.bases == sorted((sums[i], len(bases[i])) for i in (1, 2))
    assert files_of(store.path / "bases") == {f"{sums[0]}.clora": bases[0]}
    assert collect(store) == Garbage([], [])


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.tuples(st.sampled_from(["law", "legal"]), st.booleans(), st.integers(0, 9)), max_size=8))
def test_the_bytes_that_are_named_are_those_that_are_freed(
    tmp_path_factory, added: list[tuple[str, bool, int]]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), is_new=True)
    for i, (task, promote, accuracy) in enumerate(added):
        if i % 3:
            published(store, task, seed=i, promote=promote, metrics={"accuracy": accuracy / 10})
        else:
            basis = basis_of(accuracy)
            store.add(*routed_of(task, i, basis), basis=basis, promote=promote)
    before, expected = bytes_on_disk(store), garbage(store)
    assert bytes_on_disk(store) == before
    assert collect(store) == expected
    aliases = sum(len((store.path / "tasks" / task / "aliases.json").read_bytes()) for task in store.tasks())
    assert before - bytes_on_disk(store) == expected.num_bytes
    assert bytes_on_disk(store) >= aliases
    assert not [found for found in verify(store) if found.problem]
    assert garbage(store) == Garbage([], [])


def test_what_killed_writers_left_goes(store: Store) -> None:
    published(store)
    before = files_of(store.path / "tasks") | files_of(store.path / "bases")
    for place in ("tasks/legal/.v2.a1b2c3_d", "tasks/.legal.abcdefgh", "tasks/legal/.v1.removed_"):
        (store.path / place).mkdir()
        (store.path / place / "adapter.clora").write_bytes(b"half")
    for place in (
        "tasks/legal/.aliases.json.abcd1234",
        "bases/.0.clora.abcd1234",
        ".index.json.abcd1234",
        ".store.json.abcd1234",
    ):
        (store.path / place).write_bytes(b"half")
    assert collect(store) == Garbage([], [])
    assert files_of(store.path / "tasks") | files_of(store.path / "bases") == before
    assert {path.name for path in store.path.iterdir()} - {".lock"} == {"tasks", "bases", "store.json"}


def test_nothing_is_removed_where_a_version_cannot_be_read(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2, promote=False)
    (store.path / "tasks/legal/v2/manifest.json").write_bytes(b"{}")
    before = files_of(store.path / "tasks")
    for ask in (garbage, collect):
        with pytest.raises(StoreError, match=r"legal@v2: manifest\.json has changed"):
            ask(store)
    assert files_of(store.path / "tasks") == before


def test_nothing_is_removed_where_aliases_cannot_be_read(store: Store) -> None:
    published(store, seed=1)
    published(store, "medical", seed=2)
    (store.path / "tasks/legal/aliases.json").write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="reindex makes it again"):
        collect(store)
    assert kept(store) == ["legal@v1", "medical@v1"]


def test_nothing_is_removed_of_a_task_whose_aliases_are_lost(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    (store.path / "tasks/legal/aliases.json").unlink()
    try:
        collect(store)
    except StoreError as error:
        assert "legal" in str(error)  # noqa: PT017  # to keep them without a word is right too
    assert kept(store) == ["legal@v1", "legal@v2"]


def killed_before_its_aliases(store: Store, seed: int) -> None:
    """Leave what a writer leaves that is killed between its version and the task's aliases."""
    path = store.path / "tasks/legal/aliases.json"
    before = path.read_bytes()
    published(store, seed=seed)
    path.write_bytes(before)


def test_the_number_of_a_killed_writers_version_is_not_given_again(store: Store) -> None:
    published(store, seed=1)
    killed_before_its_aliases(store, seed=2)
    assert names(collect(store)) == ["legal@v2"]
    assert published(store, seed=3).version == "v3"


def test_a_collected_version_is_gone_from_the_list(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2, promote=False)
    assert [row.version for row in listing(store)] == ["v1", "v2"]
    collect(store)
    assert [row.version for row in listing(store)] == ["v1"]
    assert listing(store) == listing(store, is_new=True)


def test_a_killed_writers_version_is_listed_with_an_index_as_without(store: Store) -> None:
    published(store, seed=1)
    assert len(listing(store)) == 1
    killed_before_its_aliases(store, seed=2)
    assert listing(store) == listing(store, is_new=True)


def test_links_among_the_bases_are_not_followed(store: Store, tmp_path: Path) -> None:
    published(store)
    (tmp_path / "letter").write_text("words")
    (store.path / "bases" / f"{'0' * 64}.clora").symlink_to(tmp_path / "letter")
    collect(store)
    assert (tmp_path / "letter").read_text() == "words"
    assert list((store.path / "bases").iterdir()) == []


def test_the_sizes_are_those_of_the_files(store: Store) -> None:
    manifest, content = version_of(seed=2)
    published(store, seed=1)
    added = store.add(manifest, content, promote=False)
    ((_, _, size),) = garbage(store).versions
    sums = "".join(f"{'0' * 64}  {name}\n" for name in ("manifest.json", "adapter.clora"))
    assert size == len(content) + len(added.to_bytes()) + len(sums)
    assert json.loads(added.to_bytes())["version"] == "v2"
