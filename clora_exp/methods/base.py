"""A method = an adapter setting plus strategies: the hooks that the loop and a session call, and how they combine.

`Strategy` is what a new method subclasses; `Method` puts model, adapters and strategies together.
"""

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clora_exp import discovery
from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.config import ExperimentConfig
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch
from clora_exp.tasks.stream import Task, TaskStream


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

    def route(self, batch: Batch) -> int | None:
        """Return the index of the task whose adapters answer the batch; None: the batch's own."""
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


class Method:
    """Model, adapters and strategies of one run. All hooks of the strategies are called from here, in yaml order."""

    def __init__(self, config: ExperimentConfig, stream: TaskStream, device: torch.device | str = "cpu") -> None:
        """Build the model on `device` and inject the adapters; draws from torch's global generator."""
        self.config = config.method
        self.learning_rate = config.method.learning_rate or config.trainer.learning_rate
        self.head_learning_rate = config.trainer.head_learning_rate
        self.model: TaskModel = discovery.model_kinds.load(config.model.kind).build(config.model, stream)
        self.model.backbone.eval()  # a frozen backbone answers without its own dropout, in training too
        self.adapters: Adapters | None = None
        if self.config.trainable == "adapters":
            self.adapters = Adapters(self.model.backbone, self.config, config.model.settings.target_modules)
        self.model.requires_grad_(False).to(device)
        self.strategies = [_strategy_class(name)(settings, self) for name, settings in config.method.strategies.items()]

    def before_task(self, t: int, task: Task) -> None:
        """Make the task's head and adapters trainable, and nothing else."""
        if self.adapters:
            self.adapters.start_task(t)
        self.model.heads[t].requires_grad_(True)
        for strategy in self.strategies:
            strategy.before_task(t, task)

    def parameter_groups(self, t: int) -> list[dict[str, Any]]:
        """Return the optimiser groups of task t; "lr" defaults to the method's, "optimizer" names what moves it."""
        groups = self.adapters.parameter_groups() if self.adapters else []
        head = {"params": list(self.model.heads[t].parameters()), "optimizer": "adamw", "lr": self.head_learning_rate}
        groups = [*groups, head]
        for strategy in self.strategies:
            groups = [*groups, *strategy.parameter_groups()]
        return [{"lr": self.learning_rate, **group} for group in groups]

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (n, c) over the labels of the batch's task."""
        routes = [route for strategy in self.strategies if (route := strategy.route(batch)) is not None]
        with answering(routes[0] if routes else batch.task):
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
        self.model.heads[t].requires_grad_(False)
        if self.adapters:
            self.adapters.finish_task()

    def state_of(self, t: int) -> dict[str, Tensor]:
        """Return what answers task t: "head.weight", "head.bias" and the adapters' "<part>/<module>"."""
        head = {f"head.{name}": value for name, value in self.model.heads[t].state_dict().items()}
        return head | (self.adapters.state_of(t) if self.adapters else {})

    def fingerprint(self, t: int) -> str:
        """Return a hash of every parameter that decides the answers to task t, the frozen backbone apart.

        Two equal fingerprints in one run mean equal answers: the evaluation need not be repeated.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_of(t).items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next task needs, backbone apart: heads, adapters, strategies."""
        return {
            "heads": self.model.heads.state_dict(),
            "adapters": self.adapters.state_dict() if self.adapters else {},
            "strategies": {
                name: s.state_dict() for name, s in zip(self.config.strategies, self.strategies, strict=True)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.model.heads.load_state_dict(state["heads"])
        if self.adapters:
            self.adapters.load_state_dict(state["adapters"])
        for name, strategy in zip(self.config.strategies, self.strategies, strict=True):
            strategy.load_state_dict(state["strategies"][name])


def _strategy_class(name: str) -> type[Strategy]:
    module = discovery.strategies.load(name)
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    found = [cls for cls in classes if issubclass(cls, Strategy) and cls.__module__ == module.__name__]
    if len(found) != 1:
        raise AssertionError(f"methods/{name}.py defines {len(found)} strategies; one file, one strategy")
    return found[0]
