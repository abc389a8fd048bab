"""All adapted layers of one backbone: injection through PEFT, tasks, optimiser groups, penalties, saved state.

The one file that touches PEFT's private parts (`_register_custom_module`); what of it moves between versions is
absorbed here and in `layer.py`.
"""

import functools
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.adapters.targets import check_targets
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError


class Adapters:
    """The adapted layers of a backbone, by module name, in the order of the model."""

    def __init__(self, backbone: nn.Module, settings: MethodConfig, default_targets: list[str]) -> None:
        """Inject into `backbone` in place; it is frozen, what trains is chosen task by task.

        Raises:
            ModelError: target modules that match no linear layer, with what there is.
        """
        targets = default_targets if settings.target_modules is None else settings.target_modules
        linear = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
        check_targets({name: tuple(module.weight.shape) for name, module in linear.items()}, targets, settings)
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
        )
        config._register_custom_module({nn.Linear: functools.partial(AdaptedLinear, settings=settings)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT remarks that custom modules are experimental
            self.peft_model: PeftModel = get_peft_model(backbone, config)
        self.settings = settings
        self.layers = {name: m for name, m in backbone.named_modules() if isinstance(m, AdaptedLinear)}
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)

    def start_task(self, t: int) -> None:
        """Prepare every layer for training task t."""
        for layer in self.layers.values():
            layer.start_task(t)
            layer.lora_dropout.train()

    def finish_task(self) -> None:
        """Freeze what the task in training has learned."""
        for layer in self.layers.values():
            layer.finish_task()
            layer.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains, as optimiser groups: the factors apart, since the optimiser is part of C-LoRA.

        The mechanism shrinks the gradients of A and B; Adam divides by their size and would move A and B at full speed
        in directions that the loss cannot see, under the old tasks. So they can be given SGD from the second task on.
        """
        s = self.settings
        first = all(layer.task == 0 for layer in self.layers.values())
        factors: dict[str, Any] = {"params": self._trainable("A", "B"), "optimizer": "adamw"}
        if s.factor_learning_rate is not None:
            factors["lr"] = s.factor_learning_rate
        if s.factor_optimizer == "sgd" and not first:
            factors |= {"optimizer": "sgd", "weight_decay": 0.0}
        small = {"params": self._trainable("routing", "gate", "scale"), "optimizer": "adamw", "weight_decay": 0.0}
        return [group for group in (factors, small) if group["params"]]

    def _trainable(self, *parts: str) -> list[nn.Parameter]:
        every = (
            layer.part(part) for layer in self.layers.values() for part in parts if part in layer.parts_in_workspace()
        )
        return [parameter for parameter in every if parameter.requires_grad]

    def penalty(self) -> Tensor | None:
        """Return λ Σ_layers P(R_δ), or None where the setting has no penalty or there is no old task."""
        s = self.settings
        if s.orthogonality == "none" or s.orthogonality_strength == 0 or all(x.task == 0 for x in self.layers.values()):
            return None
        return s.orthogonality_strength * torch.stack([layer.penalty() for layer in self.layers.values()]).sum()

    def state_of(self, t: int) -> dict[str, Tensor]:
        """Return what answers task t, by "<part>/<module>", the fixed basis left out: it follows from the backbone."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            parts = layer.parts_of(t)
            if parts is None:
                continue
            routing = parts.R if parts.R is None or parts.R_old is None else parts.R_old + parts.R
            scale = parts.scale if isinstance(parts.scale, Tensor) else None
            values = {"routing": routing, "gate": parts.gate, "scale": scale}
            if self.settings.basis == "learned":
                values |= {"A": parts.A, "B": parts.B}
            state |= {f"{part}/{name}": value.detach() for part, value in values.items() if value is not None}
        return state

    def as_lora(self, t: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what answers task t as vanilla LoRA pairs of scale 1, (A', B') by module."""
        return {name: layer.as_lora(t) for name, layer in self.layers.items()}

    def num_trained(self) -> int:
        """Return how many parameters of the adapters a first task trains."""
        is_fixed = self.settings.basis == "svd"
        parts = ((part, layer.part(part)) for layer in self.layers.values() for part in layer.parts_in_workspace())
        return sum(parameter.numel() for part, parameter in parts if not (is_fixed and part in ("A", "B")))

    def basis(self) -> dict[str, Tensor]:
        """Return the fixed factors that all tasks share, by "<A|B>/<module>"; empty where the factors are learned.

        They follow from the backbone's weights, but only up to rounding and, for equal singular values, rotation: what
        is written in their coordinates is kept beside them.
        """
        if self.settings.basis == "learned":
            return {}
        return {f"{part}/{name}": layer.part(part).detach() for name, layer in self.layers.items() for part in "AB"}

    def state_dict(self) -> dict[str, Tensor]:
        """Return workspace, R_old and stacks of every layer: enough to go on with the next task."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            own = {key: value for key, value in layer.state_dict().items() if key.startswith("lora_")}
            state |= {f"{name}/{key}": value for key, value in own.items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave; missing and extra names are errors."""
        expected = self.state_dict().keys()
        if expected != state.keys():
            raise ModelError(f"adapter state does not fit: {sorted(expected ^ state.keys())[:3]} missing or extra")
        for name, layer in self.layers.items():
            own = {key.removeprefix(f"{name}/"): v for key, v in state.items() if key.startswith(f"{name}/")}
            for key, value in own.items():
                if key.startswith("lora_stack_"):
                    setattr(layer, key, value.to(layer.part("A").device))
            layer.load_state_dict(own, strict=False)
