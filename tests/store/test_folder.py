"""The store's folder: numbers that are never given twice, aliases that move, and names that are checked."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from made import content_of, files_of, pairs_of, published, version_of

from clora_exp.errors import StoreError
from clora_exp.store.aliases import Target
from clora_exp.store.collect import collect
from clora_exp.store.container import same_bytes
from clora_exp.store.folder import Store

NAMES = [
    "../x",
    "..",
    ".",
    "",
    "a/../b",
    "a/b",
    "/etc",
    "a\0b",
    "a\n",
    "a b",
    "ä",
    ".hidden",
    "-x",
    "a" * 101,
    "a" * 200,
    "auto",
    "unknown",
]


def test_versions_are_numbered_in_the_order_they_came(store: Store) -> None:
    assert [published(store, seed=i).version for i in range(3)] == ["v1", "v2", "v3"]
    assert published(store, "code").version == "v1"
    assert store.tasks() == ["code", "legal"]
    assert store.versions("legal") == ["v1", "v2", "v3"]
    for i, version in enumerate(store.versions("legal")):
        assert (store.path / "tasks/legal" / version / "adapter.clora").read_bytes() == content_of(i)


def test_more_than_nine_versions_are_sorted_by_number(store: Store) -> None:
    for i in range(11):
        published(store, seed=i)
    assert store.versions("legal")[-2:] == ["v10", "v11"]
    assert store.resolve("legal") == store.resolve("legal", "v11")


def test_a_version_reads_back_as_it_was_added(store: Store) -> None:
    added = published(store, seed=3)
    found = store.read("legal")
    assert found.manifest == added
    assert found.id == added.id == hashlib.sha256(added.to_bytes()).hexdigest()
    assert found.label == "legal@v1"
    assert same_bytes(found.tensors, pairs_of(3)[0])


def test_the_sums_of_a_version_are_those_of_sha256sum(store: Store) -> None:
    published(store)
    place = store.path / "tasks/legal/v1"
    lines = [f"{hashlib.sha256((place / n).read_bytes()).hexdigest()}  {n}" for n in ("manifest.json", "adapter.clora")]
    assert sorted((place / "SHA256SUMS").read_text().splitlines()) == sorted(lines)
    assert files_of(place).keys() == {"manifest.json", "adapter.clora", "SHA256SUMS"}


def test_a_new_version_is_current_and_the_one_before_is_previous(store: Store) -> None:
    one, two = published(store, seed=1), published(store, seed=2)
    assert store.aliases("legal").targets == {
        "current": Target("v2", two.id),
        "previous": Target("v1", one.id),
        "best": Target("v1", one.id),
    }


def test_a_version_that_is_not_promoted_is_there_and_not_current(store: Store) -> None:
    one = published(store, seed=1)
    two = published(store, seed=2, promote=False)
    assert store.resolve("legal").id == one.id
    assert store.read("legal", "v2").id == two.id
    assert "previous" not in store.aliases("legal").targets


def test_a_tasks_first_version_is_current_in_any_case(store: Store) -> None:
    first = published(store, promote=False)
    assert store.resolve("legal") == Target("v1", first.id)


def test_best_is_the_first_of_the_highest_accuracy(store: Store) -> None:
    best = []
    for i, metrics in enumerate([{}, {"accuracy": 0.2}, {"accuracy": 0.6}, {"accuracy": 0.6}, {"accuracy": 0.4}, {}]):
        published(store, seed=i, metrics=metrics, promote=i % 2 == 0)
        best.append(store.resolve("legal", "best").version)
    assert best == ["v1", "v2", "v3", "v3", "v3", "v3"]


def test_promote_moves_current_and_keeps_the_one_before(store: Store) -> None:
    for i in range(3):
        published(store, seed=i)
    assert store.promote("legal", "v1") == store.resolve("legal", "v1")
    assert store.resolve("legal").version == "v1"
    assert store.resolve("legal", "previous").version == "v3"


def test_promoting_what_is_current_changes_nothing(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    before = files_of(store.path / "tasks")
    store.promote("legal", "v2")
    assert files_of(store.path / "tasks") == before


def test_rollback_exchanges_current_and_previous(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    assert store.rollback("legal").version == "v1"
    assert [store.resolve("legal", name).version for name in ("current", "previous")] == ["v1", "v2"]
    assert store.rollback("legal").version == "v2"


def test_rollback_of_a_first_version_says_that_there_is_none_before(store: Store) -> None:
    published(store)
    with pytest.raises(StoreError, match="task 'legal' has no previous version to go back to"):
        store.rollback("legal")


def test_a_number_is_not_given_again_after_its_version_was_collected(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2, promote=False)
    assert [name for _, name, _ in collect(store).versions] == ["v2"]
    assert published(store, seed=3).version == "v3"
    assert store.versions("legal") == ["v1", "v3"]


@pytest.mark.parametrize("which", ["current", "best", "v1", "v2", "id", "id[:8]", "id[:40]"])
def test_a_version_is_found_by_alias_name_and_id(store: Store, which: str) -> None:
    one = published(store, seed=1, metrics={"accuracy": 0.9})
    two = published(store, seed=2)
    expected = two if which in ("current", "v2") else one
    name = {"id": one.id, "id[:8]": one.id[:8], "id[:40]": one.id[:40]}.get(which, which)
    assert store.resolve("legal", name) == Target(expected.version, expected.id)
    assert store.manifest("legal", name) == expected
    assert store.read("legal", name).manifest == expected


def test_an_id_of_fewer_than_eight_digits_is_none(store: Store) -> None:
    added = published(store)
    with pytest.raises(StoreError, match="unknown version"):
        store.resolve("legal", added.id[:7])


def test_an_id_is_found_beside_a_version_that_is_damaged(store: Store) -> None:
    published(store, seed=1)
    two = published(store, seed=2)
    (store.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    assert store.resolve("legal", two.id[:12]).version == "v2"


@pytest.mark.parametrize("which", ["v3", "v01", "newest", "0" * 64, "../v1", "v1/../v1", "", "v1\n"])
def test_an_unknown_version_lists_what_there_is(store: Store, which: str) -> None:
    published(store, seed=1)
    with pytest.raises(StoreError, match=r"task 'legal': unknown version .*; have: best, current, v1"):
        store.read("legal", which)


def test_a_version_that_is_almost_named_is_offered(store: Store) -> None:
    published(store)
    with pytest.raises(
        StoreError, match=r"unknown version 'curent'; have: best, current, v1. Did you mean 'current'\?"
    ):
        store.promote("legal", "curent")


def test_an_alias_that_means_nothing_yet_says_so(store: Store) -> None:
    published(store)
    with pytest.raises(StoreError, match="task 'legal' has no previous version; have: v1"):
        store.resolve("legal", "previous")


def test_an_unknown_task_lists_what_there_is(store: Store) -> None:
    published(store, "legal")
    published(store, "medical")
    with pytest.raises(StoreError, match=r"unknown task 'lgal'; have: legal, medical. Did you mean 'legal'\?"):
        store.read("lgal")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "method", ["read", "manifest", "checked", "versions", "aliases", "resolve", "promote", "rollback"]
)
def test_a_name_that_leads_elsewhere_or_is_reserved_is_refused(store: Store, name: str, method: str) -> None:
    published(store, "b")
    words = {"promote": ("v1",), "checked": ("v1",)}.get(method, ())
    with pytest.raises(StoreError, match="names have up to 100 letters, digits"):
        getattr(store, method)(name, *words)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_under_such_a_name(store: Store, tmp_path: Path, name: str) -> None:
    manifest, content = version_of("legal")
    before = files_of(tmp_path).keys() | {"store/.lock"}
    with pytest.raises(StoreError, match="names have up to 100 letters, digits"):
        store.add(replace(manifest, task=name), content)
    assert files_of(tmp_path).keys() <= before
    assert store.tasks() == []


@pytest.mark.parametrize("name", ["a", "A9", "x.y", "x-y_z", "0", "a" * 100, "legal..v1", "AUTO"])
def test_other_names_are_tasks(store: Store, name: str) -> None:
    published(store, name)
    assert store.tasks() == [name]
    assert store.read(name).label == f"{name}@v1"
