"""Sweeps of tiny runs, in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clora_exp.sweeps.sweep import sweep

CONF_OF_TESTS = Path(__file__).parent.parent / "conf"


@pytest.fixture
def words(tiny_bert: Path, tmp_path: Path) -> list[str]:
    """The settings of tiny runs, in tmp_path/runs."""
    return [
        f"hydra.searchpath=[file://{CONF_OF_TESTS}]",
        "model=tiny",
        f"model.path={tiny_bert}",
        "tasks=words",
        f"results_dir={tmp_path / 'runs'}",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "method.rank=4",
        "report=false",
    ]


@pytest.fixture
def swept(words: list[str], capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Sweep over tiny runs; return status, standard output and standard error."""

    def run(*overrides: str) -> tuple[int, str, str]:
        status = sweep(["-m", *words, *overrides])
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run
