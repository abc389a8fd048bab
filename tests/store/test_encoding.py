"""What each kind of number keeps of a tensor, against arithmetic of numpy, and what is refused in both directions."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from made import finite, little_memory
from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.store.container import same_bytes
from clora_exp.store.encoding import NUMBERS, Encoding, decode, encode

SPARSE = torch.tensor([[0.0, 1.5, 0.0], [-2.0, 0.0, 0.0]])
ROUNDED = ["float32", "float16", "bfloat16"]


def back(tensor: Tensor, number: Any, *, is_sparse: bool = False) -> Tensor:
    """Return a tensor as it is read after it was written."""
    found, encoding = encode("w", tensor, number, is_sparse=is_sparse)
    return decode(found, {"w": encoding})["w"]


def by_channel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 and its scales in numpy alone: max|w| / 127 along the longer of the last two dimensions."""
    if values.size == 0:
        return values.astype(np.int8), np.ones((), np.float32)
    if values.ndim < 2:
        largest = np.abs(values).max()
    else:
        axis = values.ndim - 1 if values.shape[-1] >= values.shape[-2] else values.ndim - 2
        largest = np.abs(values).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.rint(values / scale).clip(-127, 127).astype(np.int8), scale


@given(finite(largest_exponent=38))
@example(torch.tensor([0.0, -0.0, 1e-45, -3.4028235e38]))
def test_float32_is_exact(tensor: Tensor) -> None:
    assert same_bytes({"w": back(tensor, "float32")}, {"w": tensor})


@given(finite(), st.sampled_from(ROUNDED))
def test_a_shorter_float_is_what_torch_rounds_to(tensor: Tensor, number: str) -> None:
    assert same_bytes({"w": back(tensor, number)}, {"w": tensor.to(NUMBERS[number]).float()})


@given(finite(largest_exponent=38))
def test_int8_is_symmetric_quantisation_a_channel(tensor: Tensor) -> None:
    found, encoding = encode("w", tensor, "int8")
    values, scale = by_channel(tensor.numpy())
    assert found["w"].dtype is torch.int8
    assert np.array_equal(found["w"].numpy(), values)
    assert np.array_equal(np.broadcast_to(found["w#scale"].numpy(), tensor.shape), np.broadcast_to(scale, tensor.shape))
    assert np.array_equal(decode(found, {"w": encoding})["w"].numpy(), values.astype(np.float32) * scale)


@given(finite(largest_exponent=38))
def test_no_entry_of_int8_is_off_by_more_than_half_a_scale(tensor: Tensor) -> None:
    found, encoding = encode("w", tensor, "int8")
    scale = found["w#scale"].double()
    error = (decode(found, {"w": encoding})["w"].double() - tensor.double()).abs()
    assert (error <= scale * (0.5 + 127 * 2**-22)).all()  # the rest is the rounding of w / s and of s · q


def test_int8_has_a_scale_for_each_row_or_column_whichever_is_longer() -> None:
    wide, tall = torch.ones(2, 4, 8), torch.ones(2, 8, 4)
    for tensor, shape, channel in ((wide, (2, 4, 1), -1), (tall, (2, 1, 4), -2), (torch.ones(5), (), None)):
        found, encoding = encode("w", tensor, "int8")
        assert tuple(found["w#scale"].shape) == shape
        assert encoding.channel == channel


def test_int8_by_hand() -> None:
    found, encoding = encode("w", torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0]]), "int8")
    assert found["w"].tolist() == [[127, -64, 0], [0, 0, 0]]
    assert found["w#scale"].tolist() == [[1.0], [1.0]]
    assert decode(found, {"w": encoding})["w"].tolist() == [[127.0, -64.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("number", ["float32", "bfloat16", "int8"])
def test_the_largest_number_that_fits_is_read_back(number: str) -> None:
    largest = torch.finfo(torch.bfloat16 if number == "bfloat16" else torch.float32).max
    found = back(torch.tensor([[largest, -largest, 1.0]]), number)
    assert found[0, 0].item() == pytest.approx(largest, rel=1e-6)
    assert torch.isfinite(found).all()


@given(finite(), st.sampled_from([*ROUNDED, "int8"]))
def test_a_sparse_tensor_is_what_the_dense_one_is(tensor: Tensor, number: str) -> None:
    assert torch.equal(back(tensor, number, is_sparse=True), back(tensor, number))


@given(finite(), st.sampled_from(ROUNDED))
def test_a_sparse_tensor_holds_its_other_entries_and_a_bit_for_each(tensor: Tensor, number: str) -> None:
    found, encoding = encode("w", tensor, number, is_sparse=True)
    kept = tensor.to(NUMBERS[number]) != 0
    assert found.keys() == {"w", "w#mask"}
    assert torch.equal(found["w"], tensor.to(NUMBERS[number])[kept])
    assert bytes(found["w#mask"].tolist()) == np.packbits(kept.numpy()).tobytes()
    assert encoding == Encoding(number, tuple(tensor.shape), is_sparse=True)


@pytest.mark.parametrize("number", list(NUMBERS))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (2, 0, 3), (1, 1, 1), (2, 3, 4, 5)])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_tensors_of_every_shape_come_back_in_it(number: str, shape: tuple[int, ...], is_sparse: bool) -> None:
    tensor = torch.ones(shape)
    assert torch.equal(back(tensor, number, is_sparse=is_sparse), tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("number", list(NUMBERS))
def test_what_is_no_number_is_not_written(value: float, number: str) -> None:
    with pytest.raises(StoreError, match="tensor 'w' holds numbers that are NaN or infinite"):
        encode("w", torch.tensor([1.0, value]), number)


def test_what_is_too_large_for_half_precision_is_not_written() -> None:
    with pytest.raises(StoreError, match=r"tensor 'w': 7e\+04 is too large for float16"):
        encode("w", torch.tensor([1.0, -7e4]), "float16")


@given(finite(), st.sampled_from([*ROUNDED, "int8"]), st.booleans())
def test_an_encoding_reads_back_from_plain_values(tensor: Tensor, number: str, is_sparse: bool) -> None:
    _, encoding = encode("w", tensor, number, is_sparse=is_sparse)
    assert Encoding.from_plain("w", encoding.to_plain()) == encoding


PLAIN = {"number": "int8", "shape": [2, 3], "is_sparse": False, "channel": -1}


@pytest.mark.parametrize(
    "change",
    [
        {"number": "float64"},
        {"number": "INT8"},
        {"number": None},
        {"number": ["int8"]},
        {"number": {}},
        {"shape": None},
        {"shape": 6},
        {"shape": "23"},
        {"shape": [2, -3]},
        {"shape": [2, 3.0]},
        {"shape": [True, 3]},
        {"shape": [2, 1 << 31]},
        {"is_sparse": 1},
        {"is_sparse": None},
        {"channel": 0},
        {"channel": 1},
        {"channel": -3},
        {"channel": "-1"},
        {"channel": -1.0},
        {"channel": [-1]},
        {"shape": [6], "channel": -2},
        {"shape": [], "channel": -1},
    ],
)
def test_an_encoding_that_cannot_be_is_refused_by_the_tensors_name(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="tensor 'w'"):
        Encoding.from_plain("w", PLAIN | change)


@pytest.mark.parametrize("key", list(PLAIN))
def test_an_encoding_without_one_of_its_keys_is_refused(key: str) -> None:
    plain = {name: value for name, value in PLAIN.items() if name != key}
    with pytest.raises(StoreError, match=f"tensor 'w': its encoding cannot be read: '{key}'"):
        Encoding.from_plain("w", plain)


@pytest.mark.parametrize("plain", [None, 5, [], "int8"])
def test_an_encoding_that_is_no_table_is_refused(plain: Any) -> None:
    with pytest.raises(StoreError, match="tensor 'w': its encoding cannot be read"):
        Encoding.from_plain("w", plain)


def test_a_tensor_that_is_missing_or_left_over_is_named() -> None:
    found, encoding = encode("w", SPARSE, "int8", is_sparse=True)
    assert found.keys() == {"w", "w#mask", "w#scale"}
    for name in found:
        with pytest.raises(StoreError, match=f"tensor '{name}' is missing"):
            decode({other: tensor for other, tensor in found.items() if other != name}, {"w": encoding})
    for name in ("v", "w#zero", "v#scale"):
        with pytest.raises(StoreError, match=f"tensor '{name}' is left over"):
            decode(found | {name: torch.ones(1)}, {"w": encoding})


@pytest.mark.parametrize("written", list(NUMBERS))
@pytest.mark.parametrize("said", list(NUMBERS))
def test_a_tensor_of_another_kind_than_its_manifest_says_is_named(written: str, said: str) -> None:
    tensor = torch.ones(2, 3).to(NUMBERS[written])
    scale = {"w#scale": torch.ones(2, 1)} if said == "int8" else {}
    encoding = Encoding(said, (2, 3), channel=-1 if said == "int8" else None)
    if written == said:
        assert decode({"w": tensor} | scale, {"w": encoding})["w"].tolist() == [[1.0] * 3] * 2
        return
    with pytest.raises(StoreError, match=rf"tensor 'w' is torch.{written}; its manifest says {said}"):
        decode({"w": tensor} | scale, {"w": encoding})


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (), (2, 2)])
def test_a_tensor_of_another_shape_than_its_manifest_says_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(StoreError, match=r"tensor 'w' is \(.*\); its manifest says \(2, 3\)"):
        decode({"w": torch.ones(shape)}, {"w": Encoding("float32", (2, 3))})


@pytest.mark.parametrize("number", ROUNDED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_read(number: str, value: float) -> None:
    with pytest.raises(StoreError, match="tensor 'w' holds numbers that are NaN or infinite"):
        decode({"w": torch.tensor([1.0, value]).to(NUMBERS[number])}, {"w": Encoding(number, (2,))})


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_named(value: float) -> None:
    found, encoding = encode("w", SPARSE, "int8")
    found["w#scale"][1] = value
    with pytest.raises(StoreError, match="tensor 'w': a scale is NaN, infinite, zero or negative"):
        decode(found, {"w": encoding})


def test_a_scale_that_makes_numbers_infinite_is_refused() -> None:
    found, encoding = encode("w", SPARSE, "int8")
    found["w#scale"][1] = 3e38
    with pytest.raises(StoreError, match="tensor 'w' holds numbers that are NaN or infinite"):
        decode(found, {"w": encoding})


@pytest.mark.parametrize(
    "scale",
    [torch.ones(2), torch.ones(1, 3), torch.ones(()), torch.ones(2, 3), torch.ones(2, 1).double(), torch.ones(0)],
)
def test_a_scale_of_another_shape_or_kind_is_named(scale: Tensor) -> None:
    found, encoding = encode("w", SPARSE, "int8")
    with pytest.raises(StoreError, match="tensor 'w': its scale is torch"):
        decode(found | {"w#scale": scale}, {"w": encoding})


@pytest.mark.parametrize(
    "mask", [[0b01011000], [0b01010010, 0], [], [0b01010001], [0b01010010], [0b01110000], [0b01000000], [0b01010011]]
)
def test_a_mask_of_other_entries_or_beyond_the_end_is_named(mask: list[int]) -> None:
    """SPARSE has the mask 010 100, and two bits that belong to no entry."""
    found, encoding = encode("w", SPARSE, "float32", is_sparse=True)
    assert found["w#mask"].tolist() == [0b01010000]
    with pytest.raises(StoreError, match="tensor 'w': its mask "):
        decode(found | {"w#mask": torch.tensor(mask, dtype=torch.uint8)}, {"w": encoding})


@pytest.mark.parametrize("mask", [torch.tensor([80]), torch.tensor([[80]], dtype=torch.uint8), torch.tensor(80.0)])
def test_a_mask_of_another_kind_or_shape_is_named(mask: Tensor) -> None:
    found, encoding = encode("w", SPARSE, "float32", is_sparse=True)
    with pytest.raises(StoreError, match="tensor 'w': its mask is torch"):
        decode(found | {"w#mask": mask}, {"w": encoding})


@pytest.mark.parametrize("shape", [(1 << 29,), (1 << 15, 1 << 14), (3, 1 << 28)])
def test_a_small_mask_of_gigabytes_of_zeros_is_refused_before_they_are_taken(shape: tuple[int, ...]) -> None:
    mask = torch.zeros((torch.tensor(shape).prod() + 7) // 8, dtype=torch.uint8)
    with little_memory(), pytest.raises(StoreError, match="tensor 'w'"):
        decode({"w": torch.zeros(0), "w#mask": mask}, {"w": Encoding("float32", shape, is_sparse=True)})


@pytest.mark.parametrize("shape", [(1 << 30, 1 << 30, 1 << 4), (1 << 30,) * 5])
def test_a_shape_of_more_entries_than_can_be_counted_is_refused(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(0, dtype=torch.uint8)
    with pytest.raises(StoreError, match="tensor 'w'"):
        decode({"w": torch.zeros(0), "w#mask": mask}, {"w": Encoding("float32", shape, is_sparse=True)})
