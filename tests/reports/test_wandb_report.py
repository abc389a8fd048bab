"""The comparison report for a W&B workspace: what it holds, without a network; and what it would need to be saved."""

from types import SimpleNamespace

import pytest
import wandb_workspaces.reports.v2 as wr

from clora_exp.errors import RunError
from clora_exp.reports.__main__ import main
from clora_exp.reports.wandb_report import build, chosen, group_of

SUMMARY = {
    "accuracy/medical": 0.7,
    "accuracy/legal": 0.5,
    "loss/medical": 1.0,
    "loss/legal": 1.0,
    "metrics/average_accuracy": 0.6,
    "metrics/forgetting": 0.1,
    "cost/adapter_bytes": 1000.0,
    "cost/energy_joules": 40.0,
    "total/train_seconds": 12.0,
}


def logged(method: str, seed: int, group: str = "mlc-minilm-1a2b", state: str = "finished") -> SimpleNamespace:
    """A run as wandb's `Api` gives it."""
    return SimpleNamespace(group=group, state=state, config={"method": {"name": method}, "seed": seed}, summary=SUMMARY)


@pytest.fixture
def report() -> wr.Report:
    runs = [logged(method, seed) for method in ("lora", "clora") for seed in (0, 1)]
    return build("team", "project", group_of("mlc-minilm-1a2b", [*runs, logged("ewc", 0, state="failed")]))


def panels(report: wr.Report, kind: type) -> list:
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    return [panel for grid in grids for panel in grid.panels if isinstance(panel, kind)]


def test_every_grid_shows_the_finished_runs_of_the_group(report: wr.Report) -> None:
    assert (report.entity, report.project, report.title) == ("team", "project", "Comparison: mlc-minilm-1a2b")
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    assert len(grids) == 6
    for grid in grids:
        (runs,) = grid.runsets
        assert (runs.entity, runs.project) == ("team", "project")
        assert runs.filters == "Group = 'mlc-minilm-1a2b' and State = 'finished'"


def test_the_text_says_methods_tasks_seeds_and_what_is_left_out(report: wr.Report) -> None:
    assert report.description == (
        "clora, lora on legal, medical. Bars and bands: mean and standard deviation over 2 seeds (0, 1). "
        "1 unfinished or failed runs are left out."
    )
    titles = [block.text for block in report.blocks if isinstance(block, wr.H2)]
    assert titles == [
        "Metrics",
        "Accuracy along the sequence",
        "Cost",
        "Matrices",
        "Training losses",
        "Settings that differ",
    ]


def test_metrics_and_costs_are_bars_by_method_over_seeds(report: wr.Report) -> None:
    bars = {panel.metrics[0]: panel for panel in panels(report, wr.BarPlot)}
    assert set(bars) == {key for key in SUMMARY if key.split("/")[0] in ("metrics", "cost", "total")}
    model = bars["metrics/forgetting"]._to_model().config
    assert (model.group_by, model.group_agg, model.group_area) == ("method.value.name", "mean", "stddev")


def test_accuracies_and_losses_are_lines_on_the_axes_they_are_logged_by(report: wr.Report) -> None:
    lines = {panel.y[0]: panel.x for panel in panels(report, wr.LinePlot)}
    assert lines == {
        "accuracy/legal": "tasks_learned",
        "accuracy/medical": "tasks_learned",
        "loss/legal": "step/legal",
        "loss/medical": "step/medical",
    }


def test_heat_maps_accuracy_against_bytes_and_settings_are_there(report: wr.Report) -> None:
    (heat_maps,) = panels(report, wr.MediaBrowser)
    assert heat_maps.media_keys == ["figures/accuracy_matrix"]
    (trade,) = panels(report, wr.ScatterPlot)
    assert (trade.x.name, trade.y.name) == ("cost/adapter_bytes", "metrics/average_accuracy")
    assert len(panels(report, wr.RunComparer)) == 1


def test_panels_of_a_grid_do_not_cover_each_other(report: wr.Report) -> None:
    for grid in (block for block in report.blocks if isinstance(block, wr.PanelGrid)):
        cells = [
            (x, y)
            for panel in grid.panels
            for x in range(panel.layout.x, panel.layout.x + panel.layout.w)
            for y in range(panel.layout.y, panel.layout.y + panel.layout.h)
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


def test_every_panel_and_text_is_one_that_wandb_knows(report: wr.Report) -> None:
    for block in report.blocks:
        if isinstance(block, wr.PanelGrid):
            assert all(panel._to_model().view_type for panel in block.panels)
        else:
            assert block._to_model().type in ("heading", "markdown-block")


def test_the_one_group_of_a_project_needs_no_name_and_several_do() -> None:
    assert chosen(["a"], "t/p") == "a"
    with pytest.raises(RunError, match=r"t/p: several groups; add --group, have: a, b$"):
        chosen(["b", "a"], "t/p")
    with pytest.raises(RunError, match="no runs in a group; log some first"):
        chosen([], "t/p")


def test_a_group_that_is_not_there_or_not_finished_is_one_line() -> None:
    with pytest.raises(RunError, match=r"unknown group 'mine'; have: yours\."):
        group_of("mine", [logged("lora", 0, group="yours")])
    with pytest.raises(RunError, match="group 'mine' has no finished run yet; its 1 runs are unfinished or failed"):
        group_of("mine", [logged("lora", 0, group="mine", state="running")])


def test_without_an_account_one_line_says_what_it_would_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["wandb", "team/project"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == (
        "error: reports wandb team/project: a report is built in a workspace, which needs WANDB_MODE=online, an API "
        "key (wandb login, or WANDB_API_KEY), a network, and runs there (logger=wandb, or wandb sync); without an "
        "account python -m clora_exp.reports makes every run's page here"
    )


def test_a_project_is_written_with_its_entity(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb", "project"]) == 2
    assert capsys.readouterr().err == "error: reports wandb project: write ENTITY/PROJECT, e.g. my-team/clora-exp\n"
