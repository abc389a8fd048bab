"""Nested states (tensors and plain values) as one safetensors file, and per-layer tensors stacked into few.

Nothing is pickled: tensors are safetensors, plain values are JSON in the file's one metadata key, so equal states are
equal bytes. A digest of everything stands before the JSON: a byte that was changed is seen.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clora_exp.files import write_atomically

_KEY = "clora_exp"
_SHA256 = "sha256"
_TENSOR = "$tensor"


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict or list of tensors, numbers, strings, booleans and None, atomically.

    What is a number as a key comes back as a string, and a tuple as a list.

    Raises:
        TypeError: another value, or two keys of a dict that are one as strings.
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_take_out(state, "", tensors))
    write_atomically(path, save(tensors, metadata={_KEY: f"{_digest(plain, tensors)} {plain}"}))


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote.

    Raises:
        ValueError: the file is no such state.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        digest, _, plain = metadata[_KEY].partition(" ")
        if digest.startswith("{"):  # written before there were digests
            plain = metadata[_KEY]
        elif digest != _digest(plain, tensors):
            raise ValueError("it has changed since it was written")
        return _put_back(json.loads(plain), tensors)
    except (KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"no state of this project: {error}") from error


def _take_out(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        while name in tensors:  # {"a/b": …} and {"a": {"b": …}} are two tensors
            name += "'"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if len({str(key) for key in value}) < len(value):
            raise TypeError(f"{name}: two keys are one as strings, of {list(value)}")
        return {_escaped(str(key)): _take_out(entry, f"{name}/{key}", tensors) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_take_out(entry, f"{name}/{i}", tensors) for i, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a state holds tensors and plain values, not {type(value).__name__}")


def _put_back(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key.removeprefix("$") if key[:2] == "$$" else key: _put_back(v, tensors) for key, v in value.items()}
    if isinstance(value, list):
        return [_put_back(entry, tensors) for entry in value]
    return value


def _digest(plain: str, tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the plain values and of every tensor's name, kind, shape and bytes."""
    digest = hashlib.sha256(plain.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _escaped(key: str) -> str:
    """Return the key with a second "$" before its first, so that no key of a state is taken for a tensor's."""
    return f"${key}" if key.startswith("$") else key


def pack_layers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Stack equal shapes of a part: {"routing/<layer>": (r, r), …} → ({"routing": (layers, r, r)}, {"routing": […]}).

    A header entry a layer would outweigh the small parts. Where a part has several shapes they become "A.0", "A.1", ….
    """
    by_part: dict[str, dict[tuple[int, ...], list[str]]] = {}
    for name, tensor in state.items():
        part = name.split("/", 1)[0]
        by_part.setdefault(part, {}).setdefault(tuple(tensor.shape), []).append(name)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, list[str]] = {}
    for part, by_shape in by_part.items():
        for i, names in enumerate(by_shape.values()):
            key = part if len(by_shape) == 1 else f"{part}.{i}"
            tensors[key] = torch.stack([state[name].detach().cpu() for name in names])
            layers[key] = [name.split("/", 1)[1] for name in names]
    return tensors, layers


def unpack_layers(tensors: dict[str, Tensor], layers: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return what `pack_layers` stacked.

    Raises:
        KeyError, ValueError: tensors and names do not fit.
    """
    state: dict[str, Tensor] = {}
    for key, names in layers.items():
        part = key.split(".")[0]
        state |= {f"{part}/{name}": tensor for name, tensor in zip(names, tensors[key], strict=True)}
    return state


def num_bytes(state: Any) -> int:
    """Return the bytes of the tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    entries = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(num_bytes(entry) for entry in entries)
