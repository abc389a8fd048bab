"""Energy, and what a point of accuracy above `frozen` costs, in a comparison of runs whose costs are known."""

import re
from pathlib import Path

import pandas as pd
import pytest
from made_runs import learned, made_run, ones

from clora_exp.reports.__main__ import main
from clora_exp.reports.comparison import ComparableSet, Comparison, compared
from clora_exp.reports.evidence import read_evidence
from clora_exp.reports.found import find_runs
from clora_exp.reports.report import from_other_runs
from clora_exp.reports.tables import Table, tables

GUIDE = Table("The guide's comparison", [], [])


def _runs(root: Path, energy: bool, with_frozen: bool = True) -> Path:
    """Write frozen at 0.5, lora at 0.7 and ewc at 0.4, two seeds each; learning takes 3 + seed seconds."""
    for seed in (0, 1):
        counted = {"joules": (30.0, 10.0 + 20 * seed), "energy_source": "measured"} if energy else {}
        made_run(root, "lora", seed, learned(ones(9), ones(5), ones(9)), **counted)
        other = counted | {"energy_source": "estimated"} if energy and seed == 0 else {}
        made_run(root, "ewc", seed, learned(ones(9), ones(4), ones(4)), **other)
        if with_frozen:
            made_run(root, "frozen", seed, learned(ones(5), ones(5), ones(5)))
    return root


def _set(root: Path) -> ComparableSet:
    evidence = [read_evidence(run.path) for run in find_runs([root])]
    comparison: Comparison = compared(evidence, extra=from_other_runs(evidence))
    return comparison.sets[0]


def _table(found: ComparableSet, title: str) -> Table | None:
    return next((table for table in tables(found, GUIDE) if table.title == title), None)


def _row(table: Table, label: str) -> dict[str, str]:
    cells = next(row for row in table.rows if row[0].text == label)
    return dict(zip(table.heads, (cell.text for cell in cells), strict=True))


def test_a_point_is_one_above_frozen_of_the_same_seed(tmp_path: Path) -> None:
    lora = next(s for s in _set(_runs(tmp_path, energy=True)).settings if s.label == "lora")
    assert lora.values["seconds_per_point"] == pytest.approx({0: 3 / 20, 1: 4 / 20})
    assert lora.values["bytes_per_point"] == pytest.approx({0: 400 / 20, 1: 400 / 20})
    assert lora.values["joules_per_point"] == pytest.approx({0: 40 / 20, 1: 60 / 20})
    assert lora.values["energy_joules"] == pytest.approx({0: 40, 1: 60})


def test_the_table_says_what_a_point_is_how_energy_was_found_and_why_some_have_none(tmp_path: Path) -> None:
    found = _set(_runs(tmp_path, energy=True))
    table = _table(found, "Cost of a point")
    assert table is not None
    lora = _row(table, "lora")
    assert lora["learning, a point"] == "0.175 s ± 0.0354 s"
    assert lora["bytes a task, a point"] == "20 B"
    assert lora["energy, a point"] == "2.5 J ± 0.707 J"
    assert list(_row(table, "ewc").values())[2:] == ["–", "–", "–"]
    text = " ".join(table.notes)
    assert "above that of the `frozen` run of the same seed" in text
    assert "Energy is measured; a dash stands where nobody counted it, or no point is gained." in text
    assert "None of ewc: no point is gained over frozen/00000000-s0." in text
    assert "None of frozen: it is the run that points are counted from." in text
    cost = _table(found, "Cost")
    assert cost is not None
    assert _row(cost, "lora")["energy of learning"] == "50 J ± 14.1 J"
    assert _row(cost, "ewc")["energy of learning"] == "40 J (n = 1)"
    assert _row(cost, "frozen")["energy of learning"] == "–"
    assert "Energy is measured: lora; estimated: ewc; a dash stands where nobody counted it" in " ".join(cost.notes)


def test_where_nobody_counted_energy_there_is_no_column_of_it(tmp_path: Path) -> None:
    found = _set(_runs(tmp_path, energy=False))
    for title in ("Cost", "Cost of a point"):
        table = _table(found, title)
        assert table is not None
        assert not [head for head in table.heads if "energy" in head]
        assert "Energy" not in " ".join(table.notes)
    assert _row(table, "lora")["bytes a task, a point"] == "20 B"


def test_without_a_frozen_run_no_point_is_counted_and_the_command_is_named(tmp_path: Path) -> None:
    found = _set(_runs(tmp_path, energy=True, with_frozen=False))
    assert _table(found, "Cost of a point") is None
    cost = _table(found, "Cost")
    assert cost is not None
    assert "What a point of accuracy costs: needs the `frozen` run of seed 0: python run.py method=frozen " in " ".join(
        cost.notes
    )


def test_a_frozen_run_of_another_seed_or_budget_is_not_the_one(tmp_path: Path) -> None:
    _runs(tmp_path, energy=False, with_frozen=False)
    made_run(tmp_path, "frozen", 1, learned(ones(5), ones(5), ones(5)))
    made_run(tmp_path, "frozen", 0, learned(ones(5), ones(5), ones(5)), changes={"trainer.epochs": 9})
    lora = next(s for s in _set(tmp_path).settings if s.label == "lora")
    assert lora.values["seconds_per_point"] == pytest.approx({1: 4 / 20})


def test_the_numbers_stand_in_the_files_and_verify_makes_them_again(tmp_path: Path, capsys) -> None:
    _runs(tmp_path / "runs", energy=True)
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "comparison.csv").set_index(["label", "metric"])
    assert table.loc[("lora", "joules_per_point"), "mean"] == pytest.approx(2.5)
    assert re.search(r"\| `lora` \| 2 \| 0\.175 s ± 0\.0354 s \| 20 B \|", (tmp_path / "comparison.md").read_text())
    assert main(["verify", str(tmp_path)]) == 0
