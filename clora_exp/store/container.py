"""One `.clora` file: safetensors, their bytes grouped by significance, compressed with zstd; its size is declared.

    8 bytes   "CLORA" 0x01 CR LF: a transfer in text mode is seen at once
    8 bytes   size of the safetensors that follow, little-endian
    the rest  one zstd frame (RFC 8878) with a checksum

Numbers of one kind differ mostly in their low bytes, so that all first bytes of a tensor, then all second ones,
compress better than number after number (byte shuffle, as Blosc and HDF5 have it). Where that was done the safetensors
metadata says `bytes: shuffled`; without it, `tail -c +17 FILE | zstd -d` is a plain safetensors file.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clora_exp.errors import StoreError

MAGIC = b"CLORA\x01\r\n"
PREFIX_BYTES = len(MAGIC) + 8
MAX_BYTES = 1 << 30  # unpacked: a LoRA of rank 64 on a model of 7 billion weights has 0.6 GB in single precision
MAX_WINDOW_BYTES = 1 << 27  # what a frame may ask for to be unpacked; level 19 asks for 8 MB
MAX_HEADER_BYTES = 1 << 24
LEVEL = 9
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}  # of others one


def pack(tensors: Mapping[str, Tensor], *, level: int = LEVEL, is_shuffled: bool = True) -> bytes:
    """Return the file's content; equal tensors are equal bytes.

    Args:
        level: zstd's, 1 to 22.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # none shares memory
    content = save(plain, metadata={"bytes": "shuffled"} if is_shuffled else None)
    if is_shuffled:
        content = _regrouped(content, is_back=False)
    parameters = zstandard.ZstdCompressionParameters.from_level(level, write_checksum=True, write_content_size=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(content)
    return MAGIC + struct.pack("<Q", len(content)) + frame


def unpack(content: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Return the tensors of a file's content.

    Raises:
        StoreError: it is no such file, is cut off or damaged, or is or says to be larger than `max_bytes` unpacked.
    """
    if len(content) < PREFIX_BYTES or not content.startswith(MAGIC):
        raise StoreError("it is no .clora file: it does not begin as one")
    (size,) = struct.unpack("<Q", content[len(MAGIC) : PREFIX_BYTES])
    if size > max_bytes:
        raise StoreError(f"it unpacks to {size:,} bytes; at most {max_bytes:,} are read")
    frame = memoryview(content)[PREFIX_BYTES:]
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != size:
            raise StoreError(f"it says to unpack to {size:,} bytes, and its zstd frame says {declared:,}")
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        unpacked = unpacker.decompress(frame, max_output_size=size, allow_extra_data=False)
        if len(unpacked) != size:
            raise StoreError(f"it unpacks to {len(unpacked):,} bytes, and it says {size:,}")
        if _header(unpacked).get("__metadata__") == {"bytes": "shuffled"}:
            unpacked = _regrouped(unpacked, is_back=True)
        return load(unpacked)
    except (
        zstandard.ZstdError,
        SafetensorError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,  # of torch: a shape whose strides cannot be counted; a RecursionError is one
    ) as error:
        raise StoreError(f"it is damaged: {error}") from error


def _header(content: bytes) -> dict[str, dict[str, object]]:
    """Return the header of safetensors, not yet checked beyond its own length."""
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"a header of {length:,} bytes")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError("a header that is no table of tables")
    return header


def _regrouped(content: bytes, is_back: bool) -> bytes:
    """Return safetensors with the bytes of each tensor grouped by their place in a number, or back."""
    (length,) = struct.unpack("<Q", content[:8])
    found = np.frombuffer(content, dtype=np.uint8).copy()
    start = 8 + length
    for name, entry in _header(content).items():
        item = ITEM_BYTES.get(str(entry.get("dtype")), 1)
        if name == "__metadata__" or item == 1:
            continue
        offsets: Any = entry["data_offsets"]
        first, last = offsets
        if not 0 <= first <= last <= len(content) - start:
            raise ValueError(f"tensor {name!r} lies outside the file")
        part = found[start + first : start + last]
        part[:] = (part.reshape(item, -1) if is_back else part.reshape(-1, item)).T.reshape(-1)
    return found.tobytes()


def same_bytes(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Tell whether two sets of tensors are the same to the bit, names, kinds and shapes included."""
    return a.keys() == b.keys() and all(
        (x.dtype, x.shape) == (b[name].dtype, b[name].shape) and torch.equal(_raw(x), _raw(b[name]))
        for name, x in a.items()
    )


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
