"""The store's commands: what they print, what they change, and their exit status."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made import basis_of, bytes_on_disk, files_of, published, routed_of

from clora_exp.reports.words import size
from clora_exp.store.__main__ import COMMANDS, main, parser
from clora_exp.store.collect import garbage
from clora_exp.store.folder import Store

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(store: Store, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command on the store and return its status and what it said to stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main([*words, "--store", str(store.path)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def filled(store: Store) -> Store:
    """Three versions of legal, of which v3 is current, v2 best and v1 is not needed, and one of medical on a basis."""
    for i, accuracy in enumerate([0.125, 0.875, 0.5]):
        published(store, "legal", seed=i, metrics={"accuracy": accuracy})
    published(store, "legal", seed=9, metrics={})
    store.rollback("legal")
    store.promote("legal", "v2")
    store.promote("legal", "v3")
    store.add(*routed_of("medical"), basis=basis_of())
    return store


def test_list_shows_every_version_in_full(filled: Store, said: Said) -> None:
    status, out, err = said("list")
    assert (status, err) == (0, "")
    head, *lines = [line.split() for line in out.splitlines()]
    assert head == ["task", "version", "aliases", "method", "rank", "bytes", "accuracy", "created", "id"]

    def bytes_of(version: str) -> int:
        return sum(map(len, files_of(filled.path / "tasks/legal" / version).values()))

    ids = {version: filled.resolve("legal", version).id[:12] for version in filled.versions("legal")}
    assert [line[:2] for line in lines] == [["legal", f"v{i}"] for i in range(1, 5)] + [["medical", "v1"]]
    assert [line[-1] for line in lines[:4]] == list(ids.values())
    assert lines[0][2:7] == ["lora_per_task", "2", *size(bytes_of("v1")).split(), "0.125"]
    assert lines[1][2:5] == ["best,", "previous", "lora_per_task"]
    assert lines[2][2:4] == ["current", "lora_per_task"]
    assert [line[-3] for line in lines] == ["0.125", "0.875", "0.500", "–", "0.500"]


def test_list_of_an_empty_store_says_what_fills_it(store: Store, said: Said) -> None:
    status, out, _ = said("list")
    assert status == 0
    assert out == f"{store.path} has no versions; import puts those of a run into it\n"


def test_list_as_json_is_an_object_a_line(filled: Store, said: Said) -> None:
    status, out, _ = said("list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(row["task"], row["version"]) for row in rows][3:] == [("legal", "v4"), ("medical", "v1")]
    assert rows[1]["aliases"] == ["best", "previous"]
    assert rows[1]["id"] == filled.resolve("legal", "v2").id
    assert [row["accuracy"] for row in rows] == [0.125, 0.875, 0.5, None, 0.5]
    folder = filled.path / "tasks/legal/v2"
    assert rows[1]["num_bytes"] == sum(map(len, files_of(folder).values()))


def test_a_damaged_version_is_listed_as_such(filled: Store, said: Said) -> None:
    (filled.path / "tasks/legal/v2/manifest.json").write_bytes(b"{}")
    status, out, _ = said("list")
    assert status == 0
    assert "damaged: legal@v2: manifest.json has changed" in " ".join(out.split())


@pytest.mark.parametrize("version", ["current", "previous", "best", "v3", "v1"])
def test_show_prints_the_manifest_as_it_is_stored(filled: Store, said: Said, version: str) -> None:
    status, out, err = said("show", "legal", "--version", version)
    name = filled.resolve("legal", version).version
    assert (status, err) == (0, "")
    assert out == (filled.path / "tasks/legal" / name / "manifest.json").read_text()


def test_show_takes_an_id_and_shows_the_current_version_without_a_word(filled: Store, said: Said) -> None:
    assert json.loads(said("show", "legal")[1])["version"] == "v3"
    assert json.loads(said("show", "legal", "--version", filled.resolve("legal", "v1").id[:8])[1])["version"] == "v1"


def test_verify_of_a_store_without_damage_is_status_0(filled: Store, said: Said) -> None:
    assert said("verify") == (0, "10 versions and aliases read, none damaged\n", "")


def test_verify_names_what_is_damaged_and_is_status_1(filled: Store, said: Said) -> None:
    path = filled.path / "tasks/legal/v2/adapter.clora"
    path.write_bytes(path.read_bytes()[:-1])
    status, out, err = said("verify")
    first, last = out.splitlines()
    assert (status, err) == (1, "")
    assert re.fullmatch(r"DAMAGED  (legal@v2: )+adapter\.clora has the SHA-256 \w{12}, and \w{12} was stored", first)
    assert last == "10 versions and aliases read, 1 damaged"


def test_promote_says_what_was_and_what_is(filled: Store, said: Said) -> None:
    target = filled.resolve("legal", "v1")
    assert said("promote", "legal", "--version", "v1") == (
        0,
        f"legal: current was v3, is v1 ({target.id[:12]})\n",
        "",
    )
    assert filled.resolve("legal") == target


def test_rollback_says_what_was_and_what_is(filled: Store, said: Said) -> None:
    target = filled.resolve("legal", "v2")
    assert said("rollback", "legal") == (0, f"legal: current was v3, is v2 ({target.id[:12]})\n", "")
    assert filled.resolve("legal") == target


def test_gc_tells_what_it_would_remove_and_with_yes_removes_it(filled: Store, said: Said) -> None:
    before = bytes_on_disk(filled)
    status, out, _ = said("gc")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["legal@v1", "legal@v4", "would"]
    freed = size(garbage(filled).num_bytes)
    assert out.splitlines()[-1] == f"would remove {freed} in 2 versions and 0 bases; --yes does"
    assert bytes_on_disk(filled) == before
    status, again, _ = said("gc", "--yes")
    assert status == 0
    assert again.splitlines()[:2] == out.splitlines()[:2]
    assert again.splitlines()[-1] == f"removed {freed} in 2 versions and 0 bases"
    assert filled.versions("legal") == ["v2", "v3"]
    assert bytes_on_disk(filled) < before
    assert "legal@" not in said("gc")[1]


def test_gc_names_a_basis_that_no_version_has(filled: Store, said: Said) -> None:
    (filled.path / "bases" / f"{'ab' * 32}.clora").write_bytes(b"0" * 2000)
    assert "basis abababababab  2 kB" in said("gc")[1]


def test_size_adds_up_to_what_lies_on_disk(filled: Store, said: Said) -> None:
    (filled.path / "bases" / f"{'ab' * 32}.clora").write_bytes(b"0" * 500_000)
    of_task = {
        task: sum(len(content) for name, content in files_of(filled.path / "tasks" / task).items() if "/" in name)
        for task in filled.tasks()
    }
    bases = sum(map(len, files_of(filled.path / "bases").values()))
    expected = {**of_task, "bases that tasks share": bases, "in all": bases + sum(of_task.values())}
    status, out, _ = said("size")
    assert status == 0
    assert out == "".join(f"{size(num_bytes):>8}  {name}\n" for name, num_bytes in expected.items())


def test_reindex_makes_the_index_and_damaged_aliases_again(filled: Store, said: Said) -> None:
    said("list")
    good = (filled.path / "index.json").read_bytes()
    (filled.path / "index.json").write_bytes(b"rubbish")
    assert said("reindex") == (0, "5 versions of 2 tasks\n", "")
    assert (filled.path / "index.json").read_bytes() == good
    (filled.path / "tasks/legal/aliases.json").write_bytes(b"rubbish")
    assert said("list")[0] == 2
    assert said("reindex") == (0, "5 versions of 2 tasks; aliases made again: legal\n", "")
    assert said("verify")[0] == 0
    assert filled.resolve("legal").version == "v4"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show", "lgal"], "unknown task 'lgal'; have: legal, medical. Did you mean 'legal'?"),
        (["show", "legal", "--version", "v9"], "task 'legal': unknown version 'v9'; have: best, current, previous, v1"),
        (["promote", "legal", "--version", "curent"], "Did you mean 'current'?"),
        (["promote", "../legal"], "task '../legal': names have up to 100 letters, digits, _ . and -"),
        (["rollback", "medical"], "task 'medical' has no previous version to go back to"),
        (["rollback", "auto"], "auto and unknown mean something else"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(filled: Store, said: Said, words: list[str], line: str) -> None:
    before = files_of(filled.path / "tasks")
    status, out, err = said(*words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err
    assert files_of(filled.path / "tasks") == before


@pytest.mark.parametrize("command", ["list", "verify", "size", "gc", "reindex"])
def test_a_folder_that_is_no_store_is_one_line_and_status_2(tmp_path: Path, capsys, command: str) -> None:
    assert main([command, "--store", str(tmp_path / "nowhere")]) == 2
    line = f"error: {tmp_path / 'nowhere'} is no store: there is no store.json in it\n"
    assert capsys.readouterr() == ("", line)
    assert list(tmp_path.iterdir()) == []


def test_what_gc_cannot_read_is_status_2_and_stays(filled: Store, said: Said) -> None:
    (filled.path / "tasks/legal/v1/manifest.json").write_bytes(b"{}")
    status, _, err = said("gc", "--yes")
    assert status == 2
    assert err.startswith("error: legal@v1: manifest.json has changed")
    assert filled.versions("legal") == ["v1", "v2", "v3", "v4"]


def test_every_command_has_its_help_and_a_function(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    listed = re.findall(r"^    (\w+) ", shown, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("show", "legal"), ("verify",)])
def test_a_reader_that_has_enough_ends_a_command_in_silence(filled: Store, words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "clora_exp.store", *words, "--store", str(filled.path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
