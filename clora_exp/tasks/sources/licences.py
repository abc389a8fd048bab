"""Legal: a licence notice or paragraph → the category of the licence.

Raw material: the package licensedcode-data (ScanCode LicenseDB, CC-BY-4.0). Groups are licence keys. The licence's
own key, names, SPDX identifiers, owner and addresses are masked, and so are the words of the categories; what remains
are the names of other licences that a notice mentions, and abbreviations that no field of the database lists.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clora_exp.config import STRICT, Count, Name
from clora_exp.errors import DataError
from clora_exp.tasks.packages import package_fingerprint, package_folder
from clora_exp.tasks.split import MASK, PerClass, distinct, grouped_splits, mask
from clora_exp.tasks.stream import Example, Task

PACKAGE = "licensedcode-data"
LICENCE = "CC-BY-4.0"
ATTRIBUTION = "ScanCode LicenseDB, nexB Inc. and others, through the package licensedcode-data"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # plain values alone; the C one is ten times as fast
URL = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\w+")

# Categories with enough licences to split by licence; "commercial" and "free restricted" have a dozen with notices.
CATEGORIES = {
    "Permissive": "permissive",
    "Copyleft": "copyleft",
    "Copyleft Limited": "copyleft limited",
    "Proprietary Free": "proprietary free",
    "Source-available": "source-available",
    "Public Domain": "public domain",
}

GIVEN_AWAY = ["permissive", "copyleft", "proprietary", "source available", "public domain"]


@dataclass(frozen=True)
class Config:
    """Examples a class and split (6 classes), and the characters a text may have."""

    __pydantic_config__ = STRICT
    name: Name = "legal"
    train_per_class: Count = 400
    validation_per_class: Count = 60
    test_per_class: Count = 120
    min_chars: Count = 60
    max_chars: Count = 600


def fingerprint(_config: Config) -> str:
    """Return the content identity of the package's data."""
    return package_fingerprint(PACKAGE)


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the one task."""
    folder = package_folder(PACKAGE, "licensedcode/data")
    licences = {
        fields["key"]: (fields, body)
        for _, fields, body in _read(folder / "licenses", ".LICENSE")
        if fields["category"] in CATEGORIES and fields.get("language", "en") == "en"
    }
    names = {key: _names(fields) for key, (fields, _) in licences.items()}
    examples = []
    for identifier, key, text in _texts(folder, licences):
        text = " ".join(URL.sub(MASK, text).replace("{{", "").replace("}}", "").split())
        if config.min_chars <= len(text) <= config.max_chars:
            category = CATEGORIES[licences[key][0]["category"]]
            examples.append(Example(identifier, mask(text, [*names[key], *GIVEN_AWAY]), category, group=key))
    sizes = PerClass(config.train_per_class, config.validation_per_class, config.test_per_class)
    splits = grouped_splits(config.name, distinct(examples), sizes, data_seed)
    description = "a licence notice or paragraph → the category of the licence"
    return [Task(config.name, description, LICENCE, ATTRIBUTION, list(CATEGORIES.values()), **splits)]


def _texts(folder: Path, licences: dict[str, tuple[dict[str, Any], str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (id, licence key, text): every paragraph of the licences, and every rule text, mostly notices."""
    for key, (_, body) in licences.items():
        for number, paragraph in enumerate(re.split(r"\n\s*\n", body)):
            yield f"{key}#{number}", key, paragraph
    for path, fields, body in _read(folder / "rules", ".RULE"):
        if fields.get("license_expression") in licences and not fields.get("is_false_positive"):
            yield path.name, fields["license_expression"], body


def _names(fields: dict[str, Any]) -> list[str]:
    """Return what names a licence: key, names, identifiers and owner, each also without its version."""
    names = [fields[k] for k in ("key", "short_name", "name", "owner", "spdx_license_key") if fields.get(k)]
    names += fields.get("other_spdx_license_keys", [])
    return names + [re.sub(r"[\s\-,]*(v|version\s*)?\d.*$", "", name, flags=re.IGNORECASE) for name in names]


def _read(folder: Path, suffix: str) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Yield (file, front matter, text) of every data file in name order."""
    for path in sorted(folder.glob(f"*{suffix}")):
        match re.split(r"^---\s*$", path.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE):
            case [_, front, body]:
                yield path, LOADER(front).get_single_data(), body.strip()
            case _:
                raise DataError(f"{path.name} of {PACKAGE} has no front matter; reinstall the package")
