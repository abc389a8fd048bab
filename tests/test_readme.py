"""What the README says is so: its paths exist, its commands run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import known_runs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PYTHON = [command for command in COMMANDS if command.startswith("python ")]
FEW = [
    "trainer.max_steps=2",
    "tasks.icd10.test_per_class=2",
    "tasks.licences.test_per_class=5",
    "tasks.libraries.test_per_class=3",
    "trainer.accelerator=cpu",
]


def test_the_two_commands_stand_at_the_top() -> None:
    assert COMMANDS[:2] == ["make run", "make test"]
    assert README.index("make run") < 1500


def test_every_path_of_the_table_exists() -> None:
    table = README[README.index("| I want") :].split("\n\n")[0]
    paths = [path for path in re.findall(r"`([^`]+)`", table) if "/" in path or path.endswith(".md")]
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    runs = tmp_path_factory.mktemp("runs")
    words = [sys.executable, "run.py", "method=clora_xs", *FEW, f"results_dir={runs}", "report=false"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return next(runs.rglob("STATUS")).parent


@pytest.mark.slow
@pytest.mark.parametrize("command", PYTHON)
def test_every_python_command_runs(command: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    given = {"FOLDER": tmp_path / "out", "TASK": "legal"}
    for word in {"RUN", "RUN_A", "RUN_B"} & set(command.split()):
        given[word] = request.getfixturevalue("finished")
    if "RUNS" in command.split():
        given["RUNS"] = known_runs(tmp_path / "runs")
    words = [str(given.get(word, word)) for word in shlex.split(command)[1:]]
    if "tasks.path=FOLDER" in words:  # an export is such a folder
        export = [sys.executable, "-m", "clora_exp.tasks", "export", "med_legal_code", str(given["FOLDER"])]
        subprocess.run(export, cwd=ROOT, check=True, capture_output=True)
        words = [word.replace("FOLDER", str(given["FOLDER"])) for word in words]
    if "tasks=files" in words:
        few = ["trainer.max_steps=2", "trainer.max_eval_examples=20", "trainer.accelerator=cpu"]
        words += [*few, f"results_dir={tmp_path}"]
    elif words[0] == "run.py" and "tasks=split_digits" in words:
        words += ["trainer.max_steps=2", f"results_dir={tmp_path}"]
    elif words[0] == "run.py":
        words += [*FEW, f"results_dir={tmp_path}"]
    elif words[:2] == ["-m", "clora_exp.search"]:
        words += ["trainer.max_steps=2", f"results_dir={tmp_path}"]
    elif words[0].startswith("benchmarks/"):
        words += ["--pairs", "2", "--steps", "3"]
    if words[0] == "run.py" and "-m" not in words and command != PYTHON[0]:
        words.append("report=false")  # its figures are drawn once
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    expected = 2 if "lroa" in command else 0
    assert done.returncode == expected, done.stderr
