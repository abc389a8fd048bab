"""What a run was made of is known, so that a file that has changed since is found."""

import subprocess
from pathlib import Path

import pytest

from clora_exp.errors import RunError
from clora_exp.sums import NAME, check_sums, keep_sums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("metrics.json", "adapters/a/adapter.json", "adapters/b/adapter.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    keep_sums(tmp_path, [tmp_path / "metrics.json", tmp_path / "adapters"])
    return tmp_path


def test_files_as_they_were_written_pass_here_and_with_sha256sum(folder: Path) -> None:
    check_sums(folder, "")
    assert subprocess.run(["sha256sum", "--check", "--strict", "--quiet", NAME], cwd=folder).returncode == 0


def test_what_changed_and_what_is_missing_is_named_a_line_each(folder: Path) -> None:
    (folder / "metrics.json").write_text("other")
    (folder / "adapters/b/adapter.json").unlink()
    with pytest.raises(RunError) as caught:
        check_sums(folder, "type this")
    assert str(caught.value).splitlines() == [
        f"{folder}/adapters/b/adapter.json cannot be read (No such file or directory); type this",
        f"{folder}/metrics.json has changed since it was written, by SHA256SUMS; type this",
    ]
    check_sums(folder, "", ["adapters/a/"])


def test_a_folder_that_is_not_listed_is_refused_where_it_is_asked_for(folder: Path) -> None:
    with pytest.raises(RunError, match="adapters/c: SHA256SUMS lists no file of it"):
        check_sums(folder, "", ["adapters/a/", "adapters/c/"])


def test_sums_that_have_changed_themselves_are_refused_and_older_runs_have_none(folder: Path) -> None:
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(text.replace("metrics.json", "matrics.json"))
    with pytest.raises(RunError, match="it has changed since it was written"):
        check_sums(folder, "")
    (folder / NAME).unlink()
    check_sums(folder, "")


def test_a_folder_entered_again_replaces_what_was_in_it(folder: Path) -> None:
    (folder / "adapters/a/adapter.json").rename(folder / "adapters/a/other.json")
    keep_sums(folder, [folder / "adapters/a"])
    check_sums(folder, "")
    assert "adapters/a/adapter.json" not in (folder / NAME).read_text()
