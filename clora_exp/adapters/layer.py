"""One adapted linear layer on PEFT's LoRA machinery: the forward pass of every setting. Its parts: `family.py`."""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from clora_exp.adapters.active import Unlearned, active_task
from clora_exp.adapters.family import NAME, FamilyLayer
from clora_exp.adapters.routed import RoutedUpdate, add_linear, linear
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError


class AdaptedLinear(lora.Linear, FamilyLayer):
    """PEFT's LoRA linear layer with routing, gate, learned scale and per-task parts, for nn.Linear and Conv1D."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, *, settings: MethodConfig, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, **kwargs)
        self.set_up(settings)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: PEFT's merge knows neither routing nor gate, nor which task is meant."""
        raise ModelError("this layer holds several tasks, PEFT knows of one; use pairs.merge_into(model, as_lora(t))")

    unmerge = merge
    get_delta_weight = merge

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W0 x + b plus the update of the task, or of each row's task, that the call answers."""
        result = self.base_layer(x, *args, **kwargs)
        if self.settings.composition == "columns" and not self.disable_adapters:
            task = active_task()
            if isinstance(task, Unlearned):
                return result
            update = self.columns(_in_type_of(self.part("A"), x), int(task), self.lora_dropout[NAME])
            return result + update.to(result.dtype)
        parts = None if self.disable_adapters else self.parts_of(active_task())
        if parts is None:
            return result
        x = _in_type_of(parts.A, self.lora_dropout[NAME](x))
        factor: Tensor | float = parts.scale  # acts over r: a number, (1,), (r,); mixed (n, 1), (n, r)
        if isinstance(factor, Tensor):
            factor = factor[..., None]
        output_gate = None
        if parts.gate is not None:
            gate = torch.sigmoid(parts.gate)
            if self.settings.gate == "per_output":
                output_gate = gate
            else:
                factor = factor * (gate[..., None] if self.settings.gate == "scalar" else gate)
        if parts.R is None:
            h = _over_last(linear(x, parts.A), factor)
        else:
            rows = factor[..., None] if isinstance(factor, Tensor) else factor  # the rows of R, so B diag(g) R A
            R, R_old = _times(parts.R, rows), None if parts.R_old is None else _times(parts.R_old, rows)
            if R_old is not None and self.settings.old_path == "detached" and _trains(parts.A):
                return result + _gated(_routed(x, parts.A, parts.B, R_old, R), output_gate).to(result.dtype)
            h = linear(linear(x, parts.A), R if R_old is None else R_old + R)
        is_same = output_gate is None and result.dtype == h.dtype == parts.B.dtype
        if is_same and not torch.is_grad_enabled() and not _is_seen(self.base_layer):
            return add_linear(result, h, parts.B)
        return result + _gated(linear(h, parts.B), output_gate).to(result.dtype)


def _is_seen(base_layer: nn.Module) -> bool:
    """Tell whether others may hold what the base layer returned, or torch.func stands between: then it is not ours."""
    hooks = base_layer._forward_hooks or nn.modules.module._global_forward_hooks
    return bool(hooks) or torch._C._are_functorch_transforms_active()


def _trains(A: Tensor) -> bool:
    return A.requires_grad and torch.is_grad_enabled()


def _times(R: Tensor, factor: Tensor | float) -> Tensor:
    """Return R times what acts on its rows; a one costs nothing."""
    return R * factor if isinstance(factor, Tensor) or factor != 1 else R


def _gated(update: Tensor, gate: Tensor | None) -> Tensor:
    return update if gate is None else _over_last(update, gate)


def _in_type_of(A: Tensor, x: Tensor) -> Tensor:
    """Return x as the adapters read it: single precision, also where the base is in half; autocast casts by itself."""
    return x if x.dtype == A.dtype or torch.is_autocast_enabled(x.device.type) else x.to(A.dtype)


def _over_last(x: Tensor, factor: Tensor | float) -> Tensor:
    """Multiply x (n, …, k) by a number, a vector (k,) or (1,), or one vector a row, (n, k) or (n, 1)."""
    if isinstance(factor, Tensor) and factor.ndim == 2:
        factor = factor.view(len(factor), *[1] * (x.ndim - 2), -1)
    return x * factor


def _routed(x: Tensor, A: Tensor, B: Tensor, R_old: Tensor, R_delta: Tensor) -> Tensor:
    """Return B (R_old + R_δ) A x, where A and B train through R_δ alone."""
    tensors = [x, A, B, R_old, R_delta]
    if torch.is_autocast_enabled(x.device.type):  # a Function of our own is not cast by autocast
        tensors = [tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in tensors]
    return RoutedUpdate.apply(*tensors)
