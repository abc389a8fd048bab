"""The numbers of one run, and of a setting: its seeds are averaged, and nothing else is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clora_exp.evaluation.cost_per_point import joules
from clora_exp.evaluation.metrics import Metric
from clora_exp.evaluation.statistics import Spread, spreads
from clora_exp.identity import NOT_IN_HASH
from clora_exp.reports.evidence import Evidence
from clora_exp.reports.found import setting_of

AT_THE_END, RIGHT_AFTER = "accuracy at the end", "accuracy right after learning"  # followed by ": <task>"
COSTS = {  # name → what it is
    "bytes_a_task": "bytes that answer all tasks, a frozen backbone apart, over the number of tasks",
    "answering_bytes": "bytes that answer all tasks in the end, a frozen backbone apart",
    "kept_bytes": "bytes kept beside them to learn later tasks by: examples, importances",
    "trainable_parameters": "parameters that train in the last session",
    "train_seconds": "seconds of learning, all sessions",
    "evaluation_ms": "milliseconds an example, of the last evaluation",
    "energy_joules": "energy of CPU and GPU while learning, all sessions",
    "peak_memory_bytes": "largest memory of any session; of a CPU the whole process's",
}
LONGEST_LABEL = 36
ELSEWHERE = ("results_dir", "path", "package", "subfolder", "recipe", "hub_id", "revision", "description")


@dataclass(frozen=True)
class Setting:
    """One method in one configuration, with its runs by seed. `values` has of each number the seeds that define it."""

    method: str
    digest: str  # of the configuration and what it ran on, eight hex digits
    label: str
    runs: dict[int, Evidence]
    values: dict[str, dict[int, float]]
    reasons: dict[str, str] = field(default_factory=dict)  # number → why no seed defines it
    spread: dict[str, Spread] = field(default_factory=dict)

    @property
    def first(self) -> Evidence:
        """The run of its first seed."""
        return next(iter(self.runs.values()))

    @property
    def seeds(self) -> list[int]:
        """Its seeds, sorted."""
        return list(self.runs)

    def matrices(self) -> np.ndarray:
        """Return the accuracy matrix of each seed, (n, T + 1, T)."""
        return np.stack([evidence.run.matrix.values for evidence in self.runs.values()])

    def adapter_task(self) -> np.ndarray | None:
        """Return each seed's accuracies of adapters (rows) on tasks, (n, T, T); None unless every seed has them."""
        found = [evidence.adapter_task for evidence in self.runs.values()]
        there = [values for values in found if values is not None]
        return np.stack(there) if len(there) == len(found) else None

    def mean(self, name: str) -> float:
        """Return the mean of a number over the seeds that define it, NaN where none does."""
        return self.spread[name].mean if name in self.spread else np.nan


def setting(label: str, evidence: Sequence[Evidence], extra: Mapping[Any, Mapping[str, Metric]]) -> Setting:
    """Return the setting that these runs, one a seed, are of; `extra` has by run directory what other runs define."""
    runs = {found.run.seed: found for found in sorted(evidence, key=lambda found: found.run.seed)}
    values: dict[str, dict[int, float]] = {}
    reasons: dict[str, str] = {}
    for seed, found in runs.items():
        for name, metric in numbers(found, extra.get(found.run.path, {})).items():
            if metric.value is None:
                reasons.setdefault(name, metric.reason)
            else:
                values.setdefault(name, {})[seed] = float(metric.value)
    first = next(iter(runs.values()))
    reasons = {name: reason for name, reason in reasons.items() if name not in values}
    return Setting(first.run.method, setting_of(first.run.path), label, runs, values, reasons, _spread(values))


def _spread(values: Mapping[str, Mapping[int, float]]) -> dict[str, Spread]:
    """Return each number's spread; those of as many seeds are resampled together."""
    found: dict[str, Spread] = {}
    for n in sorted({len(by_seed) for by_seed in values.values()}):
        names = [name for name, by_seed in values.items() if len(by_seed) == n]
        table = np.array([list(values[name].values()) for name in names])
        found |= dict(zip(names, spreads(table), strict=True))
    return {name: found[name] for name in values}


def numbers(evidence: Evidence, extra: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return every number of a run by name: metrics, accuracies of each task, costs."""
    run, tasks = evidence.run, evidence.run.matrix.tasks
    found = dict(run.metrics) | dict(extra)
    for j, task in enumerate(tasks):
        when = {AT_THE_END: run.matrix.values[-1, j], RIGHT_AFTER: run.matrix.values[j + 1, j]}
        lacks = {"joint": RIGHT_AFTER, "single": AT_THE_END}.get(run.protocol)  # the last task's cell is not that
        for name, value in when.items():
            is_there = name != lacks and not np.isnan(value)
            found[f"{name}: {task}"] = Metric(float(value)) if is_there else Metric(None, "this was not evaluated")
    return found | _costs(evidence)


def _costs(evidence: Evidence) -> dict[str, Metric]:
    costs, found = evidence.run.costs, {}
    last = costs.iloc[-1]
    older = "cost.csv of this run is of an older version, which did not measure it"
    if "answering_bytes" in costs and last["answering_bytes"] > 0:
        num_tasks = len(evidence.run.matrix.tasks)
        found["bytes_a_task"] = Metric(float(last["answering_bytes"]) / num_tasks)
        found["answering_bytes"] = Metric(float(last["answering_bytes"]))
        found["kept_bytes"] = Metric(float(last["kept_bytes"]))
    found["trainable_parameters"] = Metric(float(last["trainable_parameters"]))
    found["train_seconds"] = Metric(float(costs["train_seconds"].sum()))
    if "evaluated_examples" in costs and last["evaluated_examples"] > 0:
        found["evaluation_ms"] = Metric(1000 * float(last["evaluation_seconds"]) / float(last["evaluated_examples"]))
    found["energy_joules"] = joules(evidence.run)
    found["peak_memory_bytes"] = Metric(float(costs["peak_memory_bytes"].max()))
    return {name: found.get(name, Metric(None, older)) for name in COSTS}


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a run's numbers, key by key, seed and places apart."""
    flat: dict[str, Any] = {}

    def walk(part: Mapping[str, Any], prefix: str) -> None:
        for name, value in part.items():
            key = f"{prefix}{name}"
            if key in NOT_IN_HASH or name in ELSEWHERE:
                continue
            if isinstance(value, Mapping) and value:
                walk(value, f"{key}.")
            else:
                flat[key] = value

    walk(config, "")
    return flat


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each key in which flat configurations differ, with its value in each; None where one has it not."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def labels(named: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """Return a short name for each (method, digest, flat configuration), different for each.

    A method with one setting has its own name; others have what differs, `clora rank=8`, where that is short. A value
    that more than half of them have is left out: in an ablation the plain setting is `clora` alone.
    """
    found = []
    for method, digest, config in named:
        same = [other for name, _, other in named if name == method]
        if len(same) == 1:
            found.append(method)
            continue
        different = differing(same)
        special = [key for key, values in different.items() if 2 * values.count(config.get(key)) <= len(values)]
        words = " ".join(
            [method, ", ".join(f"{key.split('.')[-1]}={_short(config.get(key))}" for key in special)]
        ).strip()
        found.append(words if different and len(words) <= LONGEST_LABEL else f"{method}@{digest}")
    return [
        label if found.count(label) == 1 else f"{method}@{digest}"
        for label, (method, digest, _) in zip(found, named, strict=True)
    ]


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
