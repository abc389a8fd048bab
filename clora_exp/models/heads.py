"""One linear head a task; also for a batch whose rows are of different tasks, with heads of different widths."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import Active
from clora_exp.errors import ModelError


class Heads(nn.ModuleList):
    """The tasks' heads, `nn.Linear` (c_t, d) each.

    Shapes: n rows, d features, c_t labels of task t, c the most labels of any task.
    """

    _known: Sequence[nn.Module] = ()  # the heads that the fields below are of
    _flat: Sequence[nn.Parameter] = ()  # their parameters
    _width = 0  # c
    _stack: tuple[int, Tensor, Tensor] | None = None  # changes of the parameters until then, weight, bias

    def forward(self, features: Tensor, task: Active) -> Tensor:
        """Return logits of features (n, d): (n, c_t) of one task; of a tensor of tasks (n, c), −inf beyond c_t."""
        if isinstance(task, int):
            return self._head(task)(features)
        assert isinstance(task, Tensor)
        tasks, (weight, bias) = self._gathered(task)
        weight, bias = weight.index_select(0, tasks.reshape(-1)), bias.index_select(0, tasks.reshape(-1))
        if task.ndim == 0:
            return F.linear(features, weight[0], bias[0])
        return torch.einsum("nd,ncd->nc", features, weight.to(features.dtype)) + bias

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
        weights = [F.pad(head.weight, (0, 0, 0, self._width - head.out_features)) for head in heads]
        biases = [F.pad(head.bias, (0, self._width - head.out_features), value=-torch.inf) for head in heads]
        return torch.stack(weights), torch.stack(biases)
