"""What the adapters of a run hold, read from its folder, and which of them a task's answers need.

The measures are in `evaluation/inside.py`, the figures in `inside_figures.py`; notebooks/03_inside_clora.ipynb shows
them on live runs, experiments/inside.py on real tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.family import FamilyLayer
from clora_exp.config import MethodConfig
from clora_exp.evaluation.inside import LayerUpdate, Steps, Updates, groups, steps
from clora_exp.runs import StoredRun, read_run
from clora_exp.saved import SavedTask, load_task
from clora_exp.tasks.stream import Example, load_stream

Nothing: Callable[[str], None] = lambda _: None  # noqa: E731


@dataclass(frozen=True)
class Inside:
    """The adapters of a finished run, as they answered each task when it had just been learned."""

    run: StoredRun
    method: MethodConfig
    updates: Updates

    @property
    def is_cumulative(self) -> bool:
        """Whether one adapter goes on from task to task, so that a later update holds the earlier ones."""
        return self.method.forgets and self.method.protocol == "sequence"

    @cached_property
    def steps(self) -> Steps:
        """What each task has added."""
        return steps(self.updates, self.is_cumulative)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(self.updates)


def read_inside(path: Path, saying: Callable[[str], None] = Nothing) -> Inside:
    """Read the adapters of every task of a run; `saying` is called with each task's name before it is read.

    Raises:
        RunError: no run, no adapters, or what the method has learned is no low-rank update.
    """
    run = read_run(path)
    updates = {}
    method: MethodConfig | None = None
    for task in run.matrix.tasks:
        saying(task)
        saved = load_task(path, task)
        method = saved.config.method
        updates[task] = {name: _update(layer) for name, layer in saved.adapters.layers.items()}
    assert method is not None
    return Inside(run, method, updates)


@torch.no_grad()
def _update(layer: FamilyLayer) -> LayerUpdate:
    parts = layer.parts_of(0)
    assert parts is not None
    A, B = layer.as_lora(0)
    R = parts.R if parts.R is None or parts.R_old is None else parts.R_old + parts.R
    return LayerUpdate(
        A,
        B,
        weight_norm=float(layer.base_layer.weight.double().norm()),
        scale=float(parts.scale),
        gate=None if parts.gate is None else torch.sigmoid(parts.gate.double()),
        routing=None if R is None else R.double(),
    )


def needed(
    path: Path, task: str, by: Literal["block", "kind"] = "block", saying: Callable[[str], None] = Nothing
) -> pd.DataFrame:
    """Measure a task of a run again with some of its updates taken away; its head stays as it was trained.

    Weights say where a task was written, this says where its answers need it: an update may be large in a direction
    that no input of the task has, and a small one decide. The groups do not add up: layers read each other's outputs.

    Args:
        by: take away by block (depth), or by kind of projection.
        saying: called with each group's name before it is measured.

    Returns:
        A row a group: group; without, the accuracy on the test split with all updates but the group's; alone, with the
        group's only; all and none, with every update, and with none.

    Raises:
        RunError, ModelError: the task cannot be read, see `load_task`.
    """
    saved = load_task(path, task)
    stream = load_stream(saved.config.tasks, saved.config.data_seed)
    examples = next(t for t in stream if t.name == task).split(saved.config.eval_split)
    every = list(saved.adapters.layers)
    whole, bare = _accuracy(saved, examples, []), _accuracy(saved, examples, every)
    rows = []
    for group, layers in groups(every, by).items():
        saying(group)
        others = [name for name in every if name not in layers]
        rows.append((group, _accuracy(saved, examples, layers), _accuracy(saved, examples, others), whole, bare))
    return pd.DataFrame(rows, columns=["group", "without", "alone", "all", "none"])


def _accuracy(saved: SavedTask, examples: Sequence[Example], silenced: Sequence[str]) -> float:
    labels = {label: i for i, label in enumerate(saved.manifest["labels"])}
    right = np.array([labels[example.label] for example in examples])
    with without(saved.adapters, silenced):
        parts = [saved.logits(list(examples[i : i + 32])) for i in range(0, len(examples), 32)]
    return float((torch.cat(parts).argmax(dim=1).numpy() == right).mean())


@contextmanager
@torch.no_grad()
def without(adapters: Adapters, layers: Sequence[str]) -> Iterator[None]:
    """Let the one task of saved adapters answer without its updates in some layers while the block runs."""
    factors: list[Tensor] = []
    for name in layers:
        parts = adapters.layers[name].parts_of(0)
        assert parts is not None
        factors.append(parts.B)  # the layer's own memory
    kept = [B.clone() for B in factors]
    try:
        for B in factors:
            B.zero_()
        yield
    finally:
        for B, before in zip(factors, kept, strict=True):
            B.copy_(before)
