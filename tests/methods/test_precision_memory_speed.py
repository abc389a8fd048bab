"""bf16 autocast, gradient checkpointing, accumulation and torch.compile, with every adapter setting, on a tiny BERT."""

from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from trials import SETTINGS, quiet

from clora_exp.adapters.active import answering
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.models.batches import mixed_batch
from clora_exp.randomness import seed_everything
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream

ADAPTED = [name for name in SETTINGS if name not in ("frozen", "full")]
COMPILED = ["clora", "clora_gated", "clora_xs", "sdlora"]  # every sort of part; progressive has a pass a column


def learn(config, num_tasks: int = 2) -> tuple[Method, list[list[float]]]:
    """Train the first tasks; return the method and the losses of each."""
    stream = load_stream(config.tasks, 0)
    seed_everything(0)
    method, losses = Method(config, stream), []
    for t, task in enumerate(stream.tasks[:num_tasks]):
        seed_everything(0, t)
        method.before_task(t, task)
        losses.append(
            [s.loss for s in fit(method, method.model.encode(t, task, "train"), task.name, config.trainer, t)]
        )
        method.after_task(t, task)
    return method, losses


@pytest.mark.parametrize("name", ADAPTED)
def test_gradient_checkpointing_changes_no_number(tiny, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = (f"method={name}", "method.dropout=0.0", "trainer.epochs=1")
    _, without = learn(tiny(*fixed))
    calls = []
    original = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    _, losses = learn(tiny(*fixed, "trainer.gradient_checkpointing=true"))
    np.testing.assert_allclose(losses, without, rtol=1e-6)
    assert calls


@pytest.mark.parametrize("name", ADAPTED)
def test_bf16_autocast_has_the_gradients_of_single_precision(tiny, name: str) -> None:
    """Each to 8 bits: the angle between the two is small for every parameter that trains, and the length the same."""
    config = tiny(f"method={name}", "method.dropout=0.0", "trainer.epochs=1")
    method, _ = learn(config)
    stream = load_stream(config.tasks, 0)
    method.before_task(2, stream.tasks[2])
    torch.manual_seed(0)
    trained = [p for p in method.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:  # away from the start, where B is zero
            parameter += 0.1 * torch.randn(parameter.shape)
    batch = method.model.encode(2, stream.tasks[2], "train")[list(range(36))]
    exact = torch.autograd.grad(method.training_loss(batch), trained)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_loss(batch)
    for found, expected in zip(torch.autograd.grad(loss, trained), exact, strict=True):
        assert found.dtype == torch.float32
        assert float((found - expected).norm()) <= 0.1 * float(expected.norm()) + 1e-3


@pytest.mark.parametrize("name", ADAPTED)
def test_two_halves_accumulated_are_one_batch(tiny, name: str) -> None:
    """36 examples are one batch, or two of 18: one step either way."""
    fixed = (f"method={name}", "method.dropout=0.0", "trainer.epochs=1")
    whole, _ = learn(tiny(*fixed, "trainer.batch_size=36"), 1)
    halves, _ = learn(tiny(*fixed, "trainer.batch_size=18", "trainer.accumulate=2"), 1)
    for (key, one), two in zip(whole.state_of(0).items(), halves.state_of(0).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_answers_are_the_eager_ones_for_one_task_and_for_many(tiny, name: str) -> None:
    torch._dynamo.reset()
    config = tiny(f"method={name}")
    method, _ = learn(config)
    stream = load_stream(config.tasks, 0)
    test = [method.model.encode(t, task, "test") for t, task in enumerate(stream)]
    batch = mixed_batch(test, [(0, 1), (1, 2), (0, 3), (1, 4)])

    def features(inputs: dict[str, torch.Tensor], task: torch.Tensor) -> torch.Tensor:
        with answering(task):
            return method.model.features(inputs)

    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for task in (torch.tensor(0), torch.tensor(1), batch.task):
            torch.testing.assert_close(compiled(batch.inputs, task), features(batch.inputs, task), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "checkpointing"), [*[(name, "false") for name in COMPILED], (COMPILED[0], "true"), (COMPILED[-1], "true")]
)
def test_compiled_training_has_the_eager_gradients_for_one_task_and_for_many(
    tiny, name: str, checkpointing: str
) -> None:
    torch._dynamo.reset()
    fixed = ("method.dropout=0.0", "trainer.epochs=1", f"trainer.gradient_checkpointing={checkpointing}")
    config = tiny(f"method={name}", *fixed)
    method, _ = learn(config)
    stream = load_stream(config.tasks, 0)
    method.before_task(2, stream.tasks[2])
    torch.manual_seed(0)
    trained = [p for p in method.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:  # away from the start, where B is zero
            parameter += 0.1 * torch.randn(parameter.shape)
    train = [method.model.encode(t, task, "train") for t, task in enumerate(stream)]
    compiled = torch.compile(method.training_loss, backend="aot_eager")
    for batch in (train[2][[0, 5, 7, 11]], mixed_batch(train, [(2, 0), (0, 2), (2, 3), (1, 4)])):
        losses = [loss(batch) for loss in (method.training_loss, compiled)]
        torch.testing.assert_close(losses[1], losses[0])
        found = [torch.autograd.grad(loss, trained, allow_unused=True) for loss in losses]
        for ours, theirs in zip(*reversed(found), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_on_a_cpu_attention_in_bfloat16_trains_by_plain_products(precision: str, tiny) -> None:
    """The fused kernel has a backward pass there that is several times slower; in single precision it is the faster."""

    class Seen(lightning.Callback):
        fused: ClassVar[list[bool]] = []

        def on_train_batch_start(self, *_: object) -> None:
            self.fused.append(torch.backends.cuda.flash_sdp_enabled())

    run(tiny("method=lora", "trainer.max_steps=2", f"trainer.precision={precision}"), "", quiet(), [Seen()])
    assert set(Seen.fused) == {precision == "32-true"}
    Seen.fused.clear()
    assert torch.backends.cuda.flash_sdp_enabled()
