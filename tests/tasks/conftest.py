"""Two tasks in a folder, as a user may have them."""

from pathlib import Path

import pytest
from own_data import WORDS, rows_of, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks of three words each: medical in JSON Lines with a validation split, legal in CSV without."""
    root = tmp_path / "mine"
    for start, split in enumerate(("train", "dev", "test")):
        write(root / "medical" / f"{split}.jsonl", rows_of(WORDS["medical"], 24, 100 * start))
    for start, split in enumerate(("train", "test")):
        write(root / "legal" / f"{split}.csv", rows_of(WORDS["legal"], 30, 100 * start))
    return root
