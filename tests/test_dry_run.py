"""`dry_run=true` says what would run, and writes nothing."""

import io
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from trials import quiet

from clora_exp.dry_run import show
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal


def shown(config) -> str:
    printed = io.StringIO()
    show(config, Terminal(Console(file=printed, width=200, highlight=False, markup=False)))
    return printed.getvalue()


@pytest.mark.parametrize("method", ["lora", "clora", "full", "frozen", "clora_xs", "replay", "joint", "single"])
def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(tiny, method: str, tmp_path: Path) -> None:
    overrides = [f"method={method}", "trainer.epochs=3"]
    text = shown(tiny(*overrides, "dry_run=true"))
    assert not (tmp_path / "runs").exists()
    folder = run(tiny(*overrides), "", quiet())
    stored = folder.read()
    assert f"folder   {folder.path}\n" in text
    assert "run      has not begun" in text
    losses = stored.history[stored.history.metric == "train_loss"]
    assert re.search(rf"^steps +{len(losses)}$", text, re.MULTILINE)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if re.match(r"(first|second|third|all) ", line)}
    assert len(rows) == len(stored.costs)
    weights = (folder.path / "adapters" / "third" / "adapter.safetensors").stat().st_size
    shown_bytes = float(list(rows.values())[-1][-2]) * {"B": 1, "kB": 1e3, "MB": 1e6}[list(rows.values())[-1][-1]]
    assert shown_bytes == pytest.approx(weights, rel=0.02)
    assert re.search(r"^time +about .* learning, .* measuring$", text, re.MULTILINE)
    assert re.search(r"^memory +[\d.]+ [MG]B at the peak", text, re.MULTILINE)
    assert "run      is done" in shown(tiny(*overrides, "dry_run=true"))


def test_the_configuration_that_is_shown_reads_back(tiny) -> None:
    text = shown(tiny("method=clora", "seed=3", "dry_run=true"))
    read = yaml.safe_load(text.split("\n\n")[1])
    assert (read["method"]["name"], read["seed"], read["trainer"]["batch_size"]) == ("clora", 3, 8)


def test_a_dry_run_leaves_a_finished_run_as_it_is(tiny, tmp_path: Path) -> None:
    run(tiny("method=frozen"), "", quiet())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    shown(tiny("method=frozen", "dry_run=true", "overwrite=true"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_later_tasks_cost_beside_is_said(tiny) -> None:
    text = shown(tiny("method=gem", "dry_run=true"))
    assert "what gem adds: around a task, a pass over some examples" in text
    assert "a step of later tasks, grows: a backward pass an earlier task" in text
