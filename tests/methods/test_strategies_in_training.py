"""What strategies do inside real sessions of a tiny model, each against a computation of its own."""

import pytest
import torch
import torch.nn.functional as F
from sessions import Run

from clora_exp.session import fit


def per_example_squares(made: Run, t: int, parameters) -> list[torch.Tensor]:
    """The empirical Fisher information, example by example."""
    total = [torch.zeros_like(p) for p in parameters]
    task = made.stream.tasks[t]
    for i in range(len(task.train)):
        batch = made.batch(t, range(i, i + 1))
        loss = F.cross_entropy(made.method.outputs.answer(batch).logits, batch.labels)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += gradient.square() / len(task.train)
    return total


@pytest.mark.parametrize("batch_size", [4, 12])
def test_ewc_measures_single_examples_in_evaluation_mode_whatever_the_batch_size(start, batch_size: int) -> None:
    made = start(
        "method=ewc",
        "method.ewc.fisher=empirical",
        "method.ewc.examples=null",
        "method.dropout=0.5",
        f"trainer.batch_size={batch_size}",
    )
    made.begin(0)
    shared = made.method.shared_parameters()
    with torch.no_grad():
        for p in shared.values():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    made.method.model.eval()
    made.method.adapters.set_dropout(False)
    expected = per_example_squares(made, 0, list(shared.values()))
    made.method.adapters.set_dropout(True)
    made.method.after_task(0, made.stream.tasks[0])
    for name, F_ in zip(shared, expected, strict=True):
        torch.testing.assert_close(made.strategy.quadratics[name].F, F_, rtol=1e-4, atol=1e-9)


def test_ewc_on_c_lora_holds_the_whole_routing_where_it_was(start) -> None:
    made = start("method=clora_ewc", "method.ewc.strength=1.0")
    made.learn(0)
    layers = made.method.layers
    name = next(iter(layers))
    whole = layers[name].lora_routing_old.clone()
    torch.testing.assert_close(made.strategy.quadratics[f"routing/{name}"].centre, whole, rtol=0, atol=1e-6)
    made.begin(1)
    delta = layers[name].part("routing")
    moved = made.method.shared_parameters()[f"routing/{name}"]
    torch.testing.assert_close(moved, whole + delta)
    gradient = torch.autograd.grad(made.strategy.penalty(), delta)[0]
    expected = made.strategy.quadratics[f"routing/{name}"].F * (whole + delta - whole).detach()
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_ewc_on_c_lora_is_at_rest_as_a_later_task_begins(start, mode: str) -> None:
    """The centre is R_old + R_δ, after the second task too: where nothing has moved since, there is no pull."""
    made = start("method=clora_ewc", f"method.ewc.mode={mode}", "method.routing_std=0.0", "method.ewc.decay=0.0")
    made.learn(0)
    made.learn(1)
    made.begin(2)
    if mode == "online":
        assert float(made.strategy.penalty()) == 0
    name, layer = next(iter(made.method.layers.items()))
    quadratic = made.strategy.quadratics[f"routing/{name}"]
    assert float((quadratic.centre - layer.lora_routing_old).abs().max()) < 0.5 * float(
        layer.lora_routing_old.abs().max()
    )


def test_a_constraint_on_c_lora_is_on_the_loss_itself(start) -> None:
    """The reference gradient of the factors is the whole one, not what C-LoRA's own mechanism lets through."""
    made = start("method=clora", "+method.agem.batch_size=100")
    made.learn(0)
    made.begin(1)
    made.method.model.eval()
    made.method.adapters.set_dropout(False)
    places = list(range(len(made.strategy.memory)))
    found = made.strategy.gradient_of(places)
    parameters = made.method.trained_parameters()
    layer = next(iter(made.method.layers.values()))
    A = layer.part("A")
    at = sum(p.numel() for p in parameters[: next(i for i, p in enumerate(parameters) if p is A)])
    step = torch.randn(A.shape, generator=torch.Generator().manual_seed(0))
    kept, _ = made.strategy.memory.batch(places, made.method.model, made.method.device)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            A += sign * 1e-2 * step
            losses.append(float(made.method.loss(kept, made.method.answer(kept))))
            A -= sign * 1e-2 * step
    slope = float((found[at : at + A.numel()].view_as(A) * step).sum())
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(slope, rel=0.05)


def test_ewc_leaves_the_weights_as_they_are_when_it_measures(start) -> None:
    made = start("method=clora_ewc")
    made.learn(0)
    made.begin(1)
    before = {name: tensor.clone() for name, tensor in made.method.state_dict()["adapters"].items()}
    with made.method.whole_gradients():
        pass
    after = made.method.state_dict()["adapters"]
    assert any(tensor.any() for name, tensor in before.items() if name.endswith("lora_routing_old"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_strong_ewc_keeps_what_mattered(start) -> None:
    def distance(strength: float) -> float:
        made = start("method=ewc", f"method.ewc.strength={strength}", "trainer.weight_decay=0.0")
        made.learn(0)
        held = made.strategy.quadratics
        made.learn(1)
        now = {f"{part}/{n}": layer.part(part) for n, layer in made.method.layers.items() for part in "AB"}
        return float(sum((held[n].F * (now[n] - held[n].centre).square()).sum() for n in now))

    assert distance(1e6) < 0.2 * distance(1e-6)


def test_replay_keeps_a_tenth_of_each_task_and_adds_its_loss_on_a_mini_batch(start) -> None:
    made = start("method=replay", "method.replay.batch_size=5")
    made.learn(0)
    made.learn(1)
    assert [len(made.strategy.memory.of_task(t)) for t in (0, 1)] == [4, 4]  # of 36
    made.begin(2)
    made.method.model.eval()
    drawn = []
    real = made.strategy.memory.sample

    def spy(*arguments):
        drawn.append(real(*arguments))
        return drawn[-1]

    made.strategy.memory.sample = spy
    batch = made.batch(2, range(6))
    loss = made.method.training_loss(batch)
    kept, _ = drawn[0]
    assert len(kept.labels) == 5
    plain = F.cross_entropy(made.method.outputs.answer(batch).logits, batch.labels)
    features = made.method.outputs._run(made.method.model.features, kept.inputs, 2)
    rows = zip(features, kept.task.tolist(), kept.labels, strict=True)
    expected = [F.cross_entropy(made.method.model.heads[t](feature), label) for feature, t, label in rows]
    torch.testing.assert_close(loss, plain + torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_kept_examples_are_the_tasks_own_texts(start) -> None:
    made = start("method=replay", "method.replay.fraction=1.0")
    made.learn(0)
    split = made.method.encode(0, made.stream.tasks[0], "train")
    texts = sorted([*split.example(i).tolist(), int(split.labels[i])] for i in range(len(split)))
    kept = made.strategy.memory.examples
    assert sorted([*e.inputs["input_ids"].tolist(), e.label] for e in kept) == texts


def test_der_stores_the_logits_an_example_had_when_it_passed_by(start, monkeypatch) -> None:
    made = start("method=der", "method.der.capacity=100", "method.dropout=0.0", "trainer.epochs=1")
    seen = []
    outputs = made.method.outputs
    answer = outputs.answer

    def spy(batch):
        found = answer(batch)
        if isinstance(batch.task, int):
            seen.append((batch.rows.tolist(), found.logits.detach().clone()))
        return found

    monkeypatch.setattr(outputs, "answer", spy)
    made.learn(0)
    split = made.method.encode(0, made.stream.tasks[0], "train")
    by_text = {tuple(split.example(row).tolist()): logits[i] for rows, logits in seen for i, row in enumerate(rows)}
    assert len(made.strategy.memory) == 36
    for kept in made.strategy.memory.examples:
        expected = by_text[tuple(kept.inputs["input_ids"].tolist())]
        torch.testing.assert_close(kept.logits, expected, rtol=0, atol=0)


def test_derpp_draws_twice_and_weighs_both(start) -> None:
    made = start("method=derpp", "method.derpp.alpha=0.25", "method.derpp.beta=0.75", "method.derpp.batch_size=4")
    made.learn(0)
    made.begin(1)
    made.method.model.eval()
    drawn = []
    real = made.strategy.memory.sample

    def spy(*arguments):
        drawn.append(real(*arguments))
        return drawn[-1]

    made.strategy.memory.sample = spy
    term = made.strategy._rehearse()
    (first, logits), (second, _) = drawn
    assert first.rows.tolist() != second.rows.tolist()
    answers = [made.method.outputs.answer(kept).logits for kept in (first, second)]
    had = logits.isfinite()
    mse = (answers[0][:, : logits.shape[1]][had] - logits[had]).square().mean()
    torch.testing.assert_close(term, 0.25 * mse + 0.75 * F.cross_entropy(answers[1], second.labels))


@pytest.mark.parametrize("scenario", ["task_incremental", "class_incremental", "domain_incremental"])
def test_lwf_distils_the_old_models_answers_to_the_new_examples(start, scenario: str) -> None:
    tasks = "same_words" if scenario == "domain_incremental" else "words"
    made = start("method=lwf", f"scenario={scenario}", f"tasks={tasks}", "method.dropout=0.5")
    made.learn(0)
    made.learn(1)
    split = made.method.encode(2, made.stream.tasks[2], "train")
    everything = split[list(range(len(split)))]
    with torch.no_grad():
        features = made.method.outputs._run(made.method.model.features, everything.inputs, 0)
        heads = [head(features) for head in made.method.model.heads]
    old = {
        "task_incremental": heads[:2],
        "class_incremental": [torch.cat(heads[:2], 1)],
        "domain_incremental": heads[:1],
    }[scenario]
    made.begin(2)
    for found, expected in zip(made.strategy._old, old, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    made.method.adapters.set_dropout(False)
    batch = split[[3, 0, 9]]
    answer = made.method.outputs.answer(batch)
    # nothing has moved yet: the term is at its minimum, T² times the entropy of the old answers
    entropy = sum(-(F.softmax(z[[3, 0, 9]] / 2, -1) * F.log_softmax(z[[3, 0, 9]] / 2, -1)).sum(-1).mean() for z in old)
    torch.testing.assert_close(made.strategy.training_loss(batch, answer), 4 * entropy, rtol=1e-4, atol=1e-5)


def test_inflora_trains_b_alone_in_directions_that_earlier_inputs_leave_free(start) -> None:
    made = start("method=inflora", "method.inflora.energy=0.9", "method.inflora.final_energy=0.9")
    made.learn(0)
    bases = {name: M.clone() for name, M in made.strategy.bases.items()}
    made.begin(1)
    for name, layer in made.method.layers.items():
        A, M = layer.part("A"), bases[name]
        assert (A.requires_grad, layer.part("B").requires_grad) == (False, True)
        assert float((A @ M).abs().max()) < 1e-5
        torch.testing.assert_close(A @ A.T, torch.eye(len(A)) / 3, rtol=0, atol=1e-4)  # as long as LoRA's rows
    fixed = {name: layer.part("A").detach().clone() for name, layer in made.method.layers.items()}
    task = made.stream.tasks[1]
    fit(made.method, made.method.encode(1, task, "train"), task.name, made.config.trainer, 1)
    assert all(torch.equal(layer.part("A"), fixed[name]) for name, layer in made.method.layers.items())
    made.method.after_task(1, task)
    for name, layer in made.method.layers.items():  # inputs of the first task meet nothing of the second's update
        update = layer.stack("B")[1] @ layer.stack("A")[1]
        assert float((update @ bases[name]).abs().max()) < 1e-5
        assert made.strategy.bases[name].shape[1] >= bases[name].shape[1]


def test_sdlora_keeps_directions_of_unit_length_and_trains_their_magnitudes(start) -> None:
    made = start("method=sdlora")
    made.learn(0)
    layer = next(iter(made.method.layers.values()))
    direction = layer.stack("B")[0] @ layer.stack("A")[0]
    torch.testing.assert_close(direction.norm(), torch.ones(()))
    first = layer.part("magnitude").clone()
    made.learn(1)
    magnitudes = layer.part("magnitude")
    assert torch.equal(layer.stack("B")[0] @ layer.stack("A")[0], direction)
    assert magnitudes.shape == (2,)
    assert float(magnitudes[0]) != float(first[0])
    A, B = layer.as_lora(0)
    both = sum(m * layer.stack("B")[k] @ layer.stack("A")[k] for k, m in enumerate(magnitudes))
    torch.testing.assert_close(B @ A, both.double() * layer.scaling["default"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("overlap", ["absolute", "squared"])
def test_olora_keeps_the_next_a_apart_from_the_earlier_ones(start, overlap: str) -> None:
    def cosine(strength: float) -> float:
        made = start(
            "method=olora", f"method.olora.strength={strength}", f"method.olora.overlap={overlap}", "trainer.epochs=6"
        )
        made.learn(0)
        made.learn(1)
        found = []
        for layer in made.method.layers.values():
            old, new = (F.normalize(layer.stack("A")[k], dim=-1) for k in (0, 1))
            found.append((old @ new.T).abs().mean())
        return float(torch.stack(found).mean())

    assert cosine(5.0) < 0.5 * cosine(0.0)
