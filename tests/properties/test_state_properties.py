"""Nested states through their file: exact, the same bytes, and one kind of error for what is damaged."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from clora_exp.states import pack_layers, read_state, unpack_layers, write_state

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)  # what UTF-8 can say
keys = (
    st.sampled_from(["$tensor", "$$tensor", "$", "/", "", "a", "a/b", "b", "0", "1", "a'", "__metadata__"])
    | unicode_text
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | unicode_text


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> Tensor:
    """Any bits of a shape, some of them NaN, and not always contiguous."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    size = int(torch.tensor(shape).prod()) * torch.empty(0, dtype=dtype).element_size()
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
    found = bits.view(dtype).reshape(shape)
    return found.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else found


nested = st.recursive(
    plain | tensors(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
states = st.dictionaries(keys, nested, max_size=4)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states") / "state"


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def is_same(a: Any, b: Any) -> bool:
    """Tell whether two states are one: kinds, order of keys, dtypes, shapes and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(is_same, a, b))
    return a == b and str(a) == str(b)  # -0.0 is not 0.0


def copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


@given(states)
@example({"$tensor": 1, "x": {"$tensor": torch.ones(1)}})
@example({"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "a/b'": torch.full((1,), 2)})
def test_a_state_reads_back_as_it_was(file: Path, state: dict[str, Any]) -> None:
    write_state(file, state)
    assert is_same(read_state(file), state)


@given(states)
def test_equal_states_are_equal_bytes(file: Path, state: dict[str, Any]) -> None:
    write_state(file, state)
    first = file.read_bytes()
    for again in (copied(state), read_state(file)):
        write_state(file, again)
        assert file.read_bytes() == first


@given(states, states)
def test_different_states_are_different_bytes(file: Path, state: dict[str, Any], other: dict[str, Any]) -> None:
    write_state(file, state)
    first = file.read_bytes()
    write_state(file, other)
    assert (file.read_bytes() == first) is is_same(state, other)


@given(states, st.data())
def test_a_file_cut_anywhere_is_a_value_error(file: Path, state: dict[str, Any], data: st.DataObject) -> None:
    write_state(file, state)
    content = file.read_bytes()
    for length in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r".+"):
            read_state(file)


@given(states, st.data())
def test_a_file_with_a_byte_too_many_is_a_value_error(file: Path, state: dict[str, Any], data: st.DataObject) -> None:
    write_state(file, state)
    file.write_bytes(file.read_bytes() + data.draw(st.binary(min_size=1, max_size=9)))
    with pytest.raises(ValueError, match=r".+"):
        read_state(file)


@given(states, st.data())
def test_a_changed_byte_is_a_value_error_or_changes_nothing(
    file: Path, state: dict[str, Any], data: st.DataObject
) -> None:
    """What is read is what was written: only a byte that fills up the header may change."""
    write_state(file, state)
    content = file.read_bytes()
    for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        changed = bytearray(content)
        changed[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(changed)
        with suppress(ValueError):
            assert is_same(read_state(file), state)


def test_two_keys_that_are_one_as_strings_are_refused(file: Path) -> None:
    with pytest.raises(TypeError, match=r"/a: two keys are one as strings, of \[1, '1'\]"):
        write_state(file, {"a": {1: 2, "1": 3}})


layer_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["l.0/query", "0", "/", "a.b"]
)


@given(st.data())
def test_layers_are_unpacked_as_they_were_packed(file: Path, data: st.DataObject) -> None:
    """Whatever the layers are called, and however their shapes differ; a part has one dtype."""
    state = {}
    for part in data.draw(st.lists(st.sampled_from(["A", "B", "routing", "R_old", "gate", "scale"]), unique=True)):
        dtype = data.draw(st.sampled_from(DTYPES))
        names = data.draw(st.lists(layer_names, min_size=1, max_size=5, unique=True))
        state |= {f"{part}/{name}": data.draw(tensors([dtype])) for name in names}
    packed, layers = pack_layers(state)
    assert len(packed) == len({(name.split("/")[0], tensor.shape) for name, tensor in state.items()})
    write_state(file, {"tensors": packed, "layers": layers})
    stored = read_state(file)
    again = unpack_layers(stored["tensors"], stored["layers"])
    assert again.keys() == state.keys()
    assert all(is_same(again[name], state[name]) for name in state)


@given(st.data())
def test_names_that_do_not_fit_the_tensors_are_an_error(data: st.DataObject) -> None:
    names = data.draw(st.lists(layer_names, min_size=1, max_size=4, unique=True))
    packed, layers = pack_layers({f"A/{name}": torch.zeros(2) for name in names})
    wrong = layers["A"][:-1] if data.draw(st.booleans()) else [*layers["A"], "another"]
    with pytest.raises(ValueError, match="argument 2"):
        unpack_layers(packed, {"A": wrong})
    with pytest.raises(KeyError):
        unpack_layers(packed, {"B": layers["A"]})
