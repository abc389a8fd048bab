"""Every random generator of the process: seeded together, kept and taken back together."""

import random
from typing import Any

import numpy as np
import torch


def seed_everything(*entropy: int) -> int:
    """Seed Python, NumPy and torch from a list of numbers; return the seed.

    Every task starts from a seed of its own, so a run that resumes at task t draws what the whole run would have.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def random_state() -> dict[str, Any]:
    """Return where all generators are, as tensors and plain values."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *(number for number in rest)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take back what `random_state` gave; GPUs that were not there keep what they have."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for i, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_device, i)
