"""Is every malformed input one clear error, or a repair that is said? Configurations, data, artefacts of runs, models.

Run: python experiments/robustness/bad_input.py [--only data] [--every 12] (four minutes on two cores)
Writes results/robustness/bad_input/ (README.md, table.csv). The cases are in the modules bad_*.py beside this.

One process imports everything and makes what the cases start from; each case is a fork of it with a folder of its own,
in which the command runs as if it had been typed. A case passes with status 2 and one clear error, a line a problem,
that names what is wrong; or with status 0, a sentence that names the repair, and the numbers of the undamaged run.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HYDRA_FULL_ERROR": "1", "COLUMNS": "200"}

import bad_configs  # noqa: E402
import bad_data  # noqa: E402
import bad_models  # noqa: E402
import bad_runs  # noqa: E402
import bad_tables  # noqa: E402
import bad_values  # noqa: E402
import bad_yaml  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from bad_cases import COMMON, Case, Place, Skipped, Words, sha256  # noqa: E402
from encoders import save_bert, save_vit  # noqa: E402
from rich.progress import Progress  # noqa: E402

import clora_exp.adapters.__main__  # noqa: E402
import clora_exp.loop  # noqa: E402
import clora_exp.reports.__main__  # noqa: E402
import clora_exp.reproduction  # noqa: E402
import clora_exp.tasks.__main__  # noqa: E402
import run  # noqa: E402
from clora_exp.errors import Interrupted  # noqa: E402
from clora_exp.files import write_atomically  # noqa: E402
from clora_exp.interrupts import ended_in_order  # noqa: E402
from clora_exp.reports.words import markdown_row  # noqa: E402
from clora_exp.results import RunDirectory  # noqa: E402

FOLDER = ROOT / "results" / "robustness" / "bad_input"
TIMEOUT_S = 60.0
AT_ONCE = 2
MAX_LINES, MAX_WIDTH = 12, 1000  # of what an error says
COMMANDS: dict[str, Callable[[Words], int]] = {
    "run.py": lambda words: run.cli(),
    "clora_exp.reports": clora_exp.reports.__main__.main,
    "clora_exp.adapters": clora_exp.adapters.__main__.main,
    "clora_exp.tasks": clora_exp.tasks.__main__.main,
}
MODULES = (bad_configs, bad_values, bad_yaml, bad_data, bad_tables, bad_runs, bad_models)
TEXT = """# Bad input

`python experiments/robustness/bad_input.py` ({minutes:.0f} minutes on two cores; `--only models` one subject,
`--every 12` every twelfth case)

Every malformed configuration, data set, run and model folder that we could think of, in a folder of its own, given to
the command that reads it. A case passes when the command ends within {timeout:.0f} s

- with status 2 and one clear error on standard error, a line a problem, the first beginning with `error: `, which names
  what is wrong (a fragment that it must hold is part of the case), and no file of the input, of a finished run or of
  finished tasks has changed; or
- with status 0, a sentence that names the repair, and the numbers of the undamaged run.

A traceback, a hang, another status, a wrong number, damage that is not mentioned and a changed file are failures.

{table}

{skipped}Each case: `table.csv`.
"""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: error or repair where it passed, skipped, or the kind of failure."""

    case: Case
    status: int
    kind: str
    said: str
    seconds: float


@dataclass
class Running:
    """A case that runs in a process of its own."""

    case: Case
    pid: int
    base: Path
    started: float


def prepare(ready: Path) -> None:
    """Make what the cases start from, each part in a process of its own."""
    save_bert(ready / "model")
    save_bert(ready / "other_model", seed=1)
    save_vit(ready / "vit")
    bad_data.write_ready(ready)
    for kind, seed in (("done", 0), ("other", 1), ("cut", 0)):
        (ready / kind).mkdir()
        base = ready / f"{kind}_made"
        case = Case("", kind, "", lambda place, kind=kind, seed=seed: _ready_run(ready, kind, seed))
        running = launched(case, base, ready)
        _, raw = os.waitpid(running.pid, 0)
        wanted = 128 + signal.SIGINT if kind == "cut" else 0
        if os.waitstatus_to_exitcode(raw) != wanted:
            raise SystemExit("".join((base / name).read_text() for name in ("stdout", "stderr")))


def _ready_run(ready: Path, kind: str, seed: int) -> Words:
    if kind == "cut":
        save = RunDirectory.save_session

        def save_and_stop(self: RunDirectory, progress: object, session: dict[str, object]) -> None:
            save(self, progress, session)
            if progress.num_tasks_done == 1:
                raise Interrupted(signal.SIGINT)

        RunDirectory.save_session = save_and_stop
    where = [f"model.path={ready / 'model'}", f"tasks.path={ready / 'data'}", f"results_dir={ready / kind}"]
    return ["run.py", *COMMON, *where, f"seed={seed}", "trainer.checkpoint_every=0"]


def launched(case: Case, base: Path, ready: Path) -> Running:
    """Fork a process for the case; `base` will hold its folder and what it says."""
    (base / "place").mkdir(parents=True)
    base.chmod(0o755)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os._exit(in_child(case, base, ready))
    return Running(case, pid, base, time.monotonic())


def in_child(case: Case, base: Path, ready: Path) -> int:
    """Do the damage, keep the hashes, and run the command as if it had been typed; return its status."""
    files = {fd: os.open(base / name, os.O_CREAT | os.O_WRONLY, 0o666) for fd, name in ((1, "stdout"), (2, "stderr"))}
    for fd, file in files.items():
        os.dup2(file, fd)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(fd, "wb", 0), "utf-8", write_through=True) for fd in (1, 2))
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ["CLORA_EXP_CACHE"] = str(base / "place" / "cache")
    os.chdir(base / "place")
    (base / "before.json").touch()
    (base / "before.json").chmod(0o666)
    place = Place(base / "place", ready)
    try:
        words = case.make(place)
        (base / "before.json").write_text(json.dumps(place.hashes()))
        sys.argv = words
        return COMMANDS[words[0]](words[1:])
    except Skipped as why:
        print(why)
        return 77
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def judged(running: Running, status: int, ready: Path) -> Outcome:
    """Return how a case ended."""
    case, seconds = running.case, time.monotonic() - running.started
    stdout, stderr = ((running.base / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    lines = [line for line in stderr.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if status == 77:
        return Outcome(case, status, "skipped", stdout.strip(), seconds)
    if status == -signal.SIGKILL:
        kind = "hang"
    elif "Traceback" in stdout + stderr:
        kind, first = "traceback", lines[-1]
    elif case.is_repair:
        kind, first = _repair(case, status, stdout + stderr, running.base, ready), first or case.says
    elif status == 0:
        kind = "silent"
    elif status != 2:
        kind = f"status {status}"
    elif not first.startswith("error: ") or len(lines) > MAX_LINES or max(map(len, lines)) > MAX_WIDTH:
        kind = "unclear"
    elif case.says not in stderr:
        kind = "does not name it"
    else:
        kind = _changed(running.base) or "error"
    for folder in (running.base / "place", Path(json.__file__).parent.parent):  # where this machine has things
        first = first.replace(str(folder), "…")
    return Outcome(case, status, kind, first, seconds)


def _changed(base: Path) -> str:
    """Return which file an error has changed, "" where none."""
    for name, before in json.loads((base / "before.json").read_text()).items():
        path = base / "place" / name
        if not path.is_file() or (before and sha256(path) != before):
            return f"changed {name}"
    return ""


def _repair(case: Case, status: int, said: str, base: Path, ready: Path) -> str:
    """Tell whether the repair is said, and the numbers are those of the undamaged run."""
    if status != 0:
        return f"status {status}"
    if " ".join(case.says.split()) not in " ".join(said.split()):
        return "silent"
    reference = next((ready / "done").rglob("accuracy_matrix.csv")).read_text()
    for found in (base / "place" / "runs").rglob("accuracy_matrix.csv"):
        if found.read_text() != reference:
            return "wrong numbers"
    return "repair"


def run_all(cases: list[Case], folder: Path) -> list[Outcome]:
    """Run every case, `AT_ONCE` at a time, and return how each ended, in order."""
    ready = folder / "ready"
    ready.mkdir()
    prepare(ready)
    waiting, now, ended = list(enumerate(cases)), dict[int, Running](), dict[int, Outcome]()
    with Progress(disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("cases", total=len(cases))
        while waiting or now:
            while waiting and len(now) < AT_ONCE:
                number, case = waiting.pop(0)
                now[number] = launched(case, folder / str(number), ready)
            for number, running in list(now.items()):
                status = _ended(running)
                if status is not None:
                    ended[number] = judged(now.pop(number), status, ready)
                    shutil.rmtree(running.base, ignore_errors=True)
                    progress.advance(bar)
            time.sleep(0.005)
    return [ended[number] for number in range(len(cases))]


def _ended(running: Running) -> int | None:
    """Return the status of a process that has ended; one that takes too long is killed."""
    if time.monotonic() - running.started > TIMEOUT_S:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    pid, raw = os.waitpid(running.pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(raw) if pid else None


def is_passed(kind: str) -> bool:
    """Tell whether an outcome is no failure."""
    return kind in ("error", "repair", "skipped")


def write(outcomes: list[Outcome], seconds: float, folder: Path) -> None:
    """Write table.csv and README.md."""
    rows = [
        {"subject": o.case.subject, "case": o.case.name, "wrong": o.case.wrong, "status": o.status, "outcome": o.kind}
        | {"first line": o.said}
        for o in outcomes
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode())
    lines = [markdown_row(["subject", "cases", "clear errors", "repairs", "skipped", "failures"]), "|" + " --- |" * 6]
    for subject in [*dict.fromkeys(o.case.subject for o in outcomes), "all"]:
        kinds = Counter(o.kind for o in outcomes if subject in ("all", o.case.subject))
        bad = sum(count for kind, count in kinds.items() if not is_passed(kind))
        cells = [subject, kinds.total(), kinds["error"], kinds["repair"], kinds["skipped"], bad]
        lines.append(markdown_row([str(cell) for cell in cells]))
    skipped = [f"Skipped: {o.case.name} ({o.said})." for o in outcomes if o.kind == "skipped"]
    text = TEXT.format(
        minutes=max(1, seconds / 60),
        timeout=TIMEOUT_S,
        table="\n".join(lines),
        skipped="".join(f"{line}\n" for line in skipped) + ("\n" if skipped else ""),
    )
    write_atomically(folder / "README.md", text.encode())


def main() -> None:
    """Run the cases, print what failed, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a subject, or a part of a case's name")
    parser.add_argument("--every", type=int, default=1, help="run every n-th case")
    parser.add_argument("--folder", type=Path, help="where to write; a part of the cases is written nowhere else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = [case for module in MODULES for case in module.cases()]
    cases = [c for c in every if options.only in f"{c.subject} {c.name}"][:: options.every]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        outcomes = run_all(cases, Path(temporary))
    seconds = time.monotonic() - started
    failed = [o for o in outcomes if not is_passed(o.kind)]
    for o in failed:
        print(f"{o.case.subject}: {o.case.name} ({o.case.wrong}): {o.kind}, status {o.status}: {o.said}")
    slow = max(outcomes, key=lambda o: o.seconds)
    print(f"{len(outcomes)} cases, {len(failed)} failures, {seconds:.0f} s; {slow.seconds:.0f} s: {slow.case.name}")
    if options.folder or len(cases) == len(every):
        write(outcomes, seconds, options.folder or FOLDER)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    ended_in_order(main)
