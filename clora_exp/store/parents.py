"""An update and what is beneath it: a version may name a parent, and answers with W0 + Δ_parent + Δ of its own.

A parent may have a parent. A version's own tensors hold its own update alone; parents are named by their ids, so that a
parent that is promoted, rolled back or made smaller changes no child.
"""

from pathlib import Path

from torch import Tensor

from clora_exp.adapters.pairs import joined
from clora_exp.config import ExperimentConfig
from clora_exp.errors import StoreError
from clora_exp.states import unpack_layers
from clora_exp.store.folder import MOST_PARENTS, Store, Stored
from clora_exp.store.manifest import Manifest, Source


def parent_version(store: Store, source: Source) -> Stored:
    """Return the version that another one names as its parent.

    Raises:
        StoreError: it is not there, is damaged, or is another one now.
    """
    found = store.read(source.task, source.id)
    if found.id != source.id:
        raise StoreError(f"{source.task}@{source.version}: its id is {found.id[:12]}, not {source.id[:12]}")
    return found


def own_pairs(store: Store, stored: Stored) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a version's own update as vanilla pairs of scale 1, A (r, in) and B (out, r) by module, float64.

    Raises:
        StoreError: the basis that it is written in is missing or damaged.
    """
    weights = stored.manifest.weights
    layers = {name: x.double() for name, x in stored.tensors.items() if name in weights.layers}
    state = unpack_layers(layers, dict(weights.layers))
    if weights.form == "pairs":
        return {n.removeprefix("A/"): (x, state[f"B/{n[2:]}"]) for n, x in state.items() if n.startswith("A/")}
    assert weights.basis_sha256 is not None
    basis = {name: x.double() for name, x in store.basis(weights.basis_sha256).items()}
    names = [name.removeprefix("R/") for name in state]
    return {name: (basis[f"A/{name}"], basis[f"B/{name}"] @ state[f"R/{name}"]) for name in names}


def beneath(store: Store, manifest: Manifest) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the update that a version has beneath its own, all its parents', float32; empty where it has none.

    Raises:
        StoreError: a parent that is not there, is damaged, or belongs to another base model.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    at, label = manifest, f"{manifest.task}@{manifest.version}"
    for _ in range(MOST_PARENTS + 1):
        if at.parent is None:
            return {name: (A.float(), B.float()) for name, (A, B) in found.items()}
        parent = parent_version(store, at.parent)
        if parent.manifest.base.sha256 != manifest.base.sha256:
            raise StoreError(f"{label}: its parent {parent.label} belongs to another base model")
        found = joined(own_pairs(store, parent), found)
        at = parent.manifest
    raise StoreError(f"{label}: more than {MOST_PARENTS} parents above each other")


def pairs_of(store: Store, stored: Stored) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a version's whole update, its parents' and its own, as pairs, float64.

    Raises:
        StoreError: as `beneath` and `own_pairs`.
    """
    return joined(beneath(store, stored.manifest), own_pairs(store, stored))


def configured_parent(config: ExperimentConfig) -> tuple[Source, dict[str, tuple[Tensor, Tensor]]] | None:
    """Return the parent that `store.parent` names, and its whole update, float32; None where there is none.

    Raises:
        StoreError: there is no such store or version, it is damaged.
    """
    if config.store.parent is None:
        return None
    assert config.store.path is not None
    task, _, which = config.store.parent.partition("@")
    store = Store(Path(config.store.path))
    stored = store.read(task, which)
    whole = {name: (A.float(), B.float()) for name, (A, B) in pairs_of(store, stored).items()}
    return Source(task, stored.manifest.version, stored.id), whole
