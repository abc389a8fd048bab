"""Aliases of a task: what moves them, and a file that is read back as it was written or not at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clora_exp.errors import StoreError
from clora_exp.store.aliases import ALIASES, Aliases, Target

ONE, TWO, THREE = (Target(f"v{i}", f"{i:064x}") for i in (1, 2, 3))
targets = st.builds(
    Target,
    st.integers(1, 999_999_999).map(lambda n: f"v{n}"),
    st.integers(0, (1 << 256) - 1).map(lambda n: f"{n:064x}"),
)
aliases = st.builds(Aliases, st.dictionaries(st.sampled_from(ALIASES), targets), st.integers(1, 1_000_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("task")


@given(aliases)
def test_aliases_read_back_as_they_were(folder: Path, found: Aliases) -> None:
    found.write(folder)
    content = (folder / "aliases.json").read_bytes()
    assert Aliases.read(folder) == found
    Aliases.read(folder).write(folder)
    assert (folder / "aliases.json").read_bytes() == content


def test_a_task_without_a_file_has_none(tmp_path: Path) -> None:
    assert Aliases.read(tmp_path) == Aliases({}, 1)


def test_promoting_moves_current_to_previous() -> None:
    found = Aliases().promoted(ONE).promoted(TWO)
    assert found.targets == {"current": TWO, "previous": ONE}
    assert found.promoted(TWO) is found
    assert found.promoted(THREE).targets == {"current": THREE, "previous": TWO}


def test_none_takes_an_alias_away() -> None:
    found = Aliases({"current": ONE, "best": TWO}, 3)
    assert found.pointing(best=None, previous=THREE) == Aliases({"current": ONE, "previous": THREE}, 3)


@given(st.lists(st.sampled_from([ONE, TWO, THREE, None]), max_size=12))
def test_current_and_previous_are_the_last_two_that_were_meant(moves: list[Target | None]) -> None:
    """None is a rollback: it exchanges the two, where there are two."""
    found, current, previous = Aliases(), None, None
    for move in moves:
        if move is None and previous is None:
            with pytest.raises(StoreError, match="task 'legal' has no previous version to go back to"):
                found.rolled_back("legal")
            continue
        found = found.rolled_back("legal") if move is None else found.promoted(move)
        if move is None:
            current, previous = previous, current
        elif move != current:
            current, previous = move, current
        assert (found.targets.get("current"), found.targets.get("previous")) == (current, previous)


VALID = {"aliases": {"current": {"version": "v1", "id": "0" * 64}}, "next_number": 2}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"aliases": {}}',
        b'{"next_number": 1}',
        b'{"aliases": [], "next_number": 1}',
        json.dumps(VALID | {"next_number": 0}).encode(),
        json.dumps(VALID | {"next_number": 1.5}).encode(),
        json.dumps(VALID | {"next_number": "2"}).encode(),
        json.dumps(VALID | {"next_number": None}).encode(),
        json.dumps(VALID).replace("current", "newest").encode(),
        json.dumps(VALID).replace('"v1"', '"v0"').encode(),
        json.dumps(VALID).replace('"v1"', '"../v1"').encode(),
        json.dumps(VALID).replace('"v1"', "1").encode(),
        json.dumps(VALID).replace("0" * 64, "0" * 63).encode(),
        json.dumps(VALID).replace("0" * 64, "A" * 64).encode(),
        json.dumps(VALID).replace('"' + "0" * 64 + '"', "null").encode(),
        json.dumps(VALID)[:-1].encode(),
    ],
)
def test_a_damaged_file_says_where_it_is_and_what_mends_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "aliases.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"aliases\.json cannot be read \(.*\); reindex makes it again"):
        Aliases.read(tmp_path)


def test_a_folder_in_the_place_of_the_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "aliases.json").mkdir()
    with pytest.raises(StoreError, match=r"aliases\.json cannot be read \(.*Is a directory"):
        Aliases.read(tmp_path)


@given(st.data())
def test_a_cut_or_changed_file_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    content = json.dumps(VALID, indent=1).encode()
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), content[: data.draw(st.integers(0, len(content) - 1))]):
        (folder / "aliases.json").write_bytes(damaged)
        try:
            assert Aliases.read(folder).targets.keys() <= set(ALIASES)
        except StoreError as error:
            assert "reindex makes it again" in str(error)  # noqa: PT017  # what can be read is no error


def test_a_previous_version_without_a_current_one_cannot_be_gone_back_to() -> None:
    """No writer leaves that, an editor may."""
    with pytest.raises(StoreError, match="task 'legal'"):
        Aliases({"previous": ONE}, 2).rolled_back("legal")
