"""A run again from what it recorded: equal, or the first step or answer that differs."""

import gzip
from pathlib import Path

import pytest
from test_run import run_py
from trials import quiet

from clora_exp.errors import Differs, RunError
from clora_exp.loop import run
from clora_exp.reproduction import reproduce


@pytest.fixture
def finished(tiny) -> Path:
    return run(tiny("method=clora_replay", "method.dropout=0.1"), "python run.py method=clora_replay", quiet()).path


def test_a_run_is_reproduced_to_the_byte_and_leaves_nothing(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    terminal = quiet()
    assert reproduce(finished, terminal).startswith("equal: 30 training losses, 432 answers, the matrix and ")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert [path.name for path in finished.parents[2].iterdir()] == ["words"]


def test_the_first_step_that_differs_is_named_as_soon_as_it_is_taken(finished: Path) -> None:
    (finished / "SHA256SUMS").unlink()  # as of a run of an earlier version
    lines = (finished / "metrics.csv").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("second,train_loss") and line.split(",")[3] == "4")
    task, metric, loss, *rest = lines[at].split(",")
    lines[at] = ",".join([task, metric, repr(float(loss) * (1 + 1e-15)), *rest])
    (finished / "metrics.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(Differs, match=rf"^step 4 of task 'second': loss .* recorded, {loss} now$"):
        reproduce(finished, quiet())
    (again,) = (finished.parents[2] / ".reproduced").rglob("accuracy_matrix.csv")
    assert len(again.read_text().splitlines()[2].split(",")) == 4  # the first task is there, and no later one
    assert "third" not in again.with_name("run.log").read_text()


def test_an_answer_that_differs_is_named(finished: Path) -> None:
    (finished / "SHA256SUMS").unlink()
    path = finished / "predictions.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    first, line, rest = text.partition("second,third,test-cat-0,cat,")
    word = rest.split("\n")[0]
    path.write_bytes(gzip.compress((first + line + rest.replace(word, "dog" if word == "cat" else "cat", 1)).encode()))
    with pytest.raises(Differs, match="the answers: first to 'test-cat-0' of task 'third' after 'second'"):
        reproduce(finished, quiet())


def test_what_is_not_finished_or_was_changed_is_refused(finished: Path) -> None:
    (finished / "SHA256SUMS").unlink()
    settings = finished / "config.yaml"
    before = settings.read_text()
    settings.write_text(before.replace("rank: 4", "rank: 2"))
    with pytest.raises(RunError, match=r"its config\.yaml gives"):
        reproduce(finished, quiet())
    settings.write_text(before)
    (finished / "STATUS").write_text("interrupted\n")
    with pytest.raises(RunError, match="is interrupted, not done"):
        reproduce(finished, quiet())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["reproduce=nowhere"], "error: nowhere: no run directory"),
        (["reproduce=nowhere", "seed=1"], "error: reproduce=nowhere runs what was recorded; leave out seed=1"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(overrides: list[str], says: str) -> None:
    done = run_py(*overrides)
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1
