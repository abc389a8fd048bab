"""Tables of three little tasks made of words."""

import csv
from pathlib import Path

import numpy as np

TASKS = {"colours": ["red", "green", "blue"], "numbers": ["one", "two"], "animals": ["cat", "dog", "bird"]}
FILLERS = {"colours": ["iron", "gold"], "numbers": ["tin", "gold"], "animals": ["three", "iron"]}


def write_tables(folder: Path) -> None:
    """Write a folder a task with train, validation and test tables: a text belongs to the class whose word it says."""
    rng = np.random.default_rng(0)
    for task, labels in TASKS.items():
        for split, per_class in (("train", 12), ("validation", 6), ("test", 8)):
            place = folder / task
            place.mkdir(parents=True, exist_ok=True)
            with open(place / f"{split}.csv", "w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["text", "label"])
                for label in labels:
                    for k in range(per_class):
                        noise = rng.choice(FILLERS[task], size=rng.integers(1, 5)).tolist()
                        rows.writerow([" ".join([label, *noise, split[: k % 5], label]), label])
