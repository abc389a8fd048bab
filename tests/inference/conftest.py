"""A store with tasks of two forms, learned by real runs of a tiny encoder on tables of one's own."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from encoders import save_bert
from trials import quiet
from word_tables import write_tables

from clora_exp.compose import compose_experiment
from clora_exp.inference.engine import TaskEngine
from clora_exp.inference.places import Place
from clora_exp.loop import run
from clora_exp.store.folder import Store
from clora_exp.store.saving import import_run


@dataclass(frozen=True)
class Made:
    """Runs and the store that they were put into."""

    bert: Path
    runs: dict[str, Path]  # method → run directory
    store: Path

    def command(self, method: str) -> list[str]:
        """The words that one of the runs was started with."""
        return shlex.split((self.runs[method] / "command.txt").read_text())[2:]

    def place(self, store: Path | None = None) -> Place:
        """Open the store, or a copy of it."""
        return Place(Store(store or self.store), str(self.bert))

    def engine(self, store: Path | None = None, max_bytes: int | None = None) -> TaskEngine:
        """Answer with it."""
        return TaskEngine(self.place(store), max_bytes=max_bytes)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Colours as pairs, animals as routings on a shared basis, numbers as both: v1 pairs, v2 routings."""
    folder = tmp_path_factory.mktemp("made")
    bert = folder / "bert"
    save_bert(bert)
    write_tables(folder / "tables")
    runs = {}
    for method in ("lora_per_task", "clora_xs"):
        words = [
            f"method={method}",
            "method.rank=4",
            "model=encoder",
            f"model.path={bert}",
            "tasks=files",
            "model.text_encoder.max_length=16",
        ]
        words += [f"tasks.path={folder / 'tables'}", f"results_dir={folder / 'runs'}", "trainer.accelerator=cpu"]
        words += ["trainer.batch_size=8", "trainer.epochs=4", "report=false"]
        config = compose_experiment([*words, "trainer.learning_rate=1e-2", "trainer.head_learning_rate=3e-2"])
        runs[method] = run(config, " ".join(["python run.py", *words]), quiet()).path
    store = Store(folder / "store", is_new=True)
    import_run(store, runs["lora_per_task"], ["colours", "numbers"])
    import_run(store, runs["clora_xs"], ["animals", "numbers"])
    return Made(bert, runs, store.path)


@pytest.fixture
def own_store(made: Made, tmp_path: Path) -> Path:
    """A copy of the store that a test may change."""
    return Path(shutil.copytree(made.store, tmp_path / "store"))
