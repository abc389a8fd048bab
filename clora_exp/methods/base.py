"""A method = an adapter setting plus strategies: the hooks that the loop and a session call, and how they combine.

`Strategy` is what a new method subclasses; `Method` puts model, adapters and strategies together.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp import discovery
from clora_exp.adapters.active import UNLEARNED, Active, Unlearned, answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.exported import Exported
from clora_exp.config import ExperimentConfig, MethodConfig
from clora_exp.errors import ModelError, unknown
from clora_exp.models.backends import checkpoint_layers
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch
from clora_exp.tasks.stream import Task, TaskStream

log = logging.getLogger("clora_exp")

SIMILARITY_EXAMPLES = 256  # of a task: their mean moves by a sixteenth of the examples' own spread


class Strategy:
    """What a method adds to plain training. Every hook has a harmless default; none sees a Trainer, logger or file.

    A strategy `x` is the one subclass in `methods/x.py`, beside its `Config`. Apart from gradients in
    `before_optimizer_step`, hooks return values and change nothing but the strategy's own state.
    """

    def __init__(self, config: Any, method: "Method") -> None:
        self.config = config
        self.method = method

    def before_task(self, t: int, task: Task) -> None:
        """Called before task t (0-based) trains, when its adapters are ready."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return further optimiser groups: {"params": […], "optimizer": "adamw" | "sgd", "lr"?, "weight_decay"?}."""
        return []

    def training_loss(self, batch: Batch) -> Tensor | None:
        """Return a term to add to the batch's cross-entropy, e.g. on examples from a memory."""
        return None

    def penalty(self) -> Tensor | None:
        """Return a term to add that depends on the parameters alone."""
        return None

    def route(self, batch: Batch) -> Active | None:
        """Return the index of the task, or of each row's, whose adapters answer the batch; None: the batch's own."""
        return None

    def before_optimizer_step(self) -> None:
        """Change gradients; called once an optimiser step, after accumulation and before clipping."""

    def after_task(self, t: int, task: Task) -> None:
        """Called when task t has been trained, before it is evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that the next task needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


@dataclass(frozen=True)
class Size:
    """Numbers of parameters, and of adapted layers."""

    backbone: int
    trained: int  # beside the heads, in the first task
    heads: int
    num_layers: int


class Method:
    """Model, adapters and strategies of one run. All hooks of the strategies are called from here, in yaml order.

    With `protocol` joint or single every task is trained as a first task would be: it uses slot 0 of the adapters,
    which joint shares among all tasks and single starts anew.
    """

    def __init__(self, config: ExperimentConfig, stream: TaskStream, device: torch.device | str = "cpu") -> None:
        """Build the model on `device` and inject the adapters; draws from torch's global generator."""
        self.config = config.method
        self.task_names = stream.names
        self.learning_rate = config.method.learning_rate or config.trainer.learning_rate
        self.head_learning_rate = config.method.head_learning_rate or config.trainer.head_learning_rate
        kind = discovery.model_kinds.load(config.model.kind)
        self.model: TaskModel = kind.build(config.model, [len(task.labels) for task in stream], config.method.backend)
        self.adapters: Adapters | None = None
        if self.config.trainable == "adapters":
            self.adapters = Adapters(self.model.backbone, self.config, config.model.settings.target_modules)
        self.model.requires_grad_(False).to(device)
        if config.trainer.gradient_checkpointing:
            checkpoint_layers(self.model.backbone)
        self.model.eval()  # the backbone's own dropout stays off in training too; the adapters' is theirs to switch
        self.means: dict[int, Tensor] = {}  # of a warm start's tasks, (d,)
        self.strategies = [_strategy_class(name)(settings, self) for name, settings in config.method.strategies.items()]

    def slot(self, t: int) -> int:
        """Return the index under which the adapters keep task t."""
        return t if self.config.protocol == "sequence" else 0

    def _answers(self, task: int) -> int | Unlearned:
        """Return what answers a task in the adapters: its slot, or before the task has begun nothing learned."""
        if not 0 <= task < len(self.task_names):
            raise ModelError(f"task {task} is not in the stream; have: 0 to {len(self.task_names) - 1}")
        slot = self.slot(task)
        return slot if self.adapters is None or self.adapters.has(slot) else UNLEARNED

    def indices(self, names: Sequence[str]) -> Tensor:
        """Return each row's task, (n,), from its name: what a mixed batch is answered and trained by.

        Raises:
            ModelError: a name that is no task of the stream.
        """
        for name in names:
            if name not in self.task_names:
                raise ModelError(unknown("task", name, self.task_names))
        return torch.tensor([self.task_names.index(name) for name in names])

    def heads_in_session(self, t: int) -> nn.ModuleList:
        """Return the heads that train in the session of task t."""
        return self.model.heads if self.config.protocol == "joint" else self.model.heads[t : t + 1]

    def before_task(self, t: int, task: Task) -> None:
        """Make what the method trains on the task trainable, and nothing else."""
        if self.adapters:
            self.adapters.start_task(self.slot(t), self._warm_start(t, task))
        if self.config.trainable == "all":
            self.model.backbone.requires_grad_(True)
        self.heads_in_session(t).requires_grad_(True)
        for strategy in self.strategies:
            strategy.before_task(t, task)

    def _warm_start(self, t: int, task: Task) -> int | None:
        """Return the earlier task that task t starts from: the nearest by the cosine of the tasks' mean features.

        The features are the frozen backbone's, of training examples spread evenly; what they are of each task is kept.
        """
        if self.config.warm_start == "none" or self.config.protocol != "sequence":
            return None
        split = self.model.encode(t, task, "train")
        count = min(SIMILARITY_EXAMPLES, len(split))
        rows = [i * len(split) // count for i in range(count)]  # a source may be sorted by class
        device = next(self.model.parameters()).device
        total = torch.zeros(())
        with torch.no_grad(), answering(UNLEARNED):  # without factors that all tasks share: the backbone itself
            for start in range(0, len(rows), 32):
                inputs = split[rows[start : start + 32]].inputs
                total = total + self.model.features({k: v.to(device) for k, v in inputs.items()}).sum(0).cpu()
        self.means[t] = total / len(rows)
        similarity = {j: float(F.cosine_similarity(self.means[t], self.means[j], dim=0)) for j in range(t)}
        if not similarity:
            return None
        nearest = max(similarity, key=lambda j: similarity[j])
        log.info("%s starts from %s, cosine %.3f", task.name, self.task_names[nearest], similarity[nearest])
        return nearest

    def parameter_groups(self, t: int) -> list[dict[str, Any]]:
        """Return the optimiser groups of task t; "lr" defaults to the method's, "optimizer" names what moves it."""
        groups = self.adapters.parameter_groups() if self.adapters else []
        if self.config.trainable == "all":
            groups = _whole_backbone(self.model.backbone)
        heads = list(self.heads_in_session(t).parameters())
        groups = [*groups, {"params": heads, "optimizer": "adamw", "lr": self.head_learning_rate}]
        for strategy in self.strategies:
            groups = [*groups, *strategy.parameter_groups()]
        return [{"lr": self.learning_rate, **group} for group in groups]

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (n, c) over the labels of the batch's task; −inf beyond a row's own in a mixed batch."""
        routes = [route for strategy in self.strategies if (route := strategy.route(batch)) is not None]
        answer: Active
        if routes:
            answer = routes[0]
        elif isinstance(batch.task, Tensor):
            answer = batch.task * (self.config.protocol == "sequence")
            if self.adapters and not torch.compiler.is_compiling():
                self.adapters.check(answer)
        else:
            assert isinstance(batch.task, int)
            answer = self._answers(batch.task)
        with answering(answer):
            return self.model(batch)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the batch plus every term of the strategies and the penalties."""
        loss = F.cross_entropy(self.logits(batch), batch.labels)
        terms = [strategy.training_loss(batch) for strategy in self.strategies]
        terms += [self.adapters.penalty() if self.adapters else None]
        terms += [strategy.penalty() for strategy in self.strategies]
        for term in terms:
            loss = loss if term is None else loss + term
        return loss

    def before_optimizer_step(self) -> None:
        """Let the strategies change gradients."""
        for strategy in self.strategies:
            strategy.before_optimizer_step()

    def after_task(self, t: int, task: Task) -> None:
        """Freeze what task t has learned; the strategies see it first, with the adapters' dropout off."""
        self.model.eval()
        for strategy in self.strategies:
            strategy.after_task(t, task)
        if self.adapters:
            self.adapters.finish_task()
        self.model.requires_grad_(False)
        self.model.heads.refresh()

    def state_of(self, t: int) -> dict[str, Tensor]:
        """Return what answers task t: "head.weight", "head.bias" and the adapters' "<part>/<module>"."""
        head = {f"head.{name}": value for name, value in self.model.heads[t].state_dict().items()}
        return head | (self.adapters.state_of(self._answers(t)) if self.adapters else {})

    def exported(self, t: int, task: Task, base: str) -> Exported:
        """Return what answers task t for other software; `base` is what the base model is called.

        Raises:
            ModelError: it is no low-rank update of the backbone, with the reason.
        """
        if reason := not_exportable(self.config):
            raise ModelError(reason)
        assert self.adapters is not None
        of = {"task": task.name, "base": base, "description": task.description, "labels": tuple(task.labels)}
        return self.model.exported(self.adapters, self.slot(t), self.model.heads[t], of)

    def backbone_weights(self) -> dict[str, Tensor]:
        """Return the weights of a backbone that trains, by name; empty where it is frozen."""
        return self.model.backbone.state_dict() if self.config.trainable == "all" else {}

    def size(self) -> Size:
        """Return the parameter counts of backbone, what the first task trains beside its head, and all heads."""
        added = sum(p.numel() for n, p in self.model.backbone.named_parameters() if ".lora_" in n)
        backbone = sum(p.numel() for p in self.model.backbone.parameters()) - added
        trained = self.adapters.num_trained() if self.adapters else 0
        return Size(
            backbone=backbone,
            trained=backbone if self.config.trainable == "all" else trained,
            heads=sum(p.numel() for p in self.model.heads.parameters()),
            num_layers=len(self.adapters.layers) if self.adapters else 0,
        )

    def num_trainable(self) -> int:
        """Return how many parameters train at this moment: between `before_task` and `after_task`."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def fingerprint(self, t: int) -> str:
        """Return a hash of every parameter that decides the answers to task t, a frozen backbone apart.

        Two equal fingerprints in one run mean equal answers: the evaluation need not be repeated.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted((self.state_of(t) | self.backbone_weights()).items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next task needs: heads, adapters, strategies, and the backbone where it trains."""
        return {
            "heads": self.model.heads.state_dict(),
            "backbone": self.backbone_weights(),
            "adapters": self.adapters.state_dict() if self.adapters else {},
            "means": {str(t): mean for t, mean in self.means.items()},
            "strategies": {
                name: s.state_dict() for name, s in zip(self.config.strategies, self.strategies, strict=True)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.model.heads.load_state_dict(state["heads"])
        self.model.heads.refresh()
        if state["backbone"]:
            self.model.backbone.load_state_dict(state["backbone"])
        if self.adapters:
            self.adapters.load_state_dict(state["adapters"])
        self.means = {int(t): mean for t, mean in state["means"].items()}
        for name, strategy in zip(self.config.strategies, self.strategies, strict=True):
            strategy.load_state_dict(state["strategies"][name])


def not_exportable(config: MethodConfig) -> str | None:
    """Return why what a method learns is no low-rank update of the backbone; None where it is one."""
    if config.trainable != "adapters":
        return f"method.trainable={config.trainable}: there is no adapter to export"
    for name in config.strategies:
        if _strategy_class(name).route is not Strategy.route:
            return f"method.{name} chooses what answers by the input; one low-rank update cannot express that"
    return None


def _whole_backbone(backbone: nn.Module) -> list[dict[str, Any]]:
    """Return two groups: matrices, and biases and norms, which weight decay leaves alone."""
    matrices = [p for p in backbone.parameters() if p.ndim > 1]
    others = [p for p in backbone.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "optimizer": "adamw"},
        {"params": others, "optimizer": "adamw", "weight_decay": 0.0},
    ]


def _strategy_class(name: str) -> type[Strategy]:
    module = discovery.strategies.load(name)
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    found = [cls for cls in classes if issubclass(cls, Strategy) and cls.__module__ == module.__name__]
    if len(found) != 1:
        raise AssertionError(f"methods/{name}.py defines {len(found)} strategies; one file, one strategy")
    return found[0]
