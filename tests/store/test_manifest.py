"""A manifest is canonical bytes with their hash as its id, and is read strictly or not at all."""

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import text, version_of

from clora_exp.errors import StoreError
from clora_exp.store.manifest import (
    FORMS,
    MAX_BYTES,
    Base,
    Manifest,
    Probe,
    Source,
    Weights,
    number_of,
    read_manifest,
)

MANIFEST = version_of()[0]
sha256s = st.integers(0, (1 << 256) - 1).map(lambda n: f"{n:064x}")
versions = st.integers(1, 999_999_999).map(lambda n: f"v{n}")
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 1 << 40)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(text, plain, max_size=3)
sources = st.none() | st.builds(Source, text, versions, sha256s)
layers = st.dictionaries(text, st.lists(text, max_size=3), max_size=3)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    """What any file may be said to hold: a basis goes with the form `routed`."""
    form = draw(st.sampled_from(FORMS))
    basis = draw(sha256s) if form == "routed" else None
    encodings = st.dictionaries(text, tables, max_size=2)
    return Weights(draw(sha256s), draw(counts), form, draw(counts), draw(layers), draw(encodings), basis)


manifests = st.builds(
    Manifest,
    task=text,
    version=versions,
    description=text,
    documentation=text,
    labels=st.lists(text, max_size=4, unique=True),
    base=st.builds(Base, text, text, sha256s, tables, st.booleans()),
    method=tables,
    weights=weights(),
    probe=st.builds(Probe, st.lists(text, max_size=3), st.lists(st.lists(floats, max_size=3), max_size=3)),
    stream=st.lists(text, max_size=3),
    mean_feature=st.lists(floats, max_size=3),
    data_sha256=st.dictionaries(text, text, max_size=3),
    metrics=st.dictionaries(text, floats | st.integers(), max_size=3),
    created=text,
    software=st.dictionaries(text, text, max_size=3),
    derived_from=sources,
    derivation=tables,
    parent=sources,
)


def changed(path: str, value: Any) -> bytes:
    """Return the canonical bytes of a manifest of which one value is another: "weights.rank"."""
    whole = json.loads(MANIFEST.to_bytes())
    table = whole
    *before, last = path.split(".")
    for key in before:
        table = table[int(key) if isinstance(table, list) else key]
    table[int(last) if isinstance(table, list) else last] = value
    return written(whole)


def written(whole: Any) -> bytes:
    """Return JSON as manifests are written."""
    return f"{json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False)}\n".encode()


@given(manifests)
def test_a_manifest_reads_back_as_it_was(manifest: Manifest) -> None:
    found = read_manifest(manifest.to_bytes())
    assert found == manifest
    assert found.to_bytes() == manifest.to_bytes()
    assert found.id == manifest.id


@given(manifests)
def test_the_id_is_the_hash_of_canonical_json(manifest: Manifest) -> None:
    content = manifest.to_bytes()
    assert content == written(json.loads(content))
    assert manifest.id == hashlib.sha256(content).hexdigest()


@given(manifests, manifests)
def test_manifests_that_differ_have_another_id(one: Manifest, other: Manifest) -> None:
    assert (one.to_bytes() == other.to_bytes()) is (one.id == other.id)
    assert one == other or one.id != other.id


@given(manifests, st.data())
def test_a_changed_byte_of_a_manifest_is_refused_or_makes_another_id(manifest: Manifest, data: st.DataObject) -> None:
    content = manifest.to_bytes()
    for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        other = bytearray(content)
        other[place] ^= data.draw(st.integers(1, 255))
        try:
            found = read_manifest(bytes(other))
        except StoreError:
            continue
        assert found.id == hashlib.sha256(other).hexdigest() != manifest.id


@given(st.binary(max_size=100) | plain.map(written))
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(StoreError, match="a manifest "):
        read_manifest(content)


def _keys(kind: Any, where: str = "") -> list[str]:
    own = [f"{where}{field.name}" for field in dataclasses.fields(kind)]
    parts = {"base": Base, "weights": Weights, "probe": Probe}
    return own + [key for name, part in parts.items() if kind is Manifest for key in _keys(part, f"{name}.")]


@pytest.mark.parametrize("key", [key for key in _keys(Manifest) if key != "format"])
def test_a_missing_key_is_named(key: str) -> None:
    whole = json.loads(MANIFEST.to_bytes())
    table, last = (whole[key.split(".")[0]], key.split(".")[1]) if "." in key else (whole, key)
    del table[last]
    with pytest.raises(StoreError, match=rf"^manifest: {key} is missing$"):
        read_manifest(written(whole))


@pytest.mark.parametrize("key", ["notes", "base.notes", "weights.notes", "probe.notes"])
def test_an_unknown_key_is_named(key: str) -> None:
    with pytest.raises(StoreError, match=rf"^manifest: {key} is unknown$"):
        read_manifest(changed(key, 1))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("task", 1, "task=1 is no str"),
        ("labels", "yes", "labels is no list"),
        ("labels", ["yes", 2], r"labels\[1\]=2 is no str"),
        ("labels", ["yes", "yes"], "a label stands there twice"),
        ("base", "bert", r"base\. is no table"),
        ("base.knows_task", 0, "base.knows_task=0 is no bool"),
        ("base.settings", [], "base.settings is no table"),
        ("base.sha256", "00", "base.sha256='00' is no SHA-256"),
        ("base.sha256", "A" * 64, "base.sha256='A{64}' is no SHA-256"),
        ("method", None, "method is no table"),
        ("weights.rank", 2.0, r"weights.rank=2\.0 is no int"),
        ("weights.rank", True, "weights.rank=True is no int"),
        ("weights.num_bytes", "1", "weights.num_bytes='1' is no int"),
        ("weights.sha256", "0" * 63, "weights.sha256='0{63}' is no SHA-256"),
        ("weights.form", "dense", "weights.form='dense'; have: pairs, routed"),
        ("weights.form", "routed", "weights.basis_sha256 goes with weights.form=routed"),
        ("weights.basis_sha256", "0" * 64, "weights.basis_sha256 goes with weights.form=routed"),
        ("weights.basis_sha256", 5, "weights.basis_sha256=5 is no str"),
        ("weights.layers", [], "weights.layers is no table"),
        ("weights.layers", {"A": "l0"}, r"weights.layers\.A is no list"),
        ("weights.encodings", {"A": 1}, r"weights.encodings\.A is no table"),
        ("probe.logits", [[1.0, "2"]], r"probe.logits\[0\]\.?\[1\]='2' is no float"),
        ("probe.logits", [1.0], r"probe.logits\[0\] is no list"),
        ("metrics", {"accuracy": "high"}, r"metrics\.accuracy='high' is no float"),
        ("metrics", {"accuracy": True}, r"metrics\.accuracy=True is no float"),
        ("software", {"torch": 2}, r"software\.torch=2 is no str"),
        ("parent", "v1", r"parent\. is no table"),
        ("parent", {"task": "legal", "version": "v1"}, r"parent\.id is missing"),
        ("derived_from", {"task": 1, "version": "v1", "id": ""}, r"derived_from\.task=1 is no str"),
    ],
)
def test_a_value_of_another_kind_is_named_by_its_key(key: str, value: Any, problem: str) -> None:
    with pytest.raises(StoreError, match=f"^manifest: {problem}"):
        read_manifest(changed(key, value))


@pytest.mark.parametrize("version", ["", "1", "v0", "v01", "V1", "v1 ", "v-1", "v1.0", "v1234567890", "latest", "v1٣"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(StoreError, match="is no version; they are v1, v2, …"):
        number_of(version)
    with pytest.raises(StoreError, match="is no version; they are v1, v2, …"):
        read_manifest(changed("version", version))


def test_a_version_has_a_number() -> None:
    assert [number_of(version) for version in ("v1", "v10", "v999999999")] == [1, 10, 999_999_999]
    assert dataclasses.replace(MANIFEST, version="v37").number == 37


@pytest.mark.parametrize("found", [2, 0, None, "1", 1.0, True])
def test_another_format_is_refused_and_named(found: Any) -> None:
    with pytest.raises(StoreError, match=r"manifest"):
        read_manifest(changed("format", found))


def test_a_newer_format_says_what_is_read() -> None:
    with pytest.raises(StoreError, match=r"^a manifest of format 2; this version reads 1$"):
        read_manifest(changed("format", 2))


@pytest.mark.parametrize(
    "edited",
    [
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: b" " + content,
        lambda content: content.replace(b": ", b":", 1),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.decode().encode("utf-16"),
        lambda content: content.replace(b"0.5", b"0.50"),
        lambda content: content.replace(b"0.5", b"5e-1"),
        lambda content: content.replace(b'"yes"', b'"\\u0079es"'),
        lambda content: content.replace(b"{\n", b'{\n "task": "other",\n', 1),
        lambda content: json.dumps(json.loads(content), indent=2).encode() + b"\n",
        lambda content: json.dumps(dict(reversed(json.loads(content).items())), indent=1).encode() + b"\n",
    ],
)
def test_the_same_said_otherwise_has_been_edited(edited: Any) -> None:
    content = edited(MANIFEST.to_bytes())
    assert content != MANIFEST.to_bytes()
    with pytest.raises(
        StoreError, match=r"a manifest that (is not in canonical form: it has been edited|cannot be read)"
    ):
        read_manifest(content)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_json_does_not_have_is_refused(number: bytes) -> None:
    content = MANIFEST.to_bytes()
    assert b'"accuracy": 0.5' in content
    with pytest.raises(StoreError, match="manifest"):
        read_manifest(content.replace(b'"accuracy": 0.5', b'"accuracy": ' + number))


def test_half_a_character_is_refused() -> None:
    with pytest.raises(StoreError, match="manifest"):
        read_manifest(MANIFEST.to_bytes().replace(b'"yes"', b'"\\ud800"'))


@pytest.mark.parametrize("depth", [50, 300, 900, 5000, 100_000])
def test_tables_in_tables_are_read_or_refused_however_deep(depth: int) -> None:
    settings = b'{"a":' * depth + b"1" + b"}" * depth
    content = MANIFEST.to_bytes().replace(b'"max_length": 16', b'"max_length": ' + settings)
    with pytest.raises(StoreError, match="a manifest that "):
        read_manifest(content)


def test_a_manifest_of_many_megabytes_is_refused_before_it_is_read() -> None:
    with pytest.raises(StoreError, match="a manifest of 16,777,217 bytes; at most 16,777,216 are read"):
        read_manifest(b" " * (MAX_BYTES + 1))
