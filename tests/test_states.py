import pytest
import torch

from clora_exp.states import pack_layers, read_state, write_state


def test_nested_states_round_trip_with_equal_bytes(tmp_path) -> None:
    state = {"a": torch.arange(6).reshape(2, 3), "b": [1, 2.5, "x", None, True, torch.zeros(0)], "c": {"d": {}}}
    write_state(tmp_path / "one", state)
    again = read_state(tmp_path / "one")
    assert torch.equal(again["a"], state["a"])
    assert again["b"][:5] == state["b"][:5]
    assert again["c"] == {"d": {}}
    write_state(tmp_path / "two", again)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_no_plain_value_is_refused(tmp_path) -> None:
    with pytest.raises(TypeError, match="/a: a state holds tensors and plain values, not set"):
        write_state(tmp_path / "x", {"a": {1}})


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04K\x01."])
def test_a_file_that_is_no_state_is_a_value_error(tmp_path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        read_state(tmp_path / "x")


def test_layers_of_one_shape_become_one_tensor() -> None:
    state = {"A/l0": torch.zeros(2, 3), "A/l1": torch.ones(2, 3), "B/l0": torch.zeros(4, 2), "B/l1": torch.zeros(5, 2)}
    tensors, layers = pack_layers(state)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {"A": (2, 2, 3), "B.0": (1, 4, 2), "B.1": (1, 5, 2)}
    assert layers == {"A": ["l0", "l1"], "B.0": ["l0"], "B.1": ["l1"]}
    assert torch.equal(tensors["A"][1], torch.ones(2, 3))


@pytest.mark.parametrize("place", [-5, 300])
def test_a_state_with_a_flipped_bit_is_refused(place: int, tmp_path) -> None:
    write_state(tmp_path / "x", {"a": torch.arange(60.0), "b": "words " * 50})
    assert read_state(tmp_path / "x")["b"] == "words " * 50
    content = bytearray((tmp_path / "x").read_bytes())
    content[place] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="it has changed since it was written"):
        read_state(tmp_path / "x")
