"""Which task is a text for? From its words, from the frozen base's features, from both, or for none that is known.

- `descriptions`: TF-IDF cosine of the text to each task's description with its labels;
- `examples`: logistic regression over TF-IDF of the tasks' training texts;
- `centroids`: cosine of the frozen base's feature to the nearest mean of a class of each task (nearest mean of
  exemplars, Rebuffi et al. 2017, iCaRL, eq. 2, with means of all training texts);
- `combined`: logistic regression over the scores of `examples` and `centroids`, fitted on validation texts.

All but the first learn texts of no task beside the tasks', as one more class (outlier exposure, Hendrycks et al. 2019,
arXiv 1812.04606). A text's margin is its best task's score less that of no task; where it is below a threshold, the
answer is that the task is unknown. The threshold is the margin that FALSE_UNKNOWN of the tasks' own validation texts
fall below. The state is one safetensors file with JSON in its metadata.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.cluster import KMeans
from torch import Tensor

from clora_exp.errors import StoreError, unknown
from clora_exp.files import write_atomically
from clora_exp.inference.words import Reason, Words, regression

Way = Literal["descriptions", "examples", "centroids", "combined"]
WAYS: tuple[Way, ...] = ("descriptions", "examples", "centroids", "combined")
UNKNOWN = "unknown"
FORMAT = 1
FALSE_UNKNOWN = 0.0125
NUM_CENTRES = 20  # of texts of no task
MOST_READ = 2500  # texts of no task that the base reads for their centres, and half as many to calibrate
COSINE_SCALE = 10.0  # cosines beside logits: the regression's penalty then weighs on both alike

Features = Callable[[Sequence[str]], np.ndarray]  # the frozen base's features of texts, (n, d)


@dataclass(frozen=True)
class TaskTexts:
    """What identification learns of a task from."""

    description: str
    train: Sequence[str]
    classes: Sequence[str]  # of each training text: its label
    validation: Sequence[str]


@dataclass(frozen=True)
class Found:
    """Which task a text is for."""

    task: str  # or UNKNOWN
    best: str  # the nearest task, also where it is not near enough
    probability: float  # of `best` among the tasks and none
    margin: float  # its score less that of no task
    threshold: float
    probabilities: dict[str, float]  # task → probability, the likeliest first


class Identification:
    """One way, learned for some tasks."""

    def __init__(self, way: Way, tasks: Sequence[str], tensors: Mapping[str, Tensor], terms: Sequence[str]) -> None:
        """Take what `learned` or a file gives; see `_learned_*` for the tensors."""
        self.way, self.tasks, self.tensors, self.terms = way, list(tasks), dict(tensors), list(terms)
        self.threshold = float(tensors["threshold"])
        self._words = Words(terms, *(tensors[f"words.{n}"].numpy() for n in _WORDS)) if terms else None
        self._centres = tensors["centres"].numpy() if "centres" in tensors else None
        self._owners = tensors["owners"].numpy() if "owners" in tensors else None

    @property
    def needs_features(self) -> bool:
        """Whether the frozen base is asked."""
        return self._centres is not None

    def find(self, texts: Sequence[str], features: Features | None = None) -> list[Found]:
        """Return which task each text is for.

        Args:
            features: gives the frozen base's features; asked only where the way needs them.
        """
        if not texts:
            return []
        return [self._found(row) for row in self.scores(texts, features)]

    def scores(self, texts: Sequence[str], features: Features | None = None) -> np.ndarray:
        """Return a score a task, and the last of no task, (n, T + 1)."""
        parts = []
        if self._words is not None:
            parts.append(self._words.scores(texts))
        if self._centres is not None:
            assert features is not None
            assert self._owners is not None
            parts.append(_cosines(features(texts), self._centres, self._owners))
        if self.way != "combined":
            found = parts[0]
            return found if found.shape[1] > len(self.tasks) else np.hstack([found, np.zeros((len(found), 1))])
        return np.asarray(_beside(*parts) @ self.tensors["weights"].numpy() + self.tensors["offsets"].numpy())

    def why(self, text: str, task: str) -> list[Reason]:
        """Return the terms of a text that speak most for a task; none where words are not asked.

        Raises:
            StoreError: it does not know the task.
        """
        if task not in self.tasks:
            raise StoreError(unknown("task", task, self.tasks))
        return self._words.why(text, self.tasks.index(task)) if self._words else []

    def _found(self, row: np.ndarray) -> Found:
        k = int(row[:-1].argmax())
        margin = float(row[k] - row[-1])
        shares = np.exp(row - row.max())
        shares /= shares.sum()
        order = sorted(range(len(self.tasks)), key=lambda i: -row[i])
        task = self.tasks[k] if margin >= self.threshold else UNKNOWN
        probabilities = {self.tasks[i]: float(shares[i]) for i in order}
        return Found(task, self.tasks[k], float(shares[k]), margin, self.threshold, probabilities)

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        plain = {"format": FORMAT, "way": self.way, "tasks": self.tasks, "terms": self.terms}
        content = save(self.tensors, metadata={"identification": json.dumps(plain, ensure_ascii=False)})
        write_atomically(path, content)

    @classmethod
    def read(cls, path: Path) -> "Identification":
        """Read what `write` wrote.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                plain = json.loads(file.metadata()["identification"])
                if plain["format"] != FORMAT:
                    raise StoreError(f"{path} has format {plain['format']}; this version reads {FORMAT}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if any(not torch.isfinite(tensor.double()).all() for tensor in tensors.values()):
                raise StoreError(f"{path} holds numbers that are NaN or infinite")
            return cls(plain["way"], plain["tasks"], tensors, plain["terms"])
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no identification of tasks has been learned; `learn` does") from error
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error


_WORDS = ("idf", "directions", "offsets")


def learned(
    way: Way, tasks: Mapping[str, TaskTexts], foreign: Sequence[str], features: Features | None = None
) -> Identification:
    """Learn a way.

    Args:
        tasks: by name.
        foreign: texts of no task; every fifth is kept for calibration.
        features: the frozen base's; for `centroids` and `combined`.
    """
    features = _remembered(features) if features else None
    known = np.repeat(np.arange(len(tasks)), [len(task.train) for task in tasks.values()])
    held = np.repeat(np.arange(len(tasks)), [len(task.validation) for task in tasks.values()])
    train = [text for task in tasks.values() for text in task.train]
    validation = [text for task in tasks.values() for text in task.validation]
    for_training = [text for i, text in enumerate(foreign) if i % 5]
    for_calibration = list(foreign[::5])[: MOST_READ // 2]
    tensors: dict[str, Tensor] = {"threshold": torch.zeros((), dtype=torch.float64)}
    terms: list[str] = []
    if way == "descriptions":
        words = Words.similar({name: task.description for name, task in tasks.items()})
    elif way != "centroids":
        classes = np.concatenate([known, np.full(len(for_training), len(tasks))])
        words = Words.separating([*train, *for_training], classes)
    if way != "centroids":
        terms = words.terms
        tensors |= {f"words.{n}": torch.from_numpy(np.ascontiguousarray(getattr(words, n))) for n in _WORDS}
    if way in ("centroids", "combined"):
        assert features is not None
        centres, owners = _centres(tasks, features(train), features(for_training[:MOST_READ]))
        tensors |= {"centres": torch.from_numpy(centres), "owners": torch.from_numpy(owners)}
    if way == "combined":
        assert features is not None
        both = [*validation, *for_calibration]
        rows = _beside(words.scores(both), _cosines(features(both), centres, owners))
        weights, offsets = regression(rows, np.concatenate([held, np.full(len(for_calibration), len(tasks))]), 1.0)
        tensors |= {"weights": torch.from_numpy(weights), "offsets": torch.from_numpy(offsets)}
    found = Identification(way, list(tasks), {name: tensor.contiguous() for name, tensor in tensors.items()}, terms)
    rows = found.scores(validation, features)
    margins = rows[:, :-1].max(axis=1) - rows[:, -1]
    found.threshold = float(np.quantile(margins, FALSE_UNKNOWN))
    found.tensors["threshold"] = torch.tensor(found.threshold, dtype=torch.float64)
    return found


def _centres(tasks: Mapping[str, TaskTexts], own: np.ndarray, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (k, d) and whose each is (k,), T for none: means of classes, and k-means of foreign texts."""
    found, owners, start = [], [], 0
    for k, task in enumerate(tasks.values()):
        rows = own[start : start + len(task.train)]
        start += len(task.train)
        labels = np.asarray(task.classes)
        means = [rows[labels == label].mean(axis=0) for label in sorted(set(task.classes))]
        found += means
        owners += [k] * len(means)
    num_centres = min(NUM_CENTRES, len(np.unique(foreign, axis=0)))
    centres = KMeans(num_centres, n_init=1, random_state=0).fit(_unit(foreign)).cluster_centers_
    owners += [len(tasks)] * len(centres)
    return _unit(np.vstack([*found, centres])).astype(np.float32), np.asarray(owners)


def _cosines(features: np.ndarray, centres: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return the cosine to the nearest centre of each task and of none, (n, T + 1)."""
    found = _unit(features) @ centres.T
    return np.stack([found[:, owners == k].max(axis=1) for k in range(owners.max() + 1)], axis=1)


def _beside(words: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    return np.hstack([words, COSINE_SCALE * cosines])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _remembered(features: Features) -> Features:
    """Return features that are asked for once a text."""
    known: dict[str, np.ndarray] = {}

    def remembered(texts: Sequence[str]) -> np.ndarray:
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            known.update(zip(missing, features(missing), strict=True))
        return np.stack([known[text] for text in texts])

    return remembered


def check_way(way: str) -> Way:
    """Return a way by its name.

    Raises:
        StoreError: there is no such way.
    """
    for known in WAYS:
        if way == known:
            return known
    raise StoreError(unknown("way", way, list(WAYS)))


def as_plain(found: Found) -> dict[str, Any]:
    """Return it for JSON."""
    return {
        "task": found.task,
        "best": found.best,
        "probability": found.probability,
        "margin": found.margin,
        "threshold": found.threshold,
        "probabilities": found.probabilities,
    }
