"""The layer in every setting against W0 x + b + g s B R A x written out, and what tasks may and may not change."""

import dataclasses
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig
from torch import nn

from clora_exp.adapters.active import UNLEARNED, answering, checkpoint_contexts, compiled
from clora_exp.adapters.family import NAME
from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

LORA = MethodConfig(name="m", rank=4, alpha=6.0)
CLORA = dataclasses.replace(LORA, routing="additive", orthogonality="routing")
CLORA_XS = dataclasses.replace(LORA, basis="svd", routing="per_task", gate="scalar")
CLORA_SHARED = dataclasses.replace(LORA, routing="per_task", gate="scalar", factor_tasks=1)
ISOLATED = [
    dataclasses.replace(LORA, factors="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="scalar", scale="learned"),
    dataclasses.replace(LORA, factors="per_task", gate="per_rank", routing="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="per_output"),
    CLORA_XS,
    CLORA_SHARED,
]
EVERY = [
    LORA,
    CLORA,
    dataclasses.replace(CLORA, gate="per_rank", scale="learned"),
    dataclasses.replace(CLORA, gate="per_output"),
    dataclasses.replace(CLORA, inference_routing="snapshot"),
    *ISOLATED,
]


def name_of(s: MethodConfig) -> str:
    kinds = (s.factors, s.basis, s.factor_tasks, s.routing, s.inference_routing, s.gate, s.scale)
    return "-".join(map(str, kinds))


names = {"argvalues": EVERY, "ids": name_of}


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
        for part in layer.parts:
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


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_learning_a_later_task_leaves_earlier_answers_bit_identical(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers = answers_when_learned(layer, x, 3)
    for t, before in enumerate(answers):
        with answering(t):
            assert torch.equal(layer(x), before)
    assert not torch.allclose(answers[0], answers[1])


def test_an_answer_needs_a_task() -> None:
    with pytest.raises(ModelError, match="which task"):
        make(LORA)(torch.randn(1, 10, dtype=torch.float64))


@pytest.mark.parametrize("task", [2, 7, -1, -2])
@pytest.mark.parametrize("settings", **names)
def test_a_task_that_was_never_learned_is_an_error(settings: MethodConfig, task: int) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers_when_learned(layer, x, 2)
    with answering(task), pytest.raises(ModelError, match=f"task {task} has not been learned; 2 tasks have"):
        layer(x)


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


def test_threads_with_interleaved_tasks_get_their_own_answers() -> None:
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


def start(layer: AdaptedLinear, t: int, seed: int) -> list[str]:
    """Begin task t away from its start, where everything has a gradient; return the names of what trains."""
    layer.start_task(t)
    torch.manual_seed(seed)
    for part in layer.parts:
        if layer.part(part).requires_grad:
            nn.init.normal_(layer.part(part))
    return [part for part in layer.parts if layer.part(part).requires_grad]


@pytest.mark.parametrize("shape", [(6, 10), (6, 3, 10), (6, 2, 3, 10)])
@pytest.mark.parametrize("settings", **names)
def test_a_mixed_batch_is_its_rows_one_by_one(settings: MethodConfig, shape: tuple[int, ...]) -> None:
    layer, x = make(settings), torch.randn(shape, dtype=torch.float64)
    for t in range(3):
        learn(layer, t, t)
    rows = [2, 0, 1, 0, 2, 1]
    with answering(torch.tensor(rows)):
        mixed = layer(x)
    for i, t in enumerate(rows):
        for task in (t, torch.tensor(t)):
            with answering(task):
                torch.testing.assert_close(mixed[i : i + 1], layer(x[i : i + 1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", **names)
def test_a_mixed_batch_trains_the_task_in_training_as_its_rows_would(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(6, 3, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    learn(layer, 1, 2)
    trained = start(layer, 2, 3)
    rows = [2, 0, 2, 1, 0, 2]
    weights = torch.randn(6, 3, 8, dtype=torch.float64)

    def gradients(total: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad(total, [layer.part(part) for part in trained])

    with answering(torch.tensor(rows)):
        mixed = gradients((layer(x) * weights).sum())
    one_by_one = torch.zeros((), dtype=torch.float64)
    for i, t in enumerate(rows):
        with answering(t):
            one_by_one = one_by_one + (layer(x[i : i + 1]) * weights[i]).sum()
    for part, ours, expected in zip(trained, mixed, gradients(one_by_one), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10, msg=part)


def test_an_unknown_task_in_a_mixed_batch_is_an_error() -> None:
    layer = make(CLORA_XS)
    learn(layer, 0, 0)
    with answering(torch.tensor([0, 1])), pytest.raises(IndexError):
        layer(torch.randn(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("num_ended", [0, 1, 2])
@pytest.mark.parametrize("wrong", [3, 7, -1])
def test_an_unknown_task_beside_one_in_training_is_an_error(num_ended: int, wrong: int) -> None:
    layer = make(CLORA_XS)
    for t in range(num_ended):
        learn(layer, t, t)
    start(layer, num_ended, 0)
    for rows in ([wrong, wrong], [num_ended, wrong]):
        with answering(torch.tensor(rows)), pytest.raises(IndexError):
            layer(torch.randn(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_each_row_is_answered_by_what_its_task_had_learned(settings: MethodConfig) -> None:
    """By parts noted down outside the layer as each task ended, and the formula written out."""
    layer, x, noted = make(settings), torch.randn(6, 10, dtype=torch.float64), []
    for t in range(3):
        start(layer, t, t)
        noted.append({part: layer.part(part).detach().clone() for part in layer.parts})
        layer.finish_task()
    start(layer, 3, 9)
    noted.append({part: layer.part(part).detach().clone() for part in layer.parts})
    rows = [2, 0, 3, 1, 0, 3]
    with answering(torch.tensor(rows)):
        mixed = layer(x)
    for i, t in enumerate(rows):
        of = noted[t]
        R = of.get("routing", torch.eye(4, dtype=torch.float64))
        gate = torch.sigmoid(of["gate"]) if "gate" in of else torch.ones((), dtype=torch.float64)
        inner, outer = (
            (gate.expand(4), torch.ones(8)) if settings.gate == "per_rank" else (torch.ones(4), gate.expand(8))
        )
        scale = of.get("scale", torch.tensor(6.0 / 4))
        delta = scale * torch.diag(outer.double()) @ of["B"] @ torch.diag(inner.double()) @ R @ of["A"]
        expected = layer.base_layer(x[i]) + delta @ x[i]
        torch.testing.assert_close(mixed[i], expected, rtol=0, atol=1e-10)
        with answering(t):
            torch.testing.assert_close(layer(x[i : i + 1])[0], expected, rtol=0, atol=1e-10)


def test_a_snapshot_answers_while_a_later_task_trains() -> None:
    layer, x = (
        make(dataclasses.replace(CLORA, factor_tasks=1, inference_routing="snapshot")),
        torch.randn(3, 10).double(),
    )
    answers = answers_when_learned(layer, x, 2)
    start(layer, 2, 5)
    with answering(2):
        new = layer(x)
    for t in (0, 1):
        with answering(t):
            torch.testing.assert_close(layer(x), answers[t], rtol=0, atol=1e-12)
    with answering(torch.tensor([1, 2, 0])):
        expected = torch.stack([answers[1][0], new[1], answers[0][2]])
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_tasks_begin_in_order() -> None:
    layer = make(CLORA_XS)
    learn(layer, 0, 0)
    for t in (0, 2):
        with pytest.raises(ModelError, match=f"task {t} cannot begin: 1 tasks have ended"):
            layer.start_task(t)
    layer.start_task(1)
    with pytest.raises(ModelError, match="1 is in training"):
        layer.start_task(2)


@pytest.mark.parametrize("name", ["merge", "unmerge", "get_delta_weight"])
def test_peft_s_own_way_to_one_task_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="several tasks"):
        getattr(make(CLORA_XS), name)(NAME)


def test_a_snapshot_keeps_the_routing_of_the_task_and_the_latest_moves_on() -> None:
    """With the factors fixed after the first task the snapshot forgets nothing; the latest routing does."""
    x = torch.randn(5, 10, dtype=torch.float64)
    for routing in ("latest", "snapshot"):
        layer = make(dataclasses.replace(CLORA, factor_tasks=1, inference_routing=routing))
        answers = answers_when_learned(layer, x, 3)
        with answering(0):
            assert torch.equal(layer(x), answers[0]) == (routing == "snapshot")
        assert layer.stack("snapshot").shape == (3, 4, 4) if routing == "snapshot" else not layer.owned


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_a_warm_start_answers_as_the_earlier_task_did(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers = answers_when_learned(layer, x, 2)
    layer.start_task(2, like=0)
    with answering(2):
        torch.testing.assert_close(layer(x), answers[0], rtol=0, atol=1e-12)


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
    conv.part("A").data.copy_(linear.part("A"))
    x = torch.randn(2, 3, 10, dtype=torch.float64)
    for layer in (linear, conv):
        torch.manual_seed(1)
        learn(layer, 0, 1)
    with answering(0):
        torch.testing.assert_close(conv(x), linear(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("settings", "num_tasks"), [(CLORA_XS, 100), *((s, 4) for s in EVERY)])
def test_switching_compiled_recompiles_nothing(settings: MethodConfig, num_tasks: int) -> None:
    """One graph for an index, one for an index a row, whichever task they name."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer, x = make(settings), torch.randn(4, 10, dtype=torch.float64)
    for t in range(num_tasks):
        learn(layer, t, t)
    fast = compiled(layer, fullgraph=True, backend="aot_eager")
    for t in range(num_tasks):
        for task in (t, torch.randint(0, num_tasks, (4,))):
            with answering(task):
                torch.testing.assert_close(fast(x), layer(x), rtol=0, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_graph_that_breaks_or_nests_leaves_no_task_behind() -> None:
    torch._dynamo.reset()
    layer, x = make(CLORA_XS), torch.randn(4, 10, dtype=torch.float64)
    expected = answers_when_learned(layer, x, 2)

    @torch.compile(backend="aot_eager")
    def broken(x: torch.Tensor) -> torch.Tensor:
        with answering(torch.tensor(1)):
            x = x * 1
            torch._dynamo.graph_break()
            return layer(x)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def nested(x: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with answering(one):
            with answering(other):
                inner = layer(x)
            return inner, layer(x)

    torch.testing.assert_close(broken(x), expected[1], rtol=0, atol=1e-12)
    found = nested(x, torch.tensor(0), torch.tensor(1))
    for ours, right in zip(found, reversed(expected), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)
    with pytest.raises(ModelError, match="which task"):
        torch.compile(layer, backend="aot_eager")(x)
    with pytest.raises(ModelError, match="which task"):
        layer(x)


@pytest.mark.parametrize("settings", **names)
def test_a_recomputing_backward_answers_the_task_of_its_forward(settings: MethodConfig) -> None:
    """The backward pass runs outside `answering`, after another task was asked."""
    from torch.utils.checkpoint import checkpoint

    layer, x = make(settings), torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    learn(layer, 0, 1)
    trained = start(layer, 1, 2)
    wanted = [x, *(layer.part(part) for part in trained)]
    with answering(1):
        expected = torch.autograd.grad(layer(x).square().sum(), wanted)
        losses = [
            checkpoint(layer, x, use_reentrant=False, context_fn=checkpoint_contexts).square().sum() for _ in range(2)
        ]
    with answering(0), ThreadPoolExecutor(1) as pool:
        here = torch.autograd.grad(losses[0], wanted)
        elsewhere = pool.submit(torch.autograd.grad, losses[1], wanted).result()
    for found in (here, elsewhere):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


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
