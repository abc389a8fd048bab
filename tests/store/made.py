"""Versions made by hand, without a model: a few small layers and a head, and a manifest that says so."""

import hashlib
import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from hypothesis import strategies as st
from torch import Tensor

from clora_exp.store.container import pack
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Base, Manifest, Probe, Weights
from clora_exp.store.saving import packed

LAYERS = ["l0/query", "l1/query"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64]
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)  # what UTF-8 can say


def pairs_of(seed: int = 0, rank: int = 2) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return A (2, r, 3), B (2, 4, r) and a head of 2 classes, and their layers."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"A": (2, rank, 3), "B": (2, 4, rank), "head.weight": (2, 5), "head.bias": (2,)}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return tensors, {"A": LAYERS, "B": LAYERS}


def routings_of(seed: int = 0, rank: int = 2) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return R (2, r, r) and its layers."""
    return {"R": torch.randn(2, rank, rank, generator=torch.Generator().manual_seed(seed))}, {"R": LAYERS}


def basis_of(seed: int = 0, rank: int = 2) -> bytes:
    """Return the file of fixed factors for `routings_of`."""
    draw = torch.Generator().manual_seed(seed)
    factors = {f"A/{name}": torch.randn(rank, 3, generator=draw) for name in LAYERS}
    return pack(factors | {f"B/{name}": torch.randn(4, rank, generator=draw) for name in LAYERS})


def manifest_of(task: str, weights: Weights, **changes: Any) -> Manifest:
    """Return a manifest of a version of two labels."""
    manifest = Manifest(
        task=task,
        version="v1",
        description="Which of two it is",
        documentation="Made by hand",
        labels=["yes", "no"],
        base=Base("encoder", "text_encoder", "0" * 64, {"max_length": 16}, knows_task=False),
        method={"name": "lora_per_task", "rank": weights.rank},
        weights=weights,
        probe=Probe(["a word"], [[0.25, -1.5]]),
        stream=["tasks=files"],
        data_sha256={"test": "1" * 64},
        mean_feature=[0.25, -1.5],
        metrics={"accuracy": 0.5},
        created="2025-01-02T03:04:05Z",
        software={"torch": "2.6.0"},
    )
    return replace(manifest, **changes)


def version_of(task: str = "legal", seed: int = 0, **changes: Any) -> tuple[Manifest, bytes]:
    """Return a version of form `pairs` and its file; the words of `packed` are its own, others the manifest's."""
    how = {name: changes.pop(name) for name in ("number", "sparse", "is_shuffled", "level") if name in changes}
    content, weights = packed(*pairs_of(seed), "pairs", **how)
    return manifest_of(task, weights, **changes), content


def routed_of(task: str = "legal", seed: int = 0, basis: bytes | None = None, **changes: Any) -> tuple[Manifest, bytes]:
    """Return a version of form `routed` and its file."""
    sha256 = hashlib.sha256(basis_of() if basis is None else basis).hexdigest()
    content, weights = packed(*routings_of(seed), "routed", basis_sha256=sha256)
    return manifest_of(task, weights, **changes), content


def published(store: Store, task: str = "legal", seed: int = 0, *, promote: bool = True, **changes: Any) -> Manifest:
    """Put another version of a task into a store."""
    return store.add(*version_of(task, seed, **changes), promote=promote)


def content_of(seed: int) -> bytes:
    """Return the file of `version_of` with a seed."""
    return version_of(seed=seed)[1]


def seed_of(task: str, number: int) -> int:
    """Return a seed that no other version of any task of the tests has."""
    return zlib.crc32(f"{task}@v{number}".encode())


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its place, hidden ones included."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def bytes_on_disk(store: Store) -> int:
    """Return the bytes of a store's versions and bases."""
    return sum(len(content) for part in ("tasks", "bases") for content in files_of(store.path / part).values())


def replaced(path: Path, content: bytes) -> None:
    """Change a file of a version together with its line in SHA256SUMS."""
    path.write_bytes(content)
    sums = path.parent / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith(path.name)]
    lines.append(f"{hashlib.sha256(content).hexdigest()}  {path.name}")
    sums.write_text("".join(f"{line}\n" for line in lines))


def edited(store: Store, task: str, version: str, **changes: Any) -> Manifest:
    """Change a version's manifest, its sum and the ids of the aliases that mean it: nothing tells that it was done."""
    before = store.checked(task, version)
    after = replace(before, **changes)
    folder = store.path / "tasks" / task
    replaced(folder / version / "manifest.json", after.to_bytes())
    aliases = folder / "aliases.json"
    aliases.write_text(aliases.read_text().replace(before.id, after.id))
    return after


@contextmanager
def little_memory(num_bytes: int = 1 << 28) -> Iterator[None]:
    """Let the block take so many bytes more than the process has; a bomb beyond them is a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> Tensor:
    """Any bits of a shape, some of them NaN, and not always contiguous."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    size = int(torch.tensor(shape).prod()) * dtype.itemsize
    found = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)
    return found.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else found


@st.composite
def finite(draw: st.DrawFn, largest_exponent: int = 4) -> Tensor:
    """Numbers of any size below 10 to an exponent, some of them zero, in up to three dimensions."""
    shape = draw(st.lists(st.integers(0, 6), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    found = torch.randn(shape, generator=generator).clamp(-9, 9) * 10.0 ** draw(st.integers(-40, largest_exponent - 1))
    return found * (torch.rand(shape, generator=generator) > draw(st.sampled_from([0.0, 0.5, 1.0])))


tensor_dicts = st.dictionaries(text.filter(lambda name: name != "__metadata__"), tensors(), max_size=5)
