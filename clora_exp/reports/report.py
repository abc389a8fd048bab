"""A comparison's folder: made from runs, and made again from the runs that it names, to see whether it is true."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from clora_exp.errors import RunError
from clora_exp.evaluation import cost_per_point
from clora_exp.evaluation.metrics import Metric
from clora_exp.evaluation.references import referenced
from clora_exp.files import place_of, write_atomically
from clora_exp.reports.comparison import Comparison, Left, compared
from clora_exp.reports.comparison_figures import draw_comparison
from clora_exp.reports.comparison_page import prefix_of, rendered
from clora_exp.reports.evidence import Evidence
from clora_exp.reports.guide import looked_up
from clora_exp.sums import NAME as SUMS

FORMAT = 1
MANIFEST = "sources.json"
PACKAGES = ("numpy", "scipy", "pandas", "matplotlib", "jinja2")  # whose versions can change a digit, or a drawing


def name_from(out: Path, run: Path) -> str:
    """Return the path of a run as seen from the report's folder, which stays true where both are moved together."""
    return Path(os.path.relpath(run.resolve(), out.resolve())).as_posix()


def make(out: Path, evidence: Sequence[Evidence], left: Sequence[Left], against: str | None) -> Comparison:
    """Write the report of these runs into `out`.

    Raises:
        RunError: nothing can be compared, `against` is none of the methods, or there is no room.
    """
    comparison = compared(evidence, left, from_other_runs(evidence), against)
    found = looked_up([setting for one in comparison.sets for setting in one.settings])
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = written(comparison, found, out / "figures")
        for name, text in files.items():
            write_atomically(out / name, text.encode())
        manifest = {
            "format": FORMAT,
            "against": against,
            "runs": [{"path": one.name, "sums_sha256": sums_sha256(one.run.path)} for one in evidence],
            "left": [asdict(one) for one in left],
            "looked_up": found,
            "versions": versions(),
            "files": {name: sha256(out / name) for name in sorted({*files, *_pictures(files)})},
        }
        write_atomically(out / MANIFEST, f"{json.dumps(manifest, indent=1, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written: {place_of(error, out)}") from error
    return comparison


def written(comparison: Comparison, found: Mapping[str, Any], figures: Path | None = None) -> dict[str, str]:
    """Draw the figures, into a folder if there is one; return every text file by name, the SVGs too."""
    drawn: dict[str, dict[str, str]] = {}
    svgs: dict[str, str] = {}
    for one in comparison.sets:
        prefix = prefix_of(one, len(comparison.sets))
        drawn[one.name] = draw_comparison(one, figures, prefix)
        svgs |= {f"figures/{prefix}{name}.svg": svg for name, svg in drawn[one.name].items()}
    return rendered(comparison, found, drawn) | svgs


def from_other_runs(evidence: Sequence[Evidence]) -> Mapping[Path, Mapping[str, Metric]]:
    """Return by run directory what runs of other methods define: `transfer_gain`, `intransigence`, costs of a point."""
    runs = [one.run for one in evidence]
    points = cost_per_point.beside(runs)
    return {path: found | points[path] for path, found in referenced(runs).items()}


def versions() -> dict[str, str]:
    """Return the versions that can change a digit."""
    return {name: metadata.version(name) for name in PACKAGES}


def sums_sha256(run: Path) -> str | None:
    """Return the hash of a run's SHA256SUMS, which stands for all its files; None of runs that are older than it."""
    return sha256(run / SUMS) if (run / SUMS).exists() else None


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pictures(files: Mapping[str, str]) -> list[str]:
    return [f"{name.removesuffix('.svg')}.png" for name in files if name.endswith(".svg")]
