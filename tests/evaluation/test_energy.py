"""Energy is counted without a word to the network, only where it is asked for, and says how it was found."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from trials import content, quiet

from clora_exp.errors import ConfigError
from clora_exp.evaluation.cost import CostMeter
from clora_exp.evaluation.energy import Energy, EnergyMeter, check_energy
from clora_exp.loop import run
from clora_exp.reports.run import write_report

CPU = torch.device("cpu")
ALONE = """
import sys, time, torch
def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {arguments}")
from clora_exp.evaluation.energy import EnergyMeter
sys.addaudithook(refuse)
with EnergyMeter(True, torch.device("cpu")) as meter:
    meter.start()
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    print(meter.stop())
"""


def test_counting_asks_and_writes_nothing_whatever_codecarbon_is_told(tmp_path) -> None:
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nsave_to_api=true\noutput_methods=csv,api\nelectricitymaps_api_token=x\nco2_signal_api_token=x\n"
        "emissions_endpoint=http://localhost:9\nallow_multiple_runs=false\n"
    )
    flags = [sys.executable, "-B", "-c", ALONE]
    done = subprocess.run(flags, cwd=tmp_path, capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Energy(joules=")
    assert float(done.stdout.split("=")[1].split(",")[0]) > 0
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    import clora_exp

    return os.environ | {"PYTHONPATH": str(Path(clora_exp.__file__).parent.parent)}


def test_where_it_is_not_asked_for_codecarbon_is_not_even_imported() -> None:
    script = """
import sys, torch
from clora_exp.evaluation.energy import Energy, EnergyMeter
with EnergyMeter(False, torch.device("cpu")) as meter:
    meter.start()
    assert meter.stop() == Energy(None, "off")
sys.exit("codecarbon" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], env=_environment()).returncode == 0


def test_asked_for_where_it_is_not_installed_is_one_line_with_what_to_type(monkeypatch) -> None:
    check_energy(True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_energy(False)
    with pytest.raises(ConfigError, match=r"trainer\.energy=true: needs codecarbon; pip install -e '\.\[energy\]'"):
        check_energy(True)


def test_a_session_that_was_interrupted_has_no_figure_for_half_of_it() -> None:
    with EnergyMeter(True, CPU) as meter:
        cost = CostMeter(CPU, 3.0, meter)
        cost.has_trained(7)
        found = cost.of("a", 1, 2, 3, 0.5, 7)
        assert (found.energy_joules, found.energy_source) == (None, "unknown: the session was interrupted")
        assert found.train_seconds >= 3
        cost = CostMeter(CPU, 0.0, meter)
        cost.has_trained(7)
        assert cost.of("a", 1, 2, 3, 0.5, 7).energy_source in ("measured", "estimated")
        assert meter.stop() == Energy(None, "unknown: it was not counted from the start")


def test_a_run_with_energy_has_it_in_its_table_and_page_and_the_same_results(tiny, tmp_path) -> None:
    with_energy = run(tiny("method=lora", "trainer.epochs=1", "trainer.energy=true"), "", quiet())
    without = run(tiny("method=lora", "trainer.epochs=1", f"results_dir={tmp_path / 'other'}"), "", quiet())
    assert with_energy.path.name == without.path.name
    assert content(with_energy) == content(without)
    costs = with_energy.read().costs
    assert (costs.energy_joules >= 0).all()
    assert set(costs.energy_source) <= {"measured", "estimated"}
    assert f"| {costs.energy_joules[0]:.3g} J, {costs.energy_source[0]} |" in write_report(with_energy.path).read_text()
    costs = without.read().costs
    assert costs.energy_joules.isna().all()
    assert set(costs.energy_source) == {"off"}
    assert "| energy |" not in write_report(without.path).read_text()


def test_a_table_of_a_version_without_energy_still_reads(tiny) -> None:
    folder = run(tiny("method=frozen", "trainer.epochs=1"), "", quiet())
    table = pd.read_csv(folder.path / "cost.csv").drop(columns=["energy_joules", "energy_source"])
    table.to_csv(folder.path / "cost.csv", index=False)
    (folder.path / "SHA256SUMS").unlink()
    assert "energy_joules" not in folder.read().costs
    assert write_report(folder.path).exists()
