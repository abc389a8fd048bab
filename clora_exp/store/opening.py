"""A version's file opened: its bytes are hashed, unpacked, decoded, and held against what the manifest says."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.store.container import unpack
from clora_exp.store.encoding import Encoding, decode
from clora_exp.store.manifest import WEIGHTS, Manifest


def opened(manifest: Manifest, content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a version's file, in float32: these very bytes are hashed, unpacked and checked.

    Raises:
        StoreError: they are others than the manifest says, or hold anything that cannot be.
    """
    weights = manifest.weights
    where = f"{manifest.task}@{manifest.version}"
    found = hashlib.sha256(content).hexdigest()
    if found != weights.sha256 or len(content) != weights.num_bytes:
        raise StoreError(f"{where}: {WEIGHTS} has the SHA-256 {found[:12]}, and {weights.sha256[:12]} was stored")
    try:
        encodings = {name: Encoding.from_plain(name, plain) for name, plain in weights.encodings.items()}
        tensors = decode(unpack(content), encodings)
        _check_form(manifest, tensors)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from error
    return tensors


def _check_form(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Look whether the tensors are those of the manifest's form, rank and labels."""
    weights = manifest.weights
    parts = {"pairs": ("A", "B"), "routed": ("R",)}[weights.form]
    of_layers = {name for name in tensors if name not in ("head.weight", "head.bias")}
    if of_layers != weights.layers.keys() or not {name.split(".")[0] for name in of_layers} <= set(parts):
        raise StoreError(f"it holds the tensors {sorted(of_layers)}; the manifest names {sorted(weights.layers)}")
    modules = {
        part: [m for key, names in weights.layers.items() if key.split(".")[0] == part for m in names] for part in parts
    }
    if any(sorted(names) != sorted(modules[parts[0]]) or len(set(names)) < len(names) for names in modules.values()):
        raise StoreError("A and B are of different layers, or a layer stands there twice")
    for name in of_layers:
        shape, num_layers = tensors[name].shape, len(weights.layers[name])
        rank = {"A": 1, "B": 2, "R": 1}[name.split(".")[0]]
        is_square = weights.form != "routed" or shape[-1] == weights.rank
        if len(shape) != 3 or shape[0] != num_layers or shape[rank] != weights.rank or not is_square:
            raise StoreError(f"tensor {name!r} is {tuple(shape)}, for {num_layers} layers of rank {weights.rank}")
    head = tensors.get("head.weight")
    bias = tensors.get("head.bias")
    if bias is not None and tuple(bias.shape) != (len(manifest.labels),):
        raise StoreError(f"head.bias is {tuple(bias.shape)}, for {len(manifest.labels)} labels")
    if head is not None and (head.ndim != 2 or len(head) != len(manifest.labels)):
        raise StoreError(f"head.weight is {tuple(head.shape)}, for {len(manifest.labels)} labels")
