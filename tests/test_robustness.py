"""Malformed input of every kind: a spread of the campaign's cases, and what the committed table says of all."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
PASSED = {"error", "repair", "skipped"}


@pytest.mark.slow
def test_a_spread_of_malformed_input_is_clear_errors_and_named_repairs(tmp_path: Path) -> None:
    words = ["experiments/robustness/bad_input.py", "--every", "20", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False)
    assert len(table) >= 40
    assert set(table["outcome"]) <= PASSED
    assert table["subject"].nunique() >= 8


def test_the_committed_table_has_hundreds_of_cases_and_no_failure() -> None:
    table = pd.read_csv(ROOT / "results/robustness/bad_input/table.csv", dtype=str, keep_default_na=False)
    assert (table["outcome"] != "skipped").sum() >= 200
    assert set(table["outcome"]) <= PASSED
    assert not table.duplicated(["subject", "case", "wrong"]).any()
