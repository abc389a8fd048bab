"""Figures of what adapters have learned hold the numbers of their tables."""

import numpy as np
import torch
from trials import quiet

from clora_exp.evaluation import inside
from clora_exp.loop import run
from clora_exp.reports import inside_figures as draw
from clora_exp.reports.inside_run import needed, read_inside


def test_figures_show_the_numbers_they_are_given(tiny) -> None:
    found = read_inside(run(tiny("method=clora"), "", quiet()).path)
    table = inside.sizes(found.steps, found.updates)
    drawn = draw.where(table)
    assert [axes.get_title(loc="left") for axes in drawn.axes[:3]] == found.tasks
    shown = drawn.axes[0].images[0].get_array().compressed()
    np.testing.assert_allclose(np.sort(shown), np.sort(table[table["task"] == "first"]["relative"]))
    name = next(iter(found.updates["first"]))
    added = draw.routing_matrices(found.updates, name, "added")
    assert [axes.get_title(loc="left") for axes in added.axes[:2]] == ["added by second", "added by third"]
    R = [layers[name].routing for layers in found.updates.values()]
    np.testing.assert_allclose(added.axes[0].images[0].get_array(), R[1] - R[0])
    np.testing.assert_allclose(
        draw.routing_matrices(found.updates, name, "minus identity").axes[2].images[0].get_array(), R[2] - torch.eye(4)
    )
    matrix, chance = inside.overlaps(found.steps, "reads", 2)
    panel = draw.overlaps({"reads": (matrix, chance)}, found.tasks).axes[0]
    assert [text.get_text() for text in panel.texts] == [f"{value:.2f}" for value in matrix.flat]
    assert panel.get_xlabel() == f"random subspaces: {chance:.2f}"
    cosines = inside.cosines(found.steps)
    texts = [text.get_text() for text in draw.cosines(cosines, found.tasks, "").axes[0].texts]
    assert texts == [f"{value:.2f}".replace("-", "−") for value in cosines.flat]
    routing = inside.routing_sizes(found.updates, True)
    drops = inside.update_and_drop(found.steps, routing, found.run.matrix.values)
    (points,) = draw.update_against_drop({"clora": drops}, "routing", "").axes[0].collections
    np.testing.assert_allclose(points.get_offsets(), np.column_stack([drops["routing"], 100 * drops["drop"]]))
    line = draw.gates(inside.gates(found.updates)).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 32 / 4)
    alone = draw.needed({"third": needed(found.run.path, "third")}).axes[0].collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(alone, needed(found.run.path, "third")["alone"])
