"""The benchmarks measure what they say; their figures are never asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KEYS = {
    "step_ratio_clora",
    "step_ratio_clora_gated",
    "step_ratio_clora_xs",
    "mixed_ratio_32",
    "mixed_ratio_1000",
    "added_over_peft_32",
    "added_over_peft_1",
    "switch_p99_ms_1",
    "switch_p99_ms_100",
    "switch_p99_ms_1000",
    "bytes_ratio_xs",
    "compiled_ratio",
}


def figures_of(script: str, *words: str, says: str = "") -> dict:
    """Run a benchmark with these words; return the figures of its last line. `says` stands on standard error."""
    command = [sys.executable, f"benchmarks/{script}.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert says in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_adapters_benchmark_ends_with_its_figures_by_name(tmp_path: Path) -> None:
    figures = figures_of("adapters", "--rounds", "1", "--rows", "4", "--out", str(tmp_path))
    assert set(figures) == KEYS
    assert figures["bytes_ratio_xs"] > 40  # of files, so no matter of time
    assert (tmp_path / "adapters.md").read_text().count("\n| ") == len(KEYS) + 2


@pytest.mark.slow
def test_the_methods_benchmark_ends_with_its_figures_by_name(tmp_path: Path) -> None:
    """Part one alone: no environment with Avalanche is named."""
    words = ["--rounds", "2", "--tasks", "1,2", "--methods", "lora,gem,replay", "--out", str(tmp_path)]
    figures = figures_of("methods", *words, says="--peer")
    names = ["lora", "gem", "replay"]
    at_each = {f"{what}_{t}_{name}" for what in ("step_ms", "step_ratio", "bytes") for t in (1, 2) for name in names}
    assert set(figures) == at_each | {f"growth_{name}" for name in names}
    assert figures["bytes_1_lora"] == figures["bytes_2_lora"]  # one pair for all tasks
    assert figures["bytes_2_gem"] > figures["bytes_1_gem"] > figures["bytes_1_lora"]  # as many examples a task
    assert (tmp_path / "methods.md").read_text().count("\n| `") == 2 * len(names)


@pytest.mark.slow
def test_the_loop_benchmark_compares_equal_work(tmp_path: Path) -> None:
    """Without Avalanche: no environment with it is named."""
    words = ["--rounds", "2", "--steps", "1", "--examples", "32", "--lengths", "24", "--out", str(tmp_path)]
    figures = figures_of("loop", *words, says="--peer")
    parts = ("both", "train", "evaluate")
    same = {f"same_{part}_over_{other}" for part in parts for other in ("plain", "trainer")}
    own = {f"own_24_{name}_over_trainer" for name in ("lora", "lora_per_task")}
    apart = {"losses_apart_plain", "losses_apart_trainer"}
    assert set(figures) == same | own | apart | {"own_24_tokens"}
    assert all(figures[name] <= 1e-5 for name in apart)
    assert figures["own_24_tokens"] < 1  # less padding, counted
    assert (tmp_path / "loop.md").read_text().count("\n| ") == 2 + 3 + 2 + 4


@pytest.mark.slow
def test_the_long_sequence_benchmark_ends_with_its_figures_by_name(tmp_path: Path) -> None:
    words = ["--tasks", "6", "--rounds", "2", "--steps", "2", "--starts", "1", "--memory", "--out", str(tmp_path)]
    figures = figures_of("long_sequence", *words)
    assert figures["evaluations"] == 12  # each task once before the first, and once when it has been learned
    methods = ("clora_xs", "replay")
    assert all(figures[f"{what}_grown_{name}"] <= 0 for what in ("descriptors", "threads") for name in methods)
    assert {"train_ratio", "evaluation_growth", "start_s_help", "start_s_cfg_job", "rest_growth"} <= set(figures)
    assert "## Memory" in (tmp_path / "long_sequence.md").read_text()


@pytest.mark.slow
def test_the_stored_tasks_benchmark_ends_with_its_figures_by_name(tmp_path: Path) -> None:
    store = tmp_path / "store"
    few = ["trainer.max_steps=1", "tasks.icd10.test_per_class=1", "tasks.licences.test_per_class=2", "report=false"]
    words = ["method=clora_xs", "tasks.libraries.test_per_class=1", f"results_dir={tmp_path}", f"store.path={store}"]
    subprocess.run([sys.executable, "run.py", *few, *words], cwd=ROOT, check=True, capture_output=True)
    words = ["--tasks", "1,3", "--peft-most", "3", "--cycles", "3", "--rounds", "2", "--foreign", "100"]
    figures = figures_of("stored_tasks", *words, "--store", str(store), "--out", str(tmp_path))
    rates = {f"{side}_{count}" for side in ("engine", "peft", "cache") for count in (1, 3)}
    alone = {"cold_load_ms", "switch_p99_ms", "identify_ms", "rollback_ms"}
    alone |= {f"{name}_over_bare" for name in ("mixed", "one_task", "mixed_long")}
    lists = {"list_1000_s", "list_1000_process_s", "reindex_1000_s"}
    assert set(figures) == rates | alone | lists | {"growth_mb"}
    assert all(figures[name] > 0 for name in rates | alone | lists)
    assert (tmp_path / "stored_tasks.md").read_text().count("\n| ") == 2 + len(alone | lists) + 1 + 2 + 2
