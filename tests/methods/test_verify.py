"""Every method keeps its promises; the command shows it, and shows one that is broken."""

import pytest
import torch
from trials import METHODS

from clora_exp.compose import compose_experiment
from clora_exp.methods import ewc
from clora_exp.methods.__main__ import main
from clora_exp.methods.invariant import distance, distance_of_all
from clora_exp.verification import promises


@pytest.mark.parametrize("method", [name for name in METHODS if name != "lora_anchor"])
def test_every_promise_is_kept(method: str) -> None:
    found = list(promises(compose_experiment([f"method={method}"]).method))
    assert len(found) >= 1
    broken = [promise for promise in found if not promise.holds]
    assert not broken


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=ewc", "method.ewc.mode=online", "method.ewc.fisher=exact"],
        ["method=ewc", "method.ewc.fisher=empirical"],
        ["method=olora", "method.olora.overlap=squared", "method.olora.norm_strength=0.1"],
        ["method=replay", "method.replay.selection=class_balanced", "method.replay.capacity=10"],
        ["method=derpp", "method.derpp.capacity_bytes=20000", "method.derpp.capacity=null"],
        ["method=full", "+method.ewc={}", "+method.replay={}"],
        ["method=clora", "+method.lwf={}", "+method.agem={}"],
    ],
)
def test_strategies_combine_with_other_settings_and_with_each_other(overrides: list[str]) -> None:
    assert not [promise for promise in promises(compose_experiment(overrides).method) if not promise.holds]


def test_the_command_prints_what_was_measured_and_fails_for_a_broken_promise(capsys, monkeypatch) -> None:
    assert main(["verify", "method=ewc", "method.ewc.fisher=exact"]) == 0
    shown = capsys.readouterr().out
    assert "exact Fisher information" in shown
    assert "1 method: every promise is kept" in shown
    right = ewc.Quadratic.__call__
    monkeypatch.setattr(ewc.Quadratic, "__call__", lambda self, theta: 2 * right(self, theta))  # the ½ forgotten
    assert main(["verify", "method=ewc"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_unknown_names_and_impossible_settings_are_one_line(capsys) -> None:
    assert main(["verify", "method=ewcc"]) == 2
    assert "unknown method 'ewcc'; have: agem," in capsys.readouterr().err
    assert main(["verify", "method=clora_xs", "+method.replay={}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: method.replay: with this adapter setting nothing")
    assert len(error.splitlines()) == 1


def test_a_method_in_a_folder_of_ones_own_is_verified_too(tmp_path, capsys) -> None:
    path = tmp_path / "method" / "narrow.yaml"
    path.parent.mkdir()
    path.write_text("defaults: [clora]\nname: narrow\nrank: 2\n")
    assert main(["verify", "--config-dir", str(tmp_path), "method=narrow"]) == 0
    assert "1 method: every promise is kept" in capsys.readouterr().out
    assert main(["verify", "--config-dir", str(tmp_path), "method=narow"]) == 2
    assert "Did you mean 'narrow'?" in capsys.readouterr().err
    assert main(["verify", "--config-dir", str(tmp_path / "nowhere"), "method=narrow"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_list_names_every_method_with_its_source_and_scenarios(capsys) -> None:
    assert main(["list"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for method in METHODS[:-1]:
        assert f" {method} " in f" {words} "
    for source in ("1612.00796", "1706.08840", "1606.09282", "2004.07211", "2404.00228"):
        assert source in words


def test_distances_are_relative_above_one_and_refuse_other_shapes() -> None:
    assert distance(torch.tensor([100.0, 1.0]), torch.tensor([110.0, 1.0])) == pytest.approx(10 / 110)
    assert distance(0.25, 0.5) == 0.25
    assert not distance(torch.zeros(2), torch.zeros(3)) <= 1e9
    assert not distance_of_all([torch.zeros(2)], []) <= 1e9
