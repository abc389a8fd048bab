"""What a point of accuracy costs: the seconds, bytes and joules of a run over the accuracy that it ends with.

A point is a hundredth of `average_accuracy`, so what was learned and then forgotten counts for nothing. Beside the run
with the backbone left as it is (`frozen`: heads alone), of the same data and seed, only the points above it count, for
the backbone gave the others; the cost is the whole run's. Without it every point counts; `beside` does without a value
instead, so that what stands in one column is counted alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from clora_exp.evaluation.metrics import Metric
from clora_exp.evaluation.references import FROZEN, answers_in_words, command, frozen_of

if TYPE_CHECKING:  # what is measured knows nothing of where runs lie
    from clora_exp.runs import StoredRun

PER_POINT = ("seconds_per_point", "bytes_per_point", "joules_per_point")


def cost_per_point(run: "StoredRun", frozen: "StoredRun | None" = None) -> dict[str, Metric]:
    """Return `seconds_per_point`, `bytes_per_point` and `joules_per_point` of a run, or why there is none.

    Seconds are of learning, bytes are those of a task on disk (mean over the tasks), joules see `energy.py`; of a value
    the reason says what the points are counted from.
    """
    costs = {
        "seconds_per_point": Metric(float(run.costs["train_seconds"].sum())),
        "bytes_per_point": Metric(float(run.costs["adapter_bytes"].mean())),
        "joules_per_point": joules(run),
    }
    points = _points(run, frozen)
    return {name: _divided(cost, points) for name, cost in costs.items()}


def beside(runs: "Sequence[StoredRun]") -> "dict[Path, dict[str, Metric]]":
    """Return what a point above the `frozen` run among `runs` costs each, by its path, see `references.frozen_of`.

    Of a run that has none beside it the reason names the command that makes one.
    """
    return {run.path: _above(run, frozen_of(run, runs)) for run in runs}


def _above(run: "StoredRun", frozen: "StoredRun | None") -> dict[str, Metric]:
    if frozen is not None:
        return cost_per_point(run, frozen)
    why = f"needs the `frozen` run of seed {run.seed}: {command(run, FROZEN)}"
    if answers_in_words(run):
        why = "points are those above `frozen`, and a model that answers in words has no heads to train alone"
    return dict.fromkeys(PER_POINT, Metric(None, why))


def joules(run: "StoredRun") -> Metric:
    """Return the energy of learning all tasks; the reason says measured or estimated, or why there is none."""
    if "energy_joules" not in run.costs:
        return Metric(None, "the run is of a version that did not count energy")
    sources = sorted(set(run.costs["energy_source"]))
    energy = pd.to_numeric(run.costs["energy_joules"], errors="coerce")
    if energy.isna().any() or not len(energy):
        lacking = [source for source in sources if source not in ("measured", "estimated")]
        why = (
            "energy was not counted, trainer.energy=true counts it" if lacking in ([], ["off"]) else ", ".join(lacking)
        )
        return Metric(None, why)
    return Metric(float(energy.sum()), sources[0] if len(sources) == 1 else "estimated")


def _points(run: "StoredRun", frozen: "StoredRun | None") -> Metric:
    accuracy = run.metrics["average_accuracy"]
    if accuracy.value is None:
        return accuracy
    if frozen is None:
        return Metric(100 * accuracy.value, "of all points") if accuracy.value else Metric(None, "no point is reached")
    if frozen.path == run.path:
        return Metric(None, "it is the run that points are counted from")
    start = frozen.metrics["average_accuracy"]
    if start.value is None:
        return Metric(None, f"{frozen.path}: {start.reason}")
    gained = 100 * (accuracy.value - start.value)
    if gained <= 0:
        return Metric(None, f"no point is gained over frozen/{frozen.path.name}")
    return Metric(gained, f"of the points above frozen/{frozen.path.name}")


def _divided(cost: Metric, points: Metric) -> Metric:
    if cost.value is None or points.value is None:
        return Metric(None, cost.reason if cost.value is None else points.reason)
    return Metric(cost.value / points.value, ", ".join(filter(None, [cost.reason, points.reason])))
