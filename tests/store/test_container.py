"""A .clora file reads back to the bit, is the same bytes for the same tensors, and another reader can open it."""

import random
import struct

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from made import tensor_dicts
from safetensors.torch import load
from torch import Tensor

from clora_exp.store.container import pack, same_bytes, unpack

levels = st.integers(1, 22)
NUMBERS = {"w": torch.tensor([1.0, 2.0, -3.5]), "n": torch.arange(3), "m": torch.ones(2, 3, dtype=torch.bfloat16)}


def plain_of(content: bytes) -> bytes:
    """Return the safetensors of a file with zstandard alone."""
    return zstandard.ZstdDecompressor().decompress(content[16:])


@given(tensor_dicts, levels, st.booleans())
def test_tensors_read_back_to_the_bit(tensors: dict[str, Tensor], level: int, is_shuffled: bool) -> None:
    found = unpack(pack(tensors, level=level, is_shuffled=is_shuffled))
    assert same_bytes(found, tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)


@given(tensor_dicts, levels, st.booleans(), st.randoms(use_true_random=False))
def test_equal_tensors_are_equal_bytes_in_whatever_order_and_layout(
    tensors: dict[str, Tensor], level: int, is_shuffled: bool, draw: random.Random
) -> None:
    names = list(tensors)
    draw.shuffle(names)
    again = {name: tensors[name].contiguous().clone() for name in names}
    first = pack(tensors, level=level, is_shuffled=is_shuffled)
    assert pack(again, level=level, is_shuffled=is_shuffled) == first
    assert pack(unpack(first), level=level, is_shuffled=is_shuffled) == first


@given(tensor_dicts, levels)
def test_without_shuffle_the_payload_is_a_zstd_frame_of_plain_safetensors(
    tensors: dict[str, Tensor], level: int
) -> None:
    found = load(plain_of(pack(tensors, level=level, is_shuffled=False)))
    assert same_bytes(found, tensors)


@given(tensor_dicts)
def test_a_file_begins_with_its_magic_and_the_size_of_its_safetensors(tensors: dict[str, Tensor]) -> None:
    content = pack(tensors)
    assert content[:8] == b"CLORA\x01\r\n"
    assert struct.unpack("<Q", content[8:16]) == (len(plain_of(content)),)
    assert zstandard.get_frame_parameters(content[16:]).has_checksum


def test_shuffled_bytes_are_grouped_by_their_place_in_a_number() -> None:
    values = torch.tensor([1.0, 2.0, -3.5])
    assert values.numpy().tobytes() == bytes.fromhex("0000803f 00000040 000060c0")
    plain = plain_of(pack({"w": values}))
    assert plain.endswith(bytes.fromhex("000000 000000 800060 3f40c0"))
    assert b'"__metadata__":{"bytes":"shuffled"}' in plain


@given(tensor_dicts)
def test_a_reader_of_numpy_alone_puts_shuffled_bytes_back(tensors: dict[str, Tensor]) -> None:
    """The reader knows nothing but the words of the module: all first bytes of a tensor, then all second ones."""
    grouped = load(plain_of(pack(tensors)))
    for name, tensor in tensors.items():
        found = grouped[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        item = tensor.dtype.itemsize
        by_number = np.stack(np.split(found, item), axis=1) if item > 1 else found
        assert by_number.tobytes() == bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.int32, torch.float64, torch.float8_e4m3fn])
def test_other_kinds_of_number_read_back_too(dtype: torch.dtype) -> None:
    tensors = {"w": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).to(dtype)}
    for is_shuffled in (True, False):
        assert same_bytes(unpack(pack(tensors, is_shuffled=is_shuffled)), tensors)


def test_shuffling_makes_numbers_of_one_size_smaller() -> None:
    tensors = {"w": 1 + torch.rand(4096, generator=torch.Generator().manual_seed(0))}
    assert len(pack(tensors)) < 0.95 * len(pack(tensors, is_shuffled=False))


def test_tensors_that_share_memory_are_written_each() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {"whole": whole, "row": whole[1], "again": whole}
    assert same_bytes(unpack(pack(tensors)), tensors)


def test_packing_leaves_its_tensors_alone() -> None:
    before = {name: tensor.clone() for name, tensor in NUMBERS.items()}
    pack(NUMBERS)
    assert same_bytes(NUMBERS, before)


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.zeros(3)},
        {"v": torch.zeros(2)},
        {"w": torch.zeros(2, dtype=torch.int32)},
        {"w": torch.tensor([0.0, -0.0])},
        {"w": torch.zeros(2), "v": torch.zeros(0)},
        {},
    ],
)
def test_tensors_of_another_name_kind_shape_or_bit_are_not_the_same(other: dict[str, Tensor]) -> None:
    one = {"w": torch.zeros(2)}
    assert same_bytes(one, {"w": torch.zeros(2)})
    assert not same_bytes(one, other)


def test_not_a_number_is_the_same_as_itself() -> None:
    assert same_bytes({"w": torch.tensor([float("nan")])}, {"w": torch.tensor([float("nan")])})
