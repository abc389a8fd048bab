"""Images: a handwritten digit → which it is, in several tasks made of the same 1797 images.

Raw material: scikit-learn's digits (UCI ML, CC-BY-4.0), 8×8 pixels. The three splits are fixed, whatever the data seed,
and the same in every task: an image that one task trains on is in no other task's test split, and a backbone that was
pre-trained on training images has seen no other. A permutation follows the data seed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clora_exp.config import STRICT, Annotated, Count, Ge
from clora_exp.errors import DataError
from clora_exp.tasks.images import data_uri
from clora_exp.tasks.stream import Example, Task

LICENCE = "CC-BY-4.0"
ATTRIBUTION = "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI ML, through scikit-learn"
PER_CLASS = {"test": 45, "validation": 18}  # training has the rest, 111 to 120


@dataclass(frozen=True)
class Config:
    """How the digits become tasks: classes apart, pixels permuted (the first task's are not), or images turned."""

    __pydantic_config__ = STRICT
    tasks: Literal["split", "permuted", "rotated"] = "split"
    num_tasks: Annotated[Count, Ge(2)] = 5  # split: at most 10, one class each
    degrees: float = 180.0  # rotated: the turns are spread evenly from 0 to below this


def fingerprint(config: Config | None = None) -> str:
    """Return the SHA-256 of pixels and labels."""
    pixels, labels = _all()
    return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()


def images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split, (n, 8, 8) uint8, and their labels, (n,)."""
    pixels, labels = _all()
    rows = _rows(labels)[split]
    return pixels[rows], labels[rows]


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the tasks in order."""
    if config.tasks == "split" and config.num_tasks > 10:
        raise DataError(f"tasks.digits.num_tasks={config.num_tasks}: there are ten digits to split")
    pixels, labels = _all()
    rows = _rows(labels)
    found = []
    for t in range(config.num_tasks):
        classes, changed, name, what = _task(config, data_seed, t, pixels)
        splits: Any = {
            split: [
                Example(f"digit-{i}", "", str(labels[i]), group=str(i), image=data_uri(changed[i]))
                for i in rows[split].tolist()
                if labels[i] in classes
            ]
            for split in ("train", "validation", "test")
        }
        found.append(Task(name, what, LICENCE, ATTRIBUTION, [str(c) for c in classes], **splits))
    return found


def _task(config: Config, data_seed: int, t: int, pixels: np.ndarray) -> tuple[list[int], np.ndarray, str, str]:
    """Return task t's classes, its version of all images, its name and its description."""
    every = list(range(10))
    if config.tasks == "split":
        classes = np.array_split(every, config.num_tasks)[t].tolist()
        name = f"{classes[0]}-{classes[-1]}" if len(classes) > 1 else f"{classes[0]}"
        return classes, pixels, name, f"a digit → which of {', '.join(map(str, classes))} it is"
    if config.tasks == "permuted":
        if t == 0:
            return every, pixels, "permutation-1", "a digit → which it is"
        order = np.random.default_rng([data_seed, t]).permutation(64)
        changed = pixels.reshape(-1, 64)[:, order].reshape(pixels.shape)
        return every, changed, f"permutation-{t + 1}", "a digit, its pixels in another order → which it is"
    from scipy.ndimage import rotate

    angle = config.degrees * t / config.num_tasks
    turned = rotate(pixels.astype(np.float64), angle, axes=(2, 1), reshape=False, order=1)
    changed = np.clip(np.rint(turned), 0, 255).astype(np.uint8)
    return every, changed, f"{angle:g}-degrees", f"a digit, turned by {angle:g} degrees → which it is"


def _all() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, (n, 8, 8) uint8, and labels, (n,) int64."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.rint(loaded.images * (255 / 16)).astype(np.uint8), loaded.target.astype(np.int64)


def _rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return which images each split holds."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for c in range(10):
        of_class = rng.permutation(np.flatnonzero(labels == c)).tolist()
        for split, count in PER_CLASS.items():
            rows[split] += [of_class.pop() for _ in range(count)]
        rows["train"] += of_class
    return {split: rng.permutation(found) for split, found in rows.items()}
