"""InfLoRA: each task's A is fixed to directions of its inputs that earlier tasks' gradients leave free; only B trains.

Liang & Li 2024 (arXiv 2404.00228), algorithm 1. The gradient of W lies in the span of the layer's inputs, so earlier
tasks' gradients are known by a basis M of their inputs (GPM, Saha et al. 2021, arXiv 2103.09762, eqs. 5 to 9): after
a task as many directions are added as its inputs need for a share ε of their energy, ε growing linearly to its final
value. A of a new task are the first r left singular vectors of its inputs with M projected out, divided by √3: as
long as LoRA's rows at the start. Differs: one basis M, where the paper's DualGPM keeps the smaller of M and its
complement for the same projection; energy is that of the inputs, as printed, where the released code takes their
covariance's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clora_exp.config import STRICT, Count, ExperimentConfig, Gt, Le, Strict
from clora_exp.methods.invariant import Invariant, distance
from clora_exp.methods.olora import of_a_sum
from clora_exp.methods.strategy import Strategy
from clora_exp.models.batches import EncodedAnswers
from clora_exp.tasks.stream import Task

Share = Annotated[float, Strict(), Gt(0), Le(1)]


@dataclass(frozen=True)
class Config:
    """How much of the inputs is protected."""

    __pydantic_config__ = STRICT
    energy: Share = 0.95  # ε after the first task
    final_energy: Share = 1.0  # what ε grows towards: after task t of T it has gone (t − 1) / T of the way
    examples: Count | None = 256  # of the training split, spread evenly; null: all


class InfLoRA(Strategy):
    """State: by layer a basis M of the earlier tasks' inputs, (in, k)."""

    source: ClassVar[str] = "Liang & Li 2024, 2404.00228"
    stores: ClassVar[str] = "A, B of each task; a basis of the inputs of each layer"
    step_cost: ClassVar[str] = "grows: the rank of the sum"
    task_cost: ClassVar[str] = "two passes over its examples, an SVD a layer"

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.bases: dict[str, Tensor] = {}

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """It is about a sum of pairs."""
        return of_a_sum(config)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """The basis on inputs of low rank: orthonormal, and no larger than the share of energy needs."""
        draw = torch.Generator().manual_seed(0)
        X = torch.randn(8, 3, generator=draw, dtype=torch.float64) @ torch.randn(3, 40, generator=draw).double()
        Y = torch.randn(8, 40, generator=draw, dtype=torch.float64)
        M = grown_basis(torch.zeros(8, 0, dtype=torch.float64), X @ X.T, 0.999999)
        yield Invariant("directions of inputs of rank 3", "Saha 2021, eq. 5", abs(M.shape[1] - 3.0))
        yield Invariant("they hold the inputs", "Saha 2021, eq. 5", distance(M @ (M.T @ X), X), 1e-5)
        grown = grown_basis(M, Y @ Y.T, 0.9)
        eye = torch.eye(grown.shape[1])
        yield Invariant("the basis stays orthonormal", "Saha 2021, eq. 9", distance(grown.T @ grown, eye), 1e-10)
        held = float((grown.T @ Y).square().sum() / Y.square().sum())
        less = grown[:, :-1]
        enough = float((less.T @ Y).square().sum() / Y.square().sum()) < 0.9 <= held
        yield Invariant("as many as hold the share, and no more", "Saha 2021, eq. 9", 0.0 if enough else 1.0)

    def before_task(self, t: int, task: Task) -> None:
        """Fix every layer's A."""
        for name, gram in self._input_grams(t, task).items():
            layer = self.method.layers[name]
            free = gram - self._projected(name, gram)  # (I − M Mᵀ) X Xᵀ (I − M Mᵀ)
            values, vectors = torch.linalg.eigh(free)
            found = vectors[:, values.argsort(descending=True)[: layer.rank]]
            if name in self.bases:  # where nothing is free, rounding must not choose old directions
                M = self.bases[name].to(found)
                found = found - M @ (M.T @ found)
            A = layer.part("A")
            A.data.copy_(found.T / 3**0.5)
            A.requires_grad_(False)

    def _projected(self, name: str, gram: Tensor) -> Tensor:
        """Return what is taken from X Xᵀ when M is projected out of X on the left and the right."""
        if name not in self.bases:
            return torch.zeros_like(gram)
        M = self.bases[name].to(gram)
        away = gram - M @ (M.T @ gram)
        return gram - (away - (away @ M) @ M.T)

    def after_task(self, t: int, task: Task) -> None:
        """Add the task's inputs to the bases."""
        settings = self.config
        share = settings.energy + (settings.final_energy - settings.energy) * t / len(self.method.task_names)
        for name, gram in self._input_grams(t, task).items():
            M = self.bases.get(name, gram.new_zeros(len(gram), 0)).to(gram)
            self.bases[name] = grown_basis(M, gram, share).float()

    @contextmanager
    def _watching(self, grams: dict[str, Tensor], mask: list[Tensor | None]) -> Iterator[None]:
        """Add up X Xᵀ of what goes into every adapted layer; padding is left out."""

        def look(name: str) -> Any:
            def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
                x = arguments[0].detach()
                keep = mask[0]
                x = x[keep] if keep is not None and x.shape[:2] == keep.shape else x.flatten(0, -2)
                x = x.double()
                grams[name] = grams[name] + x.T @ x if name in grams else x.T @ x

            return hook

        layers = self.method.layers
        handles = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _input_grams(self, t: int, task: Task) -> dict[str, Tensor]:
        """Return X Xᵀ (in, in) of each layer's inputs on the task's training examples, as the model is now."""
        split = self.method.encode(t, task, "train")
        count = min(self.config.examples or len(split), len(split))
        rows = (np.arange(count) * len(split) // count).tolist()
        grams: dict[str, Tensor] = {}
        mask: list[Tensor | None] = [None]
        with torch.no_grad(), self._watching(grams, mask):
            # in words a layer reads prompts, answers or both: one by one, nothing is padded
            size = 1 if isinstance(split, EncodedAnswers) else 32
            for start in range(0, len(rows), size):
                batch = self.method.on_device(split[rows[start : start + size]])
                keep = batch.inputs.get("attention_mask")
                mask[0] = None if keep is None else keep.bool()
                self.method.answer(batch)
        return grams

    def state_dict(self) -> dict[str, Any]:
        """Return the bases."""
        return {"bases": self.bases}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.bases = {name: M.to(self.method.device) for name, M in state["bases"].items()}


def grown_basis(M: Tensor, gram: Tensor, share: float) -> Tensor:
    """Return M (in, k) with as many directions of X Xᵀ (in, in) added as hold the share of its energy tr(X Xᵀ).

    Saha et al. 2021, eqs. 8 and 9: the directions of X̂ = X − M Mᵀ X, strongest first, until with what M holds already
    the share is reached.
    """
    total = gram.trace()
    away = gram - M @ (M.T @ gram)
    away = away - (away @ M) @ M.T
    values, vectors = torch.linalg.eigh(away)
    order = values.argsort(descending=True)
    values, vectors = values[order].clamp_min(0), vectors[:, order]
    held = (total - values.sum()) / total
    reached = held + torch.cumsum(values, 0) / total
    room = len(gram) - M.shape[1]
    missing = int((reached < share).sum()) + 1 if held < share else 0
    chosen = vectors[:, : min(missing, room)]
    both, _ = torch.linalg.qr(torch.cat([M, chosen], dim=1))  # rounding must not bend the basis
    return both
