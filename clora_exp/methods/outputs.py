"""Which adapters and which head answer a batch, in each scenario, in training and when measured.

Where the task is known, or found, a task's own parts and head answer. Where it is not known and tasks own no parts,
what was learned last answers for all, with one head: growing with the classes, or fixed.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import BASE, UNLEARNED, Active, Unlearned, answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.family import owned_parts
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ConfigError, ModelError
from clora_exp.evaluation.written import Written
from clora_exp.methods.strategy import Answer
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.identification import IDENTIFIERS, Identifier
from clora_exp.tasks.scenario import Scenario


class Outputs:
    """Turns batches into logits over `scenario.labels`; holds what identifies a task where that is needed."""

    adapters: Adapters | None = None

    def __init__(self, config: ExperimentConfig, scenario: Scenario) -> None:
        settings = config.method
        self.settings, self.scenario = settings, scenario
        owns = settings.trainable == "adapters" and bool(owned_parts(settings)) and settings.composition != "sum"
        self.identifies = owns and settings.protocol == "sequence" and not scenario.knows_task
        if scenario.grows and settings.trained_classes == "task" and not self.identifies:
            for task in scenario.stream:
                if len(task.labels) == 1:
                    raise ConfigError(
                        f"method.trained_classes=task: task {task.name!r} has one class, nothing competes with it and "
                        "nothing would be learned; have: seen, all"
                    )
        self.num_begun = 0  # tasks
        self.identifier: Identifier | None = None
        self.model: TaskModel

    def attach(self, model: TaskModel) -> None:
        """Draw the heads of a model that has heads."""
        self.model = model
        model.knows_task = self.scenario.knows_task
        sizes = self.scenario.head_sizes(self.identifies)
        model.add_heads(sizes, self.settings.cosine_scale if self.settings.head == "cosine" else None)

    def place(self) -> None:
        """Make what identifies tasks, on the model's device."""
        if self.identifies:
            device = next(self.model.parameters()).device
            self.identifier = IDENTIFIERS[self.settings.identifier](self.model.width, device)

    def slot(self, t: int) -> int:
        """Return the index under which the adapters keep task t."""
        return t if self.settings.protocol == "sequence" else 0

    def head_of(self, t: int) -> int:
        """Return the index of the head that answers task t, or of the block that task t adds to it."""
        return t if self.scenario.kind != "domain_incremental" or self.identifies else 0

    def head_labels(self, t: int) -> list[str]:
        """Return the labels of the head that answers task t, or of the block that task t added to it, in its order."""
        return self.scenario.stream.tasks[t].labels if self.scenario.grows else self.scenario.labels(t)

    def heads_in_session(self, t: int, earlier: bool) -> list[nn.Module]:
        """Return the heads that train in the session of task t; `earlier`: a strategy trains earlier ones too."""
        heads = list(self.model.heads)
        if self.settings.protocol == "joint" or (self.scenario.grows and self._trains_all):
            return heads
        if self.scenario.grows and not self.identifies and self.settings.trained_classes == "seen":
            earlier = True  # they compete with the new classes
        if earlier and (self.scenario.kind != "domain_incremental" or self.identifies):
            return heads[: t + 1]
        return [heads[self.head_of(t)]]

    @property
    def _trains_all(self) -> bool:
        """Whether classes of later tasks compete in training, as in a head that has its final size from the start."""
        return self.settings.trained_classes == "all" and not self.identifies

    def logits(self, batch: Batch, route: Active | None = None) -> Tensor:
        """Return what the model answers, logits (n, c); −inf for what is not among a row's labels.

        Raises:
            ModelError: a task that is not in the stream.
        """
        return self._label_logits(batch, self._asked(batch), route)

    def _asked(self, batch: Batch) -> int | Tensor | None:
        """Return the task that answers a batch when it is measured, or of each row: known, found, or none."""
        if self.scenario.knows_task:
            return batch.task
        return self.identified(batch) if self.identifies else None

    def _label_logits(self, batch: Batch, task: int | Tensor | None, route: Active | None) -> Tensor:
        return self._answer(batch, task, route).logits

    def predicted(self, batch: Batch, route: Active | None = None) -> Tensor | Written:
        """Return each row's label as the model answers it, (n,), an index into the scenario's labels."""
        return self.logits(batch, route).argmax(-1)

    def answer(self, batch: Batch) -> Answer:
        """Return what the model gives for a batch whose tasks are known, since it is a batch of training."""
        return self._answer(batch, self._known(batch), None, is_training=True)

    def _known(self, batch: Batch) -> int | Tensor | None:
        """Return the task that answers a batch of training, or of each row; None where all are answered alike."""
        return batch.task if self.scenario.knows_task or self.identifies else None

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return log p of each label, (n, c), −inf for what is not among a row's labels; tasks as in training."""
        return F.log_softmax(self.answer(batch).logits, dim=-1)

    def masked(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return logits with −inf for what does not compete in the loss of new examples."""
        if not self.scenario.grows or self.settings.trained_classes != "task" or self.identifies:
            return logits
        assert isinstance(batch.task, int)
        first, last = self.scenario.first[batch.task : batch.task + 2]
        mask = torch.full_like(logits, -torch.inf)
        mask[:, first:last] = 0
        return logits + mask

    def identified(self, batch: Batch) -> int | Tensor:
        """Return the task that each example seems to be from, (n,); before there is one to find, the first."""
        assert self.identifier is not None
        if not len(self.identifier.tasks):
            return 0
        with torch.no_grad(), answering(BASE):
            return self.identifier.identify(self.model.features(batch.inputs))

    def _answer(
        self, batch: Batch, task: int | Tensor | None, route: Active | None, is_training: bool = False
    ) -> Answer:
        """Return what answers the batch as `task`, of each row, or where it is None as all tasks are answered."""
        active = self._active_of(task) if route is None else route
        features = self._run(self.model.features, batch.inputs, active)
        return Answer(features, self.logits_of(features, task, is_training))

    def _active_of(self, task: int | Tensor | None) -> Active:
        """Return what answers a task in the adapters, or of each row; where it is None what answers all tasks."""
        if task is None:
            newest = self.num_begun - 1
            return self.slot(newest) if self.adapters and self.adapters.has(self.slot(newest)) else UNLEARNED
        if not isinstance(task, Tensor):
            return self.active(task)
        active = task * (self.settings.protocol == "sequence")
        if self.adapters and not torch.compiler.is_compiling():
            self.adapters.check(active)
        return active

    def _run(self, function: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor], active: Active) -> Any:
        """Return what a function of the model gives, a tensor (n, d) or several, as `active` in the adapters answers.

        Of columns all up to the one that answers run side by side, and its own rows are what is returned.
        """
        if self.settings.composition != "columns" or isinstance(active, Unlearned):
            with answering(active):
                return function(inputs)
        last = int(active.max()) if isinstance(active, Tensor) else active
        with answering(last):
            every = function({name: torch.cat([value] * (last + 1)) for name, value in inputs.items()})

        def own(rows: Tensor) -> Tensor:
            of_column = rows.view(last + 1, -1, rows.shape[-1])  # each column's, (T, n, d)
            is_mixed = isinstance(active, Tensor) and active.ndim
            return of_column[active, torch.arange(of_column.shape[1])] if is_mixed else of_column[last]

        return tuple(map(own, every)) if isinstance(every, tuple) else own(every)

    def active(self, task: int) -> int | Unlearned:
        """Return what answers a task in the adapters: its slot, or before the task has begun nothing learned."""
        num_tasks = len(self.scenario.stream)
        if not 0 <= task < num_tasks:
            raise ModelError(f"task {task} is not in the stream; have: 0 to {num_tasks - 1}")
        slot = self.slot(task)
        return slot if self.adapters is None or self.adapters.has(slot) else UNLEARNED

    def logits_of(self, features: Tensor, task: int | Tensor | None, is_training: bool = False) -> Tensor:
        """Return logits over the labels from features; with a task, or one a row, by that task's head alone."""
        heads = self.model.heads
        if self.scenario.knows_task:
            assert task is not None
            return heads(features, task)
        if not self.scenario.grows:
            return heads(features, 0 if task is None or not self.identifies else task)
        if task is None:
            return heads.joined(features, len(heads) if is_training and self._trains_all else self.num_begun)
        return self._placed(heads(features, task), task)

    def _placed(self, own: Tensor, task: int | Tensor) -> Tensor:
        """Return logits (n, c) of tasks' own classes in their places among all classes, −inf elsewhere."""
        first, num_classes = self.scenario.first, self.scenario.first[-1]
        if isinstance(task, int):
            return F.pad(own, (first[task], num_classes - first[task + 1]), value=-torch.inf)
        begin = torch.tensor(first, device=own.device)[task]
        place = begin[:, None] + torch.arange(own.shape[1], device=own.device)  # beyond the last class only padding
        every = own.new_full((len(own), num_classes + own.shape[1]), -torch.inf)
        return every.scatter(1, place, own)[:, :num_classes]

    def frozen_features(self, split: EncodedSplit, rows: list[int]) -> Tensor:
        """Return features of the backbone itself, without what tasks have learned, (n, d)."""
        device = next(self.model.parameters()).device
        found = []
        with torch.no_grad(), answering(BASE):
            for start in range(0, len(rows), 32):
                inputs = split[rows[start : start + 32]].inputs
                found.append(self.model.features({k: v.to(device) for k, v in inputs.items()}))
        return torch.cat(found)

    def learn_to_identify(self, t: int, split: EncodedSplit) -> None:
        """Take task t's training examples in, so that later examples of it can be found."""
        assert self.identifier is not None
        rows = np.argsort(split.lengths, kind="stable").tolist()  # little padding
        labels = torch.from_numpy(split.labels[rows])
        self.identifier.add(t, self.frozen_features(split, rows), labels)

    def head(self, t: int) -> nn.Linear | None:
        """Return the head that answers task t, or the block of it that task t added; None: the model has no heads."""
        return cast(nn.Linear, self.model.heads[self.head_of(t)])

    def samples(self, splits: Sequence[EncodedSplit], count: int) -> list[dict[str, Any]]:
        """Return some answers word for word, of a model that answers in words."""
        return []
