"""The list of versions is that of the folders, whatever state the index is in."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import basis_of, content_of, files_of, published, routed_of

from clora_exp.errors import StoreError
from clora_exp.store.folder import Store
from clora_exp.store.index import Row, listing


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of three versions of two tasks with its index."""
    store = Store(tmp_path_factory.mktemp("listed"), is_new=True)
    published(store, "legal", seed=1, metrics={"accuracy": 0.75})
    published(store, "legal", seed=2, metrics={})
    store.add(*routed_of("code"), basis=basis_of())
    listing(store)
    return store


def test_a_row_says_what_the_manifest_and_the_files_say(listed: Store) -> None:
    code, one, two = listing(listed)
    folder = listed.path / "tasks/legal/v1"
    assert one == Row(
        task="legal",
        version="v1",
        id=listed.manifest("legal", "v1").id,
        method="lora_per_task",
        rank=2,
        num_bytes=sum(map(len, files_of(folder).values())),
        accuracy=0.75,
        created="2025-01-02T03:04:05Z",
        base="encoder",
        aliases=["best", "previous"],
        problem="",
    )
    assert (two.version, two.aliases, two.accuracy) == ("v2", ["current"], None)
    assert (code.task, code.version, code.aliases) == ("code", "v1", ["best", "current"])


def test_versions_are_listed_by_task_and_age(store: Store) -> None:
    for i in range(11):
        published(store, ["b", "a", "C"][i % 3] if i < 3 else "b", seed=i)
    names = [(row.task, row.version) for row in listing(store)]
    assert names == [("C", "v1"), ("a", "v1"), *(("b", f"v{i}") for i in range(1, 10))]


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert listing(store) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda store: published(store, seed=3),
        lambda store: published(store, seed=3, promote=False),
        lambda store: published(store, "medical", seed=3),
        lambda store: store.promote("legal", "v1"),
        lambda store: store.rollback("legal"),
    ],
    ids=["add", "add and not promote", "another task", "promote", "rollback"],
)
def test_a_change_is_listed_at_once(store: Store, change: Callable[[Store], object]) -> None:
    published(store, seed=1)
    published(store, seed=2)
    before = listing(store)
    change(store)
    after = listing(store)
    assert after != before
    assert after == listing(Store(store.path)) == listing(store, is_new=True)


def test_many_changes_in_a_moment_are_listed_each(store: Store) -> None:
    """Faster than a file system's clock ticks, and with files that take the place of others just removed."""
    for i in range(3):
        published(store, seed=i)
    draw = random.Random(0)
    for _ in range(30):
        store.promote("legal", f"v{draw.randint(1, 3)}")
        aliases = store.aliases("legal").targets
        meant = {row.version: row.aliases for row in listing(store)}
        for version, names in meant.items():
            assert names == sorted(name for name, target in aliases.items() if target.version == version)


rubbish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([1, "legal", "v1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["format", "tasks", "legal", "rows", "stamp", "task"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.binary(max_size=60) | rubbish.map(lambda value: json.dumps(value).encode()))
def test_an_index_of_rubbish_is_made_again(listed: Store, content: bytes) -> None:
    expected = listing(listed, is_new=True)
    good = (listed.path / "index.json").read_bytes()
    (listed.path / "index.json").write_bytes(content)
    assert listing(listed) == expected
    assert (listed.path / "index.json").read_bytes() == good


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"accuracy":0.75', b'"accuracy":0.99'),
        (b'"accuracy":0.75', b'"accuracy":"high"'),
        (b'"aliases":["current"]', b'"aliases":[]'),
        (b'"aliases":["current"]', b'"aliases":null'),
        (b'"version":"v2"', b'"version":"v1"'),
        (b'"problem":""', b'"problem":"damaged"'),
        (b'"rank":2', b'"rank":"2"'),
        (b'"rows":[', b'"rows":[5,'),
        (b'"rows":[', b'"row":['),
    ],
)
def test_an_index_that_says_something_else_is_made_again(listed: Store, before: bytes, after: bytes) -> None:
    expected = listing(listed, is_new=True)
    content = (listed.path / "index.json").read_bytes()
    assert before in content
    (listed.path / "index.json").write_bytes(content.replace(before, after))
    assert listing(listed) == expected


@given(st.data())
def test_an_index_that_was_cut_or_changed_is_made_again(listed: Store, data: st.DataObject) -> None:
    expected = listing(listed, is_new=True)
    good = (listed.path / "index.json").read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    for content in (bytes(changed), good[:place]):
        (listed.path / "index.json").write_bytes(content)
        assert listing(listed) == expected


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"tasks":' * 100_000])
def test_an_index_of_very_deep_lists_is_made_again(listed: Store, content: bytes) -> None:
    expected = listing(listed, is_new=True)
    (listed.path / "index.json").write_bytes(content)
    assert listing(listed) == expected


def test_an_index_that_is_gone_or_of_another_format_is_made_again(listed: Store) -> None:
    expected = listing(listed, is_new=True)
    path = listed.path / "index.json"
    good = path.read_bytes()
    path.unlink()
    assert listing(listed) == expected
    assert path.read_bytes() == good
    path.write_bytes(good.replace(b'"format":1', b'"format":2'))
    assert listing(listed) == expected
    assert path.read_bytes() == good


def test_an_index_of_another_store_is_not_believed(listed: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", is_new=True)
    published(other, "legal", seed=9)
    expected = listing(other)
    (other.path / "index.json").write_bytes((listed.path / "index.json").read_bytes())
    assert listing(other) == expected


def test_an_index_is_written_only_where_something_changed(store: Store) -> None:
    published(store)
    listing(store)
    before = (store.path / "index.json").stat()
    listing(store)
    assert (store.path / "index.json").stat() == before


def test_a_damaged_version_is_listed_with_its_problem(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    published(store, seed=3)
    (store.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    (store.path / "tasks/legal/v2/adapter.clora").unlink()
    one, two, three = listing(store, is_new=True)
    assert one.problem.startswith("legal@v1: manifest.json has changed")
    assert (two.problem, two.num_bytes, two.aliases) == ("adapter.clora is missing", 0, ["previous"])
    assert (three.problem, three.aliases) == ("", ["current"])


def test_aliases_that_cannot_be_read_are_an_error_that_says_what_mends_them(store: Store) -> None:
    published(store)
    listing(store)
    (store.path / "tasks/legal/aliases.json").write_bytes(b"rubbish")
    with pytest.raises(StoreError, match=r"aliases\.json cannot be read \(.*\); reindex makes it again"):
        listing(store)


def test_what_a_version_weighs_is_what_lies_on_disk(store: Store) -> None:
    for i in range(3):
        published(store, seed=i, level=1 + i, is_shuffled=bool(i % 2))
    for i, row in enumerate(listing(store)):
        files = files_of(store.path / "tasks/legal" / row.version)
        assert row.num_bytes == sum(map(len, files.values()))
        assert len(content_of(i)) > 0
