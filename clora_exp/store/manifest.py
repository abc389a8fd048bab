"""What a version says of itself, as canonical JSON: equal manifests are equal bytes, their SHA-256 is the version's id.

The manifest holds the hash of the weights (and of the basis that versions share), so that one id stands for everything
that decides an answer: weights, labels, base model, and what of the text is read.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from clora_exp.errors import StoreError

FORMAT = 1
MANIFEST, WEIGHTS, SUMS = "manifest.json", "adapter.clora", "SHA256SUMS"  # the files of a version
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"v([1-9][0-9]{0,8})")
MAX_BYTES = 1 << 24  # of a manifest; ours have 5 kB
FORMS = ("pairs", "routed")


@dataclass(frozen=True)
class Base:
    """The frozen model that a version belongs to."""

    name: str  # as in conf/model
    kind: str  # text_encoder, vision_encoder, causal_lm, seq2seq
    sha256: str  # of weights, architecture and tokenizer
    settings: dict[str, Any]  # of the kind: what decides an answer beside the weights, e.g. max_length
    knows_task: bool  # may a prompt tell of the task


@dataclass(frozen=True)
class Weights:
    """The tensors of a version."""

    sha256: str  # of adapter.clora
    num_bytes: int  # of adapter.clora
    form: str  # pairs: A (L, r, in), B (L, out, r) of scale 1; routed: R (L, r, r) between a basis' A and B
    rank: int
    layers: dict[str, list[str]]  # tensor → the modules that it is stacked over
    encodings: dict[str, dict[str, Any]]  # tensor → see encoding.py
    basis_sha256: str | None  # of the file in bases/, where the form is routed


@dataclass(frozen=True)
class Probe:
    """Inputs and what they were answered when the version was saved; of texts the inputs are words."""

    words: list[str]
    logits: list[list[float]]  # (n, c)


@dataclass(frozen=True)
class Source:
    """Another version, by name and id: the one before, of which this is a smaller form, or a parent."""

    task: str
    version: str
    id: str


@dataclass(frozen=True)
class Manifest:
    """All of a version but its tensors."""

    task: str
    version: str
    description: str
    documentation: str
    labels: list[str]  # none of a task that is answered in free words
    base: Base
    method: dict[str, Any]  # the setting that trained it, as in conf/method
    weights: Weights
    probe: Probe
    stream: list[str]  # the words of run.py that name the tasks it was learned among, e.g. tasks=med_legal_code
    data_sha256: dict[str, str]  # split → fingerprint of what it was trained and measured on
    mean_feature: list[
        float
    ]  # (d,) of the frozen base, over training texts, six digits; none where they were not at hand
    metrics: dict[str, float]  # after training, e.g. accuracy and num_examples
    created: str  # ISO 8601, UTC
    software: dict[str, str]  # package → version
    derived_from: Source | None = None
    derivation: dict[str, Any] = field(default_factory=dict)  # what was done: e.g. {"number": "int8"}
    parent: Source | None = None  # whose update is added to this one's
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        text = json.dumps(self, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_table)
        return (text + "\n").encode()

    @property
    def id(self) -> str:
        """The SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def number(self) -> int:
        """3 of v3."""
        return number_of(self.version)


def _table(entry: Any) -> dict[str, Any]:
    return {one.name: getattr(entry, one.name) for one in dataclasses.fields(entry)}


def number_of(version: str) -> int:
    """Return 3 of "v3".

    Raises:
        StoreError: it is no version.
    """
    found = VERSION.fullmatch(version)
    if not found:
        raise StoreError(f"{version!r} is no version; they are v1, v2, …")
    return int(found[1])


def read_manifest(content: bytes) -> Manifest:
    """Read canonical JSON, strictly: no key more or less, every value of its kind.

    Raises:
        StoreError: it is no manifest of this format.
    """
    if len(content) > MAX_BYTES:
        raise StoreError(f"a manifest of {len(content):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        plain = json.loads(content)
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            found = plain.get("format") if isinstance(plain, dict) else plain
            raise StoreError(f"a manifest of format {found!r}; this version reads {FORMAT}")
        manifest: Manifest = _built(Manifest, plain, "")
        _check(manifest)
        again = manifest.to_bytes()
    except (ValueError, RecursionError) as error:
        raise StoreError(f"a manifest that cannot be read: {error}") from error
    if again != content:
        raise StoreError("a manifest that is not in canonical form: it has been edited")
    return manifest


def _check(manifest: Manifest) -> None:
    number_of(manifest.version)
    weights = manifest.weights
    sums = {"base.sha256": manifest.base.sha256, "weights.sha256": weights.sha256}
    sums |= {"weights.basis_sha256": weights.basis_sha256} if weights.basis_sha256 is not None else {}
    for key, value in sums.items():
        if not SHA256.fullmatch(value):
            raise StoreError(f"manifest: {key}={value!r} is no SHA-256")
    if weights.form not in FORMS:
        raise StoreError(f"manifest: weights.form={weights.form!r}; have: {', '.join(FORMS)}")
    if (weights.form == "routed") != (weights.basis_sha256 is not None):
        raise StoreError("manifest: weights.basis_sha256 goes with weights.form=routed, and with nothing else")
    if len(set(manifest.labels)) < len(manifest.labels):
        raise StoreError("manifest: a label stands there twice")


def _built(kind: Any, value: Any, where: str) -> Any:
    """Return a value as the kind that a field asks for.

    Raises:
        StoreError: it is another; the message names the key.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _built(arguments[0], value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise StoreError(f"manifest: {where or 'it'} is no table")
        hints = typing.get_type_hints(kind)
        build: Any = kind
        if odd := sorted(hints.keys() ^ value.keys()):
            raise StoreError(f"manifest: {where}{odd[0]} is {'missing' if odd[0] in hints else 'unknown'}")
        return build(**{name: _built(hint, value[name], f"{where}{name}.") for name, hint in hints.items()})
    key = where.removesuffix(".")
    if origin is list:
        if not isinstance(value, list):
            raise StoreError(f"manifest: {key} is no list")
        if arguments[0] in (float, str) and {*map(type, value)} <= {arguments[0]}:
            return value  # a probe has hundreds of numbers
        return [_built(arguments[0], entry, f"{key}[{i}].") for i, entry in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise StoreError(f"manifest: {key} is no table")
        return {name: _built(arguments[1], entry, f"{key}.{name}.") for name, entry in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StoreError(f"manifest: {key}={value!r} is no {kind.__name__}")
    return value
