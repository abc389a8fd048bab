"""The family without PEFT, as the formula reads: every update an explicit matrix. A reference, not for speed.

y = (W0 + g · s · B R A) x + b,    with R = R_old + R_δ:  B R A = sg(B) R_old sg(A) + B R_δ A
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.active import Unlearned, active_task
from clora_exp.adapters.family import NAME, FamilyLayer, Parts
from clora_exp.config import MethodConfig


class PlainLinear(FamilyLayer):
    """A linear layer and its update, for nn.Linear and Conv1D."""

    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self, base_layer: Any, settings: MethodConfig, rank: int) -> None:
        super().__init__()
        weight = base_layer.weight.T if isinstance(base_layer, Conv1D) else base_layer.weight
        self.base_layer = base_layer
        self.out_features, self.in_features = weight.shape
        like = {"device": weight.device, "dtype": weight.dtype}
        self.lora_A = nn.ModuleDict({NAME: nn.Linear(self.in_features, rank, bias=False, **like)})
        self.lora_B = nn.ModuleDict({NAME: nn.Linear(rank, self.out_features, bias=False, **like)})
        self.lora_dropout = nn.ModuleDict({NAME: nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()})
        self.r, self.scaling = {NAME: rank}, {NAME: settings.alpha / rank}
        self.reset_factors()
        self.set_up(settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return W0 x + b plus the update of the task, or of each row's task, that the call answers."""
        result, task = self.base_layer(x), active_task()
        if self.settings.composition == "columns":
            return (
                result if isinstance(task, Unlearned) else result + self.columns(x, int(task), self.lora_dropout[NAME])
            )
        if isinstance(task, Tensor) and task.ndim:
            updates = [self._update(self.parts_of(t)) for t in task.tolist()]
            x = self.lora_dropout[NAME](x)
            return result + torch.stack([F.linear(row, M) for row, M in zip(x, updates, strict=True)])
        parts = self.parts_of(int(task) if isinstance(task, Tensor) else task)
        return result if parts is None else result + F.linear(self.lora_dropout[NAME](x), self._update(parts))

    def _update(self, parts: Parts | None) -> Tensor:
        """Return ΔW (out, in)."""
        assert parts is not None
        A, B, kind = parts.A, parts.B, self.settings.gate
        r = len(A)
        R = torch.eye(r).to(A) if parts.R is None else parts.R
        gate = torch.ones(()).to(A) if parts.gate is None else torch.sigmoid(parts.gate)
        inner = torch.diag(gate) if kind == "per_rank" else torch.eye(r).to(A)
        delta = B @ inner @ R @ A
        if parts.R_old is not None:
            is_detached = self.settings.old_path == "detached"
            A_old, B_old = (A.detach(), B.detach()) if is_detached else (A, B)
            delta = delta + B_old @ inner @ parts.R_old @ A_old
        if kind in ("scalar", "per_output"):
            delta = torch.diag(gate.expand(self.out_features)) @ delta
        return parts.scale * delta
