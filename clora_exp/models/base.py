"""What methods and the loop know of a model: a backbone, its heads, and how a split is encoded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from clora_exp.adapters.exported import Classifier, Exported
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.heads import Heads
from clora_exp.models.prompts import Told
from clora_exp.tasks.stream import Example, Task

if TYPE_CHECKING:  # a configuration is checked without PEFT
    from clora_exp.adapters.backbone import Adapters


class TaskModel(nn.Module):
    """A backbone with heads. A kind of model subclasses it and sets `backbone`; the method adds the heads.

    Shapes: n examples, d features.
    """

    backbone: Any  # an nn.Module with a transformers config
    heads: Heads
    tokenizer: Any  # transformers'; of images their processor
    knows_task = True  # when an example is answered: may what is read tell of it
    task_type: ClassVar[str | None] = None  # what PEFT calls such a model, where it has a name for it

    @property
    def width(self) -> int:
        """d, the features that the heads read."""
        return self.backbone.config.hidden_size

    def add_heads(self, sizes: Sequence[int], cosine_scale: float | None = None) -> None:
        """Draw heads of so many labels each from torch's global generator; the caller seeds it."""
        self.heads = Heads(self.width, sizes, cosine_scale)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits of each row's own head, (n, c); −inf beyond a row's labels in a mixed batch."""
        return self.heads(self.features(batch.inputs), batch.task)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector an example, (n, d), which the heads read and by which tasks are told apart."""
        raise AssertionError(f"{type(self).__name__} defines no features")

    def targets(self, batch: Batch) -> Tensor:
        """Return what the logits of a batch of training are to predict: the labels, (n,)."""
        return batch.labels

    def encode(self, t: int, task: Task, split: str) -> EncodedSplit:
        """Return the split of task t (0-based) as the model reads it, from the cache where it is there."""
        raise AssertionError(f"{type(self).__name__} defines no encode")

    def unbatch(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return each example of a batch by itself, on the CPU, without padding: what a memory keeps."""
        raise AssertionError(f"{type(self).__name__} defines no unbatch")

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return examples as `unbatch` gave them in one batch, as `features` takes it."""
        raise AssertionError(f"{type(self).__name__} defines no collate")

    def inputs_of(self, examples: Sequence[Example], told: Told) -> dict[str, Tensor]:
        """Return examples that are not part of a split, of the task told of, as `features` takes them, in one batch."""
        raise AssertionError(f"{type(self).__name__} defines no inputs_of")

    def probe(self, words: Sequence[str]) -> list[Example]:
        """Return examples on which an exported task is compared with itself; of texts the words."""
        return [Example(str(i), word, "", str(i)) for i, word in enumerate(words)]

    def alone(self, examples: Sequence[Example], told: Told) -> Tensor:
        """Return the logits of a model that has one task, (n, c), on examples that are not part of a split."""
        return self.answers_alone(self.inputs_of(examples, told), told)

    def answers_alone(self, inputs: dict[str, Tensor], told: Told) -> Tensor:
        """Return the same for examples that are encoded already."""
        return self.heads(self.features(inputs), 0)

    @property
    def classifier(self) -> Classifier | None:
        """Where a head stands in transformers' sequence classification model; None: it computes something else."""
        return None

    def loading_code(self, told: Told, is_merged: bool = False) -> str:
        """Return Python that answers `texts`, or `images`, from the exported task, without this project.

        It may use HERE (the exported folder) and, unless the task is merged into the weights, BASE (the base model's).
        It sets `model`, `logits` (n, c), and in the end `predicted`, label names or written answers.
        """
        raise AssertionError(f"{type(self).__name__} defines no loading_code")

    def exported(
        self, adapters: "Adapters", slot: int, head: nn.Module | None, of: Mapping[str, Any], is_merged: bool = False
    ) -> Exported:
        """Return what answers a slot of the adapters, with its head; `of`: its task, base, description and labels."""
        return Exported(
            pairs=adapters.as_lora(slot),
            code=self.loading_code(
                Told(of["task"], of["description"], tuple(of["labels"]), self.knows_task), is_merged
            ),
            head=head.state_dict() if head is not None else None,
            task_type=self.task_type,
            classifier=self.classifier,
            is_conv1d=adapters.is_conv1d,
            **of,
        )
