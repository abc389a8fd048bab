"""The parts of one adapted linear layer, for every setting of the family: what is shared, and what a task owns.

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
task ends, so that nothing can move it, weight decay included. Which task answers is in `active.py`, never in here: an
index picks a row of each stack, so switching copies nothing; an index a row of the batch gathers one a row, and the
shared parts are still applied once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.active import BASE, UNLEARNED, Active, Unlearned
from clora_exp.adapters.composition import columns_update, lateral_blocks, num_pairs, summed, update_norm
from clora_exp.adapters.penalty import orthogonality
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

NAME = "default"  # PEFT's adapter name; one PEFT adapter holds all tasks


@dataclass(frozen=True)
class Parts:
    """What answers a task: A (r, in), B (out, r), routing (r, r) or None, gate logit γ or None, scale.

    In a mixed batch of n rows, what the tasks own has a first dimension n.
    """

    A: Tensor
    B: Tensor
    R: Tensor | None  # R_δ where R_old is there, else the whole routing
    R_old: Tensor | None
    gate: Tensor | None
    scale: Tensor | float


class FamilyLayer(nn.Module):
    """What all backends have in common. One sets, as PEFT's LoRA layer does, the fields below, then calls `set_up`."""

    base_layer: Any  # nn.Linear or Conv1D
    in_features: int
    out_features: int
    lora_A: nn.ModuleDict  # noqa: N815  # {NAME: nn.Linear (r, in)}
    lora_B: nn.ModuleDict  # noqa: N815  # {NAME: nn.Linear (out, r)}
    lora_dropout: nn.ModuleDict
    r: dict[str, int]
    scaling: dict[str, float]  # alpha / r
    adapter_layer_names: tuple[str, ...]
    parts: tuple[str, ...]  # which parts this setting has, of A, B, routing, gate, scale
    owned: tuple[str, ...]  # those that each task has for itself
    lora_routing_old: Tensor  # R_old (r, r), where routing is additive
    lora_laterals: Tensor  # (pairs, r, r), where tasks are columns

    def set_up(self, settings: MethodConfig) -> None:
        """Add routing, gate, scale and the stacks of what a task owns."""
        self.settings = settings
        self.task: int | None = None  # in the workspace
        self.num_ended = 0  # tasks
        r, like = self.rank, self.part("A").detach()
        whole = torch.promote_types(
            like.dtype, torch.float32
        )  # PEFT casts parameters so, buffers it leaves as they are
        parts: dict[str, Tensor] = {}
        if settings.routing != "none":
            parts["routing"] = like.new_zeros(r, r)
        if settings.gate != "none":
            shape = {"scalar": (), "per_rank": (r,), "per_output": (self.out_features,)}[settings.gate]
            parts["gate"] = like.new_zeros(shape)
        if settings.scale == "learned":
            parts["scale"] = like.new_zeros(())
        if settings.magnitudes == "learned":
            parts["magnitude"] = like.new_zeros(0)  # of each ended task; grows
        if settings.composition == "columns":
            parts["lateral"] = like.new_zeros(0, r, r)  # of the column in training; grows
            self.register_buffer("lora_laterals", like.new_zeros(0, r, r, dtype=whole))  # of those that ended
        for part, value in parts.items():
            setattr(self, f"lora_{part}", nn.ParameterDict({NAME: nn.Parameter(value)}))
        if settings.routing == "additive":
            self.register_buffer("lora_routing_old", like.new_zeros(r, r, dtype=whole))
        self.adapter_layer_names = (*type(self).adapter_layer_names, *(f"lora_{part}" for part in parts))
        self.parts = ("A", "B", *parts)
        self.owned = owned_parts(settings)
        for part in self.owned:
            like_part = self.lora_routing_old if part == "snapshot" else self.part(part)
            self.register_buffer(f"lora_stack_{part}", like_part.detach()[None][:0].to(whole).clone())

    def reset_factors(self) -> None:
        """Draw A anew, Kaiming-uniform, and set B to zero, as LoRA starts."""
        nn.init.kaiming_uniform_(self.part("A"), a=math.sqrt(5))
        nn.init.zeros_(self.part("B"))

    @property
    def rank(self) -> int:
        """r of this layer: the setting's, or what its rank pattern gives it."""
        return self.r[NAME]

    @property
    def start_factor(self) -> float:
        """g · s as a task begins."""
        return self.scaling[NAME] * (1.0 if self.settings.gate == "none" else self.settings.gate_start)

    def part(self, part: str) -> nn.Parameter:
        """Return a part's parameter in the workspace.

        Straight from torch's dictionaries, as in `stack`: attributes of modules cost each call twice the time.
        """
        holder: Any = self._modules[f"lora_{part}"]
        return holder._modules[NAME]._parameters["weight"] if part in ("A", "B") else holder._parameters[NAME]

    @torch.no_grad()
    def use_svd_basis(self) -> None:
        """Set B = U_r Σ_r^½ and A = Σ_r^½ V_rᵀ of W0 = U Σ Vᵀ (Bałazy et al. 2024, arXiv 2405.17604, frozen factors).

        Differs: Σ is halved between the factors, so both have the same size; each singular pair's sign is fixed by its
        largest entry in U being positive, since R is written in these coordinates.
        """
        base = self.base_layer
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight
        U, S, Vh = torch.linalg.svd(weight.to(torch.float64), full_matrices=False)
        r = self.rank
        U, S, Vh = U[:, :r], S[:r].sqrt(), Vh[:r]
        sign = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()
        self.part("B").copy_(U * sign * S)
        self.part("A").copy_(S[:, None] * Vh * sign.T)

    @torch.no_grad()
    def start_task(self, t: int, like: int | None = None) -> None:
        """Prepare the workspace for task t, the next: draw what is fresh, and choose what trains.

        First task of `clora`: R_old = 0, R_δ = I, B = 0, so it is plain LoRA with a trainable routing. Later tasks
        start R_δ from normal(0, routing_std). Where nothing is shared, or what is shared is fixed, the update starts at
        zero; a task's own R on factors that all tasks train starts at I, that is from what they are. With `like` every
        part that a task owns starts as that earlier task ended.

        Raises:
            ModelError: tasks begin in order, each when the one before has ended.
        """
        if t != self.num_ended or self.task not in (None, t):
            raise ModelError(f"task {t} cannot begin: {self.num_ended} tasks have ended, {self.task} is in training")
        s = self.settings
        self.task = t
        factors_train = self._factors_train(t)
        if s.factors == "per_task" and t > 0:
            self.reset_factors()
        if s.routing == "additive":
            R_delta = self.part("routing")
            nn.init.eye_(R_delta) if t == 0 else R_delta.normal_(0.0, s.routing_std)
        elif s.routing == "per_task":  # zero is no update on fixed factors; R = I lets others learn
            R = self.part("routing")
            nn.init.eye_(R) if factors_train else nn.init.zeros_(R)
        if s.gate != "none":
            self.part("gate").fill_(math.log(s.gate_start / (1 - s.gate_start)))
        if s.scale == "learned":
            self.part("scale").fill_(self.scaling[NAME])
        if like is not None:
            for part in self.owned:
                if part != "snapshot":
                    self.part(part).copy_(self.stack(part)[like])
        if s.composition == "columns":
            self.resize("lateral", self.lora_laterals.new_zeros(t, self.rank, self.rank))
        for part in self.parts:
            self.part(part).requires_grad_(factors_train if part in ("A", "B") else True)

    def _factors_train(self, t: int) -> bool:
        s = self.settings
        return s.basis == "learned" and (s.factors == "per_task" or s.factor_tasks is None or t < s.factor_tasks)

    @torch.no_grad()
    def finish_task(self) -> None:
        """Fold R_δ into R_old, and write what the task owns into the stack."""
        if self.settings.routing == "additive":
            self.lora_routing_old += self.part("routing")
            self.part("routing").zero_()
        length: Tensor | float = 1.0
        if self.settings.magnitudes == "learned":
            length = update_norm(self.part("A"), self.part("B"))
            self.resize("magnitude", torch.cat([self.part("magnitude"), length[None]]))
            length = length if length > 0 else 1.0
        if self.settings.composition == "columns":
            self.lora_laterals = torch.cat([self.lora_laterals, self.part("lateral").detach()])
        for part in self.owned:
            value = self.lora_routing_old if part == "snapshot" else self.part(part)
            value = value / length if part == "B" else value
            setattr(self, f"lora_stack_{part}", torch.cat([self.stack(part), value.detach()[None]]))
        self.num_ended, self.task = self.num_ended + 1, None

    def resize(self, part: str, value: Tensor) -> None:
        """Give a part that grows with the tasks another size, as a parameter that does not train yet."""
        holder: Any = self._modules[f"lora_{part}"]
        holder._parameters[NAME] = nn.Parameter(value.detach().clone(), requires_grad=False)

    def stack(self, part: str) -> Tensor:
        """Return an owned part of all ended tasks, (T, …)."""
        stack = self._buffers[f"lora_stack_{part}"]
        assert stack is not None
        return stack

    def parts_of(self, task: Active) -> Parts | None:
        """Return what answers a task: the workspace while it trains, its row of the stacks once it has ended.

        Of `UNLEARNED`, where the update starts at zero, None: the layer is then the base layer. Else the shared factors
        as they are now, with the gate and scale last in training.

        Raises:
            ModelError: a task that has neither ended nor is in training. Of a tensor of indices (`Adapters.check` looks
                at all of it) IndexError, and only where tasks own something.
        """
        owned = self.owned
        if task is BASE:
            return None
        if task is UNLEARNED:
            if "B" in owned or "routing" in owned:
                return None
            owned = ()
        elif isinstance(task, int) and task != self.task and not 0 <= task < self.num_ended:
            raise ModelError(not_learned(task, self.num_ended))
        if self.settings.composition == "sum" and task is not UNLEARNED:
            return Parts(*self._sum(), None, None, None, self.scaling[NAME])
        values = {
            part: self._rows(self.stack(part), partial(self.part, part), task) if part in owned else self.part(part)
            for part in self.parts
            if part != "lateral"
        }
        R: Tensor | None = values.get("routing")
        R_old: Tensor | None = None
        if self.settings.routing == "additive":
            R_old = self.lora_routing_old
            if "snapshot" in owned and R is not None:  # a task that has ended has no R_δ any more
                stack, now = self.stack("snapshot"), (R, R_old)
                R = self._rows(R.new_zeros(()).expand_as(stack), lambda: now[0], task)
                R_old = self._rows(stack, lambda: now[1], task)
        return Parts(values["A"], values["B"], R, R_old, values.get("gate"), values.get("scale", self.scaling[NAME]))

    def _sum(self) -> tuple[Tensor, Tensor]:
        """Return the updates of all ended tasks and of the one in training as one pair."""
        magnitudes = self.part("magnitude") if self.settings.magnitudes == "learned" else None
        A, B = summed(self.stack("A"), self.stack("B"), magnitudes)
        if self.task is None:
            return A, B
        return torch.cat([A, self.part("A")]), torch.cat([B, self.part("B")], dim=1)

    def lateral_of(self, t: Active) -> Tensor | None:
        """Return column t's links to those before it, (t, r, r); None where nothing has been learned."""
        if not isinstance(t, int):
            return None
        return self.part("lateral") if t == self.task else self.lora_laterals[num_pairs(t) : num_pairs(t + 1)]

    def columns(self, x: Tensor, t: int, dropout: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what the columns 0 to t add to x ((t + 1) n, …, in), the rows of one after those of another.

        Dropout acts on the column in training alone: those that have ended read what they always read.
        """
        if t != self.task and not 0 <= t < self.num_ended:
            raise ModelError(not_learned(t, self.num_ended))
        A, B, laterals = self.stack("A"), self.stack("B"), self.lora_laterals
        if t == self.task:
            A, B = torch.cat([A, self.part("A")[None]]), torch.cat([B, self.part("B")[None]])
            laterals = torch.cat([laterals, self.part("lateral")])
            n = len(x) // (t + 1)
            x = torch.cat([x[:-n], dropout(x[-n:])])
        blocks = lateral_blocks(laterals[: num_pairs(t + 1)], t + 1)
        return columns_update(x, A[: t + 1], B[: t + 1], blocks) * self.scaling[NAME]

    def _rows(self, stack: Tensor, workspace: Callable[[], Tensor], task: Active) -> Tensor:
        """Return the task's row of a stack (T, …), of the task in training the workspace; of tensors (n, …)."""
        assert not isinstance(task, Unlearned)
        if isinstance(task, int):
            return workspace() if task == self.task else stack[task]
        tasks = task.reshape(-1)
        if self.task is None:
            rows = stack.index_select(0, tasks)
        else:
            ours, is_ours = workspace(), tasks == self.task
            old = (stack if len(stack) else ours[None]).index_select(0, tasks.masked_fill(is_ours, 0))
            rows = torch.where(is_ours.view(-1, *[1] * ours.ndim), ours, old)
        return rows if task.ndim else rows[0]

    @torch.no_grad()
    def as_lora(self, t: int) -> tuple[Tensor, Tensor]:
        """Return what answers task t as one vanilla LoRA pair of scale 1: A' = A (r, in), B' = g · s · B R (out, r).

        With a gate over r, B' = s · B diag(g) R. In double precision, for the caller to round once.
        """
        parts = self.parts_of(t)
        assert parts is not None
        B = parts.B.double() * parts.scale
        if parts.gate is not None:
            gate = torch.sigmoid(parts.gate.double())
            B = B * (gate[:, None] if self.settings.gate == "per_output" else gate)  # over r: columns of B
        if parts.R is not None:
            B = B @ (parts.R.double() if parts.R_old is None else parts.R_old.double() + parts.R.double())
        return parts.A.double(), B

    def penalty(self) -> Tensor:
        """Return P(R_δ) of this layer, see `penalty.py`."""
        A, B = self.part("A"), self.part("B")
        return orthogonality(self.settings.orthogonality, A, B, self.lora_routing_old, self.part("routing"))


def owned_parts(s: MethodConfig) -> tuple[str, ...]:
    """Return which parts are kept for each task by itself; the others are shared by all tasks."""
    owned = {
        "A": s.factors == "per_task",
        "B": s.factors == "per_task",
        "routing": s.routing == "per_task",
        "gate": s.gate != "none",
        "scale": s.scale == "learned",
        "snapshot": s.inference_routing == "snapshot",
    }
    return tuple(part for part, is_owned in owned.items() if is_owned)


def not_learned(task: int, num_ended: int) -> str:
    """Return the words for a task that is not there."""
    return f"task {task} has not been learned; {num_ended} tasks have, from 0 on"
