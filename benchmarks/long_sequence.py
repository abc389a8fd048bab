"""What fifty tasks cost: does the last one take longer than the second, and does anything pile up in between?

Permuted digits, 50 tasks of 10 labels, on the small ViT with `method=clora_xs`, whose tasks own their parts. Training
of task 50 and of task 2 take turns; one whole run counts evaluations and seconds by task; then how long `run.py` takes
to answer where nothing is trained. With --memory also what stays in memory after each task, `clora_xs` and `replay`.
Run: python benchmarks/long_sequence.py [--memory]; writes results/benchmarks/long_sequence.md, and prints one JSON
object as its last line.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytorch_lightning as lightning
import torch
from adapters import interval, processor, ratio
from methods import WORDS, Side
from progress import left
from rich.console import Console

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.loop import run
from clora_exp.models.weights import make_weights
from clora_exp.reports.terminal import Terminal
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "benchmarks"
SETTLED = 3  # tasks after which memory is looked at: until then the libraries take what they keep
MB = 1e6
STARTS = {
    "help": (["--help"], 0, 2.0),
    "cfg_job": (["--cfg", "job"], 0, 2.0),
    "error_unknown_method": (["method=lroa"], 2, 5.0),
    "error_unknown_key": (["trainer.epoch=3"], 2, 5.0),
    "error_value": (["trainer.epochs=0"], 2, 5.0),
    "error_strategy": (["method=lwf", "scenario=domain_incremental", "trainer.batch_size=-1"], 2, 5.0),
}


class Course(NamedTuple):
    """One run, by task: seconds, evaluations, and what the process held when the task had been learned and saved."""

    seconds: np.ndarray  # from one task's training to the next one's: evaluation and writing included
    train: np.ndarray
    evaluate: np.ndarray
    evaluations: np.ndarray
    resident: np.ndarray  # bytes
    stored: np.ndarray  # bytes that the method itself keeps and answers with
    descriptors: np.ndarray
    threads: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50, help="length of the sequence (default 50)")
    parser.add_argument("--rounds", type=int, default=30, help="measurements of both tasks' training (default 30)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each task (default 20)")
    parser.add_argument("--starts", type=int, default=7, help="times that each start is measured (default 7)")
    parser.add_argument("--memory", action="store_true", help="also follow memory, descriptors and threads")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for long_sequence.md")
    options = parser.parse_args()
    if options.tasks < SETTLED + 3 or options.rounds < 2 or options.steps < 2 or options.starts < 1:
        parser.error(f"{SETTLED + 3} tasks or more, 2 rounds or more, 2 steps or more, 1 start or more")
    torch.set_num_threads(1)  # of a model this small more threads make little use, and much noise
    found, lines = trained(options)
    course = followed("clora_xs", options.tasks, options.steps)
    for part in (by_task(course), started(options.starts)):
        found, lines = found | part[0], [*lines, *part[1]]
    if options.memory:
        courses = {name: followed(name, options.tasks, 5, 30) for name in ("clora_xs", "replay")}
        figures, text = remembered(courses)
        found, lines = found | figures, [*lines, *text]
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "long_sequence.md", ("\n".join([*head(options), *lines]) + "\n").encode())
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


def head(options: argparse.Namespace) -> list[str]:
    """Return the first lines of the page."""
    cores, memory = psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total / 1e9
    command = "python benchmarks/long_sequence.py"
    for name, default in (("tasks", 50), ("rounds", 30), ("steps", 20), ("starts", 7)):
        command += f" --{name} {vars(options)[name]}" if vars(options)[name] != default else ""
    command += " --memory" if options.memory else ""
    return [
        f"# What {options.tasks} tasks cost\n",
        f"`{command}`\n",
        f"Permuted digits, {options.tasks} tasks of 10 labels, task-incremental; the small ViT (2 layers, width 128), "
        f"`method=clora_xs`, float32, batches of 16; torch {torch.__version__}, one thread, {processor()}, {cores} "
        f"cores, {memory:.0f} GB, no GPU.\n",
    ]


def trained(options: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Train the second and the last task in turn; return figures by name and lines of the page."""
    config = compose_experiment([*WORDS, f"tasks.digits.num_tasks={options.tasks}"])
    stream = load_stream(config.tasks, config.data_seed)
    make_weights(config.model, Terminal(Console(stderr=True)).making)
    last = options.tasks
    sides = {t: Side("clora_xs", t, stream) for t in (2, last)}
    took: dict[int, list[float]] = {t: [] for t in sides}
    trainer = compose_experiment([*WORDS, f"trainer.max_steps={options.steps}"]).trainer
    for i in left("training, round", [1] * (options.rounds + 1)):
        for t in sorted(sides, reverse=bool(i % 2)):
            side, start = sides[t], time.perf_counter()
            fit(side.method, side.split, stream.names[side.t], trainer, i)
            took[t].append(time.perf_counter() - start)
    second, late = (np.array(took[t][1:]) for t in (2, last))  # the first round warms up
    value, low, high = interval(ratio, late, second)
    medians = [1000 * float(np.median(seconds)) for seconds in (second, late)]
    lines = [
        "## Training\n",
        f"A session of {options.steps} steps, from the start of its Trainer to its end, of task 2 and of task {last} "
        f"in turn, {options.rounds} rounds; medians, with a 95 % interval by bootstrap over the rounds.\n",
        f"| ms of task 2 | ms of task {last} | {last} over 2, target ≤ 1.05 |",
        "| --- | --- | --- |",
        f"| {medians[0]:.1f} | {medians[1]:.1f} | {value:.3f} ({low:.3f} to {high:.3f}) |\n",
    ]
    return {"train_ms_2": medians[0], "train_ms_last": medians[1], "train_ratio": value}, lines


class Follower(lightning.Callback):
    """Counts evaluations, and takes stock whenever a task's training begins."""

    def __init__(self) -> None:
        self.num_evaluations = 0
        self.stock: list[tuple[float, ...]] = []

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Count."""
        self.num_evaluations += 1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take stock of the tasks before."""
        self.take()

    def take(self) -> None:
        """Note the time, evaluations so far, and what the process holds."""
        gc.collect()
        process, at = psutil.Process(), time.perf_counter()
        numbers = (process.memory_info().rss, process.num_fds() if psutil.POSIX else 0, process.num_threads())
        self.stock.append((at, self.num_evaluations, *numbers))


def followed(name: str, num_tasks: int, num_steps: int, num_examples: int | None = None) -> Course:
    """Run a method on the sequence as `run.py` does; return what it took and held, by task."""
    words = [*WORDS, f"method={name}", f"tasks.digits.num_tasks={num_tasks}", f"trainer.max_steps={num_steps}"]
    words += ["report=false"] + ([f"trainer.max_eval_examples={num_examples}"] if num_examples else [])
    follower = Follower()
    print(f"a run of {num_tasks} tasks with {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as nowhere:
        config = compose_experiment([*words, f"results_dir={folder}"])
        found = run(config, "", Terminal(Console(file=nowhere)), [follower]).read()
    follower.take()
    at, evaluations, resident, descriptors, threads = np.array(follower.stock).T
    cost = found.costs
    return Course(
        np.diff(at),
        cost["train_seconds"].to_numpy(),
        cost["evaluation_seconds"].to_numpy(),
        np.diff(evaluations, prepend=0),
        resident[1:],
        (cost["kept_bytes"] + cost["answering_bytes"]).to_numpy(dtype=float),
        descriptors[1:],
        threads[1:],
    )


def by_task(course: Course) -> tuple[dict[str, float], list[str]]:
    """Return figures by name and lines of the page: evaluations and seconds over one sequence."""
    num_tasks = len(course.seconds)
    made = int(course.evaluations.sum())
    places = [t for t in (2, 10, 20, 30, 40, 50) if t <= num_tasks]
    rest = course.seconds - course.train - course.evaluate
    around = {t: slice(max(1, t - 3), t) for t in places}  # three tasks, the first left out
    lines = [
        "## Evaluation, over one run\n",
        f"A whole run, every task asked after every task. {made} evaluations were made, {num_tasks} before the first "
        f"task and {course.evaluations[1:].mean():g} after each; all others, {num_tasks * (num_tasks + 1) - made} of "
        f"{num_tasks * (num_tasks + 1)}, were carried over, since nothing that decides them had changed. The rest is "
        "setting up, the optimiser's first step, files and checkpoint. Medians of the task and the two before it.\n",
        "| at task | " + " | ".join(map(str, places)) + " |",
        "| --- " * (len(places) + 1) + "|",
    ]
    parts = {"training": course.train, "evaluation": course.evaluate, "rest": rest, "all": course.seconds}
    for name, seconds in parts.items():
        cells = [f"{1000 * np.median(seconds[around[t]]):.0f}" for t in places]
        lines.append(f"| ms of {name} | " + " | ".join(cells) + " |")
    growth, whole = (float(np.median(of[-5:]) / np.median(of[1:6])) for of in (course.evaluate, course.seconds))
    lines.append(
        f"\nEvaluation of the last five tasks over that of tasks 2 to 6: {growth:.2f}; everything: {whole:.2f}. In all "
        f"evaluation {course.evaluate.sum():.1f} s, training {course.train.sum():.1f} s, the rest {rest.sum():.1f} s.\n"
    )
    found = {
        "evaluations": made,
        "evaluation_growth": growth,
        "growth": whole,
        "evaluation_s": float(course.evaluate.sum()),
    }
    found |= {"rest_s": float(rest.sum()), "rest_growth": float(np.median(rest[-5:]) / np.median(rest[1:6]))}
    return found, lines


def started(times: int) -> tuple[dict[str, float], list[str]]:
    """Return figures by name and lines of the page: seconds until `run.py` has answered."""
    lines = [
        "## Starting\n",
        f"Until the process has ended; median and most of {times}.\n",
        "| `python run.py …` | median s | most s | target |",
        "| --- | --- | --- | --- |",
    ]
    found = {}
    for i in left("starts", [1] * len(STARTS)):
        name, (words, status, target) = list(STARTS.items())[i]
        took = []
        for _ in range(times):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True)
            took.append(time.perf_counter() - start)
            assert done.returncode == status, done.stderr
        found[f"start_s_{name}"] = statistics.median(took)
        lines.append(f"| `{' '.join(words)}` | {statistics.median(took):.2f} | {max(took):.2f} | ≤ {target:g} |")
    return found, [*lines, ""]


def remembered(courses: dict[str, Course]) -> tuple[dict[str, float], list[str]]:
    """Return figures by name and lines of the page: what stays after each task."""
    lines = [
        "## Memory\n",
        f"One run each, 5 steps and 30 held-out examples a task, {len(courses['replay'].resident)} tasks. Resident "
        f"memory when a task has been learned, measured and saved, after a garbage collection; slopes by least "
        f"squares from task {SETTLED + 1} on. What the method stores is what it keeps to learn later tasks by and what "
        "answers.\n",
        "| method | MB at task " + f"{SETTLED} | MB in the end | MB a task | of that stored | so MB a task, target ≤ 1 "
        "| file descriptors, then and in the end | threads |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = {}
    for name, course in courses.items():
        tasks = np.arange(SETTLED, len(course.resident))
        slopes = [float(np.polyfit(tasks, of[SETTLED:] / MB, 1)[0]) for of in (course.resident, course.stored)]
        ends = [f"{of[SETTLED - 1]:.0f}, {of[-1]:.0f}" for of in (course.descriptors, course.threads)]
        held = [f"{course.resident[t] / MB:.0f}" for t in (SETTLED - 1, -1)]
        slope = [f"{value:.3f}" for value in (*slopes, slopes[0] - slopes[1])]
        lines.append("| " + " | ".join([f"`{name}`", *held, *slope, *ends]) + " |")
        found[f"memory_mb_a_task_{name}"] = slopes[0] - slopes[1]
        found[f"descriptors_grown_{name}"] = float(course.descriptors[-1] - course.descriptors[SETTLED - 1])
        found[f"threads_grown_{name}"] = float(course.threads[-1] - course.threads[SETTLED - 1])
    return found, [*lines, ""]


if __name__ == "__main__":
    main()
