"""`python run.py` as a person types it: one clear line and status 2 for what can be mended, and no traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent


def run_py(*overrides: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "run.py", *overrides], cwd=ROOT, capture_output=True, text=True, **options)


def have(group: str) -> str:
    return ", ".join(sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method=lroa"], f"error: unknown method 'lroa'; have: {have('method')}. Did you mean 'lora'?"),
        (
            ["tasks=med_legal_cod"],
            f"error: unknown tasks 'med_legal_cod'; have: {have('tasks')}. Did you mean 'med_legal_code'?",
        ),
        (["method.rank=0"], "error: method.rank=0: must be greater than 0"),
        (["trainer.learning_rate=0"], "error: trainer.learning_rate=0: must be greater than 0"),
        ([f"results_dir={__file__}"], f"error: results_dir={__file__}: cannot be written: {__file__} is no directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(overrides: list[str], line: str) -> None:
    done = run_py(*overrides)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, line, "")


@pytest.mark.parametrize("override", ["trainer.epoch=3", "+trainer.epoch=3"])
def test_a_misspelt_key_names_the_nearest_field(override: str) -> None:
    done = run_py(override)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown key trainer.epoch=3: ")
    assert done.stderr.strip().endswith("Did you mean 'epochs'?")
    assert len(done.stderr.strip().splitlines()) == 1


def _tiny(tiny_bert: Path, results: Path) -> list[str]:
    return [
        f"model.path={tiny_bert}",
        f"results_dir={results}",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "model.text_encoder.max_length=16",
        "tasks.icd10.train_per_class=2",
        "tasks.licences.train_per_class=2",
        "tasks.libraries.train_per_class=2",
    ]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=null"], "write method=<name>; have:"),
        (["method=[lora,ewc]"], "method=[lora,ewc]: write method=<name>; have:"),
        (["method=../tasks/files"], "method=../tasks/files: write method=<name>; have:"),
        (["method=lora", "+method=clora"], "+method=clora: write method=<name>; have:"),
        (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
        (["seed=${data_seed}", "data_seed=${seed}"], "Recursive interpolation"),
        (["=3"], "cannot read '=3': write key=value"),
        (["seed=1", "-m", "method=lora,clora"], "write options first, then settings"),
        (["--nope"], "--nope; write options first, then settings"),
        (
            ["-m", "trainer.epochs=glob(*)"],
            "glob chooses among experiment, logger, method, model, tasks, trainer alone",
        ),
        (["method.rank=100000"], "method.rank=100000: "),
        (["results_dir="], "results_dir=: must be the name of a folder"),
        ([f"results_dir={'x' * 300}"], "cannot be written: File name too long"),
        (["method.learning_rate=1e38"], "method.learning_rate=1e+38: must be less than or equal to 1000000"),
        (["tasks=files", "tasks.files.label_column=text"], "text_column and label_column are both 'text'"),
        (["+method=lora"], "write method=<name>; have:"),
        (["experiment=task_order", "method=lora"], "is a sweep: python run.py -m experiment=task_order"),
        (["-m", "method.rank=interval(1,2)"], "an interval is for a search"),
        (["method=lora,clora"], "several values need a sweep, python run.py -m method=lora,clora"),
        (["-m", "trainer.epoch=1,2"], "Did you mean 'epochs'?"),
        (["tasks.icd10=null"], "tasks.icd10=None: must be a section"),
        (["method.target_modules=[]"], "method.target_modules=[]: "),
        (["tasks.order=[]"], "tasks.order=[]: "),
        (["tasks.icd10.name=legal"], "tasks: task name 'legal' is used twice; names must differ"),
        (["model.package=null"], "set model.path to a folder"),
    ],
)
def test_the_less_usual_mistakes_are_one_line_too(overrides: list[str], says: str) -> None:
    done = run_py(*overrides)
    assert done.returncode == 2
    assert "learns" not in done.stdout
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_layers_that_are_not_there_are_refused_before_model_and_data() -> None:
    code = "import sys, run; run.cli(); print([m for m in ('transformers', 'pytorch_lightning') if m in sys.modules])"
    for override, says in (
        (
            "method.target_modules=[qury]",
            "'qury' matches no linear layer; have: dense, key, query, value. Did you mean",
        ),
        ("model.text_encoder.target_modules=[q_proj]", "'q_proj' matches no linear layer; have: dense, key, query,"),
    ):
        done = subprocess.run([sys.executable, "-c", code, override], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.strip() == "[]"
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_gpu_that_is_not_there_and_a_rank_too_high_are_one_line(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        done = run_py("trainer.accelerator=gpu", f"results_dir={tmp_path}")
        assert (done.returncode, done.stderr) == (
            2,
            "error: trainer.accelerator=gpu: there is none here; have: auto, cpu\n",
        )
        assert list(tmp_path.iterdir()) == []
    done = run_py("method=clora_xs", "method.rank=400", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "method.rank=400: " in done.stderr
    assert "has rank 384" in done.stderr


@pytest.mark.slow
def test_target_modules_that_match_nothing_list_what_there_is(tmp_path: Path) -> None:
    done = run_py("method.target_modules=[qury]", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "'qury' matches no linear layer; have: dense, key, query, value. Did you mean 'query'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tiny_bert: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "run.py",
        "method=lora",
        *_tiny(tiny_bert, tmp_path),
        "trainer.max_steps=150",
        "trainer.epochs=400",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("adapters/medical")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "the same command goes on: python run.py method=lora" in stderr
    (status,) = tmp_path.rglob("STATUS")
    assert status.read_text().startswith("interrupted\nstopped by SIGINT")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "resumed  after" in again.stdout
    assert status.read_text() == "done\n"


@pytest.mark.slow
def test_a_multirun_runs_every_job_and_leaves_nothing_beside_the_runs(tiny_bert: Path, tmp_path: Path) -> None:
    tools = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}  # tests beside this one may make them
    before = {p.name for p in ROOT.iterdir()} | tools
    done = run_py("-m", "method=frozen,clora_xs", "seed=0,1", *_tiny(tiny_bert, tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 4
    assert {p.name for p in ROOT.iterdir()} | tools == before
    assert [p.name for p in tmp_path.iterdir()] == ["med_legal_code"]
