"""Medical: the description of a diagnosis → its chapter of ICD-10-CM.

Raw material: the package simple-icd-10-cm (ICD-10-CM, US public domain). Groups are the three-character categories.
The text holds no code. A description may use the words of its chapter's title ("neoplasm"): that is its content.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clora_exp.config import STRICT, Annotated, Count, Le, Name
from clora_exp.tasks.packages import package_fingerprint
from clora_exp.tasks.split import PerClass, distinct, grouped_splits
from clora_exp.tasks.stream import Example, Task

PACKAGE = "simple-icd-10-cm"
LICENCE = "US public domain"
ATTRIBUTION = "ICD-10-CM, National Center for Health Statistics and CMS, through the package simple-icd-10-cm"

NAMES = {
    "1": "infectious", "2": "neoplasms", "3": "blood", "4": "endocrine", "5": "mental", "6": "nervous",
    "7": "eye", "8": "ear", "9": "circulatory", "10": "respiratory", "11": "digestive", "12": "skin",
    "13": "musculoskeletal", "14": "genitourinary", "15": "pregnancy", "16": "perinatal", "17": "congenital",
    "18": "symptoms", "19": "injury", "20": "external causes", "21": "health services",
}  # fmt: skip  # chapter 22, codes for special purposes, holds three codes


@dataclass(frozen=True)
class Config:
    """Examples a class and split; 21 classes, in one task or dealt in order to several."""

    __pydantic_config__ = STRICT
    name: Name = "medical"
    sessions: Annotated[Count, Le(21)] = 1  # tasks, called <name>-1, <name>-2, …; with 21 one class each
    train_per_class: Count = 80
    validation_per_class: Count = 19
    test_per_class: Count = 38


def fingerprint(_config: Config) -> str:
    """Return the content identity of the package's data."""
    return package_fingerprint(PACKAGE)


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the tasks in the order of the chapters."""
    import simple_icd_10_cm as icd  # two seconds of parsing: only where the cache has nothing

    examples = []
    for code in icd.get_all_codes(with_dots=True):
        if not icd.is_leaf(code) or icd.is_chapter_or_block(code):
            continue
        ancestors = icd.get_ancestors(code)
        if ancestors[-1] in NAMES:
            description = icd.get_description(code)
            examples.append(Example(code, description, NAMES[ancestors[-1]], group=code.split(".")[0]))
    sizes = PerClass(config.train_per_class, config.validation_per_class, config.test_per_class)
    splits: Any = grouped_splits(config.name, distinct(examples), sizes, data_seed)
    description = "the description of a diagnosis → its ICD-10-CM chapter"
    if config.sessions == 1:
        return [Task(config.name, description, LICENCE, ATTRIBUTION, list(NAMES.values()), **splits)]
    found = []
    for number, labels in enumerate(np.array_split(list(NAMES.values()), config.sessions), 1):
        own = {split: [e for e in rows if e.label in set(labels)] for split, rows in splits.items()}
        what = f"{description}, of {len(labels)}: {', '.join(labels)}"
        found.append(Task(f"{config.name}-{number}", what, LICENCE, ATTRIBUTION, labels.tolist(), **own))
    return found
