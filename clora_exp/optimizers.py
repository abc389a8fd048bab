"""Optimiser and learning-rate schedule of one session, from the groups that a method asks for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(groups: list[dict[str, Any]], weight_decay: float) -> Optimizer:
    """Return AdamW, or AdamW and SGD (momentum 0.9) behind one Optimizer where groups ask for both.

    A group is {"params", "lr", "optimizer": "adamw" | "sgd", "weight_decay"?}.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        kind = group["optimizer"]
        by_kind.setdefault(kind, []).append({key: value for key, value in group.items() if key != "optimizer"})
    parts: list[Optimizer] = []
    if "adamw" in by_kind:
        parts.append(AdamW(by_kind["adamw"], weight_decay=weight_decay))
    if "sgd" in by_kind:
        parts.append(SGD(by_kind["sgd"], momentum=0.9, weight_decay=weight_decay))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def warmup_then_linear(optimizer: Optimizer, num_steps: int, warmup: float) -> LambdaLR:
    """Return a schedule: linear from 0 over the first `warmup` share of the steps, then linear to 0 after the last."""
    num_warmup = round(num_steps * warmup)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))

    return LambdaLR(optimizer, factor)


class CombinedOptimizer(Optimizer):
    """Several optimisers as one, since Lightning refuses clipping and accumulation with more than one.

    `param_groups` are the parts' own group objects, so a schedule that writes learning rates reaches every part.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every part on the gradients that one evaluation of `closure` leaves."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every part."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the parts' states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def with_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state with parameters' numbers as keys again: in a file they are strings."""
    if "parts" in state:
        return {"parts": [with_numbers(part) for part in state["parts"]]}
    return state | {"state": {int(number): of_parameter for number, of_parameter in state["state"].items()}}


def two_groups(backbone: nn.Module) -> list[dict[str, Any]]:
    """Return two groups: matrices, and biases and norms, which weight decay leaves alone."""
    matrices = [p for p in backbone.parameters() if p.ndim > 1]
    others = [p for p in backbone.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "optimizer": "adamw"},
        {"params": others, "optimizer": "adamw", "weight_decay": 0.0},
    ]
