"""A tiny real BERT, tiny word tasks and a private cache, so that the default tests take seconds and need nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoders import save_bert
from language import save_causal_lm, save_seq2seq

import clora_exp.methods
import clora_exp.tasks.sources
from clora_exp import compose
from clora_exp.config import ExperimentConfig

torch.set_num_threads(1)  # the default tests' models are too small for two
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, and the processes that they start too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent


@pytest.fixture(autouse=True, scope="session")
def _parts_of_the_tests() -> None:
    """A source and a strategy are found where they lie: no list names them."""
    clora_exp.tasks.sources.__path__.append(str(HERE / "parts" / "sources"))
    clora_exp.methods.__path__.append(str(HERE / "parts" / "methods"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request) -> None:
    if "slow" not in request.keywords:  # real data is prepared once, in the user's cache
        monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of width 32 and two layers, and a word tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    save_bert(folder)
    return folder


@pytest.fixture
def tiny(tiny_bert: Path, tmp_path: Path) -> Callable[..., ExperimentConfig]:
    """Compose an experiment on the tiny model and the word tasks: tiny("method=clora", "trainer.epochs=1")."""

    def build(*overrides: str) -> ExperimentConfig:
        fixed = [
            f"hydra.searchpath=[file://{HERE / 'conf'}]",
            "model=tiny",
            f"model.path={tiny_bert}",
            "tasks=words",
            f"results_dir={tmp_path / 'runs'}",
            "trainer.accelerator=cpu",
            "trainer.batch_size=8",
            "trainer.epochs=2",
            "report=false",
        ]
        rank = [] if any(o.startswith("method.rank") for o in overrides) else ["method.rank=4"]
        return compose.compose_experiment([*fixed, *rank, *overrides])

    return build


@pytest.fixture
def hand_worked() -> list[list[float]]:
    """The 3×3 example behind the metric tests; row 0 before training."""
    return json.loads("[[0.1, 0.2, 0.3], [0.9, 0.25, 0.2], [0.7, 0.8, 0.4], [0.6, 0.85, 0.7]]")


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of width 32 and two layers."""
    folder = tmp_path_factory.mktemp("tiny_lm")
    save_causal_lm(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of width 32 and two layers."""
    folder = tmp_path_factory.mktemp("tiny_t5")
    save_seq2seq(folder)
    return folder


@pytest.fixture
def tiny_words(tiny, tiny_lm: Path, tiny_t5: Path) -> Callable[..., ExperimentConfig]:
    """Compose an experiment on a tiny language model: tiny_words("causal_lm", "method=clora")."""

    def build(kind: str, *overrides: str) -> ExperimentConfig:
        folder = {"causal_lm": tiny_lm, "seq2seq": tiny_t5}[kind]
        short = [f"model.{kind}.max_length=16", f"model.{kind}.max_new_tokens=4"]
        return tiny(f"model={kind}", f"model.path={folder}", *short, *overrides)

    return build
