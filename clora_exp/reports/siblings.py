"""The references of a run, found where it lies: the runs beside it of the same stream and seed."""

from pathlib import Path

import yaml

from clora_exp.errors import RunError
from clora_exp.evaluation.metrics import Metric
from clora_exp.evaluation.references import KINDS, reference_of, referenced
from clora_exp.received import parse_yaml
from clora_exp.runs import StoredRun, read_run, status_of


def references_beside(run: StoredRun) -> list[StoredRun]:
    """Return the finished `single` and `joint` runs of the run's seed beside it; what cannot be read is none.

    They lie in the same folder of runs, results/runs/<tasks>/<method>/<hash8>-s<seed>/.
    """
    folder = run.path.absolute().parent.parent
    return [other for path in sorted(folder.glob(f"*/*-s{run.seed}")) if (other := _reference(path)) is not None]


def metrics_beside(run: StoredRun) -> dict[str, Metric]:
    """Return `transfer_gain` and `intransigence` of a finished run, or why each is undefined; else nothing."""
    if run.status != "done" or run.protocol != "sequence":
        return {}
    return referenced([run, *references_beside(run)])[run.path]


def accuracies_beside(run: StoredRun) -> dict[str, StoredRun]:
    """Return the run's references by kind, those that are there."""
    runs = references_beside(run)
    found = {kind: reference_of(run, kind, runs) for kind in KINDS.values()}
    return {kind: pair[0] for kind, pair in found.items() if pair is not None}


def _reference(path: Path) -> StoredRun | None:
    try:
        protocol = parse_yaml((path / "config.yaml").read_text(encoding="utf-8"))["method"]["protocol"]
        return read_run(path) if protocol in KINDS.values() and status_of(path) == "done" else None
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, RunError):
        return None
