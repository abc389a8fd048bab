"""What a store takes in and what it refuses: then nothing stays of it. And where a store can be made and opened."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made import basis_of, files_of, manifest_of, pairs_of, published, routed_of, version_of

from clora_exp.errors import StoreError
from clora_exp.store import folder
from clora_exp.store.checking import verify
from clora_exp.store.container import pack, same_bytes, unpack
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Manifest, Source, Weights
from clora_exp.store.opening import opened
from clora_exp.store.saving import packed


def bad_versions() -> list[Any]:
    """Return what cannot be added: changes of a manifest that its content, or a reader, would not agree with."""
    manifest, _ = version_of()
    weights = manifest.weights
    changes: dict[str, dict[str, Any]] = {
        "another file": {"weights": replace(weights, sha256="0" * 64)},
        "another size": {"weights": replace(weights, num_bytes=weights.num_bytes + 1)},
        "another rank": {"weights": replace(weights, rank=3)},
        "another form": {"weights": replace(weights, form="dense")},
        "a basis": {"weights": replace(weights, basis_sha256="0" * 64)},
        "other layers": {"weights": replace(weights, layers={"A": ["l0", "l1"], "B": ["l0", "l2"]})},
        "a layer twice": {"weights": replace(weights, layers={"A": ["l0", "l0"], "B": ["l0", "l0"]})},
        "fewer layers": {"weights": replace(weights, layers={"A": ["l0"], "B": ["l0"]})},
        "a part of it": {"weights": replace(weights, layers={"A": ["l0", "l1"]})},
        "no encodings": {"weights": replace(weights, encodings={})},
        "more labels": {"labels": ["yes", "no", "maybe"]},
        "a label twice": {"labels": ["yes", "yes"]},
        "no hash of the base": {"base": replace(manifest.base, sha256="")},
        "no number": {"metrics": {"accuracy": float("nan")}},
        "half a character": {"description": "\ud800"},
    }
    return [pytest.param(change, id=name.replace(" ", "-")) for name, change in changes.items()]


@pytest.mark.parametrize("change", bad_versions())
def test_a_manifest_that_could_not_be_read_is_not_added_and_nothing_of_it_stays(
    store: Store, change: dict[str, Any]
) -> None:
    manifest, content = version_of()
    published(store, seed=1)
    before = files_of(store.path)
    with pytest.raises(StoreError, match=r".+"):
        store.add(replace(manifest, **change), content)
    assert files_of(store.path) == before
    assert store.versions("legal") == ["v1"]


def test_a_refused_first_version_makes_no_task(store: Store) -> None:
    with pytest.raises(StoreError, match=r"the basis .* is missing"):
        store.add(*routed_of("legal"))
    assert store.tasks() == []
    assert not (store.path / "tasks/legal").exists()


def test_a_version_whose_parent_is_not_there_is_not_added(store: Store) -> None:
    parent = published(store, "law", seed=1)
    for task, sha256 in (("law", "0" * 64), ("laws", parent.id), ("../law", parent.id)):
        with pytest.raises(StoreError, match=re.escape(repr(task))):
            published(store, parent=Source(task, "v1", sha256))
    assert store.tasks() == ["law"]
    assert published(store, parent=Source("law", "v1", parent.id)).version == "v1"


def tensors_with(**changes: Any) -> tuple[Manifest, bytes]:
    """Return a version of which some tensors are others."""
    tensors, layers = pairs_of()
    content, weights = packed(tensors | changes, layers, "pairs")
    return manifest_of("legal", weights), content


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("A", torch.ones(2, 3)),
        ("A", torch.ones(3, 2, 3)),
        ("B", torch.ones(2, 4, 3)),
        ("head.weight", torch.ones(3, 5)),
        ("head.weight", torch.ones(2)),
        ("head.bias", torch.ones(3)),
        ("head.bias", torch.ones(2, 1)),
        ("head.scale", torch.ones(2)),
        ("C", torch.ones(2, 2, 2)),
    ],
)
def test_tensors_that_do_not_fit_their_manifest_are_not_added(store: Store, name: str, tensor: torch.Tensor) -> None:
    manifest, content = tensors_with(**{name: tensor})
    with pytest.raises(StoreError, match="legal@v1: "):
        store.add(manifest, content)
    assert store.tasks() == []


def test_a_routing_that_is_not_square_is_not_added(store: Store) -> None:
    basis = basis_of()
    content, weights = packed({"R": torch.ones(1, 2, 3)}, {"R": ["l0"]}, "routed", basis_sha256="0" * 64)
    weights = replace(weights, basis_sha256=hashlib.sha256(basis).hexdigest())
    with pytest.raises(StoreError, match="'R'"):
        store.add(manifest_of("legal", weights), content, basis=basis)


def test_a_version_without_layers_but_with_a_head_is_added(store: Store) -> None:
    tensors = {"head.weight": torch.ones(2, 5)}
    content = pack(tensors)
    encoding = {"number": "float32", "shape": [2, 5], "is_sparse": False, "channel": None}
    sha256 = hashlib.sha256(content).hexdigest()
    weights = Weights(sha256, len(content), "pairs", 1, {}, {"head.weight": encoding}, None)
    store.add(manifest_of("legal", weights), content)
    assert store.read("legal").tensors.keys() == {"head.weight"}


def test_a_basis_is_kept_once_for_all_versions_of_it(store: Store) -> None:
    basis = basis_of()
    sha256 = hashlib.sha256(basis).hexdigest()
    store.add(*routed_of("legal", 1), basis=basis)
    store.add(*routed_of("medical", 2), basis=basis)
    store.add(*routed_of("medical", 3))
    assert files_of(store.path / "bases") == {f"{sha256}.clora": basis}
    found = store.basis(sha256)
    assert found.keys() == unpack(basis).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in unpack(basis).items())


def test_another_basis_than_the_manifest_says_is_not_kept(store: Store) -> None:
    with pytest.raises(StoreError, match=r"the basis .* is missing"):
        store.add(*routed_of("legal"), basis=basis_of(seed=1))
    assert files_of(store.path / "bases") == {}


@pytest.mark.parametrize("sha256", ["", "0" * 63, "../../store", "../" + "0" * 61, "A" * 64, "0" * 64 + "\n"])
def test_a_basis_is_asked_for_by_its_hash_alone(store: Store, sha256: str) -> None:
    with pytest.raises(StoreError, match="is no SHA-256"):
        store.basis(sha256)


def test_a_store_is_opened_where_there_is_one(tmp_path: Path) -> None:
    Store(tmp_path / "a/b/store", is_new=True)
    published(Store(tmp_path / "a/b/store", is_new=True))
    assert Store(tmp_path / "a/b/store").tasks() == ["legal"]


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is no store: there is no store.json in it"):
        Store(tmp_path)
    with pytest.raises(StoreError, match=r"is no store: there is no store.json in it"):
        Store(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(StoreError, match="holds files and is no store; name a folder that is empty or new"):
        Store(tmp_path, is_new=True)
    assert files_of(tmp_path) == {"thesis.txt": b"words"}


def test_a_store_is_not_made_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("words")
    for is_new in (True, False):
        with pytest.raises(StoreError, match="store"):
            Store(tmp_path / "store", is_new=is_new)
    assert (tmp_path / "store").read_text() == "words"


def test_a_store_that_was_begun_is_finished(tmp_path: Path) -> None:
    """Who began it may have been killed, or be at it at this moment."""
    for name in ("tasks", "bases"):
        (tmp_path / name).mkdir()
    published(Store(tmp_path, is_new=True))
    assert Store(tmp_path).tasks() == ["legal"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"format": 2}', "is a store of format 2; this version reads 1"),
        (b'{"format": "1"}', "is a store of format 1; this version reads 1"),
        (b"{}", r"store\.json cannot be read"),
        (b"[]", r"store\.json cannot be read"),
        (b"", r"store\.json cannot be read"),
        (b"\xff", r"store\.json cannot be read"),
        (b"[" * 100_000, r"store\.json cannot be read"),
    ],
)
def test_a_store_of_another_format_is_refused(store: Store, content: bytes, problem: str) -> None:
    (store.path / "store.json").write_bytes(content)
    for is_new in (True, False):
        with pytest.raises(StoreError, match=problem):
            Store(store.path, is_new=is_new)


def test_a_second_writer_waits_and_then_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    published(store)
    monkeypatch.setattr(folder, "PATIENCE_S", 0.2)
    with store.writing():
        assert store.read("legal").label == "legal@v1"  # readers need no lock
        with pytest.raises(StoreError, match="another process has been writing for 0 s"):
            Store(store.path).promote("legal", "v1")
    assert store.promote("legal", "v1").version == "v1"


def test_a_full_disk_is_one_line_and_leaves_the_version_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    published(store, seed=1)
    before = files_of(store.path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StoreError, match=r"v2.*: No space left on device"):
            published(store, seed=2)
    assert files_of(store.path) == before
    assert published(store, seed=2).version == "v2"
    assert not [found for found in verify(store) if found.problem]


def test_content_is_opened_by_what_its_manifest_says_without_a_store() -> None:
    manifest, content = version_of(seed=4)
    assert same_bytes(opened(manifest, content), pairs_of(4)[0])
