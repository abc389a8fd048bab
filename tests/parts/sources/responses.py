"""Tiny free-form tasks made of words, for tests: "say red" is answered by "very red", or what else the task wants."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from clora_exp.config import STRICT
from clora_exp.tasks.stream import Example, Task

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "iron", "gold", "tin"]


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    names: list[str] = field(default_factory=lambda: ["loud", "twice"])


def fingerprint(config: Config) -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    found = []
    for t, name in enumerate(config.names):
        examples = [
            Example(f"{word}-{i}", f"say {word} {other}", f"{word} {word}" if t % 2 else f"very {word}", f"{word}-{i}")
            for word in WORDS
            for i, other in enumerate(WORDS[:4])
        ]
        found.append(
            Task(name, "words", "CC0-1.0", "made for tests", [], examples[::2], examples[1::4], examples[3::4])
        )
    return found
