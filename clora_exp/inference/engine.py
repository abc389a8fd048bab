"""Answers of stored tasks on one frozen base: which version answered is part of every answer.

A request names a task; the store says which version is current; that version is read, hashed, checked and probed once,
and stays in memory. A batch may mix tasks: the rows of one form go through the base together, whatever their tasks.
Nothing here falls back: a task that is not there, or a version that does not answer as it did when it was saved, is an
error of that request alone.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clora_exp.errors import CloraError, StoreError
from clora_exp.inference import finding
from clora_exp.inference.identification import UNKNOWN, Found, Identification
from clora_exp.inference.loaded import Loaded, Loader
from clora_exp.inference.locks import ReadWriteLock
from clora_exp.inference.places import Place, open_place
from clora_exp.inference.words import Reason
from clora_exp.store.manifest import Manifest

AUTO = "auto"  # in place of a task: the text says which
MAX_BATCH = 64  # rows of a forward pass; more are answered in several


@dataclass(frozen=True)
class Request:
    """A text and the task that is to answer it, or "auto"; `version`: an alias, v3, or an id."""

    task: str
    text: str
    version: str = "current"


@dataclass(frozen=True)
class Answer:
    """What a task answered, and which version of it that was."""

    task: str
    version: str
    id: str  # SHA-256 of all that decides the answer, see store/manifest.py
    label: str
    probability: float  # of the label among the task's
    probabilities: dict[str, float]
    identified: Found | None = None  # how the task was found, where none was named


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer."""

    task: str
    error: str
    identified: Found | None = None


class TaskEngine:
    """The tasks of one store, or of one run, on their base model. Safe to call from several threads."""

    def __init__(self, place: Place, *, max_bytes: int | None = None) -> None:
        """Take the tasks of a place; none is loaded yet.

        Args:
            max_bytes: of tensors in memory; the least recently used go first. None: all stay.
        """
        self._place = place
        self._loader = Loader(place)
        self._max_bytes = max_bytes
        self._lock, self._forwards = threading.RLock(), ReadWriteLock()
        self._loaded: dict[tuple[str, str], Loaded] = {}  # (task, id), the least recently used first
        self._identification: tuple[object, Identification] | None = None
        self.counts: Counter[str] = Counter()  # loads, unloads

    @classmethod
    def load(cls, path: Path | str, *, max_bytes: int | None = None, model_path: str | None = None) -> "TaskEngine":
        """Open a store, or a run directory.

        Args:
            max_bytes: as of the engine.
            model_path: the base model's folder, where its name in conf/model does not say where it is.

        Raises:
            StoreError, RunError: it is neither.
        """
        return cls(open_place(Path(path), model_path), max_bytes=max_bytes)

    def tasks(self) -> list[str]:
        """Return the names of the tasks there are."""
        return self._place.tasks()

    def load_task(self, task: str, version: str = "current") -> Loaded:
        """Bring a version into memory, checked and probed, and return it.

        Raises:
            StoreError, ModelError: it is not there, is damaged, or does not answer as it did when it was saved.
        """
        with self._pinned([(task, version)]) as (found,):
            if isinstance(found, CloraError):
                raise found
            return found

    def unload(self, task: str, version: str | None = None) -> int:
        """Let the versions of a task that are in memory, or one of them, go; return how many did."""
        with self._lock:
            keys = [k for k, x in self._loaded.items() if k[0] == task and version in (None, x.version, x.id)]
            return sum(self._drop(key) for key in keys)

    def loaded(self) -> list[Loaded]:
        """Return what is in memory, the least recently used first."""
        with self._lock:
            return list(self._loaded.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors in memory, room to spare included."""
        return self._loader.num_bytes

    def predict(self, task: str, texts: Sequence[str], version: str = "current") -> list[Answer]:
        """Answer texts with one task.

        Raises:
            StoreError, ModelError: as `load_task`.
        """
        found = self.batch([Request(task, text, version) for text in texts])
        for answer in found:
            if isinstance(answer, Failure):
                raise StoreError(answer.error)
        return [answer for answer in found if isinstance(answer, Answer)]

    def batch(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Answer requests of any tasks together; in their order, an error for each that has no answer."""
        answers: list[Answer | Failure | None] = [None] * len(requests)
        requests, identified = self._identified(requests)
        names = list(dict.fromkeys((r.task, r.version) for r in requests))
        with self._pinned(names) as found:
            by_name = dict(zip(names, found, strict=True))
            groups: dict[int, list[int]] = {}
            for i, request in enumerate(requests):
                version = by_name[request.task, request.version]
                if request.task == UNKNOWN and i in identified:
                    answers[i] = Failure(UNKNOWN, _not_near(identified[i]), identified[i])
                elif isinstance(version, CloraError):
                    answers[i] = Failure(request.task, str(version))
                else:
                    groups.setdefault(version.group, []).append(i)
            for rows in groups.values():
                for start in range(0, len(rows), MAX_BATCH):
                    part = rows[start : start + MAX_BATCH]
                    versions: list[Any] = [by_name[requests[i].task, requests[i].version] for i in part]
                    for i, answer in zip(part, self._answers([requests[i] for i in part], versions), strict=True):
                        answers[i] = replace(answer, identified=identified.get(i))
        return [answer for answer in answers if answer is not None]

    def identify(self, texts: Sequence[str]) -> list[Found]:
        """Return which task each text is for, see identification.py.

        Raises:
            StoreError: the store has not learned it, or for other tasks.
        """
        found = self._known()
        if not found.needs_features:
            return found.find(texts)
        manifest = self._place.store.manifest(found.tasks[0])
        with self._forwards.reading():
            return found.find(texts, finding.features_of(self._loader, manifest.base))

    def why(self, text: str, task: str) -> list[Reason]:
        """Return the terms of a text that speak most for a task; none where words are not asked.

        Raises:
            StoreError: as `identify`, or it does not know the task.
        """
        return self._known().why(text, task)

    def manifest(self, task: str, version: str = "current") -> Manifest:
        """Return what a version says of itself.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        return self._place.store.manifest(task, version)

    def _known(self) -> Identification:
        stamp = self._place.stamp(finding.FILE)
        with self._lock:
            if self._identification is None or self._identification[0] != stamp:
                self._identification = stamp, finding.known_to(self._place)
            return self._identification[1]

    def _identified(self, requests: Sequence[Request]) -> tuple[list[Request], dict[int, Found]]:
        """Return requests with a task each, and how those of "auto" were found; of what is unknown the task is that."""
        requests = list(requests)
        asked = [i for i, request in enumerate(requests) if request.task == AUTO]
        found = dict(zip(asked, self.identify([requests[i].text for i in asked]), strict=True)) if asked else {}
        for i, one in found.items():
            requests[i] = replace(requests[i], task=one.task)
        return requests, found

    def generate(self, task: str, prompt: str, version: str = "current", **options: Any) -> str:
        """Let a task of a language model write on from a prompt; options are those of transformers' `generate`.

        Raises:
            ModelError: the base is no language model.
            StoreError: as `load_task`.
        """
        with self._pinned([(task, version)]) as (found,):
            if isinstance(found, CloraError):
                raise found
            with self._forwards.reading():
                return self._loader.write(found, prompt, options)

    def _answers(self, requests: Sequence[Request], versions: Sequence[Loaded]) -> list[Answer]:
        """Answer requests of one group in one forward pass."""
        with self._forwards.reading():
            logits = self._loader.logits(versions, [request.text for request in requests])
        found = []
        for version, row in zip(versions, logits, strict=True):
            values = torch.softmax(row[: len(version.labels)].double(), 0).tolist()
            best = max(range(len(values)), key=values.__getitem__)
            labels = dict(zip(version.labels, values, strict=True))
            found.append(Answer(version.task, version.version, version.id, version.labels[best], values[best], labels))
        return found

    @contextmanager
    def _pinned(self, names: Sequence[tuple[str, str]]) -> Iterator[list[Loaded | CloraError]]:
        """Have versions in memory, and keep them there, while the block runs; in place of one that cannot be, why."""
        found: list[Loaded | CloraError] = []
        try:
            for task, version in names:
                try:
                    found.append(self._pin(task, version))
                except CloraError as error:
                    found.append(error)
            yield found
        finally:
            with self._lock:
                for entry in found:
                    if isinstance(entry, Loaded):
                        entry.num_users -= 1
                self._evict()

    def _pin(self, task: str, version: str) -> Loaded:
        target = self._place.resolve(task, version)
        with self._lock:
            entry = self._loaded.pop((task, target.id), None)
            if entry is None:
                stored = self._place.read(task, target)
                with self._forwards.writing():
                    entry = self._loader.take_in(stored)
                self.counts["loads"] += 1
            self._loaded[task, target.id] = entry  # last: the most recently used
            entry.num_users += 1
            return entry

    def _evict(self) -> None:
        """Let the least recently used go until the rest is small enough; what answers now stays."""
        if self._max_bytes is None:
            return
        idle = [key for key, entry in self._loaded.items() if not entry.num_users]
        while idle and sum(entry.num_bytes for entry in self._loaded.values()) > self._max_bytes:
            self._drop(idle.pop(0))

    def _drop(self, key: tuple[str, str]) -> bool:
        entry = self._loaded[key]
        if entry.num_users:
            return False
        with self._forwards.writing():
            self._loader.let_go(self._loaded.pop(key))
        self.counts["unloads"] += 1
        return True


def _not_near(found: Found) -> str:
    return (
        f"it is for no task that is known: the nearest is {found.best!r}, with a margin of {found.margin:.2f} over "
        f"none, and {found.threshold:.2f} is needed"
    )
