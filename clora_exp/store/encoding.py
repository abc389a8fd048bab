"""How a tensor is written: its kind of number, and which of its entries at all. What was lost is measured elsewhere.

float32, float16 and bfloat16 are rounded once. int8 is symmetric with a scale a channel, w ≈ s · q, s = max|w| / 127,
q in −127 to 127 (Jacob et al. 2018, arXiv 1712.05877, eq. 1 with zero-point 0): a channel runs along the longer of the
last two dimensions, so that the scales weigh little. Sparse tensors are a mask of one bit an entry and the entries that
are left, which is smaller than indices above one entry in 32.

Shapes: any; matrices of adapters are stacked over layers, (L, m, n).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.store.container import MAX_BYTES

Number = Literal["float32", "float16", "bfloat16", "int8"]
NUMBERS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
MASK, SCALE = "mask", "scale"  # "<name>#mask", "<name>#scale"
LARGEST = 127


@dataclass(frozen=True)
class Encoding:
    """How one tensor lies in a file."""

    number: Number
    shape: tuple[int, ...]
    is_sparse: bool = False
    channel: int | None = None  # of int8: the dimension that a scale runs along, −1 or −2; None: one scale for all

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_plain(cls, name: str, plain: Any) -> "Encoding":
        """Read what `to_plain` gave.

        Raises:
            StoreError: it is none.
        """
        try:
            found = cls(plain["number"], tuple(plain["shape"]), plain["is_sparse"], plain["channel"])
        except (KeyError, TypeError) as error:
            raise StoreError(f"tensor {name!r}: its encoding cannot be read: {error}") from error
        is_shape = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 31 for n in found.shape)
        is_number = isinstance(found.number, str) and found.number in NUMBERS
        if not is_number or not is_shape or not isinstance(found.is_sparse, bool):
            raise StoreError(f"tensor {name!r}: unknown encoding {plain}")
        is_channel = found.channel is None or (type(found.channel) is int and found.channel in (-1, -2))
        if not is_channel or (found.channel is not None and len(found.shape) < -found.channel):
            raise StoreError(f"tensor {name!r}: channel {found.channel!r} of shape {found.shape}; have: -1, -2, null")
        return found


def encode(name: str, tensor: Tensor, number: Number, *, is_sparse: bool = False) -> tuple[dict[str, Tensor], Encoding]:
    """Return the tensors to write for one, by name, and how to read them back.

    Args:
        is_sparse: entries that are exactly zero are left out.

    Raises:
        StoreError: it holds numbers that are NaN or infinite, or too large for the kind.
    """
    tensor = tensor.detach().cpu().float().contiguous()
    if not torch.isfinite(tensor).all():
        raise StoreError(f"tensor {name!r} holds numbers that are NaN or infinite")
    channel = None
    found: dict[str, Tensor] = {}
    if number == "int8":
        if tensor.ndim >= 2:
            channel = -1 if tensor.shape[-1] >= tensor.shape[-2] else -2
        scale = _scales(tensor, channel)
        found[f"{name}#{SCALE}"] = scale
        values = torch.round(tensor / scale).clamp(-LARGEST, LARGEST).to(torch.int8)
    else:
        values = tensor.to(NUMBERS[number])
        if not torch.isfinite(values).all():
            raise StoreError(f"tensor {name!r}: {tensor.abs().max():.3g} is too large for {number}")
    if is_sparse:
        kept = values != 0
        found[f"{name}#{MASK}"] = torch.from_numpy(np.packbits(kept.numpy().reshape(-1)))
        values = values[kept]
    return found | {name: values}, Encoding(number, tuple(tensor.shape), is_sparse, channel)


def decode(tensors: Mapping[str, Tensor], encodings: Mapping[str, Encoding]) -> dict[str, Tensor]:
    """Return the tensors in float32.

    Raises:
        StoreError: one that is missing, left over, of another shape or kind, NaN, infinite, or with a scale that is not
            positive; the message names it.
    """
    expected = {part for name, encoding in encodings.items() for part in _names(name, encoding)}
    for name in sorted(expected ^ tensors.keys()):
        raise StoreError(f"tensor {name!r} is {'missing' if name in expected else 'left over'}")
    num_bytes = 0
    for name, encoding in encodings.items():
        num_bytes += 4 * math.prod(encoding.shape)
        if num_bytes > MAX_BYTES:
            raise StoreError(f"tensor {name!r} of {encoding.shape}: at most {MAX_BYTES:,} bytes are read")
    return {name: _decoded(name, tensors, encoding) for name, encoding in encodings.items()}


def _names(name: str, encoding: Encoding) -> list[str]:
    more = [MASK] if encoding.is_sparse else []
    return [name, *(f"{name}#{part}" for part in [*more, *([SCALE] if encoding.number == "int8" else [])])]


def _decoded(name: str, tensors: Mapping[str, Tensor], encoding: Encoding) -> Tensor:
    values, shape = tensors[name], encoding.shape
    if values.dtype != NUMBERS[encoding.number]:
        raise StoreError(f"tensor {name!r} is {values.dtype}; its manifest says {encoding.number}")
    if encoding.is_sparse:
        values = _filled(name, values, tensors[f"{name}#{MASK}"], shape)
    if tuple(values.shape) != shape:
        raise StoreError(f"tensor {name!r} is {tuple(values.shape)}; its manifest says {shape}")
    values = values.float()
    if encoding.number == "int8":
        scale = tensors[f"{name}#{SCALE}"]
        if scale.dtype != torch.float32 or scale.shape != _scale_shape(shape, encoding.channel):
            raise StoreError(f"tensor {name!r}: its scale is {scale.dtype} {tuple(scale.shape)}")
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise StoreError(f"tensor {name!r}: a scale is NaN, infinite, zero or negative")
        largest = torch.finfo(torch.float32).max
        if not torch.isfinite(scale * (LARGEST - 1)).all():
            raise StoreError(f"tensor {name!r} holds numbers that are NaN or infinite")
        values = (values * scale).clamp(-largest, largest)  # 127 s may round above it
    if not torch.isfinite(values).all():
        raise StoreError(f"tensor {name!r} holds numbers that are NaN or infinite")
    return values


def _filled(name: str, values: Tensor, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a sparse tensor with its zeros."""
    num_entries = math.prod(shape)
    if mask.dtype != torch.uint8 or mask.shape != ((num_entries + 7) // 8,):
        raise StoreError(f"tensor {name!r}: its mask is {mask.dtype} {tuple(mask.shape)}, for {num_entries:,} entries")
    bits = np.unpackbits(mask.numpy())
    if bits[num_entries:].any() or values.shape != (int(bits.sum()),):
        raise StoreError(f"tensor {name!r}: its mask keeps {int(bits.sum()):,} entries, it has {values.numel():,}")
    found = torch.zeros(num_entries, dtype=values.dtype)
    found[torch.from_numpy(bits[:num_entries].astype(bool))] = values
    return found.reshape(shape)


def _scales(tensor: Tensor, channel: int | None) -> Tensor:
    if tensor.numel() == 0:
        return torch.ones(_scale_shape(tuple(tensor.shape), channel))
    largest = tensor.abs().amax() if channel is None else tensor.abs().amax(channel, keepdim=True)
    return torch.where(largest > 0, largest / LARGEST, torch.ones(())).clamp_min(torch.finfo(torch.float32).tiny)


def _scale_shape(shape: tuple[int, ...], channel: int | None) -> tuple[int, ...]:
    if channel is None:
        return ()
    sizes = list(shape)
    sizes[channel] = 1
    return tuple(sizes)
