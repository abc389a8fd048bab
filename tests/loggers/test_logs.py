"""A logger's trouble is said once and ends no run; several follow one run; packages that are missing are named."""

import io
import json
import sys
from pathlib import Path

import pytest
from followed import Kept, name_of, stopped, tasks_of
from rich.console import Console
from trials import content, quiet

from clora_exp import discovery
from clora_exp.compose import CONF
from clora_exp.errors import Interrupted, RunError
from clora_exp.loggers.base import check_loggers, logger_class
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal

LOGGERS = sorted(path.stem for path in (CONF / "logger").glob("*.yaml") if path.stem != "csv")


def heard(config) -> tuple:
    """Return a run's folder and what it said."""
    said = io.StringIO()
    folder = run(config, "python run.py", Terminal(Console(file=said, width=300)))
    return folder, said.getvalue()


def test_every_logger_of_the_configuration_is_a_file_with_one_class() -> None:
    assert discovery.loggers.names() == LOGGERS == ["mlflow", "tensorboard", "wandb"]
    assert len({logger_class(name) for name in LOGGERS}) == 3


def test_without_loggers_nothing_lies_beside_the_runs(small, tmp_path: Path) -> None:
    folder, said = heard(small(f"results_dir={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["words"]
    assert not any(line.startswith("log ") for line in said.splitlines())
    assert folder.status == "done"


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_logger_that_cannot_write_is_said_once_and_the_run_is_what_it_would_be(
    name: str, small, tmp_path: Path
) -> None:
    plain = run(small(f"results_dir={tmp_path / 'plain'}"), "python run.py", quiet())
    (tmp_path / f".{name}").write_text("a file where a folder is wanted")
    folder, said = heard(small(f"logger={name}", f"results_dir={tmp_path}"))
    assert folder.status == "done"
    assert content(folder) == content(plain)
    (line,) = (line for line in said.splitlines() if name in line and "stops" in line)
    assert line.endswith("; the run goes on, its own tables have everything")


def test_trouble_in_the_middle_is_said_once_too(small, tmp_path: Path) -> None:
    """The note of what has been told cannot be written: its place is taken by a folder that is not empty."""
    config = small("logger=tensorboard", f"results_dir={tmp_path}", "seed=1")
    name = run(small("report=false", f"results_dir={tmp_path / 'plain'}", "seed=1"), "python run.py", quiet()).path.name
    (tmp_path / ".tensorboard" / f"{name}.json" / "taken").mkdir(parents=True)
    folder, said = heard(config)
    assert folder.status == "done"
    assert said.count("tensorboard stops: ") == 1


def test_two_loggers_follow_one_run(small, tmp_path: Path) -> None:
    folder = run(
        small("logger=wandb", "+logger.tensorboard={}", f"results_dir={tmp_path}", "seed=2"), "python run.py", quiet()
    )
    told = {name: json.loads((tmp_path / f".{name}" / f"{folder.path.name}.json").read_text())["told"]
            for name in ("wandb", "tensorboard")}  # fmt: skip
    rows = Kept(tmp_path, folder.path.name).history
    assert told["wandb"] == told["tensorboard"] == len(rows) - 1  # the last row is table and figures
    assert list((tmp_path / ".tensorboard/words/lora" / folder.path.name).glob("events.*"))


def test_the_logger_is_no_part_of_what_a_run_is(small) -> None:
    assert len({name_of(small(f"logger={name}")) for name in ("csv", *LOGGERS)}) == 1


@pytest.mark.parametrize(
    ("name", "package"),
    [("wandb", "wandb"), ("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("mlflow", "sqlalchemy")],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_has_it(
    name: str, package: str, small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    with pytest.raises(RunError) as caught:
        check_loggers(small(f"logger={name}"))
    assert str(caught.value) == (
        f"logger={name} needs the package {package}; run: pip install -e '.[{name}]' -c constraints.txt"
    )


def test_a_note_that_is_damaged_begins_the_log_anew(small, tmp_path: Path) -> None:
    config = small("logger=tensorboard", f"results_dir={tmp_path}", "seed=3", "trainer.checkpoint_every=0")
    stopped(config, tasks_of(config)[1], 2, Interrupted(15))
    (note,) = (tmp_path / ".tensorboard").glob("*.json")
    note.write_text("{")
    folder = run(config, "python run.py", quiet())
    steps = 4 * len(folder.stream.names) + len(folder.stream.names) + 1 + 1  # steps, measurings, the metrics
    assert json.loads(note.read_text())["told"] == steps
