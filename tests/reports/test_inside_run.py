"""What lies in a run's adapters, read back: the pairs are the exported ones, and taking updates away is exact."""

import numpy as np
import pytest
import torch
from trials import quiet

from clora_exp.adapters.active import BASE, answering
from clora_exp.errors import RunError
from clora_exp.evaluation import inside
from clora_exp.loop import run
from clora_exp.reports.inside_run import needed, read_inside, without
from clora_exp.runs import read_run
from clora_exp.saved import load_task


@pytest.fixture
def learned(tiny):
    """Run a method on the word tasks; return its folder."""
    return lambda method: run(tiny(f"method={method}"), "", quiet()).path


def test_the_updates_are_those_that_are_exported(learned) -> None:
    folder = learned("clora_gated")
    found = read_inside(folder)
    assert found.tasks == ["first", "second", "third"]
    assert not found.is_cumulative
    for task, layers in found.updates.items():
        for name, (A, B) in load_task(folder, task).adapters.as_lora(0).items():
            torch.testing.assert_close(layers[name].B @ layers[name].A, B @ A)
    gates = inside.gates(found.updates)
    assert gates["gate"].between(0.4, 0.6).all()
    assert not np.allclose(gates["gate"], 0.5)
    assert inside.routing_sizes(found.updates, False).empty


def test_additive_routing_is_whole_and_its_steps_are_the_changes(learned) -> None:
    found = read_inside(learned("clora"))
    assert found.is_cumulative
    routing = inside.routing_sizes(found.updates, True)
    first, later = (routing[(routing["task"] == "first") == is_first] for is_first in (True, False))
    assert first["norm"].min() > 1.9, "R starts at the identity of rank 4, of norm 2"
    assert later["update"].between(1e-4, 1).all()
    name = next(iter(found.updates["first"]))
    moved = found.updates["second"][name].routing - found.updates["first"][name].routing
    mine = routing[(routing["task"] == "second") & (routing["layer"] == name)]["update"].item()
    assert mine == pytest.approx(float(moved.norm()))
    A, B = found.steps["third"][name]
    whole = [found.updates[task][name].B @ found.updates[task][name].A for task in ("second", "third")]
    torch.testing.assert_close(B @ A, whole[1] - whole[0])


def test_without_any_update_the_base_model_answers_and_all_come_back(learned) -> None:
    saved = load_task(learned("clora_xs"), "second")
    probe = saved.probe()
    before = saved.logits(probe)
    with torch.inference_mode(), answering(BASE):
        base = saved.model.alone(probe, saved.told)
    with without(saved.adapters, list(saved.adapters.layers)):
        torch.testing.assert_close(saved.logits(probe), base)
    torch.testing.assert_close(saved.logits(probe), before, rtol=0, atol=0)
    assert not torch.allclose(before, base)


def test_what_is_needed_lies_between_every_update_and_none(learned) -> None:
    folder = learned("lora")
    said: list[str] = []
    table = needed(folder, "third", saying=said.append)
    assert list(table["group"]) == said == ["0", "1"]
    matrix = read_run(folder).matrix.values
    assert table["all"].tolist() == pytest.approx([matrix[3, 2]] * 2)
    np.testing.assert_allclose(table["alone"], table["without"].to_numpy()[::-1])  # of two blocks each is the rest
    kinds = needed(folder, "third", by="kind")
    assert kinds["all"].iloc[0] == table["all"].iloc[0]
    assert kinds["none"].iloc[0] == table["none"].iloc[0]
    assert list(kinds["group"]) == ["query", "value"]


@pytest.mark.parametrize("method", ["frozen", "progressive"])
def test_what_is_no_low_rank_update_is_refused_in_one_line(method: str, learned) -> None:
    with pytest.raises(RunError, match=r"^\S+: method\.(trainable|composition)="):
        read_inside(learned(method))
