"""Mixed batches against single rows: whatever rows stand together, in any order, each has its own task's answer."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit, mixed_batch
from clora_exp.randomness import seed_everything
from clora_exp.tasks.stream import SPLITS, Task, TaskStream, load_stream

SETTINGS = {  # kinds of routing, gate, scale, composition and head that a row of a batch can choose by its task
    "clora": (),
    "clora_snapshot": ("method.inference_routing=snapshot", "method.gate=per_output", "method.scale=learned"),
    "clora_gated": (),
    "clora_shared": (),
    "clora_xs": ("method.gate=per_rank",),
    "frozen": (),
    "lora": ("method.head=cosine",),
    "lora_per_task": (),
    "progressive": (),
    "sdlora": (),
}
KINDS = {"clora_snapshot": "clora"}
FEWER = settings(max_examples=settings.default.max_examples // 3)
which_rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), min_size=1, max_size=12)


def with_two_labels(task: Task) -> Task:
    """The task without its last label, so that heads differ in width."""
    kept = task.labels[:2]
    splits = {split: [example for example in task.split(split) if example.label in kept] for split in SPLITS}
    return dataclasses.replace(task, labels=kept, **splits)


class Learned:
    """A method that has learned three tasks, and each test row's answer, asked alone and by its task's number."""

    def __init__(self, config) -> None:
        first, second, third = load_stream(config.tasks, config.data_seed)
        self.stream = TaskStream("words", [first, with_two_labels(second), third])
        seed_everything(0)
        self.method = Method(config, self.stream)
        for t, task in enumerate(self.stream):
            self.method.before_task(t, task)
            with torch.no_grad():  # stands in for training
                for parameter in self.method.trained_parameters():
                    parameter += 0.2 * torch.randn(parameter.shape)
            self.method.after_task(t, task)
        self.splits: list[EncodedSplit] = [self.method.encode(t, task, "test") for t, task in enumerate(self.stream)]
        self.alone = [[self.logits(split, [row]) for row in range(12)] for split in self.splits]

    def logits(self, split: EncodedSplit, rows: list[int]) -> Tensor:
        with torch.inference_mode():
            return self.method.logits(split[rows])

    def mixed(self, which: list[tuple[int, int]]) -> Tensor:
        with torch.inference_mode():
            return self.method.logits(mixed_batch(self.splits, which))


@pytest.fixture(scope="module")
def built() -> dict[str, Learned]:
    return {}


@pytest.fixture(params=SETTINGS)
def learned(request, tiny, built: dict[str, Learned]) -> Learned:
    if request.param not in built:
        built[request.param] = Learned(
            tiny(f"method={KINDS.get(request.param, request.param)}", *SETTINGS[request.param])
        )
    return built[request.param]


def assert_equal_to_rounding(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@FEWER
@given(which=which_rows, data=st.data())
def test_every_row_of_a_mixed_batch_has_the_answer_it_has_alone(learned: Learned, which, data) -> None:
    """Also where the batch is of one task, of one row, or the same row many times over, and in any other order."""
    mixed = learned.mixed(which)
    widths = [len(task.labels) for task in learned.stream]
    for logits, (t, row) in zip(mixed, which, strict=True):
        assert_equal_to_rounding(logits[: widths[t]], learned.alone[t][row][0])
        assert logits[widths[t] :].eq(-torch.inf).all()
    order = data.draw(st.permutations(range(len(which))))
    assert_equal_to_rounding(learned.mixed([which[i] for i in order]), mixed[list(order)])


@FEWER
@given(which=which_rows)
def test_the_task_of_a_row_and_not_its_place_decides_its_answer(learned: Learned, which) -> None:
    """One text asked as each task: the rows' answers differ as those of the tasks' own batches do."""
    batch = mixed_batch(learned.splits, which)
    for t in range(3):
        with torch.inference_mode():
            as_task = learned.method.logits(dataclasses.replace(batch, task=t))
            as_rows = learned.method.logits(dataclasses.replace(batch, task=torch.full((len(which),), t)))
        assert_equal_to_rounding(as_rows[:, : as_task.shape[1]], as_task)
