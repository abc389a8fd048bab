"""One linear head a task, or one that grows by a block a task; also for a batch whose rows are of different tasks."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import Active
from clora_exp.errors import ModelError


class Heads(nn.ModuleList):
    """The tasks' heads, `nn.Linear` (c_t, d) each. In the class-incremental scenario they are blocks of one head.

    Cosine heads (Gidaris & Komodakis 2018, arXiv 1804.09458, eq. 5) answer scale · cos(feature, class vector).
    Differs: the scale is fixed, so that no part of a head is shared by tasks.

    Shapes: n rows, d features, c_t labels of task t, c the most labels of any task.
    """

    _known: Sequence[nn.Module] = ()  # the heads that the fields below are of
    _flat: Sequence[nn.Parameter] = ()  # their parameters
    _width = 0  # c
    _stack: tuple[int, Tensor, Tensor] | None = None  # changes of the parameters until then, weight, bias

    def __init__(self, width: int, sizes: Sequence[int], cosine_scale: float | None = None) -> None:
        """Draw heads for features (n, width) from torch's global generator; with a scale they are cosine heads."""
        super().__init__(nn.Linear(width, size, bias=cosine_scale is None) for size in sizes)
        self.cosine_scale = cosine_scale

    def forward(self, features: Tensor, task: Active) -> Tensor:
        """Return logits of features (n, d): (n, c_t) of one task; of a tensor of tasks (n, c), −inf beyond c_t."""
        if isinstance(task, int):
            return self._linear(features, *self._parts(self._head(task)))
        assert isinstance(task, Tensor)
        tasks, (weight, bias) = self._gathered(task)
        weight, bias = weight.index_select(0, tasks.reshape(-1)), bias.index_select(0, tasks.reshape(-1))
        if task.ndim == 0:
            return self._linear(features, weight[0], bias[0])
        if self.cosine_scale is not None:
            features = F.normalize(features, dim=-1)
        return torch.einsum("nd,ncd->nc", features, weight.to(features.dtype)) + bias

    def joined(self, features: Tensor, num_tasks: int) -> Tensor:
        """Return logits (n, Σ c_t) over the classes of all heads, as one head that has grown to `num_tasks` blocks.

        Those of later tasks are −inf.
        """
        heads = [self._head(t) for t in range(len(self))]
        parts = [self._parts(head) for head in heads[:num_tasks]]
        weight = torch.cat([weight for weight, _ in parts])
        bias = None if parts[0][1] is None else torch.cat([cast(Tensor, bias) for _, bias in parts])
        unseen = sum(head.out_features for head in heads[num_tasks:])
        return F.pad(self._linear(features, weight, bias), (0, unseen), value=-torch.inf)

    def _parts(self, head: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Return what multiplies a feature, and the bias."""
        if self.cosine_scale is None:
            return head.weight, head.bias
        return self.cosine_scale * F.normalize(head.weight, dim=-1), None

    def _linear(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(features if self.cosine_scale is None else F.normalize(features, dim=-1), weight, bias)

    def _gathered(self, task: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return rows of a stack, and the stack: of the batch's own heads where one of them trains, else of all."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            used, rows = task.unique(return_inverse=True)
            heads = [self._head(t) for t in used.tolist()]
            if any(parameter.requires_grad for head in heads for parameter in head.parameters()):
                self._look()
                return rows, self._padded(heads)
        elif torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return task, self._padded([self._head(t) for t in range(len(self))])
        return task, self._stacked()

    def refresh(self) -> None:
        """Take up what the heads have become, for compiled graphs, which cannot notice it; called as a task ends."""
        if not len(self):  # a model that answers in words
            return
        self._look()
        with torch.no_grad():
            heads = [self._head(t) for t in range(len(self))]
            self._stack = (sum(parameter._version for parameter in self._flat), *self._padded(heads))

    def _look(self) -> None:
        heads = list(self._modules.values())
        if heads != self._known:
            self._known, self._flat, self._stack = heads, list(self.parameters()), None
            self._width = max(self._head(t).out_features for t in range(len(self)))

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """Return all heads as (T, c, d) and (T, c), kept until a parameter changes."""
        if not torch.compiler.is_compiling() or self._stack is None:
            self._look()
            first, changes = self._flat[0], sum(parameter._version for parameter in self._flat)
            kept = self._stack
            if kept is None or (kept[0], kept[1].device, kept[1].dtype) != (changes, first.device, first.dtype):
                self.refresh()
        assert self._stack is not None
        return self._stack[1:]

    def _head(self, t: int) -> nn.Linear:
        """Return task t's head.

        Raises:
            ModelError: there is none.
        """
        if not 0 <= t < len(self):
            raise ModelError(f"task {t} has no head; {len(self)} tasks have, from 0 on")
        return cast(nn.Linear, self[t])

    def _padded(self, heads: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
        """Return heads as (k, c, d) and (k, c), with −inf for the logits beyond their own."""
        parts = [self._parts(head) for head in heads]
        weights = [F.pad(weight, (0, 0, 0, self._width - len(weight))) for weight, _ in parts]
        none = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
        biases = [F.pad(bias, (0, self._width - len(bias)), value=-torch.inf) for bias in none]
        return torch.stack(weights), torch.stack(biases)
