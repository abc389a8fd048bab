"""Two or more tiny tasks made of words, for tests: a text belongs to the class whose word it repeats."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clora_exp.config import STRICT, Count
from clora_exp.tasks.stream import Example, Task

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "iron", "gold", "tin"]


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    names: list[str] = field(default_factory=lambda: ["first", "second", "third"])
    per_class: Count = 12
    num_labels: Count = 3
    is_shared: bool = False  # all tasks have the first one's labels


def fingerprint(_config: Config) -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    rng = np.random.default_rng(data_seed)
    found = []
    for t, name in enumerate(config.names):
        first = 0 if config.is_shared else config.num_labels * t
        labels = [WORDS[(first + i) % len(WORDS)] for i in range(config.num_labels)]
        splits = {}
        for split in ("train", "validation", "test"):
            rows = []
            for label in labels:
                for k in range(config.per_class):
                    noise = rng.choice(WORDS, size=rng.integers(1, 6)).tolist()
                    text = " ".join([label, *noise, label])
                    rows.append(Example(f"{split}-{label}-{k}", text, label, group=f"{split}-{label}-{k}"))
            splits[split] = [rows[i] for i in rng.permutation(len(rows))]
        found.append(Task(name, "words", "CC0-1.0", "made for tests", labels, **splits))
    return found
