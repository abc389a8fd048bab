"""Hostile surroundings: a full disk, a read-only folder, two processes, a clock that goes back, signals everywhere."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from test_run import ROOT, _tiny, run_py
from trials import content, quiet

from clora_exp import loop
from clora_exp.compose import compose_experiment
from clora_exp.errors import DataError, Interrupted, ModelError, RunError
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import ingredients, run
from clora_exp.models.recipes import digits_rotations
from clora_exp.models.weights import make_weights
from clora_exp.reports.run import write_report
from clora_exp.results import RunDirectory
from clora_exp.runs import check_writable
from clora_exp.session import Session
from clora_exp.tasks.stream import load_stream

HOLD = "import sys; from pathlib import Path; from clora_exp.locks import held\n"
HOLD += "with held(Path(sys.argv[1]), 'python run.py seed=7'): print('held', flush=True); sys.stdin.readline()"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> Path:
    """Take what room there is; return the file to remove."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return disk / "ballast"


def folder_of(config) -> Path:
    return RunDirectory(config, *ingredients(config, quiet())).path


@pytest.mark.parametrize("number", [1, 3, 5, 9, 13, 22, 29])
def test_a_disk_that_fills_is_one_error_and_with_room_the_same_bytes_come(number: int, tiny, disk, monkeypatch) -> None:
    whole = content(run(tiny("method=lora"), "", quiet()))
    config, writes = tiny("method=lora", f"results_dir={disk}"), []

    def filling(make):
        def made(*arguments, **more):
            writes.append(more)
            if len(writes) == number:
                fill(disk)
            return make(*arguments, **more)

        return made

    says = rf"{disk}.*No space left on device.*the same command goes on"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", filling(tempfile.mkstemp))
        patch.setattr(tempfile, "mkdtemp", filling(tempfile.mkdtemp))
        with pytest.raises(RunError, match=says) as caught:
            run(config, "", quiet())
    assert len(str(caught.value).splitlines()) == 1
    name = writes[number - 1]["prefix"][1:-1]
    assert re.search(rf"/{re.escape(name)}\b", str(caught.value))
    there = content(RunDirectory(config, *ingredients(config, quiet())))
    assert {name: found for name, found in there.items() if name.startswith("adapters/")}.items() <= whole.items()
    (disk / "ballast").unlink()
    assert content(run(config, "", quiet())) == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_without_room_is_one_error_that_names_it(tiny) -> None:
    config = tiny("method=lora")
    folder = folder_of(config)
    folder.mkdir(parents=True)
    (folder / "run.log").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"/run\.log: No space left on device; .* the same command goes on"):
        run(config, "", quiet())
    (folder / "run.log").unlink()
    assert run(config, "", quiet()).status == "done"


def test_a_report_without_room_is_one_error_and_comes_later(tiny, disk) -> None:
    run(tiny("method=frozen", f"results_dir={disk}"), "", quiet())
    ballast, config = fill(disk), tiny("method=frozen", f"results_dir={disk}", "report=true")
    with pytest.raises(RunError, match=r"/figures.*: No space left on device; .* the same command goes on"):
        run(config, "", quiet())
    assert not (folder_of(config) / "report.md").exists()
    ballast.unlink()
    assert (run(config, "", quiet()).path / "report.md").exists()


def test_a_cache_without_room_is_one_error_and_leaves_no_part(tiny, disk, monkeypatch) -> None:
    monkeypatch.setenv("CLORA_EXP_CACHE", str(disk / "cache"))
    ballast = fill(disk)
    with pytest.raises(
        DataError, match=r"CLORA_EXP_CACHE=.*: cannot be written: No space left on device, .*\.jsonl; the"
    ):
        load_stream(tiny().tasks, 0)
    assert [path for path in (disk / "cache").rglob("*") if path.is_file()] == []
    ballast.unlink()
    assert load_stream(tiny().tasks, 0).names == ["first", "second", "third"]


def test_weights_without_room_are_one_error_and_are_made_later(tiny, disk, monkeypatch) -> None:
    monkeypatch.setenv("CLORA_EXP_CACHE", str(disk / "cache"))
    monkeypatch.setattr(digits_rotations, "STEPS", 3)
    ballast, model = fill(disk), tiny("model=vit_digits", "model.path=null").model
    with pytest.raises(ModelError, match=r"CLORA_EXP_CACHE=.* cannot be written: .*(?i:no space left)") as caught:
        make_weights(model, quiet().making)
    assert len(str(caught.value).splitlines()) == 1
    assert [path for path in (disk / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    ballast.unlink()
    make_weights(model, quiet().making)
    assert (digits_rotations.folder() / "model.safetensors").exists()


@pytest.mark.slow
def test_a_full_disk_is_status_2_and_a_line(tiny_bert: Path, disk: Path) -> None:
    fill(disk)
    done = run_py("method=lora", *_tiny(tiny_bert, disk / "runs"))
    assert done.returncode == 2
    assert re.fullmatch(r"error: results_dir=.*: No space left on device, .*the same command goes on.*\n", done.stderr)


def test_a_finished_run_in_a_read_only_folder_is_printed_and_another_refused_before_work(
    tiny, disk, monkeypatch
) -> None:
    settings = [f"results_dir={disk}", "report=true"]
    run(tiny("method=frozen", f"results_dir={disk}"), "", quiet())
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    check_writable(tiny("method=frozen", *settings))
    terminal = quiet()
    run(tiny("method=frozen", *settings), "", terminal)
    assert "done already" in terminal.console.file.getvalue()
    assert "not written: " in terminal.console.file.getvalue()
    for refused in (tiny("method=lora", *settings), tiny("method=frozen", "overwrite=true", *settings)):
        with pytest.raises(RunError, match=r"cannot be written: no permission in .*, or it is read-only$"):
            check_writable(refused)
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("work"))
    with pytest.raises(RunError, match="cannot be written: Read-only file system"):
        run(tiny("method=lora", *settings), "", quiet())


def test_a_run_has_one_writer_who_is_named_and_any_reader(tiny) -> None:
    config = tiny("method=frozen")
    folder = run(config, "python run.py seed=7", quiet()).path
    (folder / "STATUS").write_text("running\n")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        who = rf"process {holder.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        with pytest.raises(RunError, match=rf"{who} \(python run\.py seed=7\) is writing it; wait for it, or stop it"):
            run(config, "", quiet())
        assert time.monotonic() - started < 10
        assert write_report(folder).exists()
    finally:
        holder.kill()
        holder.wait()
    assert (folder / ".holder.json").exists()  # it was killed
    assert run(tiny("method=frozen", "overwrite=true"), "", quiet()).status == "done"
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_second_process_ends_at_once_and_later_prints_what_the_first_did(tiny_bert: Path, tmp_path: Path) -> None:
    words = ["method=lora", *_tiny(tiny_bert, tmp_path)]
    first = subprocess.Popen([sys.executable, "run.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(tmp_path.rglob(".holder.json")) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it cannot end before the second has seen it
    second = run_py(*words)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert first.wait() == 0
    assert "is done already" in run_py(*words).stdout


def test_a_clock_that_goes_back_changes_no_byte_and_gives_no_negative_time(tiny, monkeypatch) -> None:
    whole = content(run(tiny("method=clora_ewc"), "", quiet()))
    config, real, calls = tiny("method=clora_ewc", "overwrite=true", "report=true"), Session.training_step, []
    now = time.time

    def step_and_turn_back(self, batch, index):
        calls.append(index)
        patch.setattr(time, "time", lambda: now() - 3600.0 * len(calls))
        return real(self, batch, index)

    terminal = quiet()
    terminal.interval_s = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(Session, "training_step", step_and_turn_back)
        folder = run(config, "", terminal)
    assert len(calls) > 20
    assert content(folder) == whole
    for name in ("metrics.csv", "cost.csv"):
        table = pd.read_csv(folder.path / name)
        assert (table[[column for column in table if "seconds" in column]] >= 0).all(axis=None)
    shown = terminal.console.file.getvalue() + (folder.path / "report.md").read_text()
    assert not re.search(r"[-−]\d+(\.\d+)? ?(s|ms|min|h)\b", shown)


def test_files_from_the_future_are_files(tiny, monkeypatch) -> None:
    whole = content(run(tiny("method=clora_replay"), "", quiet()))
    config, real, calls = tiny("method=clora_replay", "overwrite=true"), Session.training_step, []

    def step_and_stop(self, batch, index):
        calls.append(index)
        if len(calls) == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "training_step", step_and_stop)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            run(config, "", quiet())
    later = time.time() + 1e6
    for path in [*folder_of(config).rglob("*"), *Path(os.environ["CLORA_EXP_CACHE"]).rglob("*")]:
        os.utime(path, (later, later))
    assert content(run(tiny("method=clora_replay"), "", quiet())) == whole


def test_an_interrupted_setup_is_done_again(tmp_path: Path) -> None:
    """With a Python of the test's: its pip kills make the first time."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp {tmp_path}/python "$3/bin/python";;
  "-m pip "*) [ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -INT $PPID; sleep 5; exit 1; }};;
esac
"""
    )
    python.chmod(0o755)
    words = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    first = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode != 0
    assert not (tmp_path / "venv" / ".installed").exists()
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "venv" / ".installed").exists()
    calls = (tmp_path / "calls").read_text()
    assert calls.count("-m venv ") == calls.count("-m pip install") == 2
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / "calls").read_text() == calls  # what is there is not set up again


def interrupt(words: list[str], number: int, when: Path, pattern: str, is_group: bool) -> subprocess.Popen[str]:
    """Run until `pattern` is there below `when`, send the signal, to the group as a terminal does or not, and wait."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    while not list(when.rglob(pattern)) and process.poll() is None:
        time.sleep(0.1)
    (os.killpg if is_group else os.kill)(process.pid, number)
    process.said = "".join(process.communicate(timeout=120))  # type: ignore[attr-defined]
    return process


@pytest.mark.slow
def test_ctrl_c_to_make_run_ends_in_order_and_make_run_goes_on(tiny_bert: Path, tmp_path: Path) -> None:
    binary = tmp_path / "bin"
    binary.mkdir()
    few = [*_tiny(tiny_bert, tmp_path / "runs"), "trainer.max_steps=100", "trainer.epochs=400"]
    (binary / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@" {" ".join(few)}\n')
    (binary / "python").chmod(0o755)
    (tmp_path / "installed").touch()
    words = ["make", "run", f"BIN={binary}", f"INSTALLED={tmp_path / 'installed'}"]
    stopped = interrupt(words, signal.SIGINT, tmp_path, "adapters/medical", is_group=True)
    assert stopped.returncode != 0
    assert "Traceback" not in stopped.said
    assert "the same command goes on: python run.py method=clora tasks=med_legal_code" in stopped.said
    (status,) = tmp_path.rglob("STATUS")
    assert status.read_text() == "interrupted\nstopped by SIGINT\n"
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resumed  after" in again.stdout


@pytest.mark.slow
def test_a_stopped_sweep_says_its_command_which_does_what_is_missing(tiny_bert, tmp_path: Path) -> None:
    """By Ctrl-C; by SIGTERM: `sweeps/test_sweep.py`."""
    few = [*_tiny(tiny_bert, tmp_path), "trainer.max_steps=60", "trainer.epochs=400", "overwrite=true"]
    sweep = ["run.py", "-m", "method=lora", "seed=0,1,2", *few]
    words = [sys.executable, *sweep]
    stopped = interrupt(words, signal.SIGINT, tmp_path, "*-s1/adapters/medical", is_group=False)
    assert stopped.returncode == 128 + signal.SIGINT
    assert "Traceback" not in stopped.said
    statuses = {path.parent.name[-2:]: path.read_text() for path in tmp_path.rglob("STATUS")}
    assert statuses == {"s0": "done\n", "s1": "interrupted\nstopped by SIGINT\n"}
    (command,) = re.findall(r"the same command goes on: python (run\.py .*)", stopped.said)
    assert command.split() == sweep[:-1]
    again = run_py(*command.split()[1:])
    assert again.returncode == 0, again.stderr
    assert (again.stdout.count(" done before: "), again.stdout.count("resumed  after")) == (1, 1)
    assert {path.read_text() for path in tmp_path.rglob("STATUS")} == {"done\n"}


SCRIPT = """import sys
from clora_exp.compose import compose_experiment
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal

def main() -> None:
    run(compose_experiment(sys.argv[1:]), "", Terminal())

ended_in_order(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_stopped_before_training_says_its_command(number: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path / "cache"))
    words = ["run.py", "method=lora", "tasks=split_digits", "model=vit_digits", f"results_dir={tmp_path / 'runs'}"]
    stopped = interrupt([sys.executable, *words], number, tmp_path, "models/*.lock", is_group=False)  # weights are made
    assert stopped.returncode == 128 + number
    line = f"stopped by {signal.Signals(number).name}; the same command goes on: python {' '.join(words)}"
    assert stopped.said.splitlines()[-1] == line
    assert "Traceback" not in stopped.said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_script_ends_with_one_line_and_the_signals_status(number: int, tiny_bert, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    few = ["method=lora", *_tiny(tiny_bert, tmp_path / "runs"), "trainer.max_steps=400", "trainer.epochs=400"]
    words = [sys.executable, str(tmp_path / "script.py"), *few]
    stopped = interrupt(words, number, tmp_path, "adapters/medical", is_group=False)
    assert stopped.returncode == 128 + number
    assert stopped.said.splitlines()[-1].startswith(f"stopped by {signal.Signals(number).name}; finished runs are kept")
    assert "Traceback" not in stopped.said


def test_every_experiment_ends_in_order() -> None:
    for path in (ROOT / "experiments").rglob("*.py"):
        if "def main(" not in path.read_text():  # cases of another
            continue
        assert path.read_text().endswith('if __name__ == "__main__":\n    ended_in_order(main)\n'), path


def test_a_script_ends_with_one_line_and_the_status_of_run_py(capsys) -> None:
    def stopped() -> None:
        raise Interrupted(signal.SIGTERM)

    for main, status, line in (
        (lambda: compose_experiment(["method=lroa"]), 2, "error: unknown method 'lroa'; have: "),
        (stopped, 143, "stopped by SIGTERM; finished runs are kept, the same command goes on: python "),
        (lambda: None, 0, ""),
    ):
        with pytest.raises(SystemExit) as ended:
            ended_in_order(main)
        said = capsys.readouterr().err.strip()
        assert ended.value.code == status
        assert said.startswith(line)
        assert len(said.splitlines()) == bool(line)
