"""Does a run that is killed anywhere end as if nothing had happened? Every method, killed at random moments.

Run: python experiments/robustness/kills.py [--kills 6] [--methods lora,clora] (a quarter of an hour on one core), and
python experiments/robustness/kills.py --real (the real model: killed eight times in med_legal_code, twenty minutes).
Writes results/robustness/kills/ (README.md, kills.csv).

A run is made once in one piece, then again in a fresh process that gets SIGKILL at a moment drawn at random (by the
clock, or in the middle of a file's write), or SIGTERM, or SIGINT; the same run is started again, and killed again,
until it has been killed often enough; then it may end. Equal means: the accuracy matrix, the metrics, every answer,
every adapter and every training loss, byte by byte.
"""

import argparse
import hashlib
import io
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd
import torch
from rich.console import Console

from clora_exp import files, loop, session
from clora_exp.compose import CONF, compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.errors import Interrupted
from clora_exp.interrupts import ended_in_order
from clora_exp.methods.base import Method
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row
from clora_exp.results import RunDirectory

FOLDER = Path(__file__).parent.parent.parent / "results" / "robustness" / "kills"
TINY = ["model=vit_digits", "tasks=split_digits", "tasks.digits.num_tasks=3", "trainer.epochs=4"]
REAL = ["model=minilm", "tasks=med_legal_code"]
PHASES = ["building", "before task", "training", "writing", "after task", "measuring", "ending"]
SIGNALS = {"kill": signal.SIGKILL, "kill in a write": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
KINDS = ["kill", "kill in a write", "kill", "kill in a write", "kill", "term", "kill in a write", "int"]


class Kill(NamedTuple):
    """One end of one process: how it was killed, in which phase of the run, what was on disk then, how it ended."""

    method: str
    kind: str
    phase: str
    tasks_done: int
    steps_kept: int
    status: str
    exit_status: int


class Phase:
    """Where a child is, in memory that its parent sees; code of the run is wrapped to say it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def __str__(self) -> str:
        return PHASES[self._shared[0]]

    def reset(self) -> None:
        """A new child builds."""
        self._shared[0] = 0

    def within(self, phase: str, function: Callable[..., Any], after: str | None = None) -> Callable[..., Any]:
        """Return the function, saying `phase` while it runs and then what was before, or `after`."""

        def wrapped(*arguments: Any, **more: Any) -> Any:
            before = self._shared[0]
            self._shared[0] = PHASES.index(phase)
            try:
                return function(*arguments, **more)
            finally:
                self._shared[0] = before if after is None else PHASES.index(after)

        return wrapped

    def watch(self) -> None:
        """Wrap what a run goes through; in a child, whose code is its own."""
        loop.fit = self.within("training", session.fit)
        loop.predict = self.within("measuring", session.predict)
        Method.before_task = self.within("before task", Method.before_task)  # type: ignore[method-assign]
        Method.after_task = self.within("after task", Method.after_task)  # type: ignore[method-assign]
        for name in ("save_progress", "save_session", "save_adapter"):
            setattr(RunDirectory, name, self.within("writing", getattr(RunDirectory, name)))
        RunDirectory.finish = self.within("ending", RunDirectory.finish, "ending")  # type: ignore[method-assign]


def die_in_write(number: int) -> None:
    """Let this process kill itself when half of its `number`-th file is on disk."""
    left, real = [number], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            real(descriptor)
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    files.os.fsync = fsync  # type: ignore[attr-defined]


def child(config: ExperimentConfig, phase: Phase, dies_in_write: int | None) -> NoReturn:
    """Do the run, as the command line would, and end the process."""
    phase.watch()
    if dies_in_write is not None:
        die_in_write(dies_in_write)
    status = 70
    try:
        loop.run(config, "python run.py", Terminal(Console(file=io.StringIO())))
        status = 0
    except Interrupted as stop:
        status = 128 + stop.signal_number
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    os._exit(status)


def attempt(config: ExperimentConfig, kind: str | None, seconds: float, draw: random.Random) -> tuple[int, str, float]:
    """Run in a child, killed in its way within `seconds` or not at all; return its status, its phase then, and time."""
    phase = Phase()
    signalled = ""
    started = time.monotonic()
    dies_in_write = draw.randint(1, 60) if kind == "kill in a write" else None
    pid = os.fork()
    if pid == 0:
        child(config, phase, dies_in_write)
    deadline = started + draw.uniform(0.2, 1.0) * seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if kind in ("kill", "term", "int") and time.monotonic() >= deadline:
            signalled = str(phase)  # what stops in order leaves its phase before it ends
            os.kill(pid, SIGNALS[kind])
            kind = None
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(status), signalled or str(phase), time.monotonic() - started


def content(folder: Path) -> dict[str, str]:
    """Return the hash of every file that equal runs have in common, and of their training losses."""
    names = ["accuracy_matrix.csv", "metrics.json", "predictions.csv.gz"]
    paths = [folder / name for name in names] + sorted(p for p in (folder / "adapters").rglob("*") if p.is_file())
    found = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    history = pd.read_csv(folder / "metrics.csv", dtype=str)
    losses = history[history.metric == "train_loss"][["task", "step", "value"]].to_csv()
    return found | {"training losses": hashlib.sha256(losses.encode()).hexdigest()}


def on_disk(folder: Path) -> tuple[str, int, int]:
    """Return the status that lies there, and how many tasks and steps of the next are kept."""
    from clora_exp.states import read_state

    try:
        status = (folder / "STATUS").read_text().splitlines()[0]
    except OSError:
        return "none", 0, 0
    if not (folder / "checkpoint" / "state.safetensors").exists():
        return status, 0, 0
    tasks = read_state(folder / "checkpoint" / "state.safetensors")["progress"]["num_tasks_done"]
    path = folder / "checkpoint" / "session.safetensors"
    kept = read_state(path) if path.exists() else {"num_tasks_done": -1}
    return status, tasks, len(kept["session"]["losses"]) if kept["num_tasks_done"] == tasks else 0


def campaign(
    method: str, words: list[str], num_kills: int, every_s: float, draw: random.Random
) -> tuple[list[Kill], bool]:
    """Kill one method's run so often; return the kills, and whether it ended as the whole run did."""
    with tempfile.TemporaryDirectory() as root:
        name = "joint" if method == "joint" else method

        def config(folder: str) -> ExperimentConfig:
            settings = [f"results_dir={root}/{folder}", f"trainer.checkpoint_every={every_s}", "report=false"]
            return compose_experiment([f"method={name}", *words, *settings, "trainer.accelerator=cpu"])

        status, _, seconds = attempt(config("whole"), None, 0, draw)
        assert status == 0, f"{method}: the whole run ended with {status}"
        (whole,) = Path(root, "whole").rglob("config.yaml")
        kills: list[Kill] = []
        turn = draw.randrange(len(KINDS))
        while len(kills) < num_kills:
            kind = KINDS[(turn := turn + 1) % len(KINDS)]
            status, phase, _ = attempt(config("cut"), kind, seconds, draw)
            folder = next((p.parent for p in Path(root, "cut").rglob("config.yaml")), Path(root))
            if status == 0:  # it was faster than the kill: once more from the start
                files.shutil.rmtree(Path(root, "cut"))
                continue
            assert status in (-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM), status
            found = on_disk(folder)
            kills.append(Kill(method, kind, phase, found[1], found[2], found[0], status))
            print(f"  {kind} while {phase}: {len(kills)} of {num_kills}", file=sys.stderr, flush=True)
        status, _, _ = attempt(config("cut"), None, 0, draw)
        assert status == 0, f"{method}: the cut run ended with {status}"
        (cut,) = Path(root, "cut").rglob("config.yaml")
        unfinished = list(cut.parent.rglob(".*"))
        return kills, content(whole.parent) == content(cut.parent) and not unfinished


def main() -> None:
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6, help="of each method; default 6")
    parser.add_argument("--methods", default=",".join(every), help="some of them: they run, and nothing is written")
    parser.add_argument("--real", action="store_true", help="one method on the real model and data")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a child made by fork has no other threads
    methods = ["clora"] if options.real else options.methods.split(",")
    words, every_s, kills = (REAL, 5.0, 8) if options.real else (TINY, 0.1, options.kills)
    found: list[Kill] = []
    equal: dict[str, bool] = {}
    for i, method in enumerate(methods):
        started = time.monotonic()
        ends, equal[method] = campaign(method, words, kills, every_s, random.Random(f"{options.seed} {method}"))
        found += ends
        took = time.monotonic() - started
        verdict = "equal" if equal[method] else "DIFFERS"
        left = took * (len(methods) - i - 1)
        print(f"{method:<14} {len(ends)} kills, {verdict}, {took:.0f} s; about {left:.0f} s left", flush=True)
    if options.real or set(methods) == set(every):
        write(found, equal, "real" if options.real else "tiny")
    sys.exit(0 if all(equal.values()) else 1)


def write(kills: list[Kill], equal: dict[str, bool], which: str) -> None:
    """Write the table, and the page of both campaigns that there are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(kills, columns=list(Kill._fields))
    frame["equal"] = frame.method.map(equal)
    frame.to_csv(FOLDER / f"{which}.csv", index=False, lineterminator="\n")
    parts = ["# Killed anywhere, the same bytes\n"]
    parts.append((__doc__ or "").split("\n\n")[2].strip() + "\n")
    for name in ("tiny", "real"):
        if (FOLDER / f"{name}.csv").exists():
            parts += section(name, pd.read_csv(FOLDER / f"{name}.csv"))
    files.write_atomically(FOLDER / "README.md", "\n".join(parts).encode())


def section(name: str, frame: pd.DataFrame) -> list[str]:
    """Return one campaign in words and a table of kills by phase."""
    num = frame.method.nunique()
    command, runs = " --real" if name == "real" else f" --kills {len(frame) // num}", f"{num} run{'s'[: num - 1]}"
    what = {
        "tiny": f"every method on the small ViT (`{' '.join(TINY)}`)",
        "real": f"clora on MiniLM (`{' '.join(REAL)}`)",
    }[name]
    wrong = sorted(frame[~frame.equal].method.unique())
    verdict = "every one ended with the bytes of the whole run" if not wrong else f"not equal: {', '.join(wrong)}"
    lines = [
        f"## {what[0].upper() + what[1:]}\n",
        f"`python experiments/robustness/kills.py{command}`: {len(frame)} kills in {runs}; "
        f"{verdict}. {int((frame.steps_kept > 0).sum())} of them left a session in the middle, which went on there.\n",
    ]
    counts = frame.pivot_table(index="phase", columns="kind", values="method", aggfunc="count", fill_value=0)
    counts = counts.reindex([phase for phase in PHASES if phase in counts.index])
    lines += [markdown_row(["killed while", *counts.columns]), markdown_row(["---"] * (1 + len(counts.columns)))]
    lines += [markdown_row([phase, *map(str, row)]) for phase, row in zip(counts.index, counts.values, strict=True)]
    return [*lines, ""]


if __name__ == "__main__":
    ended_in_order(main)
