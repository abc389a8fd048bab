"""All adapted layers of one backbone: injection through PEFT, tasks, optimiser groups, penalties, saved state.

The one file that touches PEFT's private parts (`_register_custom_module`); what of it moves between versions is
absorbed here and in `layer.py`.
"""

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.active import Unlearned
from clora_exp.adapters.exported import Pairs
from clora_exp.adapters.family import FamilyLayer, not_learned
from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.adapters.pairs import joined, merge_into, of_rank, padded, routing_nearest
from clora_exp.adapters.plain import PlainLinear
from clora_exp.adapters.targets import check_targets, matches, rank_of, targets_of, wanted
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError, unknown

ADAPTABLE = (nn.Linear, Conv1D)


class Adapters:
    """The adapted layers of a backbone, by module name, in the order of the model."""

    def __init__(
        self,
        backbone: nn.Module,
        settings: MethodConfig,
        default_targets: list[str] | str | None,
        parent: Pairs | None = None,
        *,
        awaits_state: bool = False,
    ) -> None:
        """Inject into `backbone` in place; it is frozen, what trains is chosen task by task.

        Args:
            parent: an update that all tasks have beneath their own, W0 + Δ_parent + Δ: it is added to the weights here.
            awaits_state: `add_state` comes next; it brings the basis, whose SVD would take most of the time.

        Raises:
            ModelError: target modules that match no linear layer, with what there is; a parent that does not fit.
        """
        self.parent = dict(parent or {})
        merge_into(backbone, self.parent)
        asked = wanted(settings, default_targets)
        linear = {name: module for name, module in backbone.named_modules() if isinstance(module, ADAPTABLE)}
        check_targets({name: tuple(module.weight.shape) for name, module in linear.items()}, asked, settings)
        targets = targets_of(linear, asked)
        inject = _inject_plainly if settings.backend == "plain" else _inject_with_peft
        inject(backbone, linear, targets, settings)
        self.settings = settings
        self._is_whole = False
        self.layers = {name: m for name, m in backbone.named_modules() if isinstance(m, FamilyLayer)}
        for layer in self.layers.values() if settings.basis == "svd" and not awaits_state else ():
            layer.use_svd_basis()
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)

    def start_task(self, t: int, like: int | None = None) -> None:
        """Prepare every layer for training task t, with `like` from what that earlier task owns."""
        for layer in self.layers.values():
            layer.start_task(t, like)
            layer.lora_dropout.train()

    @torch.no_grad()
    def start_near(self, pairs: Pairs) -> None:
        """Let the task in training start with an update learned elsewhere, as near to it as its factors can come.

        Factors of its own take it, or its best approximation of their rank; a routing on factors that are fixed takes
        the nearest one. Layers without a pair, and factors that all tasks share and still train, start as they would.
        """
        for name, layer in self.layers.items():
            if name not in pairs:
                continue
            A, B = layer.part("A"), layer.part("B")
            if "A" in layer.owned:
                near = padded({"": of_rank(*pairs[name], min(layer.rank, len(pairs[name][0])))}, layer.rank)[""]
                A.copy_(near[0])
                B.copy_(near[1] / layer.start_factor)
            elif "routing" in layer.owned and not A.requires_grad:
                layer.part("routing").copy_(routing_nearest(A, B, pairs[name]) / layer.start_factor)

    def set_dropout(self, is_on: bool) -> None:
        """Let the adapters' dropout act, or not."""
        for layer in self.layers.values():
            layer.lora_dropout.train(is_on)

    def finish_task(self) -> None:
        """Freeze what the task in training has learned."""
        for layer in self.layers.values():
            layer.finish_task()
            layer.requires_grad_(False)
            layer.lora_dropout.eval()

    @property
    def num_ended(self) -> int:
        """How many tasks have been learned."""
        return next(iter(self.layers.values())).num_ended

    def has(self, t: int) -> bool:
        """Tell whether task t has been learned, or is being learned."""
        return 0 <= t < self.num_ended or t == next(iter(self.layers.values())).task

    def check(self, tasks: Tensor) -> None:
        """Look at every index of a mixed batch.

        Raises:
            ModelError: one that has neither been learned nor is being learned.
        """
        for t in tasks.unique().tolist():
            if not self.has(t):
                raise ModelError(not_learned(t, self.num_ended))

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
        small = {
            "params": self._trainable("routing", "gate", "scale", "magnitude", "lateral"),
            "optimizer": "adamw",
            "weight_decay": 0.0,
        }
        return [group for group in (factors, small) if group["params"]]

    def _trainable(self, *parts: str) -> list[nn.Parameter]:
        every = (layer.part(part) for layer in self.layers.values() for part in parts if part in layer.parts)
        return [parameter for parameter in every if parameter.requires_grad]

    def num_bytes(self) -> int:
        """Return the bytes of what answers all tasks that have ended: shared parts, and what each task owns."""
        tensors: list[Tensor] = []
        for layer in self.layers.values():
            tensors += [layer.stack(part) for part in layer.owned]
            tensors += [layer.part(part) for part in layer.parts if part not in (*layer.owned, "routing", "lateral")]
            tensors += [layer.lora_routing_old] if self.settings.routing == "additive" else []
            tensors += [layer.lora_laterals] if self.settings.composition == "columns" else []
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def shared_parameters(self) -> dict[str, Tensor]:
        """Return what trains and answers earlier tasks too, by "<part>/<module>"; of additive routing R_old + R_δ."""
        shared: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            for part in layer.parts:
                parameter = layer.part(part)
                if parameter.requires_grad and part not in layer.owned:
                    is_sum = part == "routing" and self.settings.routing == "additive" and not self._is_whole
                    shared[f"{part}/{name}"] = layer.lora_routing_old + parameter if is_sum else parameter
        return shared

    @contextmanager
    def whole_gradients(self) -> Iterator[None]:
        """Let R_δ hold R_old too, so that A and B have the gradients of the whole update, as no session gives them."""
        if self.settings.routing != "additive":
            yield
            return
        pairs = [(layer.lora_routing_old, layer.part("routing").data) for layer in self.layers.values()]
        kept = [(old.clone(), delta.clone()) for old, delta in pairs]
        try:
            self._is_whole = True
            for old, delta in pairs:
                delta.add_(old)
                old.zero_()
            yield
        finally:
            self._is_whole = False
            for (old, delta), (old_before, delta_before) in zip(pairs, kept, strict=True):
                old.copy_(old_before)
                delta.copy_(delta_before)

    def penalty(self) -> Tensor | None:
        """Return λ Σ_layers P(R_δ), or None where the setting has no penalty or there is no old task."""
        s = self.settings
        if s.orthogonality == "none" or s.orthogonality_strength == 0 or all(x.task == 0 for x in self.layers.values()):
            return None
        return s.orthogonality_strength * torch.stack([layer.penalty() for layer in self.layers.values()]).sum()

    def state_of(self, t: int | Unlearned) -> dict[str, Tensor]:
        """Return what answers task t, by "<part>/<module>", the fixed basis left out: all later tasks have the same."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            parts = layer.parts_of(t)
            if parts is None:
                continue
            routing = parts.R if parts.R is None or parts.R_old is None else parts.R_old + parts.R
            scale = parts.scale if isinstance(parts.scale, Tensor) else None
            values = {"routing": routing, "gate": parts.gate, "scale": scale}
            if not self.basis_is_fixed():
                values |= {"A": parts.A, "B": parts.B}
            if self.settings.composition == "columns":
                values["lateral"] = layer.lateral_of(t)
            state |= {f"{part}/{name}": value.detach() for part, value in values.items() if value is not None}
        return state

    def owned_by(self, t: int) -> dict[str, Tensor]:
        """Return what ended task t has for itself, by "<part>/<module>": the rest is shared by all tasks."""
        return {f"{part}/{name}": layer.stack(part)[t] for name, layer in self.layers.items() for part in layer.owned}

    def add_tasks(self, tasks: Sequence[Mapping[str, Tensor]]) -> None:
        """Take tasks that have ended, as `owned_by` gave them, all in one copy of each stack.

        Raises:
            ModelError: a part that is missing or left over, named; or a task is in training, which comes first.
        """
        if self.settings.composition != "own":
            raise ModelError(f"method.composition={self.settings.composition}: tasks build on each other; have: own")
        if self.has(self.num_ended):
            raise ModelError(f"task {self.num_ended} is in training; others can come when it has ended")
        expected = {f"{part}/{name}" for name, layer in self.layers.items() for part in layer.owned}
        for i, task in enumerate(tasks):
            if task.keys() != expected:
                name = sorted(expected ^ task.keys())[0]
                raise ModelError(f"task {i} of {len(tasks)}: {name!r} is missing or left over")
        for name, layer in self.layers.items() if tasks else ():
            for part in layer.owned:
                stack = layer.stack(part)
                new = torch.stack([task[f"{part}/{name}"] for task in tasks]).to(stack)
                setattr(layer, f"lora_stack_{part}", torch.cat([stack, new]))
            layer.num_ended += len(tasks)

    @torch.no_grad()
    def add_state(self, state: Mapping[str, Tensor]) -> int:
        """Take a learned task back, as `state_of` gave it with `basis`, as the one task there is; return its index.

        Raises:
            ModelError: adapters that have tasks already, or a part that is missing or left over, named.
        """
        if self.num_ended:
            raise ModelError(f"these adapters have {self.num_ended} tasks; what tasks share would change under them")
        parts = {name: list(layer.parts) for name, layer in self.layers.items()}
        expected = {f"{part}/{name}" for name, present in parts.items() for part in present}
        if state.keys() != expected:
            raise ModelError(f"{sorted(expected ^ state.keys())[0]!r} is missing or left over")
        for name, layer in self.layers.items():
            layer.start_task(0)
            for part in parts[name]:
                layer.part(part).copy_(state[f"{part}/{name}"])
        self.finish_task()
        return 0

    def shared(self) -> dict[str, Tensor]:
        """Return what all tasks share, by "<part>/<module>"."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            state |= {f"{part}/{name}": layer.part(part).detach() for part in "AB" if part not in layer.owned}
            if self.settings.routing == "additive":
                state[f"routing/{name}"] = layer.lora_routing_old
        return state

    def as_lora(self, t: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what answers task t as vanilla LoRA pairs of scale 1 and one rank, in double precision.

        (A', B') by module; the parent's update, if there is one, is in it.
        """
        return padded(joined(self.parent, self.own_lora(t)))

    def own_lora(self, t: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the same without the parent's update."""
        return padded({name: layer.as_lora(t) for name, layer in self.layers.items()})

    @torch.no_grad()
    def add_lora(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> int:
        """Take a vanilla LoRA, e.g. from `export.read_peft`, as a task that has ended; return its index.

        Layers without a pair get none. Gate and scale are at their start, and B makes up for both.

        Raises:
            ModelError: the setting shares its factors, a layer is not adapted, or the shapes do not fit.
        """
        if self.settings.factors != "per_task":
            raise ModelError(f"method.factors={self.settings.factors}: a LoRA has factors of its own; have: per_task")
        for name, (A, B) in pairs.items():
            if name not in self.layers:
                raise ModelError(unknown("adapted layer", name, self.layers))
            layer = self.layers[name]
            if len(A) > layer.rank:
                raise ModelError(f"{name}: rank {len(A)} does not fit into method.rank={layer.rank}")
            if (A.shape[1], *B.shape) != (layer.in_features, layer.out_features, len(A)):
                raise ModelError(f"{name}: A {tuple(A.shape)} and B {tuple(B.shape)} do not fit the layer")
        t = self.num_ended
        self.start_task(t)
        for name, layer in self.layers.items():
            layer.part("A").zero_()
            layer.part("B").zero_()
            if name in pairs:
                A, B = pairs[name]
                layer.part("A")[: len(A)] = A
                layer.part("B")[:, : len(A)] = B / layer.start_factor
        self.finish_task()
        return t

    @property
    def is_conv1d(self) -> bool:
        """Whether the adapted layers are GPT-2's, which keep W0 as (in, out)."""
        return any(isinstance(layer.base_layer, Conv1D) for layer in self.layers.values())

    def num_trained(self) -> int:
        """Return how many parameters of the adapters a first task trains."""
        is_fixed = self.settings.basis == "svd"
        parts = ((part, layer.part(part)) for layer in self.layers.values() for part in layer.parts)
        return sum(parameter.numel() for part, parameter in parts if not (is_fixed and part in ("A", "B")))

    def basis_is_fixed(self) -> bool:
        """Tell whether the shared factors will never train again: from the SVD, or learned on the first tasks.

        With protocol=single every task is a first one.
        """
        s = self.settings
        has_learned = s.factor_tasks is not None and self.num_ended >= s.factor_tasks
        return s.basis == "svd" or (has_learned and s.protocol == "sequence")

    def basis(self) -> dict[str, Tensor]:
        """Return the fixed factors that all tasks share, by "<A|B>/<module>"; empty where the factors still learn.

        An SVD follows from the backbone's weights, but only up to rounding and, for equal singular values, rotation:
        what is written in its coordinates is kept beside it.
        """
        if not self.basis_is_fixed():
            return {}
        return {f"{part}/{name}": layer.part(part).detach() for name, layer in self.layers.items() for part in "AB"}

    def state_dict(self) -> dict[str, Tensor]:
        """Return workspace, R_old and stacks of every layer: enough to go on with the next task."""
        state: dict[str, Tensor] = {"num_ended": torch.tensor(self.num_ended)}
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
            layer.num_ended, layer.task = int(state["num_ended"]), None
            own = {key.removeprefix(f"{name}/"): v for key, v in state.items() if key.startswith(f"{name}/")}
            for key, value in own.items():
                if key.startswith(("lora_stack_", "lora_laterals")):
                    setattr(layer, key, value.to(layer.part("A").device))
                for part in ("magnitude", "lateral"):
                    if key.startswith(f"lora_{part}."):
                        layer.resize(part, value.to(layer.part("A")))
            layer.load_state_dict(own, strict=False)


def _inject_with_peft(backbone: nn.Module, linear: Any, targets: list[str] | str, settings: MethodConfig) -> None:
    """Let PEFT find and replace the layers."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        rank_pattern=dict(settings.rank_pattern or {}),
    )
    config._register_custom_module(dict.fromkeys(ADAPTABLE, functools.partial(AdaptedLinear, settings=settings)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks that custom modules are experimental, and sets fan_in_fan_out
        get_peft_model(backbone, config)


def _inject_plainly(
    backbone: nn.Module, linear: dict[str, nn.Module], targets: list[str] | str, settings: MethodConfig
) -> None:
    """Replace the layers without PEFT."""
    find_output: Any = getattr(backbone, "get_output_embeddings", lambda: None)
    output = find_output()
    for name, module in linear.items():
        if module is output if targets == "all-linear" else not any(matches(name, target) for target in targets):
            continue
        parent, _, own = name.rpartition(".")
        setattr(backbone.get_submodule(parent), own, PlainLinear(module, settings, rank_of(name, settings)))
