"""The comparison as a report of Weights & Biases: python -m clora_exp.reports wandb ENTITY/PROJECT [--group GROUP]

It shows the finished runs of one group, as `logger=wandb` logs them: metrics and costs by method, mean and standard
deviation over seeds, accuracies along the sequence, losses, matrices, settings that differ. The report is an object
until it is saved, so what it holds needs no network.
"""

import argparse
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora_exp.errors import RunError, nearest
from clora_exp.reports.words import METRICS

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2

COLUMNS, HEIGHT = 24, 8  # of a grid of panels, and of a panel
SHOWN = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")


@dataclass(frozen=True)
class Group:
    """What a report is made of: the finished runs of one group."""

    name: str
    tasks: list[str]
    methods: list[str]
    seeds: list[int]
    keys: list[str]  # what the runs have logged
    num_unfinished: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="where the runs are")
    parser.add_argument("--group", help="the runs' group, where the project has several")


def main(options: argparse.Namespace) -> int:
    """Build the report, save it and print its address.

    Raises:
        RunError: there is no account, no network, no such project or group, or no package.
    """
    entity, _, project = options.project.partition("/")
    if not entity or not project or "/" in project:
        raise RunError(f"reports wandb {options.project}: write ENTITY/PROJECT, e.g. my-team/clora-exp")
    api = _account(options.project)
    import requests
    import wandb

    try:
        runs = list(api.runs(options.project, filters={"group": options.group} if options.group else None))
        groups = {run.group for run in runs if run.group} if options.group is None else {options.group}
        group = group_of(chosen(groups, options.project), runs)
        report = build(entity, project, group)
        report.save()
    except (wandb.Error, requests.RequestException, ValueError) as error:
        raise RunError(f"reports wandb {options.project}: {(str(error).splitlines() or [''])[0]}") from error
    print(report.url)
    return 0


def chosen(groups: Iterable[str], project: str) -> str:
    """Return the one group of a project.

    Raises:
        RunError: there is none, or there are several.
    """
    have = sorted(groups)
    if not have:
        raise RunError(f"reports wandb {project}: no runs in a group; log some first: python run.py -m … logger=wandb")
    if len(have) > 1:
        raise RunError(f"reports wandb {project}: several groups; add --group, have: {', '.join(have)}")
    return have[0]


def group_of(name: str, runs: Sequence[Any]) -> Group:
    """Return what is to be known of a group, from the runs of a project as wandb's `Api` gives them.

    Raises:
        RunError: none of them is in the group, or none is finished.
    """
    own = [run for run in runs if run.group == name]
    if not own:
        groups = sorted({run.group for run in runs if run.group})
        have = ", ".join(groups) or "none"
        raise RunError(f"unknown group {name!r}; have: {have}.{nearest(name, groups)}")
    finished = [run for run in own if run.state == "finished"]
    if not finished:
        raise RunError(f"group {name!r} has no finished run yet; its {len(own)} runs are unfinished or failed")
    keys = sorted({key for run in finished for key in _plain(run.summary)})
    return Group(
        name,
        [key.removeprefix("accuracy/") for key in keys if key.startswith("accuracy/")],
        sorted({run.config["method"]["name"] for run in finished}),
        sorted({int(run.config["seed"]) for run in finished}),
        keys,
        len(own) - len(finished),
    )


def build(entity: str, project: str, group: Group) -> "v2.Report":
    """Return the report of a group, unsaved; needs no network."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(
        entity=entity,
        project=project,
        name=group.name,
        filters=f"Group = {group.name!r} and State = 'finished'",
    )

    def grid(panels: Sequence[Any], columns: int) -> Any:
        width = COLUMNS // columns
        for i, panel in enumerate(panels):
            panel.layout = wr.Layout(x=i % columns * width, y=i // columns * HEIGHT, w=width, h=HEIGHT)
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    def bars(key: str, title: str) -> Any:
        by = wr.Config("method.name")
        return wr.BarPlot(
            title=title, metrics=[key], groupby=by, groupby_aggfunc="mean", groupby_rangefunc="stddev", orientation="h"
        )

    def lines(key: str, x: str, title: str, title_x: str) -> Any:
        by = wr.Config("method.name")
        return wr.LinePlot(
            title=title, x=x, y=[key], title_x=title_x, groupby=by, groupby_aggfunc="mean", groupby_rangefunc="stddev"
        )

    metrics = [name for name in SHOWN if f"metrics/{name}" in group.keys]
    metrics += [name for name in METRICS if f"metrics/{name}" in group.keys and name not in metrics]
    costs = [key for key in group.keys if key.startswith(("total/", "cost/"))]
    trade = wr.ScatterPlot(
        title="accuracy against bytes a task",
        x=wr.SummaryMetric("cost/adapter_bytes"),
        y=wr.SummaryMetric("metrics/average_accuracy"),
    )
    learned = [
        lines(f"accuracy/{task}", "tasks_learned", f"accuracy on {task}", "tasks learned") for task in group.tasks
    ]
    losses = [key.removeprefix("loss/") for key in group.keys if key.startswith("loss/")]
    blocks = [
        wr.MarkdownBlock(text=_summary(group)),
        wr.H2(text="Metrics"),
        wr.MarkdownBlock(text="\n".join(f"- `{name}`: {METRICS[name]}" for name in metrics)),
        grid([bars(f"metrics/{name}", name) for name in metrics], 2),
        wr.H2(text="Accuracy along the sequence"),
        grid(learned, 3),
        wr.H2(text="Cost"),
        grid([*(bars(key, key.replace("/", ": ").replace("_", " ")) for key in costs), trade], 3),
        wr.H2(text="Matrices"),
        grid([wr.MediaBrowser(media_keys=["figures/accuracy_matrix"], num_columns=3)], 1),
        wr.H2(text="Training losses"),
        grid([lines(f"loss/{t}", f"step/{t}", f"loss on {t}", "step of the task") for t in losses], 3),
        wr.H2(text="Settings that differ"),
        grid([wr.RunComparer(diff_only="split")], 1),
    ]
    title = f"Comparison: {group.name}"[:128]
    return wr.Report(
        entity=entity, project=project, title=title, description=_summary(group), blocks=blocks, width="fluid"
    )


def _summary(group: Group) -> str:
    seeds = f"{len(group.seeds)} seed{'' if len(group.seeds) == 1 else 's'}"
    left_out = f" {group.num_unfinished} unfinished or failed runs are left out." if group.num_unfinished else ""
    return (
        f"{', '.join(group.methods)} on {', '.join(group.tasks)}. Bars and bands: mean and standard deviation over "
        f"{seeds} ({', '.join(map(str, group.seeds))}).{left_out}"
    )


def _plain(summary: Any) -> Mapping[str, Any]:
    """Return a run's summary as a mapping: wandb's has it behind `_json_dict`, a plain one is one."""
    return getattr(summary, "_json_dict", summary)


def _account(project: str) -> Any:
    """Return wandb's `Api`.

    Raises:
        RunError: a package is missing, or there is no account to build a report in.
    """
    for package, name in (("wandb", "wandb"), ("wandb_workspaces", "wandb-workspaces")):
        if importlib.util.find_spec(package) is None:
            raise RunError(f"reports wandb needs the package {name}; run: pip install -e '.[wandb]' -c constraints.txt")
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    is_offline = (os.environ.get("WANDB_MODE") or wandb.setup().settings.mode) not in ("online", "shared")
    if is_offline or not wandb.login(prompt=False, verify=False):
        raise RunError(
            f"reports wandb {project}: a report is built in a workspace, which needs "
            + ("WANDB_MODE=online, " if is_offline else "")
            + "an API key (wandb login, or WANDB_API_KEY), a network, and runs there (logger=wandb, or wandb sync); "
            "without an account python -m clora_exp.reports makes every run's page here"
        )
    return wandb.Api()
