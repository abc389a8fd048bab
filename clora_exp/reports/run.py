"""The page of one run, `report.md`, and its figures, made from what the run directory holds and nothing else."""

from pathlib import Path

import numpy as np

from clora_exp.errors import RunError, unknown
from clora_exp.files import place_of, write_atomically
from clora_exp.reports.figures import draw_all
from clora_exp.reports.siblings import metrics_beside
from clora_exp.reports.words import METRICS, duration, energy, markdown_row, number, sentence, signed, size, threads
from clora_exp.runs import FILES, StoredRun, read_run

CAPTIONS = {
    "accuracy_matrix": "Accuracy on each task (columns) after each task (rows); framed: the task just learned.",
    "accuracy_over_time": "Accuracy over time; dotted until the task is learned.",
    "forgetting_and_transfer": "Change since a task was learned, and loss since its best, at the end of the sequence.",
    "training_curves": "Training loss of each session.",
}


def write_report(path: Path) -> Path:
    """Write `figures/` and `report.md` into the run directory `path`; return the page.

    Raises:
        RunError: it is no run directory, cannot be read, or there is no room for its page.
    """
    run = read_run(path)
    for name in run.metrics:
        if name not in METRICS:
            raise RunError(f"{path / 'metrics.json'}: " + unknown("metric", name, METRICS))
    try:
        figures = draw_all(run, path / "figures")
        write_atomically(path / "report.md", page(run, figures).encode())
    except OSError as error:
        raise RunError(f"{place_of(error, path)}; the run is kept as it is, the same command goes on") from error
    return path / "report.md"


def page(run: StoredRun, figures: list[str]) -> str:
    """Return the report as Markdown."""
    blocks = [
        f"# {run.method} on {run.config['tasks']['name']}, seed {run.seed}",
        f"**{sentence(run)}**",
        _what_ran(run),
        "## Accuracy\n\n" + _matrix(run),
        *(_figure(name) for name in figures if name.startswith("accuracy")),
        "## Metrics\n\n" + _metrics(run),
        *(_figure(name) for name in figures if name.startswith("forgetting")),
        *(["## Answers\n\n" + _answers(run)] if run.answers else []),
        "## Cost\n\n" + _cost(run),
        *(_figure(name) for name in figures if name.startswith("training")),
        "## Run it again\n\n" + _again(run),
        "## Files\n\n" + _files(run),
    ]
    return "\n\n".join(blocks) + "\n"


def _what_ran(run: StoredRun) -> str:
    config, T = run.config, len(run.matrix.tasks)
    method, trainer = config["method"], config["trainer"]
    how = {
        "sequence": f"learned {T} tasks one after another: {' → '.join(run.matrix.tasks)}",
        "joint": f"learned {T} tasks together: {', '.join(run.matrix.tasks)}",
        "single": f"learned {T} tasks, each alone and from the same start: {', '.join(run.matrix.tasks)}",
    }[run.protocol]
    knows = {
        "class_incremental": "; every task brings classes, and which task an example is from is not known",
        "domain_incremental": "; the labels stay, and which task an example is from is not known",
    }.get(config.get("scenario", ""), "")
    epochs = f"{trainer['epochs']} epoch{'' if trainer['epochs'] == 1 else 's'}"
    length = epochs if trainer["max_steps"] is None else f"at most {trainer['max_steps']} steps"
    rate = method["learning_rate"] or trainer["learning_rate"]
    adapters = f"; rank {method['rank']}, alpha {method['alpha']:g}" if method["trainable"] == "adapters" else ""
    head_rate = method["head_learning_rate"] or trainer["head_learning_rate"]
    rates = [f"{head_rate:g} of heads"]
    if method["trainable"] == "adapters":
        factor_rate = method["factor_learning_rate"]
        both = [f"{rate:g} of routing", f"{factor_rate or rate:g} of A and B"]
        rates += [f"{rate:g} of adapters"] if factor_rate is None else both
    elif method["trainable"] == "all":
        rates += [f"{rate:g} of the backbone"]
    state = "" if run.status == "done" else f"\n\nThis run is {run.status}: what follows is what it has so far."
    return (
        f"`{run.method}` on `{config['model']['name']}` {how}{knows}. "
        f"{length} a session, batches of {trainer['batch_size']}, learning rates {', '.join(rates)}{adapters}; "
        f"measured on the {config['eval_split']} split.{state}"
    )


def _matrix(run: StoredRun) -> str:
    lines = [markdown_row(["after", *run.matrix.tasks]), _rule(1 + len(run.matrix.tasks))]
    for i, name in enumerate(run.matrix.rows):
        if np.isnan(run.matrix.values[i]).all():
            continue
        label = "before training" if i == 0 else "all tasks" if run.protocol == "joint" else name
        lines.append(markdown_row([label, *(_cell(run, i, j) for j in range(len(run.matrix.tasks)))]))
    return "\n".join(lines) + "\n\nBold: just learned. In brackets: the change since the row above."


def _cell(run: StoredRun, i: int, j: int) -> str:
    values = run.matrix.values
    if np.isnan(values[i, j]):
        return "–"
    if i > 0 and (i == j + 1 or run.protocol == "joint"):
        return f"**{values[i, j]:.3f}**"
    moved = signed(np.nan_to_num(values[i, j] - values[i - 1, j]) if i > j + 1 else 0.0, 3)
    return f"{values[i, j]:.3f} ({moved})" if moved[0] in "+−" else f"{values[i, j]:.3f}"


def _metrics(run: StoredRun) -> str:
    lines = [markdown_row(["metric", "value", "in words"]), _rule(3)]
    for name, metric in (run.metrics | metrics_beside(run)).items():
        value = "–" if metric.value is None else number(name, metric.value)
        words = f"{METRICS[name]}; undefined: {metric.reason}" if metric.value is None else METRICS[name]
        if metric.value is not None and metric.reason:
            words += f", {metric.reason}"
        lines.append(markdown_row([f"`{name}`", value, words]))
    return "\n".join(lines) + "\n\nThe definitions and their sources are in `clora_exp/evaluation/metrics.py`."


def _answers(run: StoredRun) -> str:
    """Return what a language model wrote in the end, greedily, beside what would have been right."""
    lines = [markdown_row(["task", "prompt", "right", "written"]), _rule(4)]
    for row in run.answers:
        lines.append(markdown_row([_one_line(row[name]) for name in ("task", "prompt", "right", "written")]))
    return "\n".join(lines) + "\n\nExamples spread evenly over the held-out split, answered greedily in the end."


def _one_line(text: str) -> str:
    """Return a text that stands in a cell: its ends of lines shown, and its Markdown left as it is."""
    shown = " ↵ ".join(line.strip() for line in text.strip().splitlines())
    for sign in "\\`*_<>[]":
        shown = shown.replace(sign, "\\" + sign)
    return shown or "(nothing)"


def _cost(run: StoredRun) -> str:
    keeps = "kept_bytes" in run.costs and bool(run.costs["kept_bytes"].any())
    counts = "answering_bytes" in run.costs
    has_energy = "energy_source" in run.costs and bool((run.costs["energy_source"] != "off").any())
    heads = ["task", "trainable parameters", "bytes on disk", "learning", "measuring", "peak memory"]
    heads += (["answers all so far"] if counts else []) + (["kept to learn by"] if keeps else [])
    heads += ["energy"] if has_energy else []
    lines = [markdown_row(heads), _rule(len(heads))]
    for cost in run.costs.itertuples():
        lines.append(
            markdown_row(
                [
                    str(cost.task),
                    f"{cost.trainable_parameters:,}",
                    size(cost.adapter_bytes),
                    duration(cost.train_seconds),
                    duration(cost.evaluation_seconds),
                    size(cost.peak_memory_bytes),
                    *([size(cost.answering_bytes)] if counts else []),
                    *([size(cost.kept_bytes)] if keeps else []),
                    *([energy(cost.energy_joules, cost.energy_source)] if has_energy else []),
                ]
            )
        )
    environment = run.environment
    is_cpu = environment["device"] == "cpu"
    where = f"{threads(environment['torch_threads'])} of the CPU" if is_cpu else environment["device"]
    method = run.config["method"]
    whole = " The trained backbone itself is not kept (`method.save_weights=true` keeps it with every task)."
    return "\n".join(lines) + (
        f"\n\nOn {where}. Bytes are those of the task's `adapter.safetensors`, its head included; memory is the "
        "largest during the session, "
        + ("of the whole process." if is_cpu else "on the device.")
        + (
            " What answers all tasks so far is adapters, heads and what identifies tasks; a trained backbone counts."
            if counts
            else ""
        )
        + (" Kept to learn by: examples, importances." if keeps else "")
        + (" Energy is that of CPU and GPU while learning." if has_energy else "")
        + (whole if method["trainable"] == "all" and not method["save_weights"] else "")
    )


def _again(run: StoredRun) -> str:
    environment = run.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return (
        f"```sh\n{run.command}\n```\n\n"
        f"Commit `{environment['commit'] or 'unknown'}`, Python {environment['python']}, {packages}. "
        f"SHA-256 of the model's weights `{environment['model_sha256'][:16]}…`; of every split: `environment.json`. "
        "The same command finds this folder again: an unfinished run goes on, a finished one prints its result, "
        "`overwrite=true` starts afresh."
    )


def _files(run: StoredRun) -> str:
    there = [name for name in FILES if name != "report.md" and (run.path / name).exists()]
    lines = [markdown_row(["file", "what it is"]), _rule(2)]
    return "\n".join(lines + [markdown_row([f"[{name}]({name})", FILES[name]]) for name in there])


def _figure(name: str) -> str:
    return f"![{name.replace('_', ' ')}](figures/{name}.png)\n\n*{CAPTIONS[name]}* ([SVG](figures/{name}.svg))"


def _rule(num_columns: int) -> str:
    return "|" + " --- |" * num_columns
