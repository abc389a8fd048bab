"""Layers of every setting of the family, in double precision, and what stands in for training them."""

import dataclasses

import torch
from peft import LoraConfig
from torch import nn

from clora_exp.adapters.active import answering
from clora_exp.adapters.family import NAME
from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.config import MethodConfig

LORA = MethodConfig(name="m", rank=4, alpha=6.0)
CLORA = dataclasses.replace(LORA, routing="additive", orthogonality="routing")
CLORA_XS = dataclasses.replace(LORA, basis="svd", routing="per_task", gate="scalar")
CLORA_SHARED = dataclasses.replace(LORA, routing="per_task", gate="scalar", factor_tasks=1)
ISOLATED = [
    dataclasses.replace(LORA, factors="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="scalar", scale="learned"),
    dataclasses.replace(LORA, factors="per_task", gate="per_rank", routing="per_task"),
    dataclasses.replace(LORA, factors="per_task", gate="per_output"),
    CLORA_XS,
    CLORA_SHARED,
]
EVERY = [
    LORA,
    CLORA,
    dataclasses.replace(CLORA, gate="per_rank", scale="learned"),
    dataclasses.replace(CLORA, gate="per_output"),
    dataclasses.replace(CLORA, inference_routing="snapshot"),
    dataclasses.replace(CLORA, old_path="trained"),
    *ISOLATED,
]


def name_of(s: MethodConfig) -> str:
    kinds = (s.factors, s.basis, s.factor_tasks, s.routing, s.old_path, s.inference_routing, s.gate, s.scale)
    return "-".join(map(str, kinds))


names = {"argvalues": EVERY, "ids": name_of}


def make(settings: MethodConfig) -> AdaptedLinear:
    torch.manual_seed(0)
    base = nn.Linear(10, 8, dtype=torch.float64).requires_grad_(False)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha)
    layer = AdaptedLinear(base, NAME, settings=settings, config=config, r=settings.rank, lora_alpha=settings.alpha)
    layer = layer.double()
    if settings.basis == "svd":
        layer.use_svd_basis()
    return layer


def learn(layer: AdaptedLinear, t: int, seed: int) -> None:
    """Stand in for training: move everything that trains."""
    layer.start_task(t)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in layer.parts:
            parameter = layer.part(part)
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    layer.finish_task()


def answers_when_learned(layer: AdaptedLinear, x: torch.Tensor, num_tasks: int) -> list[torch.Tensor]:
    """Return what the layer answers for each task when that task has just been learned."""
    answers = []
    for t in range(num_tasks):
        learn(layer, t, t)
        with answering(t):
            answers.append(layer(x))
    return answers


def written_out(layer: AdaptedLinear, x: torch.Tensor, t: int) -> torch.Tensor:
    s, parts = layer.settings, layer.parts_of(t)
    R = torch.eye(s.rank, dtype=x.dtype) if parts.R is None else parts.R + (0 if parts.R_old is None else parts.R_old)
    g = 1.0 if parts.gate is None else torch.sigmoid(parts.gate)
    if s.gate == "per_rank":
        R, g = torch.diag(g) @ R, 1.0
    delta = parts.scale * parts.B @ R @ parts.A
    delta = g[:, None] * delta if s.gate == "per_output" else g * delta
    return x @ (layer.base_layer.weight + delta).T + layer.base_layer.bias


def start(layer: AdaptedLinear, t: int, seed: int) -> list[str]:
    """Begin task t away from its start, where everything has a gradient; return the names of what trains."""
    layer.start_task(t)
    torch.manual_seed(seed)
    for part in layer.parts:
        if layer.part(part).requires_grad:
            nn.init.normal_(layer.part(part))
    return [part for part in layer.parts if layer.part(part).requires_grad]
