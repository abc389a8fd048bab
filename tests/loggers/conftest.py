"""Small runs with loggers, and nothing of theirs outside the tests' folders; no network."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig

os.environ["WANDB_MODE"] = "offline"
for folder in ("CACHE", "DATA", "CONFIG"):
    os.environ[f"WANDB_{folder}_DIR"] = tempfile.mkdtemp(prefix="wandb-of-tests-")
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ExperimentConfig]:
    """Compose an experiment of two steps a task on the tiny model, all of a module in one results folder."""
    results = tmp_path_factory.mktemp("results")

    def build(*overrides: str) -> ExperimentConfig:
        fixed = [
            f"hydra.searchpath=[file://{TESTS / 'conf'}]",
            *("model=tiny", "tasks=words", "method=lora", "method.rank=4", f"model.path={tiny_bert}"),
            *(f"results_dir={results}", "trainer.accelerator=cpu", "trainer.batch_size=8", "trainer.max_steps=4"),
        ]
        return compose_experiment([*fixed, *overrides])

    return build
