"""Which task answers: in threads, in compiled graphs, in a backward pass that recomputes; never by default."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from layers import CLORA_XS, EVERY, LORA, answers_when_learned, learn, make, names, start

from clora_exp.adapters.active import answering, checkpoint_contexts, compiled
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError


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


def test_threads_with_interleaved_tasks_get_their_own_answers() -> None:
    layer, x = make(CLORA_XS), torch.randn(5, 10, dtype=torch.float64)
    expected = answers_when_learned(layer, x, 4)

    def ask(t: int) -> bool:
        with answering(t):
            return torch.equal(layer(x), expected[t])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, itertools.islice(itertools.cycle(range(4)), 400)))


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
