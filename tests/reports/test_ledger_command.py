"""The ledger of a run as a person and a program read it."""

import json

from trials import quiet

from clora_exp.evaluation.ledger import DEFINITIONS
from clora_exp.loop import run
from clora_exp.reports.__main__ import main


def test_every_definition_is_printed_with_value_divisor_formula_and_source(tiny, capsys) -> None:
    folder = run(tiny("method=lora", "trainer.epochs=1"), "python run.py method=lora", quiet())
    assert main(["ledger", str(folder.path)]) == 0
    printed = capsys.readouterr().out
    for definition in DEFINITIONS:
        assert definition.key in printed
    flat = " ".join(printed.split())
    assert "divided by T(T − 1)/2" in flat
    assert "Continuum metrics.py backward_transfer (43ba009)" in flat
    assert "undefined: before a task is learned its own head is untrained: chance" in flat
    assert "undefined: needs the `single` reference: python run.py method=lora method.protocol=single seed=0" in flat
    assert main(["ledger", "--json", str(folder.path)]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    metrics = folder.read().metrics
    assert entries["bwt_gem"]["value"] == metrics["backward_transfer"].value
    assert entries["fwt_gem"]["value"] is None
    assert entries["fwt_gem"]["reason"]


def test_what_is_no_run_is_one_line(tmp_path, capsys) -> None:
    assert main(["ledger", str(tmp_path)]) == 2
    assert "no run directory" in capsys.readouterr().err
