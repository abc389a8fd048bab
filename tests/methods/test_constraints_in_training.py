"""GEM and A-GEM inside real sessions of a tiny model: what their projection acts on, promises, and leaves alone."""

import pytest
import torch
from sessions import Run
from torch.utils.data import DataLoader

from clora_exp.methods import gem as gem_module
from clora_exp.methods.memory import Kept
from clora_exp.session import fit


def gradients(made: Run) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.method.trained_parameters()]


@pytest.mark.parametrize("method", ["gem", "agem"])
def test_after_the_projection_no_kept_loss_rises_to_first_order(start, method: str) -> None:
    exact = {"gem": ["method.gem.margin=0.0", "method.gem.ridge=1e-8"], "agem": ["method.agem.batch_size=1000"]}
    made = start(f"method={method}", *exact[method])
    made.learn(0)
    made.learn(1)
    made.begin(2)
    made.method.model.eval()
    batch = made.batch(2, range(12))
    made.method.training_loss(batch).backward()
    before = gradients(made)
    memory = made.strategy.memory
    tasks = [memory.of_task(k) for k in (0, 1)] if method == "gem" else [list(range(len(memory)))]

    def products(vectors) -> list[float]:
        found = []
        for places in tasks:
            kept, _ = memory.batch(places, made.method.model, made.method.device)
            loss = made.method.loss(kept, made.method.answer(kept))
            reference = torch.autograd.grad(loss, made.method.trained_parameters(), allow_unused=True)
            pairs = zip(vectors, reference, strict=True)
            found.append(float(sum((v * r).sum() for v, r in pairs if r is not None)))
        return found

    kept, _ = memory.batch([p for places in tasks for p in places], made.method.model, made.method.device)
    uphill = torch.autograd.grad(  # a gradient that raises the kept examples' loss
        made.method.loss(kept, made.method.answer(kept)), made.method.trained_parameters(), allow_unused=True
    )
    for p, g in zip(made.method.trained_parameters(), uphill, strict=True):
        if g is not None:
            p.grad = (p.grad if p.grad is not None else 0) - 5 * g
    before = gradients(made)
    assert min(products(before)) < 0
    made.method.before_optimizer_step()
    after = gradients(made)
    size = float(torch.cat([g.flatten() for g in before]).norm())
    assert min(products(after)) > -1e-4 * size**2
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("overrides", "moves"),
    [
        (["method=gem"], False),
        (["method=agem"], False),
        (["method=gem", "method.gem.earlier_heads=trained"], True),
        (["method=agem", "method.agem.earlier_heads=trained"], True),
        (["method=replay"], True),
        (["method=agem", "scenario=class_incremental"], True),
    ],
)
def test_a_constraint_trains_no_head_that_the_new_task_does_not_reach(start, overrides, moves: bool) -> None:
    made = start(*overrides)
    made.learn(0)
    before = [p.detach().clone() for p in made.method.model.heads[0].parameters()]
    made.learn(1)
    after = list(made.method.model.heads[0].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) == moves


def test_the_projection_acts_on_the_accumulated_gradient_and_before_clipping(start, monkeypatch) -> None:
    """Two batches of 6 in one step move the weights as one of 12; and what is clipped is what was projected."""
    projected, stepped, moved = [], [], []
    real = gem_module.write_gradients

    def spy(vector, parameters):
        real(vector, parameters)
        projected.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))

    monkeypatch.setattr(gem_module, "write_gradients", spy)
    for overrides in (["trainer.batch_size=16"], ["trainer.batch_size=8", "trainer.accumulate=2"]):
        one_label_space = ["scenario=domain_incremental", "tasks=same_words"]
        made = start("method=gem", *one_label_space, *overrides, "trainer.gradient_clip=0.01", "trainer.max_steps=1")
        made.begin(0)
        made.method.after_task(0, made.stream.tasks[0])
        rows = made.method.encode(1, made.stream.tasks[1], "train")
        of_first = (rows.labels == 0).nonzero()[0].tolist()  # kept as of the second class: no step can please both
        made.strategy.memory.examples = [Kept(made.method.model.unbatch(rows[[i]].inputs)[0], 1, 0) for i in of_first]
        made.strategy.memory._places = {(0, 1): list(range(len(of_first)))}
        made.begin(1)
        batches = [of_first] if len(overrides) == 1 else [of_first[:6], of_first[6:]]
        own = DataLoader(rows, batch_size=None, sampler=batches)
        for name, value in (("training_batches", own), ("num_batches", len(batches))):
            monkeypatch.setattr(type(rows), name, lambda *_, value=value: value)
        fit(made.method, rows, "second", made.config.trainer, 1)
        monkeypatch.undo()
        stepped.append(torch.cat([p.grad.flatten() for p in made.method.trained_parameters() if p.grad is not None]))
        monkeypatch.setattr(gem_module, "write_gradients", spy)
        moved.append([p.detach().clone() for p in made.method.trained_parameters()])
    assert len(projected) == len(stepped) == 2
    torch.testing.assert_close(projected[0], projected[1], rtol=1e-3, atol=1e-6)
    for before, after in zip(projected, stepped, strict=True):
        assert float(before.norm()) > 0.01
        torch.testing.assert_close(after, before * (0.01 / before.norm()), rtol=1e-3, atol=1e-6)
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
