"""Make a comparison again from the runs that it names, and list every number that comes out otherwise.

What predictions decide is computed from predictions.csv.gz: matrices, metrics, tests; the rest is read from the runs'
own files. Each run's metrics.json and accuracy_matrix.csv are held against its predictions too. Status 1 where
anything differs.
"""

import argparse
import difflib
import html
import json
import re
from pathlib import Path
from typing import Any

from clora_exp.errors import CloraError, RunError
from clora_exp.reports.comparison import Left, compared
from clora_exp.reports.differences import csv_differences
from clora_exp.reports.evidence import Evidence, read_evidence
from clora_exp.reports.found import with_progress
from clora_exp.reports.inline_svg import texts_of
from clora_exp.reports.report import FORMAT, MANIFEST, from_other_runs, sha256, sums_sha256, versions, written

MOST_LINES = 8  # that are shown of one file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `compare` wrote (has sources.json)")


def main(options: argparse.Namespace) -> int:
    """Print every difference; return 1 where there is one."""
    problems, counted = verify(options.folder)
    for problem in problems:
        print(problem)
    if problems:
        print(f"\n{options.folder}: {len(problems)} difference{'s' * (len(problems) > 1)}")
        return 1
    print(f"{options.folder}: {counted}")
    return 0


def verify(folder: Path) -> tuple[list[str], str]:
    """Return what differs, a line each, and what was looked at, in words.

    Raises:
        RunError: the folder is no comparison.
    """
    manifest = _manifest(folder)
    evidence, problems = _evidence(folder, manifest)
    if len(evidence) < len(manifest["runs"]):
        return [*problems, f"{folder}: not made again, since runs that it names cannot be read"], ""
    try:
        comparison = compared(evidence, manifest["left"], from_other_runs(evidence), manifest["against"])
        files = written(comparison, manifest["looked_up"])
    except (CloraError, KeyError) as error:
        return [*problems, f"{folder}: cannot be made again: {error}"], ""
    for name, text in files.items():
        problems += _of_file(folder, name, text, is_redrawn=manifest["versions"] == versions())
    for name, expected in manifest["files"].items():
        if name.endswith(".png") and not ((folder / name).exists() and sha256(folder / name) == expected):
            problems.append(f"{name}: not the picture that was made")
    num_cells = sum(text.count("\n") - 1 for name, text in files.items() if name.endswith(".csv"))
    return problems, f"as its {len(evidence)} runs say: {len(files)} files, {num_cells} rows of numbers, no difference"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        raise RunError(f"{folder}: no comparison (no {MANIFEST} in it); python -m clora_exp.reports compare writes one")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
        for key in ("against", "runs", "left", "looked_up", "versions", "files"):
            manifest[key]
        return dict(manifest) | {"left": [Left(**run) for run in manifest["left"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _evidence(folder: Path, manifest: dict[str, Any]) -> tuple[list[Evidence], list[str]]:
    evidence, problems = [], []
    for run in with_progress(manifest["runs"], "reading runs"):
        path = folder / run["path"]
        try:
            found = read_evidence(path, run["path"])
        except RunError as error:
            problems += str(error).splitlines()
            continue
        if sums_sha256(path) != run["sums_sha256"]:
            problems.append(f"{path}: its SHA256SUMS is not the one the report was made from")
        problems += [f"{path}: {problem}" for problem in found.problems]
        evidence.append(found)
    return evidence, problems


def _of_file(folder: Path, name: str, text: str, is_redrawn: bool) -> list[str]:
    """Return how a file differs from what it should be; drawings of other versions only in their texts."""
    path = folder / name
    if not path.exists():
        return [f"{name}: is missing"]
    stored = path.read_text(encoding="utf-8")
    if stored == text:
        return []
    if name.endswith(".csv"):
        return csv_differences(name, stored, text)
    if not is_redrawn and name.endswith((".svg", ".html")):
        stored, text = _without_drawings(stored), _without_drawings(text)
    return _lines(name, stored, text)


def _without_drawings(text: str) -> str:
    """Return a page or a drawing with nothing of each drawing but its texts."""
    return re.sub(r"<svg.*?</svg>", lambda svg: "\n".join(texts_of(svg[0])), text, flags=re.DOTALL)


def _lines(name: str, stored: str, text: str) -> list[str]:
    first, second = stored.splitlines(), text.splitlines()
    problems = []
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind != "equal":
            says, should = (_plain(" ".join(lines)) for lines in (first[i:i_end], second[j:j_end]))
            problems.append(f"{name}, line {i + 1}: says {says!r}, the runs give {should!r}")
    more = len(problems) - MOST_LINES
    return problems[:MOST_LINES] + ([f"{name}: {more} more lines differ"] if more > 0 else [])


def _plain(line: str) -> str:
    words = html.unescape(re.sub(r"<[^>]*>", " ", line)).split()
    shown = " ".join(words) or line.strip()
    return shown if len(shown) <= 120 else shown[:119] + "…"
