"""A version of which anything was changed, exchanged, lost or linked is never read; the error says which and what."""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import basis_of, content_of, files_of, published, replaced, routed_of, version_of

from clora_exp.errors import StoreError
from clora_exp.store.checking import verify
from clora_exp.store.folder import MOST_BYTES, Store
from clora_exp.store.index import listing
from clora_exp.store.opening import opened

CONTENTS = {shuffled: version_of(is_shuffled=shuffled) for shuffled in (True, False)}


def problems(store: Store) -> list[str]:
    """Return what `verify` finds."""
    return [found.problem for found in verify(store) if found.problem]


@given(st.booleans(), st.data())
def test_a_file_with_a_changed_byte_is_never_opened(is_shuffled: bool, data: st.DataObject) -> None:
    manifest, content = CONTENTS[is_shuffled]
    for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        changed = bytearray(content)
        changed[place] ^= data.draw(st.integers(1, 255))
        with pytest.raises(StoreError, match=r"legal@v1: adapter.clora has the SHA-256 [0-9a-f]{12}, and"):
            opened(manifest, bytes(changed))


@pytest.mark.parametrize("is_shuffled", [True, False])
def test_each_flipped_bit_and_each_cut_of_a_file_is_refused(is_shuffled: bool) -> None:
    manifest, content = CONTENTS[is_shuffled]
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(StoreError, match="has the SHA-256"):
            opened(manifest, bytes(changed))
    for length in range(len(content)):
        with pytest.raises(StoreError, match="has the SHA-256"):
            opened(manifest, content[:length])
    with pytest.raises(StoreError, match="has the SHA-256"):
        opened(manifest, content + b"\0")


def test_a_file_of_the_right_hash_that_is_none_is_refused() -> None:
    """Whoever can write the manifest can write its hashes: what is in the file is checked all the same."""
    manifest, content = version_of()
    for found in (b"", b"CLORA", content[:-4], content + b"\0", b"\0" * len(content)):
        weights = replace(manifest.weights, sha256=hashlib.sha256(found).hexdigest(), num_bytes=len(found))
        with pytest.raises(StoreError, match="legal@v1: it is "):
            opened(replace(manifest, weights=weights), found)


@pytest.mark.parametrize("name", ["manifest.json", "adapter.clora", "SHA256SUMS"])
def test_a_file_that_has_grown_beyond_all_measure_is_not_read(store: Store, name: str) -> None:
    published(store)
    os.truncate(store.path / "tasks/legal/v1" / name, MOST_BYTES + 1)  # a hole, which takes no room on the disk
    with pytest.raises(StoreError, match=r"has 1,073,741,825 bytes; at most 1,073,741,824 are read"):
        store.read("legal")


def test_a_changed_manifest_is_refused(store: Store) -> None:
    published(store)
    path = store.path / "tasks/legal/v1/manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"yes"', b'"maybe"'))
    with pytest.raises(StoreError, match=r"legal@v1: manifest.json has changed since it was written, by SHA256SUMS"):
        store.read("legal")
    assert len(problems(store)) == 3  # the version, and two aliases that mean it


def test_a_manifest_changed_together_with_its_sum_is_not_what_was_promoted(store: Store) -> None:
    one = published(store)
    path = store.path / "tasks/legal/v1/manifest.json"
    replaced(path, path.read_bytes().replace(b'"yes"', b'"maybe"'))
    with pytest.raises(StoreError, match=rf"its id is [0-9a-f]{{12}}, and {one.id[:12]} was stored: it has changed"):
        store.read("legal")
    assert store.read("legal", "v1").manifest.labels == ["maybe", "no"]
    assert problems(store)


def test_an_edited_manifest_that_is_not_canonical_is_refused(store: Store) -> None:
    published(store)
    path = store.path / "tasks/legal/v1/manifest.json"
    replaced(path, path.read_bytes() + b"\n")
    with pytest.raises(StoreError, match="legal@v1: a manifest that is not in canonical form: it has been edited"):
        store.read("legal", "v1")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1, "labels": NaN}', b'{"format": 2}']
)
def test_a_manifest_that_is_none_is_refused(store: Store, content: bytes) -> None:
    published(store)
    replaced(store.path / "tasks/legal/v1/manifest.json", content)
    with pytest.raises(StoreError, match="legal@v1"):
        store.read("legal", "v1")
    assert problems(store)


@pytest.mark.parametrize("key", ["settings", "method"])
def test_a_manifest_of_very_deep_tables_is_refused(store: Store, key: str) -> None:
    published(store)
    path = store.path / "tasks/legal/v1/manifest.json"
    whole = json.loads(path.read_bytes())
    table = whole["base"] if key == "settings" else whole
    table[key] = {"a": 1}
    deep = b'{"a": ' * 900 + b"1" + b"}" * 900
    replaced(path, json.dumps(whole).encode().replace(b'{"a": 1}', deep))
    with pytest.raises(StoreError, match="legal@v1"):
        store.read("legal", "v1")


def test_a_file_exchanged_for_another_valid_one_is_refused(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    path = store.path / "tasks/legal/v2/adapter.clora"
    replaced(path, content_of(1))
    sha256 = hashlib.sha256(content_of(1)).hexdigest()
    with pytest.raises(StoreError, match=f"legal@v2: adapter.clora has the SHA-256 {sha256[:12]}, and "):
        store.read("legal")
    assert store.read("legal", "v1").label == "legal@v1"


def test_a_version_in_the_place_of_another_is_refused(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    published(store, "medical", seed=3)
    places = store.path / "tasks"
    shutil.rmtree(places / "legal/v2")
    shutil.copytree(places / "legal/v1", places / "legal/v2")
    with pytest.raises(StoreError, match="legal@v2: its manifest is of legal@v1"):
        store.read("legal")
    shutil.rmtree(places / "legal/v2")
    shutil.copytree(places / "medical/v1", places / "legal/v2")
    with pytest.raises(StoreError, match="legal@v2: its manifest is of medical@v1"):
        store.read("legal", "v2")


def test_an_alias_with_the_id_of_another_version_is_refused(store: Store) -> None:
    one, two = published(store, seed=1), published(store, seed=2)
    path = store.path / "tasks/legal/aliases.json"
    plain = json.loads(path.read_text())
    plain["aliases"]["current"]["id"] = one.id
    path.write_text(json.dumps(plain))
    message = f"legal@v2: its id is {two.id[:12]}, and {one.id[:12]} was stored: it has changed"
    with pytest.raises(StoreError, match=message):
        store.read("legal")
    with pytest.raises(StoreError, match=message):
        store.promote("legal", "current")
    assert problems(store) == [message]


def test_rollback_to_a_damaged_version_is_refused_and_current_stays(store: Store) -> None:
    published(store, seed=1)
    two = published(store, seed=2)
    (store.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"legal@v1: manifest.json has changed"):
        store.rollback("legal")
    with pytest.raises(StoreError, match=r"legal@v1: manifest.json has changed"):
        store.promote("legal", "v1")
    assert store.read("legal").id == two.id


def test_a_version_can_be_added_where_the_best_one_is_damaged(store: Store) -> None:
    published(store, seed=1, metrics={"accuracy": 0.9})
    (store.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    before = files_of(store.path)
    try:
        two = published(store, seed=2)
    except StoreError:
        assert files_of(store.path) == before  # as a whole or not at all
    else:
        assert store.read("legal").id == two.id


@pytest.mark.parametrize("name", ["manifest.json", "adapter.clora", "SHA256SUMS"])
def test_a_version_without_one_of_its_files_is_refused(store: Store, name: str) -> None:
    published(store)
    (store.path / "tasks/legal/v1" / name).unlink()
    with pytest.raises(StoreError, match=f"legal@v1.*{name}"):
        store.read("legal")
    assert problems(store)


@pytest.mark.parametrize("name", ["manifest.json", "adapter.clora", "SHA256SUMS"])
def test_a_folder_in_the_place_of_a_file_is_refused(store: Store, name: str) -> None:
    published(store)
    path = store.path / "tasks/legal/v1" / name
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="legal@v1"):
        store.read("legal")
    assert problems(store)


def test_a_version_that_is_a_file_is_refused(store: Store) -> None:
    published(store)
    (store.path / "tasks/legal/v2").write_text("words")
    with pytest.raises(StoreError, match="legal@v2"):
        store.read("legal", "v2")
    assert store.read("legal").label == "legal@v1"


def test_a_lost_or_changed_basis_is_named(store: Store) -> None:
    basis = basis_of()
    sha256 = hashlib.sha256(basis).hexdigest()
    store.add(*routed_of("legal"), basis=basis)
    path = store.path / "bases" / f"{sha256}.clora"
    path.write_bytes(basis[:-1] + bytes([basis[-1] ^ 1]))
    with pytest.raises(StoreError, match=f"the basis {sha256[:12]} has changed since it was written"):
        store.basis(sha256)
    assert problems(store) == [f"{store.path}: the basis {sha256[:12]} has changed since it was written"]
    path.unlink()
    with pytest.raises(StoreError, match=f"the basis {sha256[:12]} is missing"):
        store.basis(sha256)
    assert problems(store) == [f"{store.path}: the basis {sha256[:12]} is missing"]
    path.mkdir()
    with pytest.raises(StoreError, match=sha256[:12]):
        store.basis(sha256)
    assert problems(store)


def test_a_damaged_basis_is_written_again_by_a_version_that_brings_it(store: Store) -> None:
    basis = basis_of()
    first = store.add(*routed_of("legal"), basis=basis)
    sha256 = str(first.weights.basis_sha256)
    (store.path / "bases" / f"{sha256}.clora").write_bytes(b"")
    store.add(*routed_of("medical"), basis=basis)
    assert problems(store) == []


PLACES = ["tasks/legal", "tasks/legal/v1", *(f"tasks/legal/v1/{n}" for n in ("manifest.json", "adapter.clora"))]
PLACES += ["tasks/legal/v1/SHA256SUMS", "tasks/legal/aliases.json", "tasks", "bases", "bases/basis"]


@pytest.mark.parametrize("place", PLACES)
def test_no_link_inside_a_store_is_followed(store: Store, tmp_path: Path, place: str) -> None:
    """What it leads to is a valid part, so that only the link itself can be refused."""
    added = store.add(*routed_of("legal"), basis=basis_of())
    sha256 = str(added.weights.basis_sha256)
    path = store.path / place.replace("bases/basis", f"bases/{sha256}.clora")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere, target_is_directory=elsewhere.is_dir())
    with pytest.raises(StoreError, match=r"is a link|unknown task 'legal'"):
        Store(store.path).basis(sha256), Store(store.path).read("legal")


@pytest.mark.parametrize("place", ["tasks/legal", "tasks"])
def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path, place: str) -> None:
    published(store)
    elsewhere = tmp_path / "elsewhere"
    (store.path / place).rename(elsewhere)
    (store.path / place).symlink_to(elsewhere, target_is_directory=True)
    before = files_of(elsewhere)
    for change in (lambda again: published(again, seed=2), lambda again: again.promote("legal", "v1")):
        with pytest.raises(StoreError, match=r"is a link|unknown task 'legal'"):
            change(Store(store.path))
    assert files_of(elsewhere) == before


def test_tidying_does_not_reach_through_a_link(store: Store, tmp_path: Path) -> None:
    published(store)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".letter.abcdefgh").write_text("words")
    (store.path / "tasks/legal/v2").symlink_to(elsewhere, target_is_directory=True)
    store.tidy()
    assert files_of(elsewhere) == {".letter.abcdefgh": b"words"}


def test_a_stray_file_among_the_tasks_is_no_task(store: Store) -> None:
    published(store)
    (store.path / "tasks/notes.txt").write_text("words")
    assert store.tasks() == ["legal"]
    assert [row.task for row in listing(store)] == ["legal"]
    assert problems(store) == []


@pytest.mark.parametrize("name", ["tasks", "bases"])
def test_a_store_whose_empty_folders_were_lost_on_the_way_is_used_as_before(store: Store, name: str) -> None:
    """Git and many archives keep no empty folder."""
    (store.path / name).rmdir()
    again = Store(store.path)
    assert again.tasks() == []
    assert listing(again) == []
    again.add(*routed_of("legal"), basis=basis_of())
    assert problems(again) == []


@pytest.fixture
def read_only() -> Iterator[Callable[[Store], Store]]:
    """Return a copy of a store that this process may read and not write, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()

    def build(store: Store) -> Store:
        listing(store)
        shutil.copytree(store.path, folder / "store")
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if user == 0:
            os.seteuid(65534)  # nobody
        return Store(folder / "store")

    yield build
    if user == 0:
        os.seteuid(0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(folder)


def test_a_store_that_can_only_be_read_is_read_and_listed(store: Store, read_only: Callable[[Store], Store]) -> None:
    store.add(*routed_of("legal"), basis=basis_of())
    expected = listing(store)
    (store.path / "index.json").write_bytes(b"rubbish")
    copy = read_only(store)
    assert copy.read("legal").label == "legal@v1"
    assert listing(copy) == listing(copy, is_new=True) == expected
    assert problems(copy) == []


def test_a_store_that_can_only_be_read_refuses_changes_in_one_line(
    store: Store, read_only: Callable[[Store], Store]
) -> None:
    published(store, seed=1)
    published(store, seed=2)
    copy = read_only(store)
    for change in (
        lambda: published(copy),
        lambda: copy.promote("legal", "v1"),
        lambda: copy.rollback("legal"),
        copy.tidy,
    ):
        with pytest.raises(StoreError, match="Permission denied"):
            change()
