"""A sweep does what is missing, says at once what fails, and stops for nothing but a signal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clora_exp.errors import ConfigError, RunError

ROOT = Path(__file__).parent.parent.parent
DIGITS = ["tasks=split_digits", "model=vit_digits", "trainer.accelerator=cpu", "report=false"]


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_repeated_sweep_runs_only_what_is_missing(swept, tmp_path: Path) -> None:
    status, out, err = swept("method=lora", "seed=0")
    assert (status, err) == (0, "")
    assert "job 1/1 done after" in out
    before = _files(tmp_path / "runs")
    status, out, _ = swept("method=lora", "seed=0,1")
    assert status == 0
    assert "job 1/2 done before: seed=0" in out
    assert "job 2/2  seed=1" in out
    assert "2 jobs: 1 done before, 1 done, in" in out
    after = _files(tmp_path / "runs")
    assert {name: after[name] for name in before} == before
    assert len(list((tmp_path / "runs").rglob("STATUS"))) == 2
    status, out, _ = swept("method=lora", "seed=0,1")
    assert (status, "2 jobs: 2 done before" in out, _files(tmp_path / "runs")) == (0, True, after)


def test_a_sweep_leaves_nothing_beside_its_runs(swept, tmp_path: Path) -> None:
    swept("method=frozen", "seed=0,1")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["words"]


def test_a_failed_job_is_said_at_once_and_in_the_end_and_stops_no_other(swept, tmp_path: Path) -> None:
    status, out, err = swept("method=lora", "method.learning_rate=1e6,1e-3")
    assert status == 2
    first, listed, command, again = err.strip().splitlines()
    assert first.startswith("job 1/2 failed: method.learning_rate=1000000.0: the loss became nan in step")
    assert listed.startswith("  job 1/2 failed: the loss became nan in step")
    assert command.startswith("    python run.py ")
    assert "method.learning_rate=1000000.0" in command
    assert again.startswith("the same command does what is missing: python run.py -m ")
    assert "2 jobs: 1 done, 1 failed, in" in out
    states = sorted(path.read_text().splitlines()[0] for path in (tmp_path / "runs").rglob("STATUS"))
    assert states == ["done", "failed"]


def test_a_bug_has_status_1_and_its_traceback_is_kept(swept, tmp_path: Path) -> None:
    status, _, err = swept("method=lora", "+method.faulty.fails=true,false")
    assert status == 1
    (kept,) = (tmp_path / "runs" / ".sweeps").glob("*/*.txt")
    line = err.splitlines()[0]
    assert line.startswith("job 1/2 failed: +method.faulty.fails=True: ZeroDivisionError: a bug (traceback: ")
    assert line.endswith(f"{kept})")
    assert 'raise ZeroDivisionError("a bug' in kept.read_text()
    (log,) = [path for path in (tmp_path / "runs").rglob("run.log") if "Traceback" in path.read_text()]
    assert (log.parent / "STATUS").read_text().startswith("failed\nZeroDivisionError: a bug")


def test_a_value_that_cannot_be_fails_its_own_job_only(swept) -> None:
    status, out, err = swept("method=frozen", "trainer.batch_size=0,4")
    assert status == 2
    assert err.startswith("job 1/2 failed: trainer.batch_size=0: trainer.batch_size=0: must be greater than 0\n")
    assert "2 jobs: 1 done, 1 failed" in out


def test_what_does_not_compose_is_refused_before_any_job(words: list[str], swept, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lroa'; have: .*Did you mean 'lora'"):
        swept("method=frozen,lroa")
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_one_line(swept) -> None:
    with pytest.raises(RunError, match=r"^results_dir=/proc/nowhere: cannot be written: No such file or directory$"):
        swept("method=frozen", "results_dir=/proc/nowhere")


def test_a_launcher_that_is_not_there_names_what_installs_more(swept) -> None:
    with pytest.raises(ConfigError, match=r"unknown hydra/launcher 'jobli'.*pip install -e '\.\[launchers\]'"):
        swept("method=frozen,lora", "hydra/launcher=jobli")


def test_a_dry_run_of_a_sweep_is_its_table_and_writes_nothing(swept, tmp_path: Path) -> None:
    status, out, err = swept("method=lora,frozen", "seed=0,1", "dry_run=true")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.strip().splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert {"method=lora", "seed=0"} <= set(rows[0])
    assert not (tmp_path / "runs").exists()
    swept("method=frozen", "seed=1")
    before = _files(tmp_path)
    rows = [line.split() for line in swept("method=lora,frozen", "seed=0,1", "dry_run=true")[1].strip().splitlines()]
    assert [row[1] for row in rows[1:]] == ["to", "to", "to", "done"]
    assert _files(tmp_path) == before


def test_overwrite_runs_again_what_is_done(swept, tmp_path: Path) -> None:
    swept("method=frozen")
    (first,) = (tmp_path / "runs").rglob("run.log")
    before = first.stat().st_mtime_ns
    _, out, _ = swept("method=frozen", "overwrite=true")
    assert "1 job: 1 done, in" in out
    assert first.stat().st_mtime_ns > before


def _until(claim, seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _begin(*overrides: str) -> subprocess.Popen[str]:
    words = [sys.executable, "run.py", "-m", *DIGITS, *overrides]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_sweep_killed_half_way_and_repeated_does_only_what_is_missing(tmp_path: Path) -> None:
    """SIGKILL in the second job: the first one is left alone, the second goes on, the third begins."""
    words = ["method=lora", "seed=0,1,2", "trainer.epochs=3", "tasks.digits.num_tasks=2", f"results_dir={tmp_path}"]
    running = _begin(*words)
    _until(lambda: list(tmp_path.rglob("*-s1/adapters/0-4")))
    running.kill()
    running.communicate()
    (first,) = tmp_path.rglob("*-s0")
    before = _files(first)
    again = _begin(*words)
    out, err = again.communicate(timeout=600)
    assert (again.returncode, err) == (0, "")
    assert "job 1/3 done before" in out
    assert "resumed" in out
    assert "3 jobs: 1 done before, 2 done" in out
    assert _files(first) == before
    assert [path.name for path in tmp_path.iterdir()] == ["split_digits"] or (tmp_path / ".sweeps").exists()


@pytest.mark.slow
def test_a_signal_in_the_first_job_stops_the_sweep(tmp_path: Path) -> None:
    """In a later one: `test_surroundings.py`."""
    running = _begin("method=lora", "seed=0,1", "trainer.epochs=300", f"results_dir={tmp_path}")
    _until(lambda: list(tmp_path.rglob("*-s0/run.log")))
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; what was finished is kept, the same command goes on: " in err
    assert "2 jobs: 2 not done" in out
    assert not list(tmp_path.rglob("*-s1"))


@pytest.mark.slow
def test_joblib_runs_jobs_side_by_side_and_divides_the_threads(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["method=frozen,full", "method.learning_rate=1e-4,1e6", "trainer.max_steps=3", f"results_dir={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "run.py", "-m", *DIGITS, *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "job 4/4 failed: method=full method.learning_rate=1000000.0: " in done.stderr
    assert "4 jobs: 3 done, 1 failed" in done.stdout
    threads = [json.loads(path.read_text())["torch_threads"] for path in tmp_path.rglob("environment.json")]
    assert threads == [max(1, len(os.sched_getaffinity(0)) // 2)] * 4
    (log,) = (tmp_path / ".sweeps").glob("*/*.log")
    assert log.name == "4.log"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_other_launchers_run_two_jobs(launcher: str, tmp_path: Path) -> None:
    package = {"submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}[launcher]
    pytest.importorskip(f"hydra_plugins.{package}")
    words = ["method=frozen", "seed=0,1", "trainer.max_steps=2", f"results_dir={tmp_path}"]
    command = [sys.executable, "run.py", "-m", *DIGITS, *words, f"hydra/launcher={launcher}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 jobs: 2 done" in done.stdout
    assert not (tmp_path / ".sweeps").exists()
