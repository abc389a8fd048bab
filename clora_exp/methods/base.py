"""A method = an adapter setting plus strategies, put together: what the loop and a session call.

The hooks of a strategy are in `strategy.py`; which adapters and heads answer a batch in each scenario, in `outputs.py`.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp import discovery
from clora_exp.adapters.active import Active
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.exported import Exported, Pairs
from clora_exp.adapters.family import FamilyLayer
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ModelError, unknown
from clora_exp.evaluation.written import Written
from clora_exp.methods.outputs import Outputs
from clora_exp.methods.starts import Start
from clora_exp.methods.strategy import Answer, Strategy
from clora_exp.methods.suitable import not_exportable, strategy_class
from clora_exp.methods.word_outputs import WordOutputs
from clora_exp.models.backends import checkpoint_layers
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.language import LanguageConfig
from clora_exp.optimizers import two_groups
from clora_exp.states import num_bytes
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import Task, TaskStream

log = logging.getLogger("clora_exp")

SIMILARITY_EXAMPLES = 256  # of a task: their mean moves by a sixteenth of the examples' own spread


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most so many of `count` rows, evenly spread: a source may be sorted by class."""
    most = min(most, count)
    return [i * count // most for i in range(most)]


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

    def __init__(
        self,
        config: ExperimentConfig,
        stream: TaskStream,
        device: torch.device | str = "cpu",
        parent: Pairs | None = None,
        starts: Sequence[Start] = (),
    ) -> None:
        """Build the model on `device` and inject the adapters; draws from torch's global generator.

        Args:
            parent: the update that `store.parent` names.
            starts: what `warm_start=stored` chooses among beside the run's own earlier tasks.
        """
        assert (parent is None) == (config.store.parent is None), "store.parent and its update go together"
        self.config = config.method
        self.task_names = stream.names
        self.starts = list(starts)
        self.seed, self.batch_size, self.device = config.seed, config.trainer.batch_size, torch.device(device)
        self.precision = config.trainer.precision
        self.learning_rate = config.method.learning_rate or config.trainer.learning_rate
        self.head_learning_rate = config.method.head_learning_rate or config.trainer.head_learning_rate
        self.scenario = Scenario(config.scenario, stream)
        in_words = isinstance(config.model.settings, LanguageConfig)
        self.outputs = (WordOutputs if in_words else Outputs)(config, self.scenario)
        kind = discovery.model_kinds.load(config.model.kind)
        self.model: TaskModel = kind.build(config.model, config.method.backend)
        self.outputs.attach(self.model)
        self.adapters: Adapters | None = None
        if self.config.trainable == "adapters":
            targets = config.model.settings.target_modules
            self.adapters = Adapters(self.model.backbone, self.config, targets, parent)
            self.outputs.adapters = self.adapters
        self.model.requires_grad_(False).to(device)
        if config.trainer.gradient_checkpointing:
            checkpoint_layers(self.model.backbone)
        self.model.eval()  # the backbone's own dropout stays off in training too; the adapters' is theirs to switch
        self.outputs.place()
        self.means: dict[int, Tensor] = {}  # of a warm start's tasks, (d,)
        self.strategies = [strategy_class(name)(settings, self) for name, settings in config.method.strategies.items()]

    def encode(self, t: int, task: Task, split: str) -> EncodedSplit:
        """Return a split as the model reads it; its labels are indices into the scenario's labels of the task."""
        encoded = self.model.encode(t, task, split)
        if task.is_free_form:
            return encoded
        return dataclasses.replace(encoded, labels=self.scenario.index(t)[encoded.labels])

    def indices(self, names: Sequence[str]) -> Tensor:
        """Return each row's task, (n,), from its name: what a mixed batch is answered and trained by.

        Raises:
            ModelError: a name that is no task of the stream.
        """
        for name in names:
            if name not in self.task_names:
                raise ModelError(unknown("task", name, self.task_names))
        return torch.tensor([self.task_names.index(name) for name in names])

    def heads_in_session(self, t: int) -> list[nn.Parameter]:
        """Return the parameters of the heads that train in the session of task t."""
        heads = self.outputs.heads_in_session(t, any(s.trains_earlier_heads for s in self.strategies))
        return [parameter for head in heads for parameter in head.parameters()]

    def before_task(self, t: int, task: Task) -> None:
        """Make what the method trains on the task trainable, and nothing else."""
        self.outputs.num_begun = t + 1
        if self.adapters:
            start = self._warm_start(t, task)
            self.adapters.start_task(self.outputs.slot(t), start if isinstance(start, int) else None)
            if isinstance(start, Start):
                self.adapters.start_near(start.pairs())
        if self.config.trainable == "all":
            self.model.backbone.requires_grad_(True)
        for parameter in self.heads_in_session(t):
            parameter.requires_grad_(True)
        if self.adapters:
            self.adapters.set_dropout(False)
        for strategy in self.strategies:
            strategy.before_task(t, task)
        if self.adapters:
            self.adapters.set_dropout(True)

    def _warm_start(self, t: int, task: Task) -> int | Start | None:
        """Return what task t starts from: the nearest by the cosine of the tasks' mean features, of the run or stored.

        The features are the frozen backbone's, of training examples spread evenly; what they are of each task is kept.
        What was learned on the very same texts is no other task.
        """
        if self.config.warm_start == "none" or self.config.protocol != "sequence":
            return None
        split = self.encode(t, task, "train")
        rows = spread_evenly(len(split), SIMILARITY_EXAMPLES)
        self.means[t] = self.outputs.frozen_features(split, rows).cpu().mean(0)
        near: list[tuple[float, str, int | Start]] = [
            (float(F.cosine_similarity(self.means[t], self.means[j], dim=0)), self.task_names[j], j) for j in range(t)
        ]
        near += [
            (float(F.cosine_similarity(self.means[t], start.mean, dim=0)), start.label, start)
            for start in self.starts
            if start.train_sha256 != task.sha256["train"]
        ]
        if not near:
            return None
        similarity, label, nearest = max(near, key=lambda found: found[0])
        log.info("%s starts from %s, cosine %.3f", task.name, label, similarity)
        return nearest

    def parameter_groups(self, t: int) -> list[dict[str, Any]]:
        """Return the optimiser groups of task t; "lr" defaults to the method's, "optimizer" names what moves it."""
        groups = self.adapters.parameter_groups() if self.adapters else []
        if self.config.trainable == "all":
            groups = two_groups(self.model.backbone)
        if heads := self.heads_in_session(t):
            groups = [*groups, {"params": heads, "optimizer": "adamw", "lr": self.head_learning_rate}]
        for strategy in self.strategies:
            groups = [*groups, *strategy.parameter_groups()]
        return [{"lr": self.learning_rate, **group} for group in groups]

    def logits(self, batch: Batch) -> Tensor:
        """Return what the model answers, logits (n, c) over the scenario's labels; −inf beyond a row's own."""
        return self.outputs.logits(batch, self._route(batch))

    def predicted(self, batch: Batch) -> Tensor | Written:
        """Return each row's answer as an index into the scenario's labels, (n,), or what the model wrote."""
        return self.outputs.predicted(batch, self._route(batch))

    def samples(self, splits: Sequence[EncodedSplit], count: int = 10) -> list[dict[str, Any]]:
        """Return some answers word for word, of a model that answers in words; of others none."""
        return self.outputs.samples(splits, count)

    def _route(self, batch: Batch) -> Active | None:
        routes = [route for strategy in self.strategies if (route := strategy.route(batch)) is not None]
        return routes[0] if routes else None

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the batch plus every term of the strategies and the penalties."""
        answer = self.outputs.answer(batch)
        loss = F.cross_entropy(self.outputs.masked(answer.logits, batch), self.model.targets(batch))
        terms = [strategy.training_loss(batch, answer) for strategy in self.strategies]
        terms += [self.adapters.penalty() if self.adapters else None]
        terms += [strategy.penalty() for strategy in self.strategies]
        for term in terms:
            loss = loss if term is None else loss + term
        return loss

    def on_device(self, batch: Batch) -> Batch:
        """Return the batch with its inputs and labels where the model is."""
        inputs = {name: value.to(self.device) for name, value in batch.inputs.items()}
        return dataclasses.replace(batch, inputs=inputs, labels=batch.labels.to(self.device))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that a session's forward passes run in, for passes outside of it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def answer(self, batch: Batch) -> Answer:
        """Return what the model gives for a batch of training, whatever its tasks."""
        return self.outputs.answer(batch)

    def loss(self, batch: Batch, answer: Answer) -> Tensor:
        """Return the mean loss of a batch's labels, all classes seen competing, or of its answers' tokens."""
        return F.cross_entropy(answer.logits, self.model.targets(batch))

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return log p of each label, (n, c), −inf for what is not among a row's labels."""
        return self.outputs.log_probabilities(batch)

    @property
    def layers(self) -> dict[str, FamilyLayer]:
        """The adapted layers by name; none without adapters."""
        return self.adapters.layers if self.adapters else {}

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what trains at this moment, in the order of the model."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def shared_parameters(self) -> dict[str, Tensor]:
        """Return, of what trains, what answers earlier tasks too, by name: no part or head of the task's own."""
        shared = dict(self.adapters.shared_parameters()) if self.adapters else {}
        if self.config.trainable == "all":
            shared |= {f"backbone.{name}": p for name, p in self.model.backbone.named_parameters() if p.requires_grad}
        if not self.scenario.knows_task and not self.outputs.identifies:
            shared |= {f"heads.{name}": p for name, p in self.model.heads.named_parameters() if p.requires_grad}
        return shared

    def whole_gradients(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are those of the loss, where a setting's mechanism changes them."""
        return self.adapters.whole_gradients() if self.adapters else nullcontext()

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
        if self.outputs.identifies:
            self.outputs.learn_to_identify(t, self.encode(t, task, "train"))
        self.model.requires_grad_(False)
        self.model.heads.refresh()

    def state_of(self, t: int) -> dict[str, Tensor]:
        """Return what task t learned: "head.weight", "head.bias" and the adapters' "<part>/<module>".

        It answers among the labels of the task alone; which examples are the task's is for others to know.
        """
        found = self.outputs.head(t)
        head = {f"head.{name}": value for name, value in found.state_dict().items()} if found is not None else {}
        return head | (self.adapters.state_of(self.outputs.active(t)) if self.adapters else {})

    def exported(self, t: int, task: Task, base: str) -> Exported:
        """Return what answers task t for other software; `base` is what the base model is called.

        Raises:
            ModelError: it is no low-rank update of the backbone, with the reason.
        """
        if reason := not_exportable(self.config):
            raise ModelError(reason)
        assert self.adapters is not None
        labels = self.outputs.head_labels(t)
        of = {"task": task.name, "base": base, "description": task.description, "labels": tuple(labels)}
        return self.model.exported(self.adapters, self.outputs.slot(t), self.outputs.head(t), of)

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

    def kept_bytes(self) -> int:
        """Return the bytes of what strategies keep between tasks, to learn later ones by."""
        states = [strategy.state_dict().items() for strategy in self.strategies]
        return sum(num_bytes(part) for state in states for name, part in state if name != "generator")

    def answering_bytes(self) -> int:
        """Return the bytes of all that answers the tasks so far, the frozen backbone apart: a trained one counts."""
        heads = list(self.model.heads)[: self.outputs.num_begun]
        state = [[head.state_dict() for head in heads], self.backbone_weights()]
        identifier = self.outputs.identifier.state_dict() if self.outputs.identifier else {}
        return num_bytes(state) + num_bytes(identifier) + (self.adapters.num_bytes() if self.adapters else 0)

    def num_trainable(self) -> int:
        """Return how many parameters train at this moment: between `before_task` and `after_task`."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def fingerprint(self, t: int) -> str:
        """Return a hash of every parameter that decides the answers to task t, a frozen backbone apart.

        Two equal fingerprints in one run mean equal answers: the evaluation need not be repeated.
        """
        routed = any(type(strategy).route is not Strategy.route for strategy in self.strategies)
        is_own = self.scenario.knows_task and not routed  # nothing but the task's parts decides
        digest = hashlib.sha256(b"" if is_own else str(self.outputs.num_begun).encode())
        for name, tensor in sorted((self.state_of(t) | self.backbone_weights()).items()):
            digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next task needs: heads, adapters, strategies, and the backbone where it trains."""
        return {
            "heads": self.model.heads.state_dict(),
            "backbone": self.backbone_weights(),
            "adapters": self.adapters.state_dict() if self.adapters else {},
            "num_begun": self.outputs.num_begun,
            "identifier": self.outputs.identifier.state_dict() if self.outputs.identifier else {},
            "means": {str(t): mean for t, mean in self.means.items()},
            "strategies": self._states_of_strategies(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.model.heads.load_state_dict(state["heads"])
        self.model.heads.refresh()
        if state["backbone"]:
            self.model.backbone.load_state_dict(state["backbone"])
        if self.adapters:
            self.adapters.load_state_dict(state["adapters"])
        self.outputs.num_begun = state["num_begun"]
        if self.outputs.identifier:
            self.outputs.identifier.load_state_dict(state["identifier"])
        self.means = {int(t): mean for t, mean in state["means"].items()}
        self._load_strategies(state["strategies"])

    def session_state(self) -> dict[str, Any]:
        """Return what a session has changed since `before_task`: what trains, and the strategies."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {"parameters": trained, "strategies": self._states_of_strategies()}

    @torch.no_grad()
    def load_session_state(self, state: dict[str, Any]) -> None:
        """Take back what `session_state` gave; the task has begun again from the method's state before it."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if trained.keys() != state["parameters"].keys():
            other = sorted(trained.keys() ^ state["parameters"].keys())
            raise ModelError(f"the session's parameters do not fit: {other[:3]} missing or extra")
        for name, parameter in trained.items():
            parameter.copy_(state["parameters"][name])
        self._load_strategies(state["strategies"])

    def _states_of_strategies(self) -> dict[str, Any]:
        return {name: s.state_dict() for name, s in zip(self.config.strategies, self.strategies, strict=True)}

    def _load_strategies(self, states: dict[str, Any]) -> None:
        for name, strategy in zip(self.config.strategies, self.strategies, strict=True):
            strategy.load_state_dict(states[name])
