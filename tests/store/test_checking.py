"""Verify reads all that serving would and names what is wrong; aliases that cannot be read are made again."""

import json
from pathlib import Path

import pytest
from made import basis_of, edited, published, replaced, routed_of

from clora_exp.errors import StoreError
from clora_exp.store.checking import Finding, repaired, verify
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Source


def aliases_file(store: Store, task: str = "legal") -> Path:
    return store.path / "tasks" / task / "aliases.json"


def meant(store: Store, task: str = "legal") -> dict[str, str]:
    """Return the versions that a task's aliases mean."""
    return {name: target.version for name, target in store.aliases(task).targets.items()}


def test_every_version_and_every_alias_is_a_finding(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2, promote=False)
    store.add(*routed_of("medical"), basis=basis_of())
    assert list(verify(store)) == [
        Finding("legal@v1"),
        Finding("legal@v2"),
        Finding("legal: best → v1"),
        Finding("legal: current → v1"),
        Finding("medical@v1"),
        Finding("medical: best → v1"),
        Finding("medical: current → v1"),
    ]
    assert next(found.what for found in verify(store, ["medical"])) == "medical@v1"


def test_an_empty_store_has_no_findings(store: Store) -> None:
    assert list(verify(store)) == []


def test_one_damaged_version_hides_no_other(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    published(store, "medical", seed=3)
    (store.path / "tasks/legal/v1/adapter.clora").write_bytes(b"words")
    found = {entry.what: entry.problem for entry in verify(store)}
    assert "has the SHA-256" in found.pop("legal@v1")
    assert set(found.values()) == {""}
    assert found.keys() >= {"legal@v2", "medical@v1", "legal: best → v1"}


def test_aliases_that_cannot_be_read_are_a_finding_and_other_tasks_are_read(store: Store) -> None:
    published(store)
    published(store, "medical")
    aliases_file(store).write_bytes(b"rubbish")
    found = list(verify(store))
    assert found[0].what == "legal"
    assert "reindex makes it again" in found[0].problem
    assert [entry.what for entry in found[1:]] == ["medical@v1", "medical: best → v1", "medical: current → v1"]


def test_an_alias_of_a_version_that_is_gone_is_a_finding(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    with store.writing():
        store.remove("legal", "v1")
    found = {entry.what: entry.problem for entry in verify(store) if entry.problem}
    assert found == dict.fromkeys(["legal: best → v1", "legal: previous → v1"], "the version is gone")


def test_a_parent_that_is_gone_or_another_is_a_finding(store: Store) -> None:
    one = published(store, "law", seed=1)
    published(store, "legal", seed=2, parent=Source("law", "v1", one.id))
    assert not [entry for entry in verify(store) if entry.problem]
    path = store.path / "tasks/law/v1/manifest.json"
    replaced(path, path.read_bytes().replace(b'"yes"', b'"maybe"'))
    problem = {entry.what: entry.problem for entry in verify(store)}["legal@v1"]
    assert problem == "its parent law@v1 is another than it was trained on"
    with store.writing():
        store.remove("law", "v1")
    problem = {entry.what: entry.problem for entry in verify(store)}["legal@v1"]
    assert problem.startswith("task 'law': unknown version 'v1'")


@pytest.mark.parametrize("task", ["../x", "auto", "a\0b", "nowhere"])
def test_a_parent_whose_name_leads_nowhere_is_a_finding(store: Store, task: str) -> None:
    published(store)
    edited(store, "legal", "v1", parent=Source(task, "v1", "0" * 64))
    problem = {entry.what: entry.problem for entry in verify(store)}["legal@v1"]
    assert repr(task) in problem


def test_aliases_that_are_fine_are_left_as_they_are(store: Store) -> None:
    published(store, seed=1)
    published(store, seed=2)
    store.promote("legal", "v1")
    before = aliases_file(store).read_bytes()
    assert repaired(store) == []
    assert aliases_file(store).read_bytes() == before


def test_damaged_aliases_are_made_again_of_the_versions(store: Store) -> None:
    for i, accuracy in enumerate([0.3, 0.9, 0.5, 0.9]):
        published(store, seed=i, metrics={"accuracy": accuracy}, promote=False)
    published(store, "medical")
    aliases_file(store).write_bytes(b"{")
    with pytest.raises(StoreError, match=r"aliases\.json cannot be read \(.*\); reindex makes it again"):
        store.read("legal")
    assert repaired(store) == ["legal"]
    assert meant(store) == {"current": "v4", "previous": "v3", "best": "v2"}
    assert not [entry for entry in verify(store) if entry.problem]
    assert published(store, seed=9).version == "v5"


def test_aliases_are_not_made_of_a_damaged_version_and_its_number_is_not_given_again(store: Store) -> None:
    for i in range(3):
        published(store, seed=i)
    (store.path / "tasks/legal/v3/manifest.json").write_bytes(b"{}")
    aliases_file(store).write_bytes(b"")
    assert repaired(store) == ["legal"]
    assert meant(store) == {"current": "v2", "previous": "v1", "best": "v1"}
    assert published(store, seed=9).version == "v4"


def test_aliases_of_a_task_of_damaged_versions_alone_are_none(store: Store) -> None:
    published(store)
    (store.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    aliases_file(store).write_bytes(b"")
    assert repaired(store) == ["legal"]
    assert meant(store) == {}
    with pytest.raises(StoreError, match="task 'legal' has no current version; have: v1"):
        store.read("legal")


def test_lost_aliases_are_made_again(store: Store) -> None:
    """So is what a writer left that was killed between its first version and its aliases."""
    published(store, seed=1)
    published(store, seed=2)
    aliases_file(store).unlink()
    assert repaired(store) == ["legal"]
    assert meant(store) == {"current": "v2", "previous": "v1", "best": "v1"}


def test_aliases_are_made_again_by_who_can_write_alone(store: Store) -> None:
    published(store)
    published(store, "medical")
    for task in ("legal", "medical"):
        aliases_file(store, task).write_text(json.dumps({"aliases": {}}))
    assert repaired(store) == ["legal", "medical"]
    assert meant(store, "medical") == {"current": "v1", "best": "v1"}
