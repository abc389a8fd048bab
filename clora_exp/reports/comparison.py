"""Which runs can be compared, and what comes out: sets of settings on the same data and model, tested in pairs.

Runs are comparable that learned the same tasks in the same order from the same data, on the same weights, and were
measured on the same examples. What is not comparable is never averaged: it stands in another set, or apart, with why.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clora_exp.errors import RunError, unknown
from clora_exp.evaluation.metrics import Metric
from clora_exp.reports.evidence import Evidence
from clora_exp.reports.found import setting_of
from clora_exp.reports.paired import ExampleTest, SeedTest, over_examples, over_seeds
from clora_exp.reports.settings import Setting, differing, flat_config, labels, setting

REFERENCES = ("clora", "lora")  # what the others are tested against unless --against names a method
NO_EXTRA: Mapping[Path, Mapping[str, Metric]] = {}


@dataclass(frozen=True)
class Left:
    """A run that is in no average, its status, and why."""

    path: str
    status: str
    why: str


@dataclass(frozen=True)
class ComparableSet:
    """Settings whose runs can be compared. `facts` are what these have in common."""

    name: str  # A, B, …
    facts: dict[str, str]
    settings: list[Setting]
    reference: Setting | None
    over_seeds: list[SeedTest] = field(default_factory=list)
    over_examples: list[ExampleTest] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)  # from the first set

    @property
    def tasks(self) -> list[str]:
        """The tasks in their order."""
        return self.settings[0].first.run.matrix.tasks

    @property
    def scenario(self) -> str:
        """The scenario's name."""
        return self.facts["scenario"]

    def budgets(self) -> dict[str, list[Any]]:
        """Return the keys outside `method` in which the settings differ, with the values there are."""
        configs = [flat_config(s.first.run.config) for s in self.settings]
        found = {key: values for key, values in differing(configs).items() if not key.startswith("method.")}
        return {key: sorted(set(values), key=str) for key, values in found.items()}


@dataclass(frozen=True)
class Comparison:
    """All sets, the largest first, and what is in none of them."""

    sets: list[ComparableSet]
    left: list[Left]


def facts(evidence: Evidence) -> dict[str, str]:
    """Return what two runs must have in common to be comparable, in words that are equal only if it is."""
    config, environment = evidence.run.config, evidence.run.environment
    data = environment.get("data_sha256") or evidence.name  # not recorded: like no other
    return {
        "tasks": " → ".join(evidence.run.matrix.tasks),
        "data": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16],
        "model": f"{config['model']['name']} {environment['model_sha256'][:16]}",
        "scenario": config.get("scenario", "task_incremental"),
        "evaluated on": config.get("eval_split", "test"),
        "data seed": str(config.get("data_seed", 0)),
        "examples": f"{evidence.num_examples.sum()}, {evidence.examples_sha256[:16]}",
    }


def compared(
    evidence: Sequence[Evidence],
    left: Sequence[Left] = (),
    extra: Mapping[Path, Mapping[str, Metric]] = NO_EXTRA,
    against: str | None = None,
) -> Comparison:
    """Group runs into comparable sets, average the seeds of each setting, and test the settings in pairs.

    Args:
        left: runs that are left out already, e.g. unfinished ones.
        extra: by run directory, metrics that other runs define.
        against: the method, or the label of a setting, that the others are tested against.

    Raises:
        RunError: no two runs can be compared, or `against` is none of the methods.
    """
    left, once = list(left), []
    seen: dict[tuple[Any, ...], Evidence] = {}
    for found in evidence:
        identity = (found.run.method, setting_of(found.run.path), found.run.seed, *facts(found).values())
        if identity in seen:
            left.append(Left(found.name, "done", f"the same run as {seen[identity].name}"))
        else:
            seen[identity] = found
            once.append(found)
    groups: dict[tuple[str, ...], list[Evidence]] = {}
    for found in once:
        groups.setdefault(tuple(facts(found).values()), []).append(found)
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    large = [group for group in ordered if len(group) > 1]
    if not large:
        raise RunError(_nothing_comparable(once, left))
    first = facts(large[0][0])
    sets = [_set(chr(65 + i) if i < 26 else f"set {i + 1}", group, first, extra) for i, group in enumerate(large)]
    for group in ordered[len(large) :]:
        why = "; ".join(_differences(first, facts(group[0])))
        left.append(Left(group[0].name, "done", f"not comparable with any other run: {why}"))
    return Comparison(_tested(sets, against), left)


def _set(
    name: str, group: list[Evidence], first: dict[str, str], extra: Mapping[Path, Mapping[str, Metric]]
) -> ComparableSet:
    by_setting: dict[tuple[str, str], list[Evidence]] = {}
    for found in group:
        by_setting.setdefault((found.run.method, setting_of(found.run.path)), []).append(found)
    named = [(*key, flat_config(runs[0].run.config)) for key, runs in by_setting.items()]
    settings = [setting(label, runs, extra) for label, runs in zip(labels(named), by_setting.values(), strict=True)]
    settings.sort(key=lambda s: (-np.nan_to_num(s.mean("average_accuracy"), nan=-1.0), s.label))
    own = facts(group[0])
    return ComparableSet(name, own, settings, None, differs=_differences(first, own))


def _tested(sets: list[ComparableSet], against: str | None) -> list[ComparableSet]:
    if against is not None:
        names = {name for found in sets for s in found.settings for name in (s.method, s.label)}
        if against not in names:
            raise RunError(f"--against {against}: {unknown('method', against, names)}")
    tested = []
    for found in sets:
        reference = _reference(found.settings, against)
        if reference is None:
            tested.append(found)
            continue
        tests = over_seeds(found.settings, reference), over_examples(found.settings, reference)
        tested.append(ComparableSet(found.name, found.facts, found.settings, reference, *tests, found.differs))
    return tested


def _reference(settings: list[Setting], against: str | None) -> Setting | None:
    """Return the setting to test against, of several of a method the one with most seeds; None if there is no other."""
    if len(settings) < 2:
        return None
    for name in (against, *REFERENCES):
        chosen = [s for s in settings if name in (s.label, s.method)]
        if chosen:
            return max(chosen, key=lambda s: (s.label == name, len(s.runs)))
    return settings[0]


def _differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    return [f"{key}: {value}, not {first[key]}" for key, value in second.items() if value != first[key]]


def _nothing_comparable(evidence: Sequence[Evidence], left: Sequence[Left]) -> str:
    rest = "".join(f"\n  {run.path}: {run.status}, {run.why}" for run in left)
    if not evidence:
        return f"no finished run that can be averaged{':' if rest else ''}{rest}"
    if len(evidence) == 1:
        path = evidence[0].run.path
        return f"only one finished run, {path}: nothing to compare; python -m clora_exp.reports page {path}{rest}"
    first = facts(evidence[0])
    reasons = [f"\n  {e.run.path}: {'; '.join(_differences(first, facts(e))) or 'the first'}" for e in evidence]
    return f"no two of these runs are comparable:{''.join(reasons)}{rest}"
