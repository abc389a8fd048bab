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
from clora_exp.inference.locks import Quiet
from clora_exp.inference.places import Place, open_place
from clora_exp.inference.words import Reason
from clora_exp.store.aliases import Target
from clora_exp.store.manifest import Manifest

AUTO = "auto"  # in place of a task: the text says which
MAX_BATCH = 64  # requests that are answered together, and whose tasks are in memory together; more are in several parts


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
class Text:
    """What a task wrote, and which version of it that was."""

    task: str
    version: str
    id: str
    text: str


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
            max_bytes: of tensors in memory beside the base model's; the least recently used tasks go first, those that
                are answering stay. None: all stay.
        """
        self._place = place
        self._loader = Loader(place)
        self._max_bytes = max_bytes
        self._loading, self._lock, self._quiet = threading.RLock(), threading.Lock(), Quiet()  # taken in this order
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
        with self._loading:
            keys = [(x.task, x.id) for x in self.loaded() if x.task == task and version in (None, x.version, x.id)]
            return sum(self._drop(key) for key in keys)

    def loaded(self) -> list[Loaded]:
        """Return what is in memory, the least recently used first."""
        with self._lock:
            return list(self._loaded.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors in memory beside the base model's, room to spare included."""
        return self._loader.num_bytes

    def predict(self, task: str, texts: Sequence[str], version: str = "current") -> list[Answer]:
        """Answer texts with one task.

        Raises:
            StoreError, ModelError: as `load_task`; or a text that has no answer.
            TypeError: one text in place of a list.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is one text, {texts[:40]!r}; give a list of texts")
        found = self.batch([Request(task, text, version) for text in texts])
        for answer in found:
            if isinstance(answer, Failure):
                raise StoreError(answer.error)
        return [answer for answer in found if isinstance(answer, Answer)]

    def batch(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Answer requests of any tasks together; in their order, an error for each that has no answer."""
        answers: list[Answer | Failure] = []
        for start in range(0, len(requests), MAX_BATCH):
            answers += self._part(requests[start : start + MAX_BATCH])
        return answers

    def _part(self, asked: Sequence[Request]) -> list[Answer | Failure]:
        answers: dict[int, Answer | Failure] = {
            i: Failure(str(r.task), why) for i, r in enumerate(asked) if (why := _odd(r))
        }
        requests, identified = self._identified(asked, answers)
        open_ = [i for i in range(len(asked)) if i not in answers]
        names = list(dict.fromkeys((requests[i].task, requests[i].version) for i in open_))
        with self._pinned(names) as found:
            by_name = dict(zip(names, found, strict=True))
            banks: dict[int, list[tuple[int, Loaded]]] = {}
            for i in open_:
                version = by_name[requests[i].task, requests[i].version]
                if isinstance(version, CloraError):
                    answers[i] = Failure(requests[i].task, str(version), identified.get(i))
                elif version.writes:
                    why = f"task {version.task!r} writes its answers, it has no labels to choose among; use generate"
                    answers[i] = Failure(version.task, why, identified.get(i))
                else:
                    banks.setdefault(version.bank, []).append((i, version))
            for rows in banks.values():
                texts, versions = [requests[i].text for i, _ in rows], [version for _, version in rows]
                for (i, _), answer in zip(rows, self._answers(texts, versions), strict=True):
                    answers[i] = replace(answer, identified=identified[i]) if i in identified else answer
        return [answers[i] for i in range(len(asked))]

    def identify(self, texts: Sequence[str]) -> list[Found]:
        """Return which task each text is for, see identification.py.

        Raises:
            StoreError: the store has not learned it, or for other tasks; a text that is none.
        """
        for text in texts:
            if why := _odd(Request(AUTO, text)):
                raise StoreError(why)
        found = self._known()
        if not found.needs_features:
            return found.find(texts)
        manifest = self._place.store.manifest(found.tasks[0])
        with self._quiet.asking():
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

    def _identified(
        self, asked: Sequence[Request], answers: dict[int, Answer | Failure]
    ) -> tuple[list[Request], dict[int, Found]]:
        """Return requests with a task each, and how those of "auto" were found; who has none is answered."""
        requests, identified = list(asked), dict[int, Found]()
        auto = [i for i, request in enumerate(asked) if i not in answers and request.task == AUTO]
        try:
            identified = dict(zip(auto, self.identify([asked[i].text for i in auto]), strict=True)) if auto else {}
        except CloraError as error:
            answers.update({i: Failure(AUTO, str(error)) for i in auto})
        for i, found in identified.items():
            requests[i] = replace(asked[i], task=found.task)
            if found.task == UNKNOWN:
                answers[i] = Failure(UNKNOWN, _not_near(found), found)
        return requests, identified

    def generate(self, task: str, prompt: str, version: str = "current", **options: Any) -> Text:
        """Let a task of a language model write on from a prompt; options are those of transformers' `generate`.

        Raises:
            ModelError: the base is no language model, or has no room for so much; an option that it does not take.
            StoreError: as `load_task`.
        """
        if why := _odd(Request(task, prompt, version)):
            raise StoreError(why)
        with self._pinned([(task, version)]) as (found,):
            if isinstance(found, CloraError):
                raise found
            with self._quiet.asking():
                return Text(found.task, found.version, found.id, self._loader.write(found, prompt, options))

    def _answers(self, texts: Sequence[str], versions: Sequence[Loaded]) -> list[Answer]:
        """Answer texts with versions of one bank in one forward pass."""
        with self._quiet.asking():
            logits = self._loader.logits(versions, texts)
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
            self._make_room(0)

    def _pin(self, task: str, version: str) -> Loaded:
        target = self._place.resolve(task, version)
        if entry := self._known_entry(task, target):
            return entry
        with self._loading:
            if entry := self._known_entry(task, target):  # another thread has loaded it meanwhile
                return entry
            stored = self._place.read(task, target)
            self._make_room(sum(tensor.nbytes for tensor in stored.tensors.values()))
            entry = self._loader.take_in(stored)
            with self._lock:
                self.counts["loads"] += 1
                self._loaded[task, target.id] = entry
                entry.num_users += 1
            return entry

    def _known_entry(self, task: str, target: Target) -> Loaded | None:
        """Return a version that is in memory, as the most recently used, which is last, and with one more user."""
        with self._lock:
            entry = self._loaded.pop((task, target.id), None)
            if entry is not None:
                self._loaded[task, target.id] = entry
                entry.num_users += 1
            return entry

    def _make_room(self, num_bytes: int) -> None:
        """Let the least recently used go until there is room for so much more; what answers now stays."""
        if self._max_bytes is None or self._loader.num_bytes + num_bytes <= self._max_bytes:
            return
        with self._loading:
            with self._lock:
                keys = list(self._loaded)
            for key in keys:
                if self._loader.used_bytes + num_bytes <= self._max_bytes:
                    break
                self._drop(key)
            if self._loader.num_bytes + num_bytes > self._max_bytes:
                self._quiet.alone(self._loader.compact)

    def _drop(self, key: tuple[str, str]) -> bool:
        with self._lock:
            if self._loaded[key].num_users:
                return False
            entry = self._loaded.pop(key)
            self.counts["unloads"] += 1
        self._loader.let_go(entry)
        return True


def _odd(request: Request) -> str:
    """Return why nothing can be a request's answer; "" where something can."""
    for name in ("task", "text", "version"):
        value = getattr(request, name)
        if not isinstance(value, str):
            return f"{name}={value!r} is no string"
    try:
        request.text.encode()
    except UnicodeEncodeError as error:
        return f"the text is no UTF-8: {error.reason} at character {error.start}"
    return ""


def _not_near(found: Found) -> str:
    return (
        f"it is for no task that is known: the nearest is {found.best!r}, with a margin of {found.margin:.2f} over "
        f"none, and {found.threshold:.2f} is needed"
    )
