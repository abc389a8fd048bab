"""What every method costs by the number of tasks, and the strategies beside Avalanche's: same model, data and batches.

First: milliseconds of an optimiser step and bytes of state at task 1, 5 and 20 of permuted digits, for every method
that learns in turn; all methods at all those tasks are in memory at once and take turns, so that noise hits all alike.
Second (`beside.py`): accuracies and steps beside Avalanche's, in an environment of its own, which `--peer` names.
Run: python benchmarks/methods.py [--rounds 30] [--peer PYTHON]; writes results/benchmarks/methods.md, and prints one
JSON object as its last line.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import beside
import numpy as np
import psutil
import torch
from adapters import interval, processor, ratio
from progress import left
from rich.console import Console
from torch import Tensor

from clora_exp.compose import CONF, compose_experiment
from clora_exp.config import TrainerConfig
from clora_exp.files import write_atomically
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit
from clora_exp.models.weights import make_weights
from clora_exp.randomness import seed_everything
from clora_exp.reports.terminal import Terminal
from clora_exp.session import fit
from clora_exp.tasks.stream import TaskStream, load_stream

FOLDER = Path(__file__).parent.parent / "results" / "benchmarks"
WORDS = ["tasks=permuted_digits", "model=vit_digits", "trainer.accelerator=cpu"]
FEW = 5  # steps of each earlier task: with 16 examples each they fill a memory of 200 by the third task
BLOCK = 5  # steps of a measurement: the first sets the optimiser up and is left out
FLAT = 1.10  # what a flat step may cost more at the last task than at the one before it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="measurements of each method at each task (default 30)")
    parser.add_argument("--tasks", default="1,5,20", help="the tasks to measure at, in order (default 1,5,20)")
    parser.add_argument("--methods", help="names with commas (default: all in conf/method that learn in turn)")
    parser.add_argument("--peer", help="the python of an environment with Avalanche; without it no second part")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the second part (default 5)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for methods.md")
    options = parser.parse_args()
    at = [int(word) for word in options.tasks.split(",")]
    if at != sorted(set(at)) or len(at) < 2 or at[0] < 1 or options.rounds < 2 or options.seeds < 2:
        parser.error("two or more tasks in order, from 1 on; 2 or more rounds; 2 or more seeds")
    torch.set_num_threads(1)  # of a model this small more threads make little use, and much noise
    names = options.methods.split(",") if options.methods else in_turn()
    names = ["lora", *(name for name in names if name != "lora")]
    figures, lines = costs(names, at, options.rounds)
    if options.peer:
        more, text = beside.compared(options.peer, options.seeds)
        figures, lines = figures | more, [*lines, *text]
    else:
        print(f"no --peer: the comparison with Avalanche is left out. {beside.ENVIRONMENT}", file=sys.stderr)
    command = f"python benchmarks/methods.py --rounds {options.rounds}"
    command += f" --peer PYTHON --seeds {options.seeds}" if options.peer else ""
    cores, memory = psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total / 1e9
    head = [
        "# What the methods cost, and how they compare\n",
        f"`{command}`\n",
        f"The small ViT (2 layers, width 128), float32, batches of 16; torch {torch.__version__}, "
        f"one thread, {processor()}, {cores} cores, {memory:.0f} GB, no GPU.\n",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "methods.md", ("\n".join([*head, *lines]) + "\n").encode())
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def in_turn() -> list[str]:
    """Return the presets that learn one task after another."""
    names = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    return [name for name in names if compose_experiment([f"method={name}"]).method.protocol == "sequence"]


class Side:
    """A method in the session of one task, the tasks before learned in a few steps each."""

    def __init__(self, name: str, num_tasks: int, stream: TaskStream) -> None:
        """Learn up to task `num_tasks`, counted from 1, and begin it."""
        config = compose_experiment([*WORDS, f"tasks.digits.num_tasks={len(stream)}", f"method={name}"])
        self.stream, self.t = stream, num_tasks - 1
        self.trainer: TrainerConfig = dataclasses.replace(config.trainer, max_steps=FEW)
        seed_everything(0)
        self.method = Method(config, stream)
        for t in range(num_tasks):
            self.method.before_task(t, stream.tasks[t])
            self.split: EncodedSplit = self.method.encode(t, stream.tasks[t], "train")
            if t < self.t:
                fit(self.method, self.split, stream.names[t], self.trainer, t)
                self.method.after_task(t, stream.tasks[t])
        self.trainer = dataclasses.replace(config.trainer, max_steps=BLOCK)

    def block(self, seed: int) -> float:
        """Return the median milliseconds from one optimiser step to the next."""
        steps = fit(self.method, self.split, self.stream.names[self.t], self.trainer, seed)
        took = [after.seconds - before.seconds for before, after in itertools.pairwise(steps)]
        return 1000 * float(np.median(took[1:]))

    def sizes(self) -> dict[str, int]:
        """End the task and return the bytes of the tensors in the method's state, by what holds them."""
        self.method.after_task(self.t, self.stream.tasks[self.t])
        state = self.method.state_dict()
        return {part: tensor_bytes(value) for part, value in state.items()}

    @property
    def declared(self) -> str:
        """What the strategies say a step costs in the number of tasks; an adapter setting alone says nothing."""
        return "; ".join(type(strategy).step_cost for strategy in self.method.strategies)


def tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in a nested state."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0


class Cost(NamedTuple):
    """Of one method: milliseconds by round at each task, bytes by part at each task, what it declares."""

    times: dict[int, np.ndarray]
    sizes: dict[int, dict[str, int]]
    declared: str


def costs(names: list[str], at: list[int], rounds: int) -> tuple[dict[str, float], list[str]]:
    """Measure every method at every task, all of them in turn; return figures by name and lines of the page."""
    config = compose_experiment([*WORDS, f"tasks.digits.num_tasks={max(at[-1], 2)}"])
    stream = load_stream(config.tasks, config.data_seed)
    make_weights(config.model, Terminal(Console(stderr=True)).making)
    wanted = list(itertools.product(names, at))
    sides = {}
    for i in left("methods learning", [1] * len(names)):
        sides |= {(names[i], t): Side(names[i], t, stream) for t in at}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in wanted}
    rng = np.random.default_rng(0)
    for i in left("round", [1] * (rounds + 1)):
        for place in rng.permutation(len(wanted)).tolist():
            times[wanted[place]].append(sides[wanted[place]].block(i))
    found = {}
    for name in names:
        own = {t: np.array(times[name, t][1:]) for t in at}  # the first round warms up
        found[name] = Cost(own, {t: sides[name, t].sizes() for t in at}, sides[name, at[0]].declared)
    return _figures(found, at), _lines(found, at, rounds)


def verdict(found: Cost, at: list[int]) -> tuple[tuple[float, float, float], str]:
    """Return the last task's step over that of the one measured before it, with its interval, and what that says."""
    value, low, high = interval(ratio, found.times[at[-1]], found.times[at[-2]])
    return (value, low, high), "flat" if high <= FLAT else "grows" if low > FLAT else "undecided"


def stored(sizes: dict[str, int]) -> int:
    """Return the bytes beside the heads, which are the same for all."""
    return sum(sizes.values()) - sizes["heads"]


def _figures(found: dict[str, Cost], at: list[int]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, cost in found.items():
        for t in at:
            figures[f"step_ms_{t}_{name}"] = float(np.median(cost.times[t]))
            figures[f"step_ratio_{t}_{name}"] = ratio(cost.times[t], found["lora"].times[t])
            figures[f"bytes_{t}_{name}"] = stored(cost.sizes[t])
        figures[f"growth_{name}"] = verdict(cost, at)[0][0]
    return figures


def _lines(found: dict[str, Cost], at: list[int], rounds: int) -> list[str]:
    first, before, last = at[0], at[-2], at[-1]
    heads = found["lora"].sizes[last]["heads"]
    each = [f"ms at {t}" for t in at] + [f"over `lora` at {t}" for t in at]
    columns = ["method", *each, f"{last} over {first}", f"{last} over {before}", "so it", "declared"]
    lines = [
        "## By the number of tasks\n",
        f"Permuted digits, {last} tasks of 10 labels, task-incremental. A step is the time from one optimiser step to "
        f"the next, everything between them included; medians over {rounds} rounds, in which all methods at all tasks "
        f"take turns. Earlier tasks were learned in {FEW} steps each, which costs nothing in what is measured and "
        f"fills the memories.\n",
        "| " + " | ".join(columns) + " |",
        "| --- " * len(columns) + "|",
    ]
    for name, cost in found.items():
        (value, low, high), word = verdict(cost, at)
        cells = [f"{np.median(cost.times[t]):.1f}" for t in at]
        cells += [f"{ratio(cost.times[t], found['lora'].times[t]):.2f}" for t in at]
        cells += [f"{ratio(cost.times[last], cost.times[first]):.2f}", f"{value:.2f} ({low:.2f} to {high:.2f})"]
        said = cost.declared.split(":")[0].split(";")[0]
        word += " (declared otherwise)" if said and word not in (said, "undecided") else ""
        lines.append("| " + " | ".join([f"`{name}`", *cells, word, cost.declared or "–"]) + " |")
    lines += [
        "\nA method is called flat where the 95 % interval (bootstrap over the rounds) of its step at task "
        f"{last} over that at task {before} ends below {FLAT:g}, growing where it begins above, and else undecided. "
        f"Task {first} is no base for that: what a strategy does for earlier tasks it does not do yet.\n",
        f"| kB of state beside the heads, at task | {' | '.join(map(str, at))} | of that the strategies' |",
        "| --- " * (len(at) + 2) + "|",
    ]
    for name, cost in found.items():
        cells = [f"{stored(cost.sizes[t]) / 1e3:.1f}" for t in at]
        cells.append(", ".join(f"{cost.sizes[t]['strategies'] / 1e3:.1f}" for t in at))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines.append(
        f"\nThe state is what the next task needs, as tensors: adapters, a backbone that trains (`full`), and what "
        f"strategies keep. The heads, {heads / 1e3:.1f} kB for all {last} tasks, are the same for all methods.\n"
    )
    return lines


if __name__ == "__main__":
    main()
