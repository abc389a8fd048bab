"""`--help` and `--cfg job`: one screen, taken from the files, quick."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clora_exp import help as help_
from clora_exp.compose import CONF, compose_raw

ROOT = Path(__file__).parent.parent


def test_help_fits_a_screen_and_names_every_method_stream_and_model() -> None:
    lines = help_.help_text().splitlines()
    assert len(lines) <= 70
    assert max(map(len, lines)) <= 80
    for group in ("method", "tasks", "model"):
        for path in (CONF / group).glob("*.yaml"):
            if group == "model" and "path: null" not in path.read_text():  # all in one line
                assert any(line.startswith("  from the Hub ") and path.stem in line for line in lines)
                continue
            assert any(line.split()[:1] == [path.stem] and len(line.split()) > 3 for line in lines), path
    assert sum("python run.py" in line for line in lines) == 3
    assert not any("…" in line and "=…" not in line for line in lines)  # nothing had to be cut


@pytest.mark.parametrize("key", help_.OPTIONS)
def test_every_option_shown_exists_and_says_what_it_means(key: str) -> None:
    assert help_.meaning(key)
    node = compose_raw([])
    for part in key.split("."):
        assert part in node
        node = node[part]


@pytest.mark.parametrize("flag", ["--cfg", "-c"])
def test_the_configuration_fits_a_screen_and_reads_back_as_what_composes(flag: str) -> None:
    text = help_.answer(["method=clora_gated", flag, "job", "seed=3"])
    assert text is not None
    assert len(text.splitlines()) <= 54
    assert max(map(len, text.splitlines())) <= 80
    read = yaml.safe_load(text)
    assert (read["method"]["name"], read["seed"], read["method"]["gate"]) == ("clora_gated", 3, "scalar")
    assert set(read) == {"method", "tasks", "model", "trainer", "scenario", "seed", "data_seed", "eval_split",
                         "results_dir", "dry_run", "overwrite", "report", "reproduce", "store"}  # fmt: skip


@pytest.mark.parametrize(
    "words", [["method=lora"], ["--hydra-help"], ["--cfg", "hydra"], ["--cfg", "job", "-p", "method"]]
)
def test_a_run_and_what_is_hydras_are_left_alone(words: list[str]) -> None:
    assert help_.answer(words) is None


def test_neither_imports_torch() -> None:
    script = (
        "import sys, run; from clora_exp.help import answer; answer(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    for words in (["--help"], ["--cfg", "job"]):
        assert subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--cfg", "job"]])
def test_run_py_answers_with_status_0(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "clora" in done.stdout


def test_a_mistake_beside_cfg_is_one_line_and_status_2() -> None:
    words = [sys.executable, "run.py", "--cfg", "job", "method=lroa"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown method 'lroa'; have: ")


def test_a_reader_that_has_enough_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "run.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as head does
    assert process.stderr.read() == ""
    assert process.wait() == 141
