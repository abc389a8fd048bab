"""Files of a user's own data, written for the tests, and what is made of them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from clora_exp.compose import compose_experiment
from clora_exp.errors import DataError
from clora_exp.tasks.stream import TaskStream, load_stream

Rows = list[dict[str, Any]]
WORDS = {"medical": ["cat", "dog", "bird"], "legal": ["iron", "gold", "tin"]}


def rows_of(labels: list[Any], n: int, start: int = 0) -> Rows:
    return [{"text": f"{labels[i % len(labels)]} {i + start}", "label": labels[i % len(labels)]} for i in range(n)]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def stream_of(path: Path, *overrides: str, data_seed: int = 0) -> TaskStream:
    config = compose_experiment(["tasks=files", f"tasks.path={path}", *overrides])
    return load_stream(config.tasks, data_seed)


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(DataError) as caught:
        stream_of(path, *overrides)
    return str(caught.value)


def image(path: Path, colour: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (colour, 0, 0)).save(path)
