"""Which adapters and which head answer a batch, in each scenario, in training and when measured.

Where the task is known, or found, a task's own parts and head answer. Where it is not known and tasks own no parts,
what was learned last answers for all, with one head: growing with the classes, or fixed.
"""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import UNLEARNED, Active, Unlearned, answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.family import owned_parts
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ModelError
from clora_exp.inference.identification import IDENTIFIERS, Identifier
from clora_exp.methods.strategy import Answer
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.tasks.scenario import Scenario


class Outputs:
    """Turns batches into logits over `scenario.labels`; holds what identifies a task where that is needed."""

    adapters: Adapters | None = None

    def __init__(self, config: ExperimentConfig, scenario: Scenario) -> None:
        settings = config.method
        self.settings, self.scenario = settings, scenario
        owns = settings.trainable == "adapters" and bool(owned_parts(settings)) and settings.composition != "sum"
        self.identifies = owns and settings.protocol == "sequence" and not scenario.knows_task
        self.num_begun = 0  # tasks
        self.identifier: Identifier | None = None
        self.model: TaskModel

    def attach(self, model: TaskModel) -> None:
        """Draw the heads of a model that has heads."""
        self.model = model
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

    def heads_in_session(self, t: int, earlier: bool) -> list[nn.Module]:
        """Return the heads that train in the session of task t; `earlier`: a strategy trains earlier ones too."""
        heads = list(self.model.heads)
        if self.settings.protocol == "joint":
            return heads
        if self.scenario.grows and not self.identifies and self.settings.trained_classes == "seen":
            earlier = True  # they compete with the new classes
        if earlier and self.scenario.kind != "domain_incremental":
            return heads[: t + 1]
        return [heads[self.head_of(t)]]

    def logits(self, batch: Batch, route: Active | None = None) -> Tensor:
        """Return what the model answers, logits (n, c); −inf for what is not among a row's labels.

        Raises:
            ModelError: a task that is not in the stream.
        """
        if self.scenario.knows_task:
            return self._answer(batch, batch.task, route).logits
        if self.identifies:
            return self._answer(batch, self.identified(batch), route).logits
        return self._answer(batch, None, route).logits

    def answer(self, batch: Batch) -> Answer:
        """Return what the model gives for a batch whose tasks are known, since it is a batch of training."""
        is_known = self.scenario.knows_task or self.identifies
        return self._answer(batch, batch.task if is_known else None, None)

    def masked(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return logits with −inf for what does not compete in the loss of new examples."""
        if not self.scenario.grows or self.settings.trained_classes == "seen" or self.identifies:
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
        with torch.no_grad(), answering(UNLEARNED):
            return self.identifier.identify(self.model.features(batch.inputs))

    def _answer(self, batch: Batch, task: int | Tensor | None, route: Active | None) -> Answer:
        """Return what answers the batch as `task`, of each row, or where it is None as all tasks are answered."""
        if task is None:
            newest = self.num_begun - 1
            active: Active = self.slot(newest) if self.adapters and self.adapters.has(self.slot(newest)) else UNLEARNED
        elif isinstance(task, Tensor):
            active = task * (self.settings.protocol == "sequence")
            if self.adapters and not torch.compiler.is_compiling():
                self.adapters.check(active)
        else:
            active = self.active(task)
        features = self._features(batch.inputs, active if route is None else route)
        return Answer(features, self.logits_of(features, task))

    def _features(self, inputs: dict[str, Tensor], active: Active) -> Tensor:
        """Return features (n, d) as the task, or each row's, in the adapters answers."""
        if self.settings.composition != "columns" or isinstance(active, Unlearned):
            with answering(active):
                return self.model.features(inputs)
        last = int(active.max()) if isinstance(active, Tensor) else active
        with answering(last):
            every = self.model.features({name: torch.cat([value] * (last + 1)) for name, value in inputs.items()})
        of_column = every.view(last + 1, -1, every.shape[-1])  # each column's, (T, n, d)
        return of_column[active, torch.arange(of_column.shape[1])] if isinstance(active, Tensor) else of_column[last]

    def active(self, task: int) -> int | Unlearned:
        """Return what answers a task in the adapters: its slot, or before the task has begun nothing learned."""
        num_tasks = len(self.scenario.stream)
        if not 0 <= task < num_tasks:
            raise ModelError(f"task {task} is not in the stream; have: 0 to {num_tasks - 1}")
        slot = self.slot(task)
        return slot if self.adapters is None or self.adapters.has(slot) else UNLEARNED

    def logits_of(self, features: Tensor, task: int | Tensor | None) -> Tensor:
        """Return logits over the labels from features; with a task, or one a row, by that task's head alone."""
        heads = self.model.heads
        if self.scenario.knows_task:
            assert task is not None
            return heads(features, task)
        if not self.scenario.grows:
            return heads(features, 0 if task is None or not self.identifies else task)
        if task is None:
            return heads.joined(features, self.num_begun)
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
        with torch.no_grad(), answering(UNLEARNED):
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

    def head(self, t: int) -> nn.Linear:
        """Return the head that answers task t, or the block of it that task t added."""
        return cast(nn.Linear, self.model.heads[self.head_of(t)])
