"""Elastic weight consolidation: parameters that mattered to earlier tasks are held where they were.

Offline (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3): L + λ/2 Σ_k Σ_i F_k,i (θ_i − θ*_k,i)². The sum over tasks k
is one quadratic, so it is kept as one: F = Σ_k F_k and the centre Σ_k F_k θ*_k / F, the rest as a constant.
Online (Schwarz et al. 2018, arXiv 1805.06370, section 3.2): F ← γ F + F_t, and the centre is the last θ*.
Both cost the same whatever the number of tasks.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from clora_exp.config import STRICT, Count, ExperimentConfig, Ge, Le, NonNegativeFloat, Strict
from clora_exp.methods.fisher import Kind, diagonal_fisher
from clora_exp.methods.rehearsal import nothing_shared
from clora_exp.methods.strategy import Strategy
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    """How strongly what is held, and how its importance is measured."""

    __pydantic_config__ = STRICT
    strength: NonNegativeFloat = 100.0  # λ
    mode: Literal["offline", "online"] = "offline"
    decay: Annotated[float, Strict(), Ge(0), Le(1)] = 0.95  # γ of online
    fisher: Kind = "sampled"  # exact: a backward pass a label; see fisher.py
    examples: Count | None = 256  # of the training split, spread evenly; null: all


class EWC(Strategy):
    """State: F and centre of each protected parameter, by name, and the constant of the quadratic."""

    source: ClassVar[str] = "Kirkpatrick et al. 2017, 1612.00796; online Schwarz et al. 2018, 1805.06370"
    stores: ClassVar[str] = "two numbers a shared parameter"
    task_cost: ClassVar[str] = "a backward pass an example for F"

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.fisher: dict[str, Tensor] = {}
        self.centre: dict[str, Tensor] = {}
        self.constant = 0.0  # Σ F (θ* − centre)² over what was merged
        self._generator = torch.Generator().manual_seed(method.seed)

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """There must be something to hold."""
        return nothing_shared(config)

    def penalty(self) -> Tensor | None:
        """Return λ/2 Σ F (θ − centre)², the constant included."""
        if not self.fisher or self.config.strength == 0:
            return None
        current = self.method.shared_parameters()
        terms = [(F * (current[name] - self.centre[name]).square()).sum() for name, F in self.fisher.items()]
        return self.config.strength / 2 * (torch.stack(terms).sum() + self.constant)

    def after_task(self, t: int, task: Task) -> None:
        """Measure F of the task at its end, in evaluation mode, and merge it with what there is."""
        split = self.method.encode(t, task, "train")
        count = min(self.config.examples or len(split), len(split))
        rows = np.arange(count) * len(split) // count
        with self.method.whole_gradients():
            shared = self.method.shared_parameters()
            examples = (
                ((lambda row=row: self.method.log_probabilities(split[[row]])[0]), int(split.labels[row]))
                for row in rows.tolist()
            )
            found = diagonal_fisher(examples, list(shared.values()), self.config.fisher, self._generator)
        for (name, parameter), F in zip(shared.items(), found, strict=True):
            self._merge(name, F, parameter.detach().clone())

    def _merge(self, name: str, F: Tensor, where: Tensor) -> None:
        if name not in self.fisher:
            self.fisher[name], self.centre[name] = F, where
        elif self.config.mode == "online":
            self.fisher[name], self.centre[name] = self.config.decay * self.fisher[name] + F, where
        else:
            old, centre = self.fisher[name], self.centre[name]
            total = old + F
            share = torch.where(total > 0, F / total.clamp_min(torch.finfo(F.dtype).tiny), 0)
            self.constant += float((old * share * (where - centre).square()).sum())
            self.fisher[name], self.centre[name] = total, centre + share * (where - centre)

    def state_dict(self) -> dict[str, Any]:
        """Return the quadratic and the generator's state."""
        return {
            "fisher": self.fisher,
            "centre": self.centre,
            "constant": self.constant,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        device = next(self.method.model.parameters()).device
        self.fisher = {name: F.to(device) for name, F in state["fisher"].items()}
        self.centre = {name: centre.to(device) for name, centre in state["centre"].items()}
        self.constant = state["constant"]
        self._generator.set_state(state["generator"])
