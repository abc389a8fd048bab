"""Avalanche's strategies on what `benchmarks/methods.py` hands over: the same weights, heads, pixels and batches.

It imports nothing of this project. `methods.py` writes a folder, starts this with it and sends a request a line; each
is answered by a line: the accuracy on every task after the last, and the milliseconds of a step. Its environment:

    python3 -m venv avalanche-env
    avalanche-env/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
    avalanche-env/bin/pip install --no-deps avalanche-lib==0.6.0 torchvision==0.28.0
    avalanche-env/bin/pip install matplotlib scikit-learn quadprog qpsolvers dill torchmetrics pytorchcv kornia gdown \
        wandb tensorboard psutil gputil setproctitle

then `python benchmarks/methods.py --peer avalanche-env/bin/python`, with this project's own python.
"""

import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import qpsolvers
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

# ruff: noqa: E402  (the operators come first)
for operator in ("nms", "qnms"):  # torchvision of a CUDA build asks for them beside a torch without CUDA
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import DynamicModule, MultiTaskModule
from avalanche.training.plugins import AGEMPlugin, EvaluationPlugin, EWCPlugin, GEMPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.templates import SupervisedTemplate
from transformers import AutoModel


class HeadPerTask(MultiTaskModule):
    """A head a task, all there from the start."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks, self.max_class_label = blocks, blocks[0].out_features

    def adaptation(self, experience: Any) -> None:
        """Take note of the task."""
        if self.training:
            self.known_train_tasks_labels.add(experience.current_experience)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Return the logits of a task's head."""
        return self.blocks[task_label](x)


class GrowingHead(DynamicModule):
    """One head over the classes seen, a block a task."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks, self.num_begun = blocks, 0

    def adaptation(self, experience: Any) -> None:
        """Take in the classes of the task."""
        if self.training:
            self.num_begun = experience.current_experience + 1

    def forward(self, x: Tensor) -> Tensor:
        """Return logits over the classes seen."""
        return torch.cat([block(x) for block in self.blocks[: self.num_begun]], dim=1)


class SingleHeadModel(nn.Module):
    """The ViT and a growing head."""

    def __init__(self, backbone: nn.Module, heads: nn.Module) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.heads(self.backbone(pixel_values=x).last_hidden_state[:, 0])


class MultiHeadModel(MultiTaskModule):
    """The ViT and a head a task; the features are computed once, whatever the tasks."""

    def __init__(self, backbone: nn.Module, heads: HeadPerTask) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def adaptation(self, experience: Any) -> None:
        """The heads have theirs."""

    def forward(self, x: Tensor, task_labels: Any) -> Any:
        """Return each row's logits; of all tasks where there are no labels."""
        return self.heads(self.backbone(pixel_values=x).last_hidden_state[:, 0], task_labels)


class Epochs:
    """The batches of a task: each epoch its own."""

    def __init__(self, epochs: list[list[list[int]]]) -> None:
        self._epochs, self._next = epochs, 0

    def __len__(self) -> int:
        return len(self._epochs[0])

    def __iter__(self) -> Iterator[list[int]]:
        self._next += 1
        return iter(self._epochs[self._next - 1])


class SameSteps(SupervisedPlugin):
    """Batches, learning-rate schedule and clipping as the other side has them; the time of each step."""

    def __init__(self, order: list[Any], factors: list[float], clip: float, own_batches: bool) -> None:
        super().__init__()
        self._order, self._factors, self._clip, self._own_batches = order, factors, clip, own_batches
        self._rates: list[float] = []
        self._step = 0
        self.ends: list[list[float]] = []  # of each task's steps

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Start a task."""
        self._rates = self._rates or [group["lr"] for group in strategy.optimizer.param_groups]
        self._step = 0
        self.ends.append([])
        t = strategy.experience.current_experience
        if t == 0 or not self._own_batches:
            batches = Epochs(self._order[t])
            dataset = strategy.adapted_dataset
            strategy.dataloader = DataLoader(dataset, batch_sampler=batches, collate_fn=dataset.collate_fn)

    def before_update(self, strategy: Any, **_: Any) -> None:
        """Clip, and set the learning rates of the step."""
        nn.utils.clip_grad_norm_(strategy.model.parameters(), self._clip)
        for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factors[self._step]
        self._step += 1

    def after_update(self, strategy: Any, **_: Any) -> None:
        """Note the time."""
        self.ends[-1].append(time.perf_counter())


class PerExampleEWC(EWCPlugin):
    """EWC whose importances are squares of single examples' gradients, not of batch means."""

    def compute_importances(
        self, model: Any, criterion: Any, optimizer: Any, dataset: Any, device: Any, *_: Any, **__: Any
    ):
        """Measure with batches of one."""
        return super().compute_importances(model, criterion, optimizer, dataset, device, 1)


class EveryGradient:
    """Mixin: the projection is written to parameters, too, on which the new task's loss does not depend."""

    def after_backward(self, strategy: Any, **keywords: Any) -> None:
        """Project with zeros in place of gradients that are not there."""
        without = [p for p in strategy.model.parameters() if p.grad is None]
        for parameter in without:
            parameter.grad = torch.zeros_like(parameter)
        super().after_backward(strategy, **keywords)  # type: ignore[misc]
        for parameter in without:
            if not parameter.grad.any():
                parameter.grad = None


class MatchedGEM(EveryGradient, GEMPlugin):
    """GEM with the other side's kept examples, and its QP scaled by the largest gradient's norm."""

    def __init__(self, seed: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._seed = seed

    def update_memory(self, dataset: Any, t: int, batch_size: int) -> None:
        """Keep the examples that the other side keeps."""
        kept = _kept(dataset, self._seed, t, self.patterns_per_experience)
        self.memory_x[t], self.memory_y[t], self.memory_tid[t] = kept

    def solve_quadprog(self, g: Tensor) -> Tensor:
        """Solve for gradients over the largest norm of the memory's, and in double precision throughout."""
        scale = self.G.norm(dim=1).max()
        G, q = self.G.double().numpy() / float(scale), (self.G @ g / scale**2).double().numpy()
        P, n = G @ G.T + 1e-3 * np.eye(len(G)), len(G)
        v = qpsolvers.solve_qp(P, q, -np.eye(n), -np.full(n, self.memory_strength), solver="quadprog")
        return g + self.G.T @ torch.from_numpy(v).to(g)


class MatchedAGEM(EveryGradient, AGEMPlugin):
    """A-GEM with the other side's kept examples, drawn from as the other side draws: from all alike."""

    def __init__(self, seed: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._seed, self._rng = seed, np.random.default_rng(seed)

    def update_memory(self, dataset: Any, **_: Any) -> None:
        """Keep the examples that the other side keeps."""
        self.buffers.append(_kept(dataset, self._seed, len(self.buffers), self.patterns_per_experience))

    def sample_from_memory(self) -> list[Tensor]:
        """Draw without replacement."""
        every = [torch.cat(column) for column in zip(*self.buffers, strict=True)]
        count = min(self.sample_size, len(every[0]))
        places = self._rng.choice(len(every[0]), size=count, replace=False)
        return [column[places.tolist()] for column in every]


class MatchedReplay(SupervisedPlugin):
    """Replay with the other side's reservoir, each batch drawn anew, and the means of both batches added."""

    def __init__(self, seed: int, mem_size: int) -> None:
        super().__init__()
        self._seed, self._size, self._rng = seed, mem_size, np.random.default_rng(seed)
        self._memory: list[Any] = []
        self._num_seen = self._num_new = 0

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Join as many kept examples as a whole batch has."""
        self._num_new = len(strategy.mbatch[0])
        if self._memory:
            places = self._rng.choice(len(self._memory), size=strategy.train_mb_size, replace=False)
            kept = self._collate([self._memory[place] for place in places.tolist()])
            strategy.mbatch = [torch.cat(both) for both in zip(strategy.mbatch, kept, strict=True)]

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Add the two means."""
        if self._memory:
            logits, labels, n = strategy.mb_output, strategy.mb_y, self._num_new
            strategy.loss = strategy._criterion(logits[:n], labels[:n]) + strategy._criterion(logits[n:], labels[n:])

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Show the reservoir the task's examples in the other side's order."""
        dataset = strategy.experience.dataset
        self._collate = dataset.collate_fn
        order = np.random.default_rng([self._seed, strategy.experience.current_experience]).permutation(len(dataset))
        for row in order.tolist():
            self._num_seen += 1
            if len(self._memory) < self._size:
                self._memory.append(dataset[row])
            elif (place := int(self._rng.integers(self._num_seen))) < self._size:
                self._memory[place] = dataset[row]


def _kept(dataset: Any, seed: int, t: int, count: int) -> list[Tensor]:
    """Return pixels, labels and tasks of the examples of task t that the other side keeps."""
    rows = np.random.default_rng([seed, t]).permutation(len(dataset))[:count]
    return dataset.collate_fn([dataset[row] for row in rows.tolist()])


PLUGINS: dict[str, Any] = {
    "naive": None,
    "ewc": EWCPlugin,
    "ewc_per_example": PerExampleEWC,
    "gem": GEMPlugin,
    "gem_matched": MatchedGEM,
    "agem": AGEMPlugin,
    "agem_matched": MatchedAGEM,
    "replay": ReplayPlugin,
    "replay_matched": MatchedReplay,
    "lwf": LwFPlugin,
}


def built(folder: Path, request: dict[str, Any], settings: dict[str, Any], same: SameSteps) -> SupervisedTemplate:
    """Return a strategy on the ViT with the heads of the seed, optimised as on the other side."""
    backbone = AutoModel.from_pretrained(settings["model"], add_pooling_layer=False, dtype=torch.get_default_dtype())
    drawn = load_file(folder / f"heads-{request['seed']}.safetensors")
    blocks = nn.ModuleList()
    for t in range(settings["num_tasks"]):
        block = nn.Linear(*reversed(drawn[f"{t}.weight"].shape))
        block.load_state_dict({"weight": drawn[f"{t}.weight"], "bias": drawn[f"{t}.bias"]})
        blocks.append(block)
    is_multi_head = request["scenario"] == "task_incremental"
    model = (
        MultiHeadModel(backbone, HeadPerTask(blocks))
        if is_multi_head
        else SingleHeadModel(backbone, GrowingHead(blocks))
    )
    decay = settings["weight_decay"]
    groups = [
        {"params": [p for p in backbone.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in backbone.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [*blocks.parameters()], "weight_decay": decay, "lr": settings["head_learning_rate"]},
    ]
    plugin, arguments = PLUGINS[request["method"]], request["arguments"]
    if plugin in (MatchedGEM, MatchedAGEM, MatchedReplay):
        arguments = {"seed": request["seed"], **arguments}
    return SupervisedTemplate(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=settings["learning_rate"]),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=settings["batch_size"],
        train_epochs=settings["epochs"],
        eval_mb_size=settings["eval_batch_size"],
        plugins=[*([] if plugin is None else [plugin(**arguments)]), same],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )


def stream(folder: Path, scenario: str, num_tasks: int) -> Any:
    """Return the tasks as Avalanche's benchmark."""
    tensors = load_file(folder / "stream.safetensors")
    splits: dict[str, list[Any]] = {"train": [], "test": []}
    for (name, found), t in itertools.product(splits.items(), range(num_tasks)):
        pixels, labels = tensors[f"{t}/{name}/pixels"], tensors[f"{t}/{name}/labels/{scenario}"]
        pixels = pixels.to(torch.get_default_dtype())
        task = t if scenario == "task_incremental" else 0
        found.append(
            _make_taskaware_tensor_classification_dataset(pixels, labels, task_labels=task, targets=labels.tolist())
        )
    return with_task_labels(benchmark_from_datasets(**splits))


def learned(folder: Path, request: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Learn the tasks in turn; return the accuracy on each in the end and the median milliseconds of a step."""
    random.seed(request["seed"])
    np.random.seed(request["seed"])
    torch.manual_seed(request["seed"])
    torch.set_default_dtype(torch.float64 if request["is_double"] else torch.float32)
    order = json.loads((folder / f"order-{request['seed']}.json").read_text())
    same = SameSteps(order, settings["factors"], settings["gradient_clip"], request["method"] == "replay")
    benchmark = stream(folder, request["scenario"], settings["num_tasks"])
    strategy = built(folder, request, settings, same)
    for experience in benchmark.train_stream:
        strategy.train(experience, reset_optimizer_state=True)
    found = strategy.eval(benchmark.test_stream)
    accuracies = [value for name, value in sorted(found.items()) if name.startswith("Top1_Acc_Exp/eval_phase")]
    assert len(accuracies) == settings["num_tasks"]
    later = [after - before for ends in same.ends[1:] for before, after in itertools.pairwise(ends)]
    importances = [plugin.importances[0] for plugin in strategy.plugins if isinstance(plugin, EWCPlugin)]
    return {
        "accuracies": accuracies,
        "step_ms": 1000 * statistics.median(later),
        "importance": sum(float(imp.data.sum()) for found in importances for imp in found.values()) or None,
    }


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    answers, sys.stdout = sys.stdout, sys.stderr  # what Avalanche prints is no answer
    for line in sys.stdin:
        print(json.dumps(learned(folder, json.loads(line), settings)), file=answers, flush=True)


if __name__ == "__main__":
    main()
