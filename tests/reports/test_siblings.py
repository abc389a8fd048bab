"""A finished run finds its references beside it, on real small runs."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from trials import quiet

from clora_exp.loop import run
from clora_exp.reports.ledger import of_run
from clora_exp.reports.run import write_report
from clora_exp.reports.siblings import metrics_beside, references_beside
from clora_exp.reports.terminal import Terminal
from clora_exp.runs import StoredRun, read_run


@pytest.fixture
def runs(tiny) -> dict[str, StoredRun]:
    names = {"lora": [], "single": [], "joint": [], "clora_xs": []}
    return {
        name: run(tiny(f"method={name}", "trainer.epochs=1", *more), "", quiet()).read() for name, more in names.items()
    }


def test_both_metrics_are_shown_from_the_runs_beside_it_and_metrics_json_stays(runs, tmp_path: Path) -> None:
    lora, single, joint = (runs[name].matrix.values for name in ("lora", "single", "joint"))
    before = (runs["lora"].path / "metrics.json").read_bytes()
    found = metrics_beside(runs["lora"])
    gain = np.mean([lora[j + 1, j] - single[j + 1, j] for j in (1, 2)])
    lack = np.mean([joint[3, j] - lora[j + 1, j] for j in range(3)])
    assert found["transfer_gain"].value == pytest.approx(gain, abs=1e-12)
    assert found["intransigence"].value == pytest.approx(lack, abs=1e-12)
    text = write_report(runs["lora"].path).read_text()
    assert f"gain over learning each task alone, against single/{runs['single'].path.name} |" in text
    assert (runs["lora"].path / "metrics.json").read_bytes() == before
    assert read_run(runs["lora"].path).metrics["transfer_gain"].value is None
    terminal = Terminal(Console(width=200, file=(tmp_path / "shown").open("w")))
    terminal._metrics(runs["clora_xs"])
    shown = (tmp_path / "shown").read_text()
    assert f"against joint/{runs['joint'].path.name}, `lora`'s setting: its own is not there" in shown


def test_a_reference_that_cannot_be_read_is_none_and_references_need_none(runs) -> None:
    assert {r.method for r in references_beside(runs["lora"])} == {"single", "joint"}
    assert metrics_beside(runs["single"]) == {}
    (runs["joint"].path / "cost.csv").write_text("task\n")
    assert [r.method for r in references_beside(runs["lora"])] == ["single"]
    assert metrics_beside(runs["lora"])["intransigence"].value is None


def test_the_ledger_takes_them_too(runs) -> None:
    entries = {entry.definition.key: entry.metric for entry in of_run(runs["lora"])}
    assert entries["transfer_gain"] == entries["transfer_gain"]
    assert entries["transfer_gain"].value == pytest.approx(metrics_beside(runs["lora"])["transfer_gain"].value)
    assert entries["acc"].value == runs["lora"].metrics["average_accuracy"].value
    assert entries["fwt_gem"].reason == runs["lora"].metrics["forward_transfer"].reason
    alone = {entry.definition.key: entry.metric for entry in of_run(runs["single"])}
    assert alone["acc_learning"].value == runs["single"].metrics["learning_accuracy"].value
    assert alone["bwt_gem"].reason == "each task is learned alone: only the diagonal is there"
