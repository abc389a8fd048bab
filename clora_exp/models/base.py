"""What methods and the loop know of a model: a backbone, a head a task, and how a split is encoded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from clora_exp.adapters.exported import Classifier, Exported
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.heads import Heads
from clora_exp.tasks.stream import Task

if TYPE_CHECKING:  # a configuration is checked without PEFT
    from clora_exp.adapters.backbone import Adapters


class TaskModel(nn.Module):
    """A backbone with one head a task. A kind of model subclasses it and sets `backbone` and `heads`."""

    backbone: Any  # an nn.Module with a transformers config
    heads: Heads
    tokenizer: Any  # transformers'

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (n, c) over the labels of the batch's task; −inf beyond a row's own in a mixed batch."""
        raise AssertionError(f"{type(self).__name__} defines no forward")

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector an example, (n, d), which the heads read."""
        raise AssertionError(f"{type(self).__name__} defines no features")

    def encode(self, t: int, task: Task, split: str) -> EncodedSplit:
        """Return the split of task t (0-based) as the model reads it, from the cache where it is there."""
        raise AssertionError(f"{type(self).__name__} defines no encode")

    def inputs_of(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return texts as `features` takes them, in one batch."""
        raise AssertionError(f"{type(self).__name__} defines no inputs_of")

    @property
    def classifier(self) -> Classifier | None:
        """Where a head stands in transformers' sequence classification model; None: it computes something else."""
        return None

    def loading_code(self, is_merged: bool = False) -> str:
        """Return Python that answers `texts` from an exported task, without this project.

        It may use HERE (the exported folder) and, unless the task is merged into the weights, BASE (the base model's).
        It sets `model`, `logits` (n, c), and in the end `predicted`, label names.
        """
        raise AssertionError(f"{type(self).__name__} defines no loading_code")

    def exported(
        self, adapters: "Adapters", slot: int, head: nn.Module, of: Mapping[str, Any], is_merged: bool = False
    ) -> Exported:
        """Return what answers a slot of the adapters, with its head; `of`: its task, base, description and labels."""
        return Exported(
            pairs=adapters.as_lora(slot),
            code=self.loading_code(is_merged),
            head=head.state_dict(),
            classifier=self.classifier,
            is_conv1d=adapters.is_conv1d,
            **of,
        )
