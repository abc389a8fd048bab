"""Several processes of one run: each has its share of a batch, and together they learn what one learns."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_run import ROOT

from clora_exp import processes
from clora_exp.errors import ConfigError
from clora_exp.methods.suitable import check_strategies
from clora_exp.runs import read_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "run.py"]
SMALL = ["model=vit_digits", "tasks=split_digits", "tasks.digits.num_tasks=2", "report=false"]


def as_one_of(monkeypatch, rank: int, world: int) -> None:
    """Let this process believe that torchrun has started it."""
    for name, value in {"RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")


def test_without_torchrun_a_run_has_one_process_whatever_a_cluster_sets(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert (processes.world_size(), processes.rank(), processes.launcher()) == (1, 0, ["python"])
    assert processes.sums(1.5, 2.0) == [1.5, 2.0]
    assert processes.gathered("own") == ["own"]
    assert [processes.any_of(claim) for claim in (True, False)] == [True, False]


@pytest.mark.parametrize(("num_rows", "world"), [(16, 2), (7, 3), (3, 3), (1, 2), (2, 3)])
def test_shares_are_the_batch_and_batches_too_small_to_share_are_everybodys(monkeypatch, num_rows, world) -> None:
    rows, shares = list(range(num_rows)), []
    for rank in range(world):
        as_one_of(monkeypatch, rank, world)
        shares.append(list(processes.share(rows)))
    if num_rows < world:
        assert shares == [rows] * world
    else:
        assert sorted(row for share in shares for row in share) == rows
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_every_process_measures_other_batches_and_all_measure_everything(monkeypatch, tiny) -> None:
    from clora_exp.methods.base import Method
    from clora_exp.tasks.stream import load_stream

    config = tiny("method=lora")
    stream = load_stream(config.tasks, 0)
    split = Method(config, stream).encode(0, stream.tasks[0], "train")
    found = []
    for rank in range(2):
        as_one_of(monkeypatch, rank, 2)
        found += [row for batch in split.evaluation_batches(8) for row in batch.rows.tolist()]
        trained = [len(batch.rows) for batch in split.training_batches(8, 0)]
        assert sorted(trained) == [2, 4, 4, 4, 4]  # of 36 in batches of 8
    assert sorted(found) == list(range(36))


def test_what_needs_one_process_says_so_before_any_work(monkeypatch, tiny) -> None:
    check_strategies(tiny("method=der"))
    as_one_of(monkeypatch, 0, 2)
    check_strategies(tiny("method=gem"))
    with pytest.raises(ConfigError, match=r"method\.der: runs in one process: its memory .*; leave torchrun out"):
        check_strategies(tiny("method=der"))


def test_a_sweep_over_several_processes_is_refused_with_the_alternative() -> None:
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    words = [sys.executable, "run.py", "-m", "method=lora,clora"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {processes.NO_SWEEP}\n"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "scenario"), [("gem", "task_incremental"), ("clora_replay", "class_incremental")])
def test_two_processes_learn_what_one_learns(method: str, scenario: str) -> None:
    spec = importlib.util.spec_from_file_location("distribution", ROOT / "experiments/robustness/distribution.py")
    assert spec is not None
    assert spec.loader is not None
    distribution = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(distribution)
    row = distribution.compare(method, scenario, more=["tasks.digits.num_tasks=3", "trainer.epochs=1"])
    assert row.losses == 75
    assert row.is_right, row
    assert not row.refused


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_as_one(tmp_path: Path) -> None:
    """A session's checkpoint knows nothing of how many took its steps."""
    words = ["method=clora", *SMALL, f"results_dir={tmp_path}", "trainer.epochs=12", "trainer.checkpoint_every=0.5"]
    process = subprocess.Popen([*TORCHRUN, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.rglob("session.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert "the same command goes on: torchrun --nproc-per-node=2 run.py method=clora" in stderr
    (status,) = tmp_path.rglob("STATUS")
    assert status.read_text() == "interrupted\nstopped by SIGTERM\n"
    once = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert once.returncode == 0, once.stderr
    assert "after step " in once.stdout
    run = read_run(status.parent)
    assert run.status == "done"
    losses = run.history[run.history.metric == "train_loss"]
    assert losses.step.tolist() == [*range(1, len(losses) // 2 + 1)] * 2


def test_a_run_is_reproduced_in_one_process() -> None:
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    words = [sys.executable, "run.py", "reproduce=nowhere"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: reproduce=nowhere runs in one process; leave torchrun out\n")
