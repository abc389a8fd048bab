"""Weights & Biases, offline: what a run leaves there is read back from its own files."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from followed import Kept, name_of, stopped, stopped_and_gone_on, tasks_of
from test_run import ROOT, _tiny
from trials import content, quiet

from clora_exp.errors import Interrupted
from clora_exp.loop import run
from clora_exp.results import RunDirectory
from clora_exp.tasks.cache import cache_dir


def kept(folder: RunDirectory) -> Kept:
    """Return what there is of a run."""
    return Kept(Path(folder.config.results_dir), folder.path.name)


@pytest.fixture(scope="module")
def finished(small) -> RunDirectory:
    return run(small("logger=wandb"), "python run.py", quiet())


@pytest.fixture(scope="module")
def seen(finished: RunDirectory) -> Kept:
    return kept(finished)


def test_the_run_is_called_as_its_folder_and_grouped_with_what_it_can_be_compared_with(
    finished: RunDirectory, seen: Kept
) -> None:
    assert seen.id.startswith(f"{finished.path.name}-")
    assert (seen.run.project, seen.run.job_type) == ("clora-exp", "lora")
    assert seen.run.display_name == f"lora-{finished.path.name}"
    assert seen.run.run_group.startswith("words-tiny-")
    assert set(seen.run.tags) == {"words", "tiny", "task_incremental"}
    assert seen.config["method"]["rank"] == 4
    assert seen.config["seed"] == 0
    assert f"{seen.config['setting']}-s0" == finished.path.name
    assert seen.config["environment"]["model_sha256"] == finished.model_sha256


def test_every_loss_is_logged_once_on_its_tasks_own_axis(finished: RunDirectory, seen: Kept) -> None:
    axes = {metric.name: metric.step_metric for metric in seen.of("metric")}
    losses = finished.read().history.query("metric == 'train_loss'")
    assert len(losses) == 4 * len(finished.stream.names)
    for task, rows in losses.groupby("task"):
        assert axes[f"loss/{task}"] == f"step/{task}"
        logged = [(row[f"step/{task}"], row[f"loss/{task}"]) for row in seen.history if f"loss/{task}" in row]
        assert logged == list(zip(rows["step"], rows["value"], strict=True))


def test_accuracies_and_costs_stand_on_the_axis_of_tasks_learned(finished: RunDirectory, seen: Kept) -> None:
    matrix, costs = finished.read().matrix, finished.read().costs
    axes = {metric.name: metric.step_metric for metric in seen.of("metric")}
    for j, task in enumerate(matrix.tasks):
        assert axes[f"accuracy/{task}"] == "tasks_learned"
        logged = {row["tasks_learned"]: row[f"accuracy/{task}"] for row in seen.history if f"accuracy/{task}" in row}
        measured = {i: v for i, v in enumerate(matrix.values[:, j]) if not np.isnan(v)}
        assert logged == measured
    logged = [row["cost/adapter_bytes"] for row in seen.history if "cost/adapter_bytes" in row]
    assert logged == costs["adapter_bytes"].tolist()


def test_rows_are_numbered_without_gap(seen: Kept) -> None:
    assert [row["_step"] for row in seen.history] == list(range(len(seen.history)))


def test_the_matrix_is_a_table_and_a_heat_map_and_the_figures_are_the_pages(finished: RunDirectory, seen: Kept) -> None:
    (row,) = (row for row in seen.history if "accuracy_matrix" in row)
    table, matrix = json.loads(seen.file(row["accuracy_matrix"]).read_text()), finished.read().matrix
    assert table["columns"] == ["after", *matrix.tasks]
    assert [cells[0] for cells in table["data"]] == matrix.rows
    values = [[np.nan if v is None else v for v in cells[1:]] for cells in table["data"]]
    np.testing.assert_array_equal(np.array(values, dtype=float), matrix.values)
    pages = {path.stem: path.read_bytes() for path in (finished.path / "figures").glob("*.png")}
    assert "accuracy_matrix" in pages
    assert {name: seen.file(row[f"figures/{name}"]).read_bytes() for name in pages} == pages


def test_metrics_and_totals_are_in_the_summary(finished: RunDirectory, seen: Kept) -> None:
    stored = finished.read()
    defined = {name: metric.value for name, metric in stored.metrics.items() if metric.value is not None}
    assert {k.removeprefix("metrics/"): v for k, v in seen.summary.items() if k.startswith("metrics/")} == defined
    assert "average_accuracy" in defined
    assert seen.summary["total/train_seconds"] == pytest.approx(stored.costs["train_seconds"].sum())
    assert (seen.summary["status"], seen.exit_codes) == ("done", [0])


def test_each_tasks_adapter_is_a_version_learned_from_the_one_before(finished: RunDirectory, seen: Kept) -> None:
    names = finished.stream.names
    adapters = [artifact for artifact in seen.of("artifact") if artifact.type == "adapter"]
    assert {artifact.name for artifact in adapters} == {f"lora-{finished.path.name}-adapters"}
    story = [
        ("used" if a.use_after_commit else "logged", next(n for n in a.aliases if n != "latest")) for a in adapters
    ]
    expected = [("logged", names[0])]
    for before, task in itertools.pairwise(names):
        expected += [("used", before), ("logged", task)]
    assert story == expected
    digests = {how: [a.digest for a, (h, _) in zip(adapters, story, strict=True) if h == how] for how in dict(story)}
    assert digests["used"] == digests["logged"][:-1]
    assert len(set(digests["logged"])) == len(names)
    for artifact, (_, task) in zip(adapters, story, strict=True):
        folder = finished.path.absolute() / "adapters" / task
        files = {file.path: Path(file.local_path) for file in artifact.manifest.contents}
        assert files == {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        about = json.loads((folder / "adapter.json").read_text())
        assert json.loads(artifact.metadata)["sha256"] == about["sha256"]


def test_the_runs_own_files_are_those_of_a_run_without_a_logger(finished: RunDirectory, small, tmp_path: Path) -> None:
    plain = run(small(f"results_dir={tmp_path}"), "python run.py", quiet())
    assert plain.path.name == finished.path.name
    assert content(plain) == content(finished)
    assert {p.name for p in plain.path.iterdir()} == {p.name for p in finished.path.iterdir()}


def test_a_finished_run_is_printed_and_not_logged_again(finished: RunDirectory, seen: Kept) -> None:
    run(finished.config, "python run.py", quiet())
    again = kept(finished)
    assert (again.id, again.pieces) == (seen.id, seen.pieces)


def test_without_a_page_the_heat_map_is_drawn_for_the_log(small) -> None:
    folder = run(small("logger=wandb", "report=false", "seed=5"), "python run.py", quiet())
    (row,) = (row for row in kept(folder).history if "accuracy_matrix" in row)
    assert kept(folder).file(row["figures/accuracy_matrix"]).read_bytes()[:4] == b"\x89PNG"
    assert not (folder.path / "figures").exists()


def test_a_run_that_was_stopped_in_the_middle_of_a_task_goes_on_as_the_same_run(small) -> None:
    folder = stopped_and_gone_on(small("logger=wandb", "seed=1", "trainer.checkpoint_every=0"))
    both = kept(folder)
    assert len(both.pieces) == 2
    assert both.exit_codes == [1, 0]
    assert [row["_step"] for row in both.history] == list(range(len(both.history)))
    losses = folder.read().history.query("metric == 'train_loss'")
    logged = [
        (key.removeprefix("loss/"), row[f"step/{key.removeprefix('loss/')}"], value)
        for row in both.history
        for key, value in row.items()
        if key.startswith("loss/")
    ]
    assert logged == list(losses[["task", "step", "value"]].itertuples(index=False, name=None))


def test_a_failed_and_an_interrupted_run_are_marked_so(small) -> None:
    config = small("logger=wandb", "seed=2")
    task = tasks_of(config)[1]
    name = name_of(config)
    stopped(config, task, 2, RuntimeError("out of luck"))
    failed = Kept(Path(config.results_dir), name)
    assert (failed.exit_codes, failed.summary["status"]) == ([1], "failed")
    assert failed.summary["error"] == "RuntimeError: out of luck"
    assert sum(f"loss/{task}" in row for row in failed.history) == 2  # what led to it
    stopped(config, task, 3, Interrupted(15))
    assert Kept(Path(config.results_dir), name).summary["status"] == "interrupted"


def test_overwrite_begins_another_run(small) -> None:
    first = kept(run(small("logger=wandb", "seed=3"), "python run.py", quiet()))
    again = kept(run(small("logger=wandb", "seed=3", "overwrite=true"), "python run.py", quiet()))
    assert first.id != again.id
    assert len(again.pieces) == 1
    assert again.history[0]["_step"] == 0


def test_the_runs_of_a_sweep_are_runs_of_one_group(finished: RunDirectory, seen: Kept, small) -> None:
    other = kept(run(small("logger=wandb", "method=clora_xs", "seed=4"), "python run.py", quiet()))
    assert other.id != seen.id
    assert other.run.run_group == seen.run.run_group
    assert (seen.run.job_type, other.run.job_type) == ("lora", "clora_xs")
    assert (seen.exit_codes, other.exit_codes) == ([0], [0])
    elsewhere = kept(run(small("logger=wandb", "eval_split=validation"), "python run.py", quiet()))
    assert elsewhere.run.run_group != seen.run.run_group  # its accuracies mean something else
    named = kept(run(small("logger=wandb", "logger.wandb.group=mine", "seed=6"), "python run.py", quiet()))
    assert named.run.run_group == "mine"


def test_adapters_stay_here_where_they_are_not_wanted(small) -> None:
    folder = run(small("logger=wandb", "logger.wandb.adapters=false", "seed=7"), "python run.py", quiet())
    assert not [artifact for artifact in kept(folder).of("artifact") if artifact.type == "adapter"]


def typed(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run run.py online, at a home where nobody has logged in."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "run.py", "logger=wandb", *words]
    environment = own | {"HOME": str(home), "CLORA_EXP_CACHE": str(cache_dir())} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_without_an_api_key_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = typed(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (
        "error: logger=wandb needs an API key: run wandb login, or set WANDB_API_KEY; without one log offline, "
        "WANDB_MODE=offline python run.py …, and upload later with wandb sync"
    )


def test_an_api_key_that_cannot_be_one_is_one_line(tmp_path: Path) -> None:
    done = typed(tmp_path, WANDB_API_KEY="short")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: logger=wandb: WANDB_API_KEY invalid: ")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_where_the_network_is_down_the_run_is_logged_offline(tmp_path: Path, tiny_bert: Path) -> None:
    down = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    done = typed(tmp_path, "method=frozen", *_tiny(tiny_bert, tmp_path / "runs"), **down)
    assert done.returncode == 0, done.stderr
    assert "wandb: offline (" in done.stdout
    (note,) = (tmp_path / "runs" / ".wandb").glob("*.json")
    read = Kept(tmp_path / "runs", note.stem)
    assert (read.exit_codes, read.summary["status"]) == ([0], "done")
    assert f"wandb sync {tmp_path / 'runs'}/.wandb/offline-run-*-{read.id}" in done.stdout


@pytest.mark.slow
def test_a_typed_sweep_is_one_group_of_a_run_each(tmp_path: Path, tiny_bert: Path) -> None:
    words = ["run.py", "-m", "logger=wandb", "method=frozen", "seed=0,1", *_tiny(tiny_bert, tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (Kept(tmp_path, note.stem) for note in sorted((tmp_path / ".wandb").glob("*.json")))
    assert first.id != second.id
    assert first.run.run_group == second.run.run_group
    assert [first.config["seed"], second.config["seed"]] == [0, 1]
    assert first.config["setting"] == second.config["setting"]
    assert (first.exit_codes, second.exit_codes) == ([0], [0])
