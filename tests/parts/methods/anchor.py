"""A strategy for tests: pull the trainable parameters to where the task began; counts its hooks."""

from dataclasses import dataclass
from typing import Any

import torch

from clora_exp.config import STRICT, PositiveFloat
from clora_exp.methods.strategy import Strategy


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    strength: PositiveFloat = 1.0
    shrink_gradients: bool = False


class Anchor(Strategy):
    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.calls: list[str] = []
        self.start: list[torch.Tensor] = []

    def before_task(self, t: int, task: Any) -> None:
        self.calls.append(f"before {t}")
        self.trainable = [p for p in self.method.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trainable]

    def penalty(self) -> torch.Tensor:
        pairs = zip(self.trainable, self.start, strict=True)
        return self.config.strength * torch.stack([(p - q).square().sum() for p, q in pairs]).sum()

    def before_optimizer_step(self) -> None:
        self.calls.append("step")
        if self.config.shrink_gradients:
            for parameter in self.trainable:
                if parameter.grad is not None:
                    parameter.grad.zero_()

    def after_task(self, t: int, task: Any) -> None:
        self.calls.append(f"after {t}")

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.start = list(state["calls"]), list(state["start"])
