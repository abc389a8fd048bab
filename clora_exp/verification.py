"""What every method promises, measured on a tiny real model: the contract, beside what its strategies promise.

The model is a ViT of two narrow layers with random weights, the tasks are scikit-learn's digits, two a task: small
enough for every method in seconds, and nothing has to be downloaded. `python -m clora_exp.methods verify` prints it.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.routed import RoutedUpdate
from clora_exp.config import ExperimentConfig, MethodConfig, ModelConfig, TasksConfig, TrainerConfig
from clora_exp.errors import ConfigError
from clora_exp.methods.base import Method
from clora_exp.methods.invariant import Invariant, distance, distance_of_all
from clora_exp.methods.suitable import check_strategies, not_exportable, strategy_class
from clora_exp.models import vision_encoder
from clora_exp.models.batches import mixed_batch
from clora_exp.tasks.sources import digits
from clora_exp.tasks.stream import TaskStream

RANK, EXAMPLES, STEPS = 4, 24, 4


def promises(method: MethodConfig) -> Iterator[Invariant]:
    """Yield what the method promises, the contract of all methods first."""
    trials = Trials(method)
    yield from trials.contract()
    for name in method.strategies:
        yield from strategy_class(name).invariants()


class Trials:
    """The tiny experiment of one method."""

    def __init__(self, method: MethodConfig) -> None:
        small: Any = {"rank": RANK, "dropout": 0.0, "rank_pattern": None, "target_modules": ["q_proj", "v_proj"]}
        self.settings = dataclasses.replace(method, **small)
        self.stream = _digits()

    def config(self, **changes: Any) -> ExperimentConfig:
        """Return the experiment, with fields of the method changed."""
        model = ModelConfig("tiny", path=str(_tiny_vit()), kind="vision_encoder", settings=vision_encoder.Config())
        trainer = TrainerConfig(batch_size=8, max_steps=STEPS, accelerator="cpu", learning_rate=1e-2)
        changed = dataclasses.replace(self.settings, **changes)
        return ExperimentConfig(changed, TasksConfig("digits"), model, trainer, scenario="task_incremental")

    def started(self, **changes: Any) -> Method:
        """Return the method before its first task."""
        config = self.config(**changes)
        check_strategies(config)
        torch.manual_seed(0)
        return Method(config, self.stream)

    def learn(self, method: Method, t: int, config: ExperimentConfig | None = None) -> float:
        """Train task t; return how much its answers change as it ends."""
        from clora_exp.randomness import seed_everything
        from clora_exp.session import fit

        config = config or self.config()
        task = self.stream.tasks[t]
        seed = seed_everything(0, t + 1)
        method.before_task(t, task)
        fit(method, method.encode(t, task, "train"), task.name, config.trainer, seed)
        method.model.eval()
        if method.adapters:
            method.adapters.set_dropout(False)
        trained = self.logits(method, t)
        method.after_task(t, task)
        return distance(self.logits(method, t), trained)

    def logits(self, method: Method, t: int) -> Tensor:
        """Return the method's answers to task t's examples."""
        with torch.inference_mode():
            return method.logits(method.encode(t, self.stream.tasks[t], "test")[list(range(EXAMPLES))])

    def contract(self) -> Iterator[Invariant]:
        """Yield what every method promises."""
        if self.settings.protocol != "sequence":
            yield from self._references()
            return
        method = self.started()
        frozen = {n: p.clone() for n, p in method.model.backbone.named_parameters() if "lora_" not in n}
        changed = self.learn(method, 0)
        before, saved = self.logits(method, 0), method.state_dict()
        fresh = self.started()
        fresh.load_state_dict(saved)
        yield Invariant("answers from a loaded state", "contract", distance(self.logits(fresh, 0), before))
        changed = max(changed, self.learn(method, 1))
        self.learn(fresh, 1)
        yield Invariant("a task's end changes no answer", "contract", changed, 1e-5)
        continued = distance_of_all([self.logits(fresh, t) for t in (0, 1)], [self.logits(method, t) for t in (0, 1)])
        yield Invariant("training goes on from a loaded state", "contract", continued)
        now = dict(method.model.backbone.named_parameters())
        moved = distance_of_all([now[name] for name in frozen], list(frozen.values()))
        if self.settings.trainable != "all":
            yield Invariant("the backbone's weights do not move", "contract", moved)
        if not self.settings.forgets:
            yield Invariant("earlier answers do not move", "isolated parts", distance(self.logits(method, 0), before))
        if self.settings.routing == "additive":
            yield from routed_gradients()
        yield from self._mixed(method)
        yield from self._exported(method)
        yield from self._switched_off()

    def _mixed(self, method: Method) -> Iterator[Invariant]:
        splits = [method.encode(t, self.stream.tasks[t], "test") for t in (0, 1)]
        which = [(1, 0), (0, 1), (1, 2), (0, 3)]
        with torch.inference_mode():
            mixed = method.logits(mixed_batch(splits, which))
            rows = torch.cat([method.logits(splits[t][[row]]) for t, row in which])
        yield Invariant("a mixed batch is its rows", "one by one", distance(mixed, rows), 1e-5)

    def _exported(self, method: Method) -> Iterator[Invariant]:
        """Every update as a plain LoRA, merged by hand, against the method's answers."""
        if not_exportable(self.settings):
            return
        assert isinstance(method.adapters, Adapters)
        plain = vision_encoder.build(self.config().model).backbone
        for name, (A, B) in method.adapters.as_lora(1).items():
            weight = plain.get_submodule(name).weight
            weight.data = (weight.double() + B @ A).float()
        batch = method.encode(1, self.stream.tasks[1], "test")[list(range(EXAMPLES))]
        with torch.inference_mode():
            features = plain(**batch.inputs).last_hidden_state[:, 0]
            merged = method.outputs.logits_of(features, 1)
        yield Invariant("the update is one LoRA pair", "merged", distance(merged, self.logits(method, 1)), 1e-4)

    def _switched_off(self) -> Iterator[Invariant]:
        """At strength 0 a strategy trains as its bare setting does: what it draws is its own."""
        off = {name: strategy_class(name).off for name in self.settings.strategies}
        if not off or not all(off.values()):
            return
        weak = {name: dataclasses.replace(config, **off[name]) for name, config in self.settings.strategies.items()}
        found = []
        for strategies in (weak, {}):
            method = self.started(strategies=strategies)
            for t in (0, 1):
                self.learn(method, t)
            found.append([self.logits(method, t) for t in (0, 1)])
        yield Invariant("at strength 0 it is its bare setting", "contract", distance_of_all(*found))

    def _references(self) -> Iterator[Invariant]:
        """Of one task alone joint and single train as the method in turn does."""
        alone = TaskStream("one", self.stream.tasks[:1])
        found = []
        for protocol in (self.settings.protocol, "sequence"):
            config = self.config(protocol=protocol)
            torch.manual_seed(0)
            method = Method(config, alone)
            self.learn(method, 0, config)
            found.append(self.logits(method, 0))
        yield Invariant("with one task it is training in turn", "contract", distance(*found))


def routed_gradients() -> Iterator[Invariant]:
    """C-LoRA's rule: the factors learn through R_δ alone, everything else through the whole routing."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"x": (5, 7), "A": (3, 7), "B": (6, 3), "R_old": (3, 3), "R_delta": (3, 3)}
    x, A, B, R_old, R_delta = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in shapes.values())
    tensors = [tensor.requires_grad_() for tensor in (x, A, B, R_old, R_delta)]
    y, G_y = RoutedUpdate.apply(*tensors), torch.randn(5, 6, generator=draw, dtype=torch.float64)
    found = torch.autograd.grad((y * G_y).sum(), [x, A, B, R_delta])
    G = G_y.T @ x  # ∂L/∂ΔW
    expected = [G_y @ B @ (R_old + R_delta) @ A, (B @ R_delta).T @ G, G @ (R_delta @ A).T, B.T @ G @ A.T]
    source = "Zhang 2025, ∂L/∂B = G (R_δ A)ᵀ"
    yield Invariant("A and B learn through R_δ alone", source, distance_of_all(found[1:3], expected[1:3]), 1e-12)
    whole = distance_of_all([found[0], found[3], y], [expected[0], expected[3], x @ (B @ (R_old + R_delta) @ A).T])
    yield Invariant("value, x and R_δ see the whole routing", "the formula", whole, 1e-12)


def check(method: MethodConfig) -> str | None:
    """Return why the method cannot be tried here; None where it can."""
    try:
        check_strategies(Trials(method).config())
    except ConfigError as error:
        return str(error)
    return None


@cache
def _digits() -> TaskStream:
    """Return two tasks of two digits, with few training examples."""
    tasks = digits.tasks(digits.Config(num_tasks=5), 0)[:2]
    return TaskStream("digits", [dataclasses.replace(t, train=t.train[:40], test=t.test[:EXAMPLES]) for t in tasks])


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clora-exp-verify-")


@cache
def _tiny_vit() -> Path:
    """Write a random ViT of two layers and width 16; the folder goes when the process ends."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(_folder().name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=8,
            patch_size=4,
            num_channels=1,
            initializer_range=0.3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    ViTImageProcessorPil(do_resize=True, size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    return folder
