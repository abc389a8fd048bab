"""The metrics that need other runs: `transfer_gain` and `intransigence`, from the references found among runs.

A reference of a run learned the same data with the same model, scenario, trainer and seed, and the same adapter
setting, each task alone (`single`) or all at once (`joint`). Where that of the run's own setting is not there, that of
`lora`'s setting stands in, which the presets `single` and `joint` are, and the value's reason says so.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clora_exp.evaluation import metrics
from clora_exp.evaluation.metrics import Metric

if TYPE_CHECKING:  # what is measured knows nothing of where runs lie
    from clora_exp.runs import StoredRun

KINDS = {"transfer_gain": "single", "intransigence": "joint"}
FROZEN = "frozen"  # the preset in which heads alone train
PRESETS = ("lora", "single", "joint")  # by name: lora's setting
OF_CLASSES = ("trained_classes", "identifier")  # keys of a method that decide nothing where the task is known
NOT_OF_TRAINER = ("num_workers", "checkpoint_every", "energy")  # keys that change no number
PLACES = ("path", "package", "subfolder", "recipe", "hub_id")  # of a model, whose content is compared
SHARED_BY_LORA = (
    "rank",
    "alpha",
    "target_modules",
    "rank_pattern",
    "backend",
)  # of a setting that lora's stands in for


def referenced(runs: "Sequence[StoredRun]") -> dict[Path, dict[str, Metric]]:
    """Return both metrics of each run by its path, from the references among `runs`.

    Of a value the reason says which reference gave it; of none it names the command that makes one.
    """
    return {run.path: {name: _against(run, kind, runs) for name, kind in KINDS.items()} for run in runs}


def reference_of(run: "StoredRun", kind: str, runs: "Sequence[StoredRun]") -> "tuple[StoredRun, bool] | None":
    """Return the run's `single` or `joint` reference and whether it has the run's own setting; None where none is."""
    found = [other for other in runs if other.protocol == kind and other.status == "done" and _fits(run, other)]
    own = [other for other in found if setting(other) == setting(run)]
    if own:
        return own[0], True
    standing_in = [other for other in found if other.method in PRESETS and _stands_in(run, other)]
    return (standing_in[0], False) if standing_in else None


def frozen_of(run: "StoredRun", runs: "Sequence[StoredRun]") -> "StoredRun | None":
    """Return the `frozen` run that had all in common with a run but the method; None where none is."""
    found = (other for other in runs if other.method == FROZEN and other.status == "done" and _fits(run, other))
    return next(found, None)


def answers_in_words(run: "StoredRun") -> bool:
    """Tell whether a language model answers: it can be asked for a task that it has not learned."""
    return any(isinstance(part, dict) and "free_form_score" in part for part in run.config["model"].values())


def accuracies_of(reference: "StoredRun") -> np.ndarray:
    """Return the accuracies of a reference, (T,): of single the diagonal, of joint the last row."""
    values = reference.matrix.values
    return np.diagonal(values[1:]).copy() if reference.protocol == "single" else values[-1].copy()


def setting(run: "StoredRun") -> dict[str, Any]:
    """Return the run's adapter setting: the keys of its method without name, protocol and strategies."""
    left_out = {"name", "protocol", "save_weights"}
    if run.config.get("scenario", "task_incremental") != "class_incremental":
        left_out |= set(OF_CLASSES)
    method = run.config["method"]
    return {key: value for key, value in _said(method).items() if key not in left_out and not _is_strategy(key, value)}


def _against(run: "StoredRun", kind: str, runs: "Sequence[StoredRun]") -> Metric:
    if run.protocol != "sequence":
        return Metric(None, f"it is a `{run.protocol}` reference itself")
    if run.status != "done":
        return Metric(None, f"the run is {run.status}")
    found = reference_of(run, kind, runs)
    if found is None:
        return Metric(None, f"needs the `{kind}` reference of seed {run.seed}: {command(run, kind)}")
    reference, is_own = found
    function = metrics.transfer_gain if kind == "single" else metrics.intransigence
    if kind == "single" and len(run.matrix.tasks) < 2:
        return Metric(None, "needs at least 2 tasks, the stream has 1")
    value = function(run.matrix.values, accuracies_of(reference))
    if np.isnan(value):
        return Metric(None, f"the accuracies of {reference.path} are not complete")
    words = "" if is_own else ", `lora`'s setting: its own is not there"
    return Metric(value, f"against {reference.method}/{reference.path.name}{words}")


def _fits(run: "StoredRun", other: "StoredRun") -> bool:
    """Tell whether two runs had all in common but the method."""
    return other.seed == run.seed and other.matrix.tasks == run.matrix.tasks and _content(other) == _content(run)


def _content(run: "StoredRun") -> dict[str, Any]:
    config = run.config
    return {
        "data": run.environment.get("data_sha256"),
        "weights": run.environment["model_sha256"],
        "model": {key: value for key, value in config["model"].items() if key not in PLACES},
        "scenario": config.get("scenario", "task_incremental"),
        "eval_split": config["eval_split"],
        "trainer": {key: value for key, value in _said(config["trainer"]).items() if key not in NOT_OF_TRAINER},
    }


def _said(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section without nulls: a field that came later is one."""
    return {key: value for key, value in section.items() if value is not None}


def _stands_in(run: "StoredRun", other: "StoredRun") -> bool:
    theirs, own = setting(other), setting(run)
    return own["trainable"] != "adapters" or all(theirs.get(key) == own.get(key) for key in SHARED_BY_LORA)


def _is_strategy(key: str, value: Any) -> bool:
    return isinstance(value, dict) and key != "rank_pattern"


def command(run: "StoredRun", kind: str) -> str:
    """Return the command that makes a run's reference of its own setting: the run's, its strategies left out.

    Args:
        kind: single or joint, which are protocols of the method; or frozen, which is a method.
    """
    words = shlex.split(run.command)
    words = words[words.index("run.py") + 1 :] if "run.py" in words else []
    strategies = [key for key, value in run.config["method"].items() if _is_strategy(key, value)]
    joined = [name for name in strategies if any(word.startswith(f"+method.{name}=") for word in words)]
    dropped = ("method=", "method.protocol=", "seed=", "-m", *(f"method.{name}" for name in strategies))
    rest = [word for word in words if not word.lstrip("+").startswith(dropped)]
    without = [f"~method.{name}" for name in strategies if name not in joined]
    chosen = [f"method={run.method}", *without, f"method.protocol={kind}"]
    if kind == FROZEN:
        chosen = [f"method={FROZEN}"]
    return shlex.join(["python", "run.py", *chosen, *rest, f"seed={run.seed}"])
