"""One adapted linear layer for every setting of the family. What is shared, what a task owns, and the forward pass.

             x (…, in)
        ┌────┴─────┐
        │          │ A (r, in)    shared · one a task · from the SVD of W0
    W0, b frozen   │ R (r, r)     identity · R_old + R_δ · one a task
        │          │ g · s        gate sigmoid(γ) and scale, alpha / r at the start
        │          │ B (out, r)   as A
        └────(+)───┘
             y = W0 x + b + g · s · B R A x

Where parts live: the *workspace* holds the parameters of the task in training (PEFT's `lora_A`, `lora_B`, and
`lora_routing`, `lora_gate`, `lora_scale`); a part that each task owns is copied into a frozen *stack* (T, …) when its
task ends, so that nothing can move it, weight decay included. Which task answers is in `active.py`, never in here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn

from clora_exp.adapters.active import active_task
from clora_exp.adapters.penalty import orthogonality
from clora_exp.adapters.routed import RoutedUpdate
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

NAME = "default"  # PEFT's adapter name; one PEFT adapter holds all tasks


@dataclass(frozen=True)
class Parts:
    """What answers one task: A (r, in), B (out, r), routing (r, r) or None, gate logit γ or None, scale."""

    A: Tensor
    B: Tensor
    R: Tensor | None  # R_δ where R_old is there, else the whole routing
    R_old: Tensor | None
    gate: Tensor | None
    scale: Tensor | float


class AdaptedLinear(lora.Linear):
    """PEFT's LoRA linear layer with routing, gate, learned scale and per-task parts."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, *, settings: MethodConfig, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, **kwargs)
        self.settings = settings
        self.task: int | None = None  # the task in the workspace
        weight = self.lora_A[NAME].weight
        r, like = settings.rank, {"device": weight.device, "dtype": weight.dtype}
        parts: dict[str, Tensor] = {}
        if settings.routing != "none":
            parts["routing"] = torch.zeros(r, r, **like)
        if settings.gate != "none":
            shape = {"scalar": (), "per_rank": (r,), "per_output": (self.out_features,)}[settings.gate]
            parts["gate"] = torch.zeros(shape, **like)
        if settings.scale == "learned":
            parts["scale"] = torch.zeros((), **like)
        for part, value in parts.items():
            setattr(self, f"lora_{part}", nn.ParameterDict({NAME: nn.Parameter(value)}))
        if settings.routing == "additive":
            self.register_buffer("lora_routing_old", torch.zeros(r, r, **like))
        if settings.basis == "svd":
            self._use_svd_basis()
        self.adapter_layer_names = (*lora.Linear.adapter_layer_names, *(f"lora_{part}" for part in parts))
        self.owned = self._owned_parts()
        for part in self.owned:
            self.register_buffer(f"lora_stack_{part}", self.part(part).detach()[None][:0].clone())

    def _owned_parts(self) -> tuple[str, ...]:
        """Return which parts are a task's own; the others are shared by all tasks."""
        s = self.settings
        owned = {
            "A": s.factors == "per_task",
            "B": s.factors == "per_task",
            "routing": s.routing == "per_task",
            "gate": s.gate != "none",
            "scale": s.scale == "learned",
        }
        return tuple(part for part, is_owned in owned.items() if is_owned)

    def part(self, part: str) -> nn.Parameter:
        """Return a part's parameter in the workspace."""
        if part in ("A", "B"):
            return getattr(self, f"lora_{part}")[NAME].weight
        return getattr(self, f"lora_{part}")[NAME]

    @torch.no_grad()
    def _use_svd_basis(self) -> None:
        """Set B = U_r Σ_r^½ and A = Σ_r^½ V_rᵀ of W0 = U Σ Vᵀ (Bałazy et al. 2024, arXiv 2405.17604, frozen factors).

        Differs: Σ is halved between the factors, so both have the same size; each singular pair's sign is fixed by its
        largest entry in U being positive, since R is written in these coordinates.
        """
        weight = self.get_base_layer().weight
        U, S, Vh = torch.linalg.svd(weight.to(torch.float64), full_matrices=False)
        r = self.settings.rank
        U, S, Vh = U[:, :r], S[:r].sqrt(), Vh[:r]
        sign = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()
        self.lora_B[NAME].weight.copy_(U * sign * S)
        self.lora_A[NAME].weight.copy_(S[:, None] * Vh * sign.T)

    @torch.no_grad()
    def start_task(self, t: int) -> None:
        """Prepare the workspace for task t: draw what is fresh, and choose what trains.

        First task of `clora`: R_old = 0, R_δ = I, B = 0, so it is plain LoRA with a trainable routing. Later tasks
        start R_δ from normal(0, routing_std). Parts that a task owns start so that the update is zero.
        """
        s = self.settings
        self.task = t
        if s.factors == "per_task" and t > 0:
            self.reset_lora_parameters(NAME, True)
        if s.routing == "additive":
            R_delta = self.part("routing")
            nn.init.eye_(R_delta) if t == 0 else R_delta.normal_(0.0, s.routing_std)
        elif s.routing == "per_task":
            R = self.part("routing")
            nn.init.zeros_(R) if s.basis == "svd" else nn.init.eye_(R)
        if s.gate != "none":
            self.part("gate").fill_(math.log(s.gate_start / (1 - s.gate_start)))
        if s.scale == "learned":
            self.part("scale").fill_(s.alpha / s.rank)
        train_factors = s.basis == "learned" and not (
            t > 0 and s.factors == "shared" and s.factor_optimizer == "frozen"
        )
        for part in self.parts_in_workspace():
            self.part(part).requires_grad_(train_factors if part in ("A", "B") else True)

    @torch.no_grad()
    def finish_task(self) -> None:
        """Fold R_δ into R_old, and write what the task owns into the stack."""
        if self.settings.routing == "additive":
            self.lora_routing_old += self.part("routing")
            self.part("routing").zero_()
        for part in self.owned:
            stack = torch.cat([self.stack(part), self.part(part).detach()[None]])
            setattr(self, f"lora_stack_{part}", stack)
        self.task = None

    def stack(self, part: str) -> Tensor:
        """Return an owned part of all ended tasks, (T, …)."""
        return getattr(self, f"lora_stack_{part}")

    def parts_in_workspace(self) -> Iterator[str]:
        """Yield the names of the parts that this setting has."""
        yield from ("A", "B")
        for part in ("routing", "gate", "scale"):
            if hasattr(self, f"lora_{part}"):
                yield part

    def parts_of(self, t: int) -> Parts | None:
        """Return what answers task t: the workspace while it trains, its row of the stack once it has ended.

        None for a task not yet learned whose update starts at zero: the layer is then the base layer. With shared
        factors such a task gets them as they are, and the gate and scale last in training.
        """
        in_training = self.task == t
        has_ended = bool(self.owned) and t < len(self.stack(self.owned[0]))
        if not (in_training or has_ended) and {"B", "routing"} & set(self.owned):
            return None
        values: dict[str, Tensor] = {}
        for part in self.parts_in_workspace():
            from_stack = part in self.owned and has_ended and not in_training
            values[part] = self.stack(part)[t] if from_stack else self.part(part)
        R_old = self.lora_routing_old if self.settings.routing == "additive" else None
        scale = values.get("scale", self.scaling[NAME])
        return Parts(values["A"], values["B"], values.get("routing"), R_old, values.get("gate"), scale)

    @torch.no_grad()
    def as_lora(self, t: int) -> tuple[Tensor, Tensor]:
        """Return what answers task t as one vanilla LoRA pair of scale 1: A' = A (r, in), B' = g · s · B R (out, r).

        With a gate over r, B' = s · B diag(g) R. A task not yet learned whose update starts at zero has B' = 0.
        """
        parts = self.parts_of(t)
        if parts is None:
            return self.part("A").detach(), torch.zeros_like(self.part("B"))
        B, gate = parts.B * parts.scale, None if parts.gate is None else torch.sigmoid(parts.gate)
        if gate is not None:
            B = B * (gate[:, None] if self.settings.gate == "per_output" else gate)  # over r: columns of B
        R = parts.R if parts.R is None or parts.R_old is None else parts.R_old + parts.R
        return parts.A.detach(), B if R is None else B @ R

    def penalty(self) -> Tensor:
        """Return P(R_δ) of this layer, see `penalty.py`."""
        A, B = self.part("A"), self.part("B")
        return orthogonality(self.settings.orthogonality, A, B, self.lora_routing_old, self.part("routing"))

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: PEFT's merge knows neither routing nor gate, nor which task is meant."""
        raise ModelError("this layer holds several tasks; PEFT's merge would fold in the wrong update")

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W0 x + b plus the update of the task that the call answers."""
        result = self.base_layer(x, *args, **kwargs)
        parts = None if self.disable_adapters else self.parts_of(active_task())
        if parts is None:
            return result
        x = self.lora_dropout[NAME](x)
        factor, gate = parts.scale, None if parts.gate is None else torch.sigmoid(parts.gate)
        gates_output = self.settings.gate == "per_output"
        if gate is not None and not gates_output:
            factor = factor * gate
            factor = factor[:, None] if factor.ndim else factor  # (r, 1): the gate over r acts on the rows of R
        if parts.R_old is not None and parts.R is not None:
            update = _additive(x, parts, factor)
        elif parts.R is not None:
            update = F.linear(F.linear(F.linear(x, parts.A), parts.R * factor), parts.B)
        else:
            factor = factor.T if isinstance(factor, Tensor) and factor.ndim else factor
            update = F.linear(F.linear(x, parts.A) * factor, parts.B)
        return result + (update if gate is None or not gates_output else update * gate)


def _additive(x: Tensor, parts: Parts, factor: Tensor | float) -> Tensor:
    """Return B (R_old + R_δ) A x with `factor` on the routing; through `RoutedUpdate` where A and B train."""
    assert parts.R is not None
    assert parts.R_old is not None
    old, delta = parts.R_old * factor, parts.R * factor
    if not (parts.A.requires_grad and torch.is_grad_enabled()):
        return F.linear(F.linear(F.linear(x, parts.A), old + delta), parts.B)
    tensors: tuple[Tensor, ...] = (x.flatten(0, -2), parts.A, parts.B, old, delta)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        tensors = tuple(tensor.to(dtype) for tensor in tensors)
    return RoutedUpdate.apply(*tensors).view(*x.shape[:-1], -1)
