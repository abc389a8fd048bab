"""Names of schemes, and what pruning and a smaller rank leave of a matrix, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import LAYERS, pairs_of, routed_of, version_of
from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.states import pack_layers, unpack_layers
from clora_exp.store.schemes import Scheme, check_fits, pruned, read_scheme, truncated


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fp32", {}),
        ("int8", {"number": "int8"}),
        ("bf16", {"number": "bfloat16"}),
        ("fp16", {"number": "float16"}),
        ("plain", {"is_shuffled": False}),
        ("zstd1", {"level": 1}),
        ("zstd22", {"level": 22}),
        ("prune0.7", {"sparsity": 0.7}),
        ("prune.25", {"sparsity": 0.25}),
        ("svd8", {"rank": 8}),
        ("distil16", {"rank": 16, "is_distilled": True}),
        (
            "svd4+prune0.5+int8+plain+zstd19",
            {"rank": 4, "sparsity": 0.5, "number": "int8", "is_shuffled": False, "level": 19},
        ),
        ("int8+prune0.5+svd4", {"rank": 4, "sparsity": 0.5, "number": "int8"}),
    ],
)
def test_a_scheme_is_read_by_its_words(name: str, changes: dict) -> None:
    assert read_scheme(name) == replace(Scheme(name), **changes)


def test_without_a_word_of_it_a_file_is_shuffled_at_level_nine_in_single_precision() -> None:
    found = read_scheme("fp32")
    assert (found.number, found.is_shuffled, found.level, found.rank, found.sparsity) == ("float32", True, 9, None, 0.0)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", ""),
        ("int4", "int4"),
        ("INT8", "INT8"),
        ("int8+", ""),
        ("+int8", ""),
        ("int8 + plain", "int8 "),
        ("int8,plain", "int8,plain"),
        ("prune", "prune"),
        ("prune1", "prune1"),
        ("prune1.0", "prune1.0"),
        ("prune-0.5", "prune-0.5"),
        ("prune70", "prune70"),
        ("svd0", "svd0"),
        ("svd", "svd"),
        ("svd-1", "svd-1"),
        ("svd12345", "svd12345"),
        ("distil0", "distil0"),
        ("zstd0", "zstd0"),
        ("zstd23", "zstd23"),
        ("zstd-5", "zstd-5"),
        ("zstd100", "zstd100"),
        ("svd8+gzip", "gzip"),
        ("zstd١", "zstd١"),
    ],
)
def test_an_unknown_word_is_named_with_those_there_are(name: str, word: str) -> None:
    with pytest.raises(StoreError) as caught:
        read_scheme(name)
    have = "prune0.7, svd8, distil8, bf16, fp16, int8, plain, zstd19, joined by +"
    assert str(caught.value) == f"unknown scheme {word!r} in {name!r}; have: {have}"


@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.99]), st.integers()
)
def test_pruning_leaves_the_largest_entries_of_each_layer(L: int, m: int, n: int, sparsity: float, seed: int) -> None:
    values = np.random.default_rng(abs(seed)).normal(size=(L, m, n)).astype(np.float32)
    values *= np.arange(1, L + 1, dtype=np.float32)[:, None, None] ** 4  # no layer is measured by another
    found = pruned({"A": torch.from_numpy(values)}, sparsity)["A"].numpy()
    num_zeros = round(sparsity * (m * n))
    for before, after in zip(values, found, strict=True):
        order = np.sort(np.abs(before), axis=None)
        expected = np.where(np.abs(before) >= order[num_zeros], before, 0) if num_zeros < m * n else 0 * before
        assert np.array_equal(after, expected)
        assert (after == 0).sum() == num_zeros


def test_pruning_takes_exactly_its_part_also_of_equal_entries() -> None:
    found = pruned({"A": torch.ones(2, 4, 5)}, 0.7)["A"]
    assert [(layer == 0).sum().item() for layer in found] == [14, 14]


def test_pruning_leaves_heads_and_vectors_alone_and_its_input_too() -> None:
    tensors, _ = pairs_of()
    tensors["gate"] = torch.ones(4)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    found = pruned(tensors, 0.5)
    for name in tensors:
        assert torch.equal(tensors[name], before[name])
        assert torch.equal(found[name], before[name]) is (name not in ("A", "B"))
    assert (found["A"] == 0).sum(dim=(1, 2)).tolist() == [3, 3]


def stacked(shapes: list[tuple[int, int]], rank: int, seed: int) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return pairs for layers of (out, in), and a head."""
    draw = torch.Generator().manual_seed(seed)
    state = {f"A/l{i}": torch.randn(rank, n, generator=draw) for i, (_, n) in enumerate(shapes)}
    state |= {f"B/l{i}": torch.randn(m, rank, generator=draw) for i, (m, _) in enumerate(shapes)}
    tensors, layers = pack_layers(state)
    return tensors | {"head.weight": torch.ones(2, 5), "head.bias": torch.zeros(2)}, layers


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.integers(1, 6),
    st.integers(0, 99),
    st.data(),
)
def test_a_smaller_rank_is_the_best_approximation_of_each_layers_update(
    shapes: list[tuple[int, int]], rank: int, seed: int, data: st.DataObject
) -> None:
    """Of updates B A, by numpy's singular values; no layer here has a full rank below the one that is asked for."""
    new_rank = data.draw(st.integers(1, min(rank, *map(min, shapes))))
    tensors, layers = stacked(shapes, rank, seed)
    state = unpack_layers({name: x for name, x in tensors.items() if "head" not in name}, layers)
    found, of_layers = truncated(tensors, layers, new_rank)
    new = unpack_layers({name: x for name, x in found.items() if "head" not in name}, of_layers)
    assert new.keys() == state.keys()
    for i, (m, n) in enumerate(shapes):
        assert new[f"A/l{i}"].shape == (new_rank, n)
        assert new[f"B/l{i}"].shape == (m, new_rank)
        update = state[f"B/l{i}"].double().numpy() @ state[f"A/l{i}"].double().numpy()
        U, S, Vh = np.linalg.svd(update)
        best = (U[:, :new_rank] * S[:new_rank]) @ Vh[:new_rank]
        after = new[f"B/l{i}"].double().numpy() @ new[f"A/l{i}"].double().numpy()
        error = np.linalg.norm(update - after)
        assert error == pytest.approx(np.linalg.norm(S[new_rank:]), rel=1e-4, abs=1e-5 * S[0])
        if new_rank == len(S) or S[new_rank - 1] - S[new_rank] > 1e-3 * S[0]:  # else there are several best ones
            assert np.allclose(after, best, atol=1e-3 * S[0])
    for name in ("head.weight", "head.bias"):
        assert torch.equal(found[name], tensors[name])


def test_both_halves_of_a_smaller_rank_carry_the_same_weight() -> None:
    tensors, layers = stacked([(8, 6)], rank=4, seed=0)
    found, of_layers = truncated(tensors, layers, 2)
    assert of_layers == {"A": ["l0"], "B": ["l0"]}
    A, B = found["A"][0].double(), found["B"][0].double()
    assert torch.allclose(A @ A.T, B.T @ B, atol=1e-5)  # Σ both: A' = √Σ Vᵀ, B' = U √Σ


def test_a_smaller_rank_can_be_none_or_above_what_pairs_have() -> None:
    manifest, _ = version_of()
    assert manifest.weights.rank == 2
    check_fits(read_scheme("svd1+int8"), manifest)
    for name in ("svd2", "distil3"):
        with pytest.raises(StoreError, match=f"legal@v1: {name} needs a rank below 2, which it has"):
            check_fits(read_scheme(name), manifest)


def test_a_routing_takes_every_scheme_but_a_smaller_rank() -> None:
    manifest, _ = routed_of()
    assert manifest.weights.layers == {"R": LAYERS}
    check_fits(read_scheme("prune0.5+int8+zstd19"), manifest)
    with pytest.raises(
        StoreError, match="legal@v1: svd1 takes pairs A, B; this one is a routing of r² numbers a layer"
    ):
        check_fits(read_scheme("svd1"), manifest)
