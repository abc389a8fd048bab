"""Ways to make a version smaller, by name: `int8`, `prune0.7`, `svd8`, `bf16`, and several in a row, `prune0.7+int8`.

- `pruneS`: of each layer's matrix the entries of smallest magnitude become zero, a part S of them (magnitude pruning,
  Han et al. 2015, arXiv 1506.02626, without the training after it), and only the others are written.
- `svdR`: each layer's update B A becomes its best approximation of rank R (Eckart & Young 1936), B' = U √Σ, A' = √Σ Vᵀ.
- `distilR`: as svdR, then trained to answer as before on the task's training texts, see inference/distilling.py.
- `bf16`, `fp16`, `int8`: see encoding.py.
- `plain`: no byte shuffle; `zstdN`: level N, 1 to 22. Every file is shuffled and has level 9 without them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clora_exp.adapters.pairs import of_rank
from clora_exp.errors import StoreError
from clora_exp.states import pack_layers, unpack_layers
from clora_exp.store.encoding import Number
from clora_exp.store.manifest import Manifest

NUMBERS: dict[str, Number] = {"bf16": "bfloat16", "fp16": "float16", "int8": "int8", "fp32": "float32"}
WORDS = "prune0.7, svd8, distil8, bf16, fp16, int8, plain, zstd19, joined by +"


@dataclass(frozen=True)
class Scheme:
    """What is done to a version, in this order: a smaller rank, entries left out, a smaller kind of number."""

    name: str
    rank: int | None = None
    is_distilled: bool = False
    sparsity: float = 0.0
    number: Number = "float32"
    is_shuffled: bool = True
    level: int = 9


def read_scheme(name: str) -> Scheme:
    """Read a scheme's name.

    Raises:
        StoreError: a word that is none.
    """
    found = Scheme(name)
    said: set[str] = set()
    for word in name.split("+"):
        if word in NUMBERS:
            found = replace(found, number=NUMBERS[word])
        elif word == "plain":
            found = replace(found, is_shuffled=False)
        elif match := re.fullmatch(r"prune(0?\.[0-9]+)", word):
            found = replace(found, sparsity=float(match[1]))
        elif match := re.fullmatch(r"(svd|distil)([1-9][0-9]{0,3})", word):
            found = replace(found, rank=int(match[2]), is_distilled=match[1] == "distil")
        elif (match := re.fullmatch(r"zstd([0-9]{1,2})", word)) and 1 <= int(match[1]) <= 22:
            found = replace(found, level=int(match[1]))
        else:
            raise StoreError(f"unknown scheme {word!r} in {name!r}; have: {WORDS}")
        what = (
            "number"
            if word in NUMBERS
            else "rank"
            if word.startswith(("svd", "distil"))
            else word.rstrip("0123456789.")
        )
        if what in said:
            raise StoreError(f"scheme {name!r}: {word} says again what has been said before it")
        said.add(what)
    return found


def pruned(tensors: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the tensors with a part of the entries of each layer's matrix zero; heads are left as they are.

    Shapes: matrices are stacked over layers, (L, m, n).
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("head.") or tensor.ndim < 2:
            continue
        flat = tensor.reshape(len(tensor), -1)
        num_zeros = round(sparsity * flat.shape[1])
        order = flat.abs().argsort(dim=1, stable=True)
        kept = torch.ones_like(flat, dtype=torch.bool).scatter_(1, order[:, :num_zeros], False)
        found[name] = torch.where(kept, flat, flat.new_zeros(())).reshape(tensor.shape)
    return found


def truncated(
    tensors: Mapping[str, Tensor], layers: Mapping[str, list[str]], rank: int
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return a version of form `pairs` with each layer's update at a smaller rank, and its layers.

    B A of rank r is never formed: with B = Q_B T_B and Aᵀ = Q_A T_A the SVD is that of T_B T_Aᵀ (r, r).
    """
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    state = unpack_layers({name: x for name, x in tensors.items() if name not in heads}, dict(layers))
    new: dict[str, Tensor] = {}
    for part in "AB":
        for name in (key.removeprefix("A/") for key in state if key.startswith("A/")):
            new[f"{part}/{name}"] = of_rank(state[f"A/{name}"], state[f"B/{name}"], rank)["AB".index(part)].float()
    packed, of_layers = pack_layers(new)
    return packed | heads, of_layers


def check_fits(scheme: Scheme, manifest: Manifest) -> None:
    """Look whether a scheme can do anything to a version.

    Raises:
        StoreError: it cannot.
    """
    if scheme.rank is None:
        return
    where = f"{manifest.task}@{manifest.version}"
    if manifest.weights.form != "pairs":
        raise StoreError(
            f"{where}: {scheme.name} takes pairs A, B; this one is a routing of r² numbers a layer already"
        )
    if scheme.rank >= manifest.weights.rank:
        raise StoreError(f"{where}: {scheme.name} needs a rank below {manifest.weights.rank}, which it has")
