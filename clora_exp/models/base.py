"""What methods and the loop know of a model: a backbone, a head a task, and how a split is encoded."""

from typing import Any

from torch import Tensor, nn

from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.tasks.stream import Task


class TaskModel(nn.Module):
    """A backbone with one head a task. A kind of model subclasses it and sets `backbone` and `heads`."""

    backbone: Any  # an nn.Module with a transformers config
    heads: nn.ModuleList

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (n, c) over the labels of the batch's task."""
        raise AssertionError(f"{type(self).__name__} defines no forward")

    def encode(self, t: int, task: Task, split: str) -> EncodedSplit:
        """Return the split of task t (0-based) as the model reads it, from the cache where it is there."""
        raise AssertionError(f"{type(self).__name__} defines no encode")

    def loading_code(self) -> str:
        """Return Python that answers `texts` from an exported adapter, without this project.

        It may use BASE (the backbone's folder) and HERE (the exported folder), and ends with `predicted`, label names.
        """
        raise AssertionError(f"{type(self).__name__} defines no loading_code")
