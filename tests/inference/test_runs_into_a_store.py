"""`store.path=FOLDER`: what a run learned is there to answer with as it ends; repeated, nothing is there twice."""

import io

import pytest
from rich.console import Console

from clora_exp.errors import ConfigError, StoreError
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.runs import read_run
from clora_exp.store.checking import verify
from clora_exp.store.folder import Store


@pytest.mark.parametrize("method", ["lora", "clora", "clora_gated", "clora_xs", "sdlora", "gem"])
def test_a_runs_tasks_are_in_the_store_when_it_ends(tiny, tmp_path, method: str) -> None:
    screen = io.StringIO()
    config = tiny(f"method={method}", f"store.path={tmp_path / 'store'}")
    folder = run(config, "python run.py tasks=words", Terminal(Console(file=screen, width=200)))
    store = Store(tmp_path / "store")
    assert store.tasks() == ["first", "second", "third"]
    assert f"store {tmp_path / 'store'}: first@v1, second@v1, third@v1" in " ".join(screen.getvalue().split())
    matrix = read_run(folder.path).matrix
    for task in store.tasks():
        manifest = store.manifest(task)
        assert manifest.method["name"] == method
        assert manifest.stream == ["tasks=words"]
        j = matrix.tasks.index(task)
        assert manifest.metrics["accuracy"] == matrix.values[j + 1][j]
    run(config, "python run.py tasks=words", Terminal(Console(file=screen, width=200)))  # a finished run, once more
    assert [store.versions(task) for task in store.tasks()] == [["v1"]] * 3
    assert [found.problem for found in verify(store)] == [""] * 9


def test_another_seed_is_another_version(tiny, tmp_path) -> None:
    for seed in (0, 1):
        run(tiny("method=clora_xs", f"seed={seed}", f"store.path={tmp_path / 'store'}"), "", Terminal.silent())
    store = Store(tmp_path / "store")
    assert store.versions("first") == ["v1", "v2"]
    assert store.resolve("first").version == "v2"


@pytest.mark.parametrize("method", ["full", "frozen", "progressive"])
def test_what_cannot_be_stored_is_refused_before_it_is_learned(tiny, tmp_path, method: str) -> None:
    with pytest.raises(ConfigError, match=rf"store\.path={tmp_path}/store: method\.(trainable|composition)="):
        run(tiny(f"method={method}", f"store.path={tmp_path / 'store'}"), "", Terminal.silent())
    assert not (tmp_path / "store").exists()


def test_a_folder_that_is_no_store_is_refused_before_anything_is_learned(tiny, tmp_path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds files and is no store; name a folder that is empty or new"):
        run(tiny("method=lora", f"store.path={tmp_path / 'store'}"), "", Terminal.silent())
    assert not list(tmp_path.rglob("accuracy_matrix.csv"))


def test_a_run_that_is_only_repeated_puts_nothing_into_the_store(tiny, tmp_path) -> None:
    config = tiny("method=lora", f"store.path={tmp_path / 'store'}")
    run(config, "", Terminal.silent(), is_stored=False)
    assert not (tmp_path / "store").exists()
