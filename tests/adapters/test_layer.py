"""The layer in every setting against W0 x + b + g s B R A x written out, and what tasks may and may not change."""

import dataclasses
import functools
import itertools

import pytest
import torch
from peft import LoraConfig
from torch import nn

from clora_exp.adapters.active import answering
from clora_exp.adapters.layer import NAME, AdaptedLinear
from clora_exp.config import MethodConfig

LORA = MethodConfig(name="m", rank=4, alpha=6.0)
CLORA = dataclasses.replace(LORA, routing="additive", orthogonality="routing")
CLORA_XS = dataclasses.replace(LORA, basis="svd", routing="per_task", gate="scalar")
ISOLATED = [
    dataclasses.replace(LORA, factors="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="scalar", scale="learned"),
    dataclasses.replace(LORA, factors="per_task", gate="per_rank", routing="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="per_output"),
    CLORA_XS,
]
EVERY = [
    LORA,
    CLORA,
    dataclasses.replace(CLORA, gate="per_rank", scale="learned"),
    dataclasses.replace(CLORA, gate="per_output"),
    *ISOLATED,
]
names = {"argvalues": EVERY, "ids": lambda s: "-".join([s.factors, s.basis, s.routing, s.gate, s.scale])}


def make(settings: MethodConfig) -> AdaptedLinear:
    torch.manual_seed(0)
    base = nn.Linear(10, 8, dtype=torch.float64).requires_grad_(False)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha)
    layer = AdaptedLinear(base, NAME, settings=settings, config=config, r=settings.rank, lora_alpha=settings.alpha)
    return layer.double()


def learn(layer: AdaptedLinear, t: int, seed: int) -> None:
    """Stand in for training: move everything that trains."""
    layer.start_task(t)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in layer.parts_in_workspace():
            parameter = layer.part(part)
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    layer.finish_task()


def answers_when_learned(layer: AdaptedLinear, x: torch.Tensor, num_tasks: int) -> list[torch.Tensor]:
    """Return what the layer answers for each task when that task has just been learned."""
    answers = []
    for t in range(num_tasks):
        learn(layer, t, t)
        with answering(t):
            answers.append(layer(x))
    return answers


def written_out(layer: AdaptedLinear, x: torch.Tensor, t: int) -> torch.Tensor:
    s, parts = layer.settings, layer.parts_of(t)
    R = torch.eye(s.rank, dtype=x.dtype) if parts.R is None else parts.R + (0 if parts.R_old is None else parts.R_old)
    g = 1.0 if parts.gate is None else torch.sigmoid(parts.gate)
    if s.gate == "per_rank":
        R, g = torch.diag(g) @ R, 1.0
    delta = parts.scale * parts.B @ R @ parts.A
    delta = g[:, None] * delta if s.gate == "per_output" else g * delta
    return x @ (layer.base_layer.weight + delta).T + layer.base_layer.bias


@pytest.mark.parametrize("settings", **names)
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_formula(settings: MethodConfig, training: bool) -> None:
    layer, x = make(settings), torch.randn(2, 3, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    learn(layer, 1, 2)
    if training:
        layer.start_task(2)
        for part in layer.parts_in_workspace():
            if layer.part(part).requires_grad:
                nn.init.normal_(layer.part(part))
    for t in (2,) if training else (0, 1):
        with answering(t):
            torch.testing.assert_close(layer(x), written_out(layer, x, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", **names)
def test_a_fresh_layer_is_the_base_layer(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    with answering(0):
        torch.testing.assert_close(layer(x), layer.base_layer(x), rtol=0, atol=0)
        layer.start_task(0)
        torch.testing.assert_close(layer(x), layer.base_layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_learning_a_later_task_leaves_earlier_answers_bit_identical(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers = answers_when_learned(layer, x, 3)
    for t, before in enumerate(answers):
        with answering(t):
            assert torch.equal(layer(x), before)
    assert not torch.allclose(answers[0], answers[1])


def test_an_answer_needs_a_task() -> None:
    with pytest.raises(LookupError):
        make(LORA)(torch.randn(1, 10, dtype=torch.float64))


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


def test_the_first_task_of_clora_starts_as_lora_with_routing_identity() -> None:
    layer = make(CLORA)
    layer.start_task(0)
    assert torch.equal(layer.part("routing"), torch.eye(4, dtype=torch.float64))
    assert not layer.lora_routing_old.any()
    assert not layer.part("B").any()
    assert layer.part("A").any()


@pytest.mark.parametrize(("optimizer", "trains"), [("adamw", True), ("sgd", True), ("frozen", False)])
def test_frozen_factors_train_in_the_first_task_only(optimizer: str, trains: bool) -> None:
    layer = make(dataclasses.replace(CLORA, factor_optimizer=optimizer))
    layer.start_task(0)
    assert layer.part("A").requires_grad
    layer.finish_task()
    layer.start_task(1)
    assert layer.part("A").requires_grad is trains
    assert layer.part("routing").requires_grad


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
    trainable = {part for part in layer.parts_in_workspace() if layer.part(part).requires_grad}
    assert trainable == {"routing", "gate"}


@pytest.mark.parametrize("settings", **names)
def test_gradients_of_everything_that_trains_pass_gradcheck(settings: MethodConfig) -> None:
    """With additive routing A and B are held: their gradient is another by design, see test_routed.py."""
    layer, x = make(settings), torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    learn(layer, 0, 5)
    layer.start_task(1)
    held = ("A", "B") if settings.routing == "additive" else ()
    parts = [p for p in layer.parts_in_workspace() if layer.part(p).requires_grad and p not in held]
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


def test_threads_with_interleaved_tasks_get_their_own_answers() -> None:
    from concurrent.futures import ThreadPoolExecutor

    layer, x = make(CLORA_XS), torch.randn(5, 10, dtype=torch.float64)
    expected = answers_when_learned(layer, x, 4)

    def ask(t: int) -> bool:
        with answering(t):
            return torch.equal(layer(x), expected[t])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, itertools.islice(itertools.cycle(range(4)), 400)))


def test_peft_makes_the_layer_through_its_own_dispatch() -> None:
    from peft import inject_adapter_in_model

    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    config = LoraConfig(r=4, target_modules=["0"])
    config._register_custom_module({nn.Linear: functools.partial(AdaptedLinear, settings=LORA)})
    inject_adapter_in_model(config, model)
    assert isinstance(model[0], AdaptedLinear)
    assert not isinstance(model[2], AdaptedLinear)
