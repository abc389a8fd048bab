"""Many tasks in a store, made of one: its tensors with noise of their own, so that no two answer alike."""

import dataclasses
import hashlib

import torch

from clora_exp.store.container import pack
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Probe
from clora_exp.store.saving import packed


def copies(store: Store, task: str, count: int, *, labels: int | None = None, own_basis: bool = False) -> list[str]:
    """Add tasks `<task>-0`, …; return their names.

    Args:
        labels: so many in place of the task's.
        own_basis: each on fixed factors of its own.
    """
    source, draw = store.read(task), torch.Generator().manual_seed(0)
    weights, names = source.manifest.weights, []
    basis = store.basis(weights.basis_sha256) if own_basis and weights.basis_sha256 else None
    for i in range(count):
        tensors = {name: x + 0.3 * torch.randn(x.shape, generator=draw) for name, x in source.tensors.items()}
        told = list(source.manifest.labels)
        if labels is not None:
            told = [f"label {j}" for j in range(labels)]
            width = tensors["head.weight"].shape[1]
            tensors |= {"head.weight": torch.randn(labels, width, generator=draw), "head.bias": torch.zeros(labels)}
        of_basis = None
        if basis is not None:
            of_basis = pack({name: x + 1e-6 * (i + 1) for name, x in basis.items()})
        sha256 = hashlib.sha256(of_basis).hexdigest() if of_basis else weights.basis_sha256
        content, found = packed(tensors, weights.layers, weights.form, basis_sha256=sha256)
        name = f"{task}-{labels or ''}{i}"
        manifest = dataclasses.replace(source.manifest, task=name, weights=found, labels=told, probe=Probe([], []))
        names.append(store.add(manifest, content, basis=of_basis).task)
    return names
