"""joint and single against runs that must equal them: no formula of ours on both sides."""

import numpy as np
import pytest
import torch
from trials import quiet

from clora_exp.loop import Plan, run, sessions
from clora_exp.methods.base import Method
from clora_exp.models.batches import JointSplit
from clora_exp.randomness import seed_everything
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import load_stream

SETTINGS = ["lora", "clora", "clora_xs", "clora_gated", "lora_per_task", "frozen", "full"]


def _adapter(folder, task: str) -> bytes:
    return (folder.path / "adapters" / task / "adapter.safetensors").read_bytes()


def test_plans(tiny) -> None:
    stream = load_stream(tiny("method=lora").tasks, 0)
    known, grows = (Scenario(kind, stream) for kind in ("task_incremental", "class_incremental"))
    assert sessions("sequence", known) == [Plan(t, [t], [0, 1, 2]) for t in range(3)]
    assert sessions("joint", known) == sessions("joint", grows) == [Plan(2, [0, 1, 2], [0, 1, 2])]
    assert sessions("single", known) == [Plan(0, [0], [0]), Plan(1, [1], [1]), Plan(2, [2], [2])]
    seen = [Plan(0, [0], [0]), Plan(1, [1], [0, 1]), Plan(2, [2], [0, 1, 2])]
    assert sessions("sequence", grows) == seen  # what has no class yet cannot be answered


@pytest.mark.parametrize("method", SETTINGS)
def test_with_one_task_every_protocol_is_the_same_training(method: str, tiny) -> None:
    one = ["+tasks.order=[first]", f"method={method}"]
    weights = {
        p: _adapter(run(tiny(*one, f"method.protocol={p}"), "", quiet()), "first")
        for p in ("sequence", "joint", "single")
    }
    assert weights["sequence"] == weights["joint"] == weights["single"]


@pytest.mark.parametrize("method", SETTINGS)
def test_single_learns_the_first_task_as_the_sequence_does(method: str, tiny) -> None:
    runs = [run(tiny(f"method={method}", f"method.protocol={p}"), "", quiet()) for p in ("sequence", "single")]
    assert _adapter(runs[0], "first") == _adapter(runs[1], "first")
    assert runs[0].read().matrix.values[1, 0] == runs[1].read().matrix.values[1, 0]


def test_single_starts_every_task_from_the_same_weights(tiny, monkeypatch) -> None:
    starts = []
    real = Method.before_task

    def spy(self, t, task):
        real(self, t, task)
        starts.append([p.detach().clone() for n, p in self.model.backbone.named_parameters() if "lora_" in n])

    monkeypatch.setattr(Method, "before_task", spy)
    run(tiny("method=single"), "", quiet())
    assert len(starts) == 3
    for later in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], later, strict=True))


def test_a_lora_a_task_equals_single_where_both_draw_the_same_start(tiny) -> None:
    """frozen has no adapters to draw, so its heads are trained alike whichever tasks came before."""
    runs = [run(tiny("method=frozen", f"method.protocol={p}"), "", quiet()) for p in ("sequence", "single")]
    for task in ("first", "second", "third"):
        assert _adapter(runs[0], task) == _adapter(runs[1], task)


def test_joint_batches_hold_every_example_once_an_epoch_each_of_one_task(tiny) -> None:
    config = tiny("method=joint")
    stream = load_stream(config.tasks, 0)
    seed_everything(0)
    model = Method(config, stream).model
    splits = [model.encode(t, task, "train") for t, task in enumerate(stream)]
    batches = JointSplit(splits).training_batches(8, seed=3, epochs=2)
    both = list(batches)
    assert len(both) == len(batches) == 2 * JointSplit(splits).num_batches(8) == 30
    for found in (both[:15], both[15:]):
        for t in range(3):
            rows = np.concatenate([b.rows.numpy() for b in found if b.task == t])
            assert sorted(rows.tolist()) == list(range(36))
        order = [b.task for b in found]
        assert order != sorted(order)
    alone = splits[0].training_batches(8, seed=3, epochs=2, start=splits[0].num_batches(8))
    assert [b.rows.tolist() for b in found if b.task == 0] == [b.rows.tolist() for b in alone]


def test_joint_learns_all_tasks(tiny) -> None:
    learned = (
        run(tiny("method=joint", "trainer.epochs=8", "trainer.learning_rate=1e-2"), "", quiet()).read().matrix.values
    )
    assert (learned[-1] > learned[0] + 0.2).all()


def test_references_refuse_strategies_before_any_work(tiny) -> None:
    from clora_exp.errors import ConfigError

    with pytest.raises(ConfigError, match="protocol=joint trains the adapter setting alone; leave out anchor"):
        tiny("method=joint", "+method.anchor.strength=1.0")
