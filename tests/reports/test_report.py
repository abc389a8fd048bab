"""Figures and page of a run: made from its folder alone, complete, and the same bytes for the same run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from trials import quiet

from clora_exp import loop
from clora_exp.errors import Interrupted
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.loop import run
from clora_exp.reports import figures
from clora_exp.reports.__main__ import main
from clora_exp.reports.run import page, write_report
from clora_exp.runs import StoredRun, read_run

ALL = ["accuracy_matrix", "accuracy_over_time", "forgetting_and_transfer", "training_curves"]


@pytest.fixture
def stored(tiny) -> StoredRun:
    return run(tiny("method=lora"), "python run.py method=lora tasks=words", quiet()).read()


def _with(run: StoredRun, values) -> StoredRun:
    from dataclasses import replace

    return replace(run, matrix=AccuracyMatrix(run.matrix.tasks, np.array(values)))


def test_a_run_without_a_report_gets_one_later_and_equal_runs_get_equal_bytes(
    stored: StoredRun, tmp_path: Path, capsys
) -> None:
    assert not (stored.path / "report.md").exists()
    copy = shutil.copytree(stored.path, tmp_path / "copy")
    assert main([str(stored.path), str(copy)]) == 0
    assert capsys.readouterr().out == f"{stored.path / 'report.md'}\n{copy / 'report.md'}\n"
    names = sorted(p.name for p in (copy / "figures").iterdir())
    assert names == sorted(f"{name}.{suffix}" for name in ALL for suffix in ("png", "svg"))
    for name in ["report.md", *(f"figures/{name}" for name in names)]:
        assert (copy / name).read_bytes() == (stored.path / name).read_bytes(), name


def test_a_report_that_cannot_be_drawn_costs_no_result_and_the_same_command_makes_it(tiny, monkeypatch) -> None:
    config = tiny("method=frozen", "report=true")
    monkeypatch.setattr(figures.Figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config, "", quiet())
    monkeypatch.undo()
    (status,) = Path(config.results_dir).rglob("STATUS")
    assert status.read_text() == "done\n"
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained again"))
    assert (run(config, "", quiet()).path / "report.md").exists()


def test_what_is_no_run_is_one_line_and_status_2(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: no run directory (no config.yaml in it)\n"


def test_every_link_of_the_page_is_there_and_its_numbers_are_the_runs(stored: StoredRun) -> None:
    text = write_report(stored.path).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (stored.path / target).exists(), target
    for value in stored.matrix.values.flat:
        assert f"{value:.3f}" in text
    assert f"| `average_accuracy` | {stored.metrics['average_accuracy'].value:.4f} |" in text
    assert "| `transfer_gain` | – |" in text
    assert "```sh\npython run.py method=lora tasks=words\n```" in text
    for cost in stored.costs.itertuples():
        assert f"| {cost.task} | {cost.trainable_parameters:,} |" in text


def test_changes_stand_beside_the_accuracies(stored: StoredRun, hand_worked) -> None:
    text = page(_with(stored, hand_worked), [])
    assert "| third | 0.600 (−0.100) | 0.850 (+0.050) | **0.700** |" in text
    assert "| before training | 0.100 | 0.200 | 0.300 |" in text


def test_figures_hold_the_numbers_of_the_matrix(stored: StoredRun, hand_worked) -> None:
    run = _with(stored, hand_worked)
    texts = [text.get_text() for text in _axes(figures.accuracy_matrix(run)).texts]
    assert texts[:3] == ["0.100", "0.200", "0.300"]
    assert texts[9:] == ["0.600\n−0.100", "0.850\n+0.050", "0.700"]
    bars = [patch.get_height() for patch in _axes(figures.forgetting_and_transfer(run)).patches]
    np.testing.assert_allclose(bars, [-30, 5, 30, -5])  # backward transfer of first and second, then forgetting
    lines = _axes(figures.accuracy_over_time(run)).lines
    np.testing.assert_allclose(lines[1].get_ydata(), [0.9, 0.7, 0.6])
    np.testing.assert_allclose(lines[-1].get_ydata(), [0.9, 0.75, 2.15 / 3])
    smoothed = _axes(figures.training_curves(run)).lines[::2]
    assert [len(line.get_xdata()) for line in smoothed] == [10, 10, 10]


@pytest.mark.parametrize(("method", "expected"), [("joint", ALL[:2]), ("single", ALL[:2])])
def test_references_get_the_figures_that_mean_something(method: str, expected: list[str], tiny) -> None:
    folder = run(tiny(f"method={method}", "report=true"), "", quiet())
    drawn = sorted(p.stem for p in (folder.path / "figures").glob("*.png"))
    assert drawn == [*expected, "training_curves"]
    text = (folder.path / "report.md").read_text()
    assert "undefined: " in text
    assert {"joint": "learned together", "single": "each task is learned alone"}[method] in text


def test_an_interrupted_run_can_be_reported_as_far_as_it_is(tiny, monkeypatch) -> None:
    real = loop.fit

    def dies(*arguments, **more):
        if arguments[2] == "third":
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(loop, "fit", dies)
    config = tiny("method=lora")
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    (status,) = Path(config.results_dir).rglob("STATUS")
    text = write_report(status.parent).read_text()
    assert "This run is interrupted" in text
    assert read_run(status.parent).metrics["average_accuracy"].value is None


@pytest.mark.parametrize("num_tasks", [1, 2, 20])
def test_figures_of_short_and_long_streams_can_be_drawn(stored: StoredRun, num_tasks: int) -> None:
    from dataclasses import replace

    values = np.random.default_rng(0).uniform(size=(num_tasks + 1, num_tasks))
    names = [f"a task with a long name {i}" for i in range(num_tasks)]
    run = replace(stored, matrix=AccuracyMatrix(names, values))
    drawn = figures.draw_all(run, stored.path / "figures")
    assert drawn == (ALL if num_tasks > 1 else [ALL[0], ALL[1], ALL[3]])


def _axes(figure: Figure | None):
    assert figure is not None
    return figure.axes[0]
