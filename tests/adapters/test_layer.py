"""The layer in every setting against W0 x + b + g s B R A x written out, and against PEFT."""

import dataclasses
import functools

import pytest
import torch
from layers import (
    CLORA,
    CLORA_XS,
    EVERY,
    LORA,
    learn,
    make,
    name_of,
    names,
    written_out,
)
from peft import LoraConfig
from torch import nn

from clora_exp.adapters.active import UNLEARNED, answering
from clora_exp.adapters.family import NAME
from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError


@pytest.mark.parametrize("settings", **names)
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_formula(settings: MethodConfig, training: bool) -> None:
    layer, x = make(settings), torch.randn(2, 3, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    learn(layer, 1, 2)
    if training:
        layer.start_task(2)
        for part in layer.parts:
            if layer.part(part).requires_grad:
                nn.init.normal_(layer.part(part))
    for t in (2,) if training else (0, 1):
        with answering(t):
            torch.testing.assert_close(layer(x), written_out(layer, x, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", **names)
def test_a_fresh_layer_is_the_base_layer(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    with answering(UNLEARNED):
        torch.testing.assert_close(layer(x), layer.base_layer(x), rtol=0, atol=0)
    layer.start_task(0)
    with answering(0):
        torch.testing.assert_close(layer(x), layer.base_layer(x), rtol=0, atol=0)


def test_the_first_task_of_clora_starts_as_lora_with_routing_identity() -> None:
    layer = make(CLORA)
    layer.start_task(0)
    assert torch.equal(layer.part("routing"), torch.eye(4, dtype=torch.float64))
    assert not layer.lora_routing_old.any()
    assert not layer.part("B").any()
    assert layer.part("A").any()


def test_folding_the_routing_changes_no_answer_and_empties_the_new_one() -> None:
    layer, x = make(CLORA), torch.randn(5, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    layer.start_task(1)
    nn.init.normal_(layer.part("routing"))
    with answering(1):
        before = layer(x)
        layer.finish_task()
        torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    assert not layer.part("routing").any()


@pytest.mark.parametrize(("factor_tasks", "trains"), [(None, [True] * 3), (1, [True, False, False]), (2, [1, 1, 0])])
@pytest.mark.parametrize("settings", [CLORA, LORA], ids=["clora", "lora"])
def test_shared_factors_train_in_the_first_k_tasks(settings: MethodConfig, factor_tasks: int | None, trains) -> None:
    layer = make(dataclasses.replace(settings, factor_tasks=factor_tasks))
    for t, expected in enumerate(trains):
        layer.start_task(t)
        assert layer.part("A").requires_grad == layer.part("B").requires_grad == bool(expected)
        layer.finish_task()


def test_the_svd_basis_is_the_best_rank_r_approximation() -> None:
    layer = make(CLORA_XS)
    weight = layer.base_layer.weight
    product = layer.part("B") @ layer.part("A")
    singular = torch.linalg.svdvals(weight)
    residual = torch.linalg.matrix_norm(weight - product)
    torch.testing.assert_close(residual, singular[4:].square().sum().sqrt(), rtol=1e-6, atol=1e-6)
    largest = layer.part("B").gather(0, layer.part("B").abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    layer.start_task(0)
    trainable = {part for part in layer.parts if layer.part(part).requires_grad}
    assert trainable == {"routing", "gate"}


@pytest.mark.parametrize("settings", **names)
def test_gradients_of_everything_that_trains_pass_gradcheck(settings: MethodConfig) -> None:
    """With additive routing A and B are held: their gradient is another by design, see test_routed.py."""
    layer, x = make(settings), torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    learn(layer, 0, 5)
    layer.start_task(1)
    held = ("A", "B") if settings.routing == "additive" else ()
    parts = [p for p in layer.parts if layer.part(p).requires_grad and p not in held]
    trained = [layer.part(p) for p in parts]
    for parameter in trained:
        nn.init.normal_(parameter)

    def answer(x, *parameters):
        with answering(1):
            return torch.func.functional_call(layer, dict(zip(trained_names, parameters, strict=True)), (x,))

    trained_names = [n for n, p in layer.named_parameters() if any(p is q for q in trained)]
    ordered = [dict(layer.named_parameters())[n].detach().clone().requires_grad_() for n in trained_names]
    assert torch.autograd.gradcheck(answer, (x, *ordered))


def test_block_diagonal_routing_with_one_scalar_a_block_is_a_mixture_of_low_rank_experts() -> None:
    """Zhang et al. 2025: B diag(w1 I, w2 I) A x = w1 B1 A1 x + w2 B2 A2 x."""
    layer, x = make(CLORA), torch.randn(5, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    weights = torch.tensor([0.3, -1.2], dtype=torch.float64)
    with torch.no_grad():
        layer.lora_routing_old.copy_(torch.diag(weights.repeat_interleave(2)))
    A, B = layer.part("A"), layer.part("B")
    experts = [B[:, i : i + 2] @ A[i : i + 2] for i in (0, 2)]
    mixture = sum(w * x @ expert.T for w, expert in zip(weights, experts, strict=True))
    with answering(0):
        torch.testing.assert_close(layer(x) - layer.base_layer(x), layer.scaling[NAME] * mixture)


@pytest.mark.parametrize("settings", [s for s in EVERY if s.gate != "none"], ids=name_of)
def test_a_gate_of_zero_gives_the_base_layer_exactly(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(2, 3, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    with answering(0), torch.no_grad():
        assert not torch.equal(layer(x), layer.base_layer(x))
        layer.stack("gate").fill_(-torch.inf)
        assert torch.equal(layer(x), layer.base_layer(x))


def test_averaging_routings_on_one_basis_averages_the_updates() -> None:
    """ΔW is linear in R: with equal gate and scale, mean_i g s B R_i A = g s B (mean_i R_i) A. LoRA's B A is not."""
    layer, lora = make(dataclasses.replace(CLORA_XS, alpha=8.0)), make(dataclasses.replace(LORA, factors="per_task"))
    for t in range(3):
        learn(layer, t, t)
        learn(lora, t, t)
    layer.stack("gate").fill_(0.25)
    deltas = [B @ A for A, B in map(layer.as_lora, range(3))]
    layer.start_task(3)
    layer.part("routing").data.copy_(layer.stack("routing").mean(0))
    layer.part("gate").data.fill_(0.25)
    layer.finish_task()
    A, B = layer.as_lora(3)
    torch.testing.assert_close(B @ A, torch.stack(deltas).mean(0), rtol=0, atol=1e-14)
    pairs = [lora.as_lora(t) for t in range(3)]
    average = torch.stack([B for _, B in pairs]).mean(0) @ torch.stack([A for A, _ in pairs]).mean(0)
    assert not torch.allclose(average, torch.stack([B @ A for A, B in pairs]).mean(0), atol=1e-2)


@pytest.mark.parametrize("settings", **names)
def test_as_lora_is_the_layer_s_update(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(2, 3, 10, dtype=torch.float64)
    for t in range(2):
        learn(layer, t, t)
    for t in range(2):
        A, B = layer.as_lora(t)
        assert (A.shape, B.shape, A.dtype) == ((4, 10), (8, 4), torch.float64)
        with answering(t):
            torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ (B @ A).T, rtol=0, atol=1e-12)


def test_peft_makes_the_layer_through_its_own_dispatch() -> None:
    from peft import inject_adapter_in_model

    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    config = LoraConfig(r=4, target_modules=["0"])
    config._register_custom_module({nn.Linear: functools.partial(AdaptedLinear, settings=LORA)})
    inject_adapter_in_model(config, model)
    assert isinstance(model[0], AdaptedLinear)
    assert not isinstance(model[2], AdaptedLinear)


@pytest.mark.parametrize("name", ["merge", "unmerge", "get_delta_weight"])
def test_peft_s_own_way_to_one_task_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="several tasks"):
        getattr(make(CLORA_XS), name)(NAME)


def test_the_rank_pattern_is_peft_s(tiny_bert) -> None:
    from transformers import BertModel

    from clora_exp.adapters.backbone import Adapters

    settings = dataclasses.replace(CLORA_XS, rank_pattern={"layer.0.attention.self.query": 2, "value": 3})
    adapters = Adapters(BertModel.from_pretrained(tiny_bert), settings, ["query", "value"])
    ranks = {name: layer.part("routing").shape for name, layer in adapters.layers.items()}
    assert ranks == {
        "encoder.layer.0.attention.self.query": (2, 2),
        "encoder.layer.0.attention.self.value": (3, 3),
        "encoder.layer.1.attention.self.query": (4, 4),
        "encoder.layer.1.attention.self.value": (3, 3),
    }
    adapters.start_task(0)
    adapters.finish_task()
    assert {(len(A), B.shape[1]) for A, B in adapters.as_lora(0).values()} == {(4, 4)}


@pytest.mark.parametrize("settings", **names)
def test_conv1d_of_gpt2_is_adapted_as_the_same_linear_layer_is(settings: MethodConfig) -> None:
    from transformers.pytorch_utils import Conv1D

    linear = make(settings)
    torch.manual_seed(0)
    base = Conv1D(8, 10).double().requires_grad_(False)
    base.weight.copy_(linear.base_layer.weight.T)
    base.bias.copy_(linear.base_layer.bias)
    config = LoraConfig(r=4, lora_alpha=6.0, fan_in_fan_out=True)
    conv = AdaptedLinear(base, NAME, settings=settings, config=config, r=4, lora_alpha=6.0).double()
    if settings.basis == "svd":
        conv.use_svd_basis()
    conv.part("A").data.copy_(linear.part("A"))
    x = torch.randn(2, 3, 10, dtype=torch.float64)
    for layer in (linear, conv):
        torch.manual_seed(1)
        learn(layer, 0, 1)
    with answering(0):
        torch.testing.assert_close(conv(x), linear(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", **names)
def test_a_base_in_half_precision_keeps_its_dtype_and_the_adapters_theirs(settings: MethodConfig) -> None:
    layer, x = make(settings).float(), torch.randn(4, 3, 10)
    learn(layer, 0, 1)
    exact = written_out(layer, x, 0)
    layer.base_layer.to(torch.bfloat16)
    for task in (0, torch.zeros(4, dtype=torch.int64)):
        with answering(task):
            y = layer(x.to(torch.bfloat16))
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.1)


def test_with_the_old_path_trained_the_factors_see_the_whole_update() -> None:
    """∂L/∂B = s G (R A)ᵀ with the whole R; with the old path detached R_δ stands in R's place."""
    x, G = torch.randn(3, 10, dtype=torch.float64), torch.ones(8, 3, dtype=torch.float64)
    for old_path in ("detached", "trained"):
        layer = make(dataclasses.replace(CLORA, old_path=old_path))
        learn(layer, 0, 1)
        layer.start_task(1)
        nn.init.normal_(layer.part("routing"))
        with answering(1):
            layer(x).sum().backward()
        R = layer.part("routing") + (layer.lora_routing_old if old_path == "trained" else 0)
        expected = layer.scaling[NAME] * (G @ x) @ (R @ layer.part("A")).T
        torch.testing.assert_close(layer.part("B").grad, expected)


def test_what_others_hold_of_the_base_layer_is_not_written_into() -> None:
    """Without gradients the update is added in place: not where a hook keeps or returns the tensor, nor in vmap."""
    layer, x = make(LORA), torch.randn(3, 10, dtype=torch.float64)
    learn(layer, 0, 0)
    with torch.no_grad(), answering(0):
        plain, kept, held = layer(x), [], torch.randn(3, 8, dtype=torch.float64)
        hook = layer.base_layer.register_forward_hook(lambda module, args, result: kept.append(result))
        torch.testing.assert_close(layer(x), plain)
        torch.testing.assert_close(kept[0], layer.base_layer(x))
        hook.remove()
        before = held.clone()
        hook = layer.base_layer.register_forward_hook(lambda module, args, result: held)
        torch.testing.assert_close(layer(x) - before, plain - kept[0])
        assert torch.equal(held, before)
        hook.remove()
        torch.testing.assert_close(torch.vmap(layer)(x[None])[0], plain)
