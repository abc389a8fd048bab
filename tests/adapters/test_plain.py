"""The plain backend, which writes every update out as a matrix, as the oracle of PEFT: by layer, and in whole runs."""

import numpy as np
import pytest
import torch
from layers import EVERY, learn, make, name_of, start
from torch import nn

from clora_exp.adapters.active import answering
from clora_exp.adapters.plain import PlainLinear
from clora_exp.config import MethodConfig


def pair(settings: MethodConfig) -> tuple[nn.Module, PlainLinear]:
    """Return the layer of both backends with equal parameters."""
    ours = make(settings)
    plain = PlainLinear(ours.base_layer, settings, settings.rank).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
@pytest.mark.parametrize("task", [2, 0, torch.tensor([2, 0, 1, 2])], ids=["new", "old", "mixed"])
def test_values_and_gradients_are_the_plain_formula_s(settings: MethodConfig, task) -> None:
    layers, x = pair(settings), torch.randn(4, 3, 10, dtype=torch.float64)
    weights, found = torch.randn(4, 3, 8, dtype=torch.float64), []
    for layer in layers:
        torch.manual_seed(1)
        learn(layer, 0, 1)
        learn(layer, 1, 2)
        trained = start(layer, 2, 3)
        own = x.clone().requires_grad_()
        with answering(task):
            y = layer(own)
        wanted = [own, *(layer.part(part) for part in trained)]
        found.append([y, *torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True)])
    for ours, plain in zip(*found, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["clora", "clora_gated", "clora_xs", "clora_shared", "lora"])
def test_a_run_without_peft_is_the_run_with_it(tiny, method: str) -> None:
    from trials import quiet

    from clora_exp.loop import run

    fixed = [f"method={method}", "trainer.epochs=1"]
    runs = [run(tiny(*fixed, f"method.backend={backend}"), "x", quiet()).read() for backend in ("peft", "plain")]
    np.testing.assert_array_equal(runs[0].matrix.values, runs[1].matrix.values)
    losses = [r.history.query("metric == 'train_loss'")["value"] for r in runs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
