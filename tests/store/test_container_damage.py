"""A .clora file that was cut, changed or made to harm is refused with one kind of error, and takes little memory."""

import json
import struct
from contextlib import suppress
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from made import little_memory, tensor_dicts
from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.store.container import MAGIC, MAX_BYTES, pack, same_bytes, unpack

SHUFFLED = {"bytes": "shuffled"}
TWO = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.arange(4)}


def file_of(plain: bytes, size: int | None = None) -> bytes:
    """Return a file whose frame holds any bytes, whatever size it declares."""
    return MAGIC + struct.pack("<Q", len(plain) if size is None else size) + zstandard.ZstdCompressor().compress(plain)


def safetensors_of(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a header of any JSON, of any declared length, and what follows it."""
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + body


def bomb(num_blocks: int, declared: int, window: int | None = None) -> bytes:
    """Return a frame of blocks of 128 KiB of zeros, three bytes each, that declares another size (RFC 8878, 3.1.1)."""
    descriptor = 0xC0 | (0 if window is not None else 0x20)
    frame = struct.pack("<IB", zstandard.MAGIC_NUMBER, descriptor)
    frame += (b"" if window is None else bytes([window - 10 << 3])) + struct.pack("<Q", declared)
    block = struct.pack("<I", 1 << 20 | 1 << 1)[:3] + b"\0"
    return MAGIC + struct.pack("<Q", declared) + frame + block * num_blocks + struct.pack("<I", 1)[:3]


@given(tensor_dicts, st.booleans(), st.data())
def test_a_file_cut_anywhere_is_refused(tensors: dict[str, Tensor], is_shuffled: bool, data: st.DataObject) -> None:
    content = pack(tensors, is_shuffled=is_shuffled)
    for length in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        with pytest.raises(StoreError, match="it is "):
            unpack(content[:length])


def test_a_file_cut_at_each_of_its_places_is_refused() -> None:
    content = pack(TWO)
    for length in range(len(content)):
        with pytest.raises(StoreError, match="it is "):
            unpack(content[:length])


@given(tensor_dicts, st.booleans(), st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(
    tensors: dict[str, Tensor], is_shuffled: bool, data: st.DataObject
) -> None:
    """A frame's checksum is of what it holds: only a bit that says nothing may change."""
    content = pack(tensors, is_shuffled=is_shuffled)
    for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        changed = bytearray(content)
        changed[place] ^= data.draw(st.integers(1, 255))
        with suppress(StoreError):
            assert same_bytes(unpack(bytes(changed)), tensors)


@pytest.mark.parametrize("is_shuffled", [True, False])
def test_each_flipped_bit_of_a_file_is_refused_or_changes_nothing(is_shuffled: bool) -> None:
    content = pack(TWO, is_shuffled=is_shuffled)
    num_read = 0
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        with suppress(StoreError):
            assert same_bytes(unpack(bytes(changed)), TWO)
            num_read += 1
    assert num_read < 8  # bits that zstd leaves unused, one of them in the frame's header


@given(tensor_dicts, st.binary(min_size=1, max_size=40))
def test_bytes_after_the_frame_are_refused(tensors: dict[str, Tensor], more: bytes) -> None:
    with pytest.raises(StoreError, match="it is damaged"):
        unpack(pack(tensors) + more)


def test_a_second_frame_is_refused() -> None:
    content = pack(TWO)
    with pytest.raises(StoreError, match="it is damaged"):
        unpack(content + content[16:])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    for found in (content, MAGIC + content, file_of(content), file_of(struct.pack("<Q", len(content)) + content)):
        with pytest.raises(StoreError, match=r"it (is|unpacks|says) "):
            unpack(found)


@pytest.mark.parametrize("place", range(8))
def test_another_magic_is_refused(place: int) -> None:
    content = bytearray(pack(TWO))
    content[place] ^= 0x20
    with pytest.raises(StoreError, match=r"it is no .clora file: it does not begin as one"):
        unpack(bytes(content))


def test_a_file_sent_in_text_mode_is_refused_at_once() -> None:
    with pytest.raises(StoreError, match=r"it is no .clora file"):
        unpack(pack(TWO).replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("size", [0, 1, 279, 281, 1 << 20])
def test_a_declared_size_that_is_not_the_frames_is_refused(size: int) -> None:
    with pytest.raises(StoreError, match=rf"it says to unpack to {size:,} bytes, and its zstd frame says 280"):
        unpack(file_of(b"\0" * 280, size))


def test_a_frame_that_declares_no_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 280)
    with pytest.raises(StoreError, match="its zstd frame says -1"):
        unpack(MAGIC + struct.pack("<Q", 280) + frame)


def test_no_more_is_unpacked_than_the_reader_allows() -> None:
    content = pack(TWO)
    (size,) = struct.unpack("<Q", content[8:16])
    assert same_bytes(unpack(content, max_bytes=size), TWO)
    with pytest.raises(StoreError, match=rf"it unpacks to {size} bytes; at most {size - 1} are read"):
        unpack(content, max_bytes=size - 1)


@pytest.mark.parametrize("declared", [MAX_BYTES + 1, 1 << 34, (1 << 64) - 3])
def test_a_small_file_that_declares_gigabytes_is_refused_before_any_is_taken(declared: int) -> None:
    content = bomb(2, declared)
    assert len(content) < 64
    with little_memory(), pytest.raises(StoreError, match=rf"it unpacks to {declared:,} bytes; at most 1,073,741,824"):
        unpack(content)


@pytest.mark.parametrize("window", [None, 20, 31, 40])
@pytest.mark.parametrize("declared", [1000, 1 << 17, 1 << 20])
def test_a_small_file_that_holds_gigabytes_more_than_it_declares_is_refused(declared: int, window: int | None) -> None:
    content = bomb(1 << 15, declared, window)
    assert len(content) < 1 << 18
    with little_memory(), pytest.raises(StoreError, match="it is damaged"):
        unpack(content)


@pytest.mark.parametrize("window", [28, 31, 41])
def test_a_frame_that_asks_for_a_huge_window_takes_no_memory(window: int) -> None:
    with little_memory(), pytest.raises(StoreError, match="it is damaged"):
        unpack(bomb(1, 1 << 17, window))


@pytest.mark.parametrize("length", [0, 1, 10, 1 << 24, (1 << 24) + 1, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("metadata", [{}, {"__metadata__": SHUFFLED}])
def test_a_header_of_another_length_than_it_says_is_refused(length: int, metadata: dict[str, Any]) -> None:
    header = metadata | {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    with little_memory(), pytest.raises(StoreError, match="it is damaged"):
        unpack(file_of(safetensors_of(header, b"\0" * 4, length)))


@pytest.mark.parametrize(
    "entry",
    [
        5,
        "w",
        [],
        None,
        {},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": [1], "data_offsets": 4},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 3]},
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]},
        {"dtype": [1], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1 << 63, 0], "data_offsets": [0, 0]},
    ],
)
@pytest.mark.parametrize("metadata", [{}, {"__metadata__": SHUFFLED}])
def test_a_header_that_describes_no_tensor_is_refused(entry: Any, metadata: dict[str, Any]) -> None:
    body = b"" if isinstance(entry, dict) and entry.get("data_offsets") == [0, 0] else b"\0" * 4
    with pytest.raises(StoreError, match="it is damaged"):
        unpack(file_of(safetensors_of(metadata | {"w": entry}, body)))


@pytest.mark.parametrize("words", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"1", b"null", b"[]", b'"w"'])
def test_a_header_that_is_no_table_is_refused(words: bytes) -> None:
    with pytest.raises(StoreError, match="it is damaged"):
        unpack(file_of(struct.pack("<Q", len(words)) + words))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "I64", "shuffled", "w"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "bytes"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["w", "v"]), json_values, max_size=2), st.booleans())
def test_whatever_a_header_says_is_read_or_refused(entries: dict[str, Any], is_shuffled: bool) -> None:
    header = entries | ({"__metadata__": SHUFFLED} if is_shuffled else {})
    with suppress(StoreError):
        assert unpack(file_of(safetensors_of(header))).keys() == entries.keys()
