"""Code is counted as one would by hand, switch times come from the file that the benchmark writes."""

import json
from pathlib import Path

import pytest
from made_runs import known_runs, learned, made_run, ones

from clora_exp.compose import compose_experiment
from clora_exp.identity import plain_config
from clora_exp.reports import guide
from clora_exp.reports.comparison import compared
from clora_exp.reports.evidence import read_evidence
from clora_exp.reports.found import find_runs
from clora_exp.reports.guide_table import guide_table

SOURCE = '''"""A module.

Of two paragraphs.
"""

import os  # why

# a comment


def f(x):
    """Say it."""
    text = """two
lines"""
    return (
        x
    )
'''


def test_lines_are_those_with_code_docstrings_comments_and_blank_ones_apart() -> None:
    assert guide.lines_of_code(SOURCE) == 7  # import, def, two of text, three of return


def _complexity(method: str) -> dict:
    return guide.complexity(method, plain_config(compose_experiment([f"method={method}"]))["method"])


@pytest.mark.parametrize(
    ("method", "files", "fields"),
    [
        ("lora", [], 0),
        ("full", [], 2),
        ("clora", ["adapters/routed.py", "adapters/penalty.py"], 5),
        ("gem", ["methods/gem.py"], 4),
        ("progressive", ["adapters/composition.py"], 3),
    ],
)
def test_a_methods_own_code_is_found_from_its_settings(method: str, files: list[str], fields: int) -> None:
    found = _complexity(method)
    assert (found["files"], found["fields"]) == (files, fields)
    assert (found["lines"] > 0) == bool(files)
    assert not set(found["builds_on"]) & set(files)


def _table(root: Path, looked_up=None) -> dict[str, list[str]]:
    (found,) = compared([read_evidence(run.path) for run in find_runs([root])]).sets
    table = guide_table(found, looked_up or guide.looked_up(found.settings))
    return {row[1].text: [cell.text for cell in row] for row in table.rows} | {"notes": table.notes}


def test_the_table_has_a_row_for_each_approach_and_measured_figures_or_dashes(tmp_path: Path) -> None:
    rows = _table(known_runs(tmp_path))
    assert rows["lora"][:7] == ["standard LoRA", "lora", "0.400 ± 0.100", "2 kB", "30 B", "10", "none to do"]
    assert rows["gem"] == ["GEM", "gem", *["–"] * 7]
    assert set(rows) == {"clora", "full", "lora", "ewc", "gem", "progressive", "replay", "notes"}


def test_switch_times_are_read_from_the_benchmarks_file_for_the_method_it_measured(tmp_path: Path) -> None:
    measured = json.loads(guide.SWITCHING.read_text())
    for seed in (0, 1):
        for method in ("clora_xs", "clora_gated"):
            made_run(tmp_path, method, seed, learned(ones(9), ones(9), ones(9)))
    rows = _table(tmp_path)
    assert rows["clora_xs"][6] == f"{measured['switch_p99_ms']['1000']:.2f} (1000 tasks)"
    assert rows["clora_gated"][6] == "–"
    assert any(measured["command"] in note for note in rows["notes"])


def test_without_the_benchmarks_file_the_command_that_measures_it_is_named(tmp_path: Path, monkeypatch) -> None:
    for seed in (0, 1):
        made_run(tmp_path, "clora_xs", seed, learned(ones(9), ones(9), ones(9)))
    monkeypatch.setattr(guide, "SWITCHING", tmp_path / "nowhere.json")
    rows = _table(tmp_path)
    assert rows["clora_xs"][6] == "–"
    assert any("`python benchmarks/adapters.py` does" in note for note in rows["notes"])
