"""This project's strategies beside Avalanche's: the same ViT, heads, pixels, batches and optimiser, trained in turn.

Part of `methods.py`. The other side is `peers/avalanche_digits.py`, in an environment of its own; what it needs is
written to a folder, and it stays up, so that the two sides alternate run by run.
"""

import dataclasses
import itertools
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.stats
import torch
from pairs import EACH, MATCHED
from progress import left
from safetensors.torch import save_file
from torch import nn

from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit
from clora_exp.models.weights import weights_folder
from clora_exp.optimizers import warmup_then_linear
from clora_exp.randomness import seed_everything
from clora_exp.session import fit, predict
from clora_exp.tasks.stream import Task, TaskStream, load_stream

PEER = Path(__file__).parent / "peers" / "avalanche_digits.py"
ENVIRONMENT = f"How to make its environment stands at the top of benchmarks/peers/{PEER.name}"
SCENARIOS = ("task_incremental", "class_incremental")
SHARED = [
    "method=full",
    "method.learning_rate=5e-4",
    "tasks=split_digits",
    "model=vit_digits",
    "trainer.epochs=2",
    "trainer.accelerator=cpu",
]


class Found(NamedTuple):
    """Accuracy on each task after the last, and milliseconds of a step."""

    accuracies: list[float]
    step_ms: float
    importance: float | None = None  # EWC there: the sum of the first task's

    @property
    def average(self) -> float:
        """The average accuracy."""
        return statistics.mean(self.accuracies)


class InDouble(Method):
    """A method in double precision: rounding, which Adam amplifies, is out of the way."""

    def __init__(self, config: ExperimentConfig, stream: TaskStream) -> None:
        super().__init__(config, stream)
        self.model.double()

    def encode(self, t: int, task: Task, split: str) -> EncodedSplit:
        """Return a split in double precision."""
        encoded: Any = super().encode(t, task, split)
        return dataclasses.replace(encoded, values=encoded.values.astype(np.float64))


def composed(scenario: str, seed: int, words: Sequence[str] = ()) -> ExperimentConfig:
    """Return the experiment of one run."""
    return compose_experiment([*SHARED, f"scenario={scenario}", f"seed={seed}", *words])


def ours(config: ExperimentConfig, stream: TaskStream, is_double: bool = False) -> Found:
    """Learn the tasks in turn as a run does."""
    seed_everything(config.seed)
    method = (InDouble if is_double else Method)(config, stream)
    later: list[float] = []
    for t, task in enumerate(stream):
        seed = seed_everything(config.seed, t + 1)
        method.before_task(t, task)
        steps = fit(method, method.encode(t, task, "train"), task.name, config.trainer, seed)
        method.after_task(t, task)
        if t:
            later += [after.seconds - before.seconds for before, after in itertools.pairwise(steps)]
    accuracies = []
    for t, task in enumerate(stream):
        split = method.encode(t, task, "test")
        accuracies.append(float((predict(method, split, config.trainer) == split.labels).mean()))
    return Found(accuracies, 1000 * statistics.median(later))


def hand_over(folder: Path, seeds: Sequence[int], stream: TaskStream) -> None:
    """Write what the other side reads: settings, pixels and labels, and of each seed heads and batches."""
    config = composed("task_incremental", 0)
    trainer, method_config = config.trainer, config.method
    tensors: dict[str, torch.Tensor] = {}
    num_steps = 0
    for scenario in SCENARIOS:
        method = Method(composed(scenario, 0), stream)
        for (t, task), split in itertools.product(enumerate(stream), ("train", "test")):
            encoded: Any = method.encode(t, task, split)
            tensors[f"{t}/{split}/pixels"] = encoded[list(range(len(encoded)))].inputs["pixel_values"]
            tensors[f"{t}/{split}/labels/{scenario}"] = torch.from_numpy(encoded.labels)
    save_file(tensors, folder / "stream.safetensors")
    for seed in seeds:
        seed_everything(seed)
        method = Method(composed("task_incremental", seed), stream)
        save_file(dict(method.model.heads.state_dict()), folder / f"heads-{seed}.safetensors")
        order = []
        for t, task in enumerate(stream):
            split = method.encode(t, task, "train")
            own = seed_everything(seed, t + 1)
            loader = split.training_batches(trainer.batch_size, own, trainer.epochs)
            batches, num = list(cast(Iterable[list[int]], loader.sampler)), split.num_batches(trainer.batch_size)
            epochs = [batches[i : i + num] for i in range(0, len(batches), num)]
            order.append(epochs)
            num_steps = sum(map(len, epochs))
        (folder / f"order-{seed}.json").write_text(json.dumps(order))
    schedule = warmup_then_linear(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), num_steps, trainer.warmup)
    settings = {
        "model": str(weights_folder(config.model)),
        "num_tasks": len(stream),
        "learning_rate": method_config.learning_rate,
        "head_learning_rate": trainer.head_learning_rate,
        "weight_decay": trainer.weight_decay,
        "gradient_clip": trainer.gradient_clip,
        "batch_size": trainer.batch_size,
        "eval_batch_size": trainer.eval_batch_size,
        "epochs": trainer.epochs,
        "factors": [schedule.lr_lambdas[0](step) for step in range(num_steps)],
    }
    (folder / "settings.json").write_text(json.dumps(settings))


class Peer:
    """The other side, in an environment of its own."""

    def __init__(self, python: str, folder: Path, script: Path = PEER) -> None:
        self._log, self._name = (folder / "peer.log").open("w+"), script.name
        self._process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def ask(self, scenario: str, seed: int, method: str, arguments: dict[str, Any], is_double: bool = False) -> Found:
        """Return what it found."""
        request = {"scenario": scenario, "seed": seed, "method": method, "arguments": arguments, "is_double": is_double}
        return Found(**self.answer(request))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what it says to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._log.seek(0)
            raise SystemExit(f"{self._name} gave up:\n{self._log.read()[-2000:]}")
        return json.loads(answer)


Runs = dict[tuple[str, str], list[tuple[Found, Found]]]  # scenario and method → ours and theirs, by seed


def compared(python: str, num_seeds: int) -> tuple[dict[str, float], list[str]]:
    """Train every pair in turn, run by run; return figures by name and lines of the page."""
    seeds = list(range(num_seeds))
    config = composed("task_incremental", 0)
    stream = load_stream(config.tasks, config.data_seed)
    plan = [(False, *rest) for rest in itertools.product(seeds, SCENARIOS, EACH)]
    plan += [(True, *rest) for rest in itertools.product(seeds[:2], SCENARIOS, MATCHED)]
    each: Runs = {}
    matched: Runs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hand_over(folder, seeds, stream)
        with Peer(python, folder) as peer:
            for i in left("beside Avalanche: pair", [row.weight for *_, row in plan]):
                is_double, seed, scenario, row = plan[i]
                sides = [
                    lambda p=plan[i]: ours(composed(p[2], p[1], p[3].words), stream, p[0]),
                    lambda p=plan[i]: peer.ask(p[2], p[1], p[3].method, p[3].arguments, p[0]),
                ]
                if seed % 2:
                    there, here = sides[1](), sides[0]()
                else:
                    here, there = sides[0](), sides[1]()
                (matched if is_double else each).setdefault((scenario, row.name), []).append((here, there))
    return _figures(each, matched), _lines(each, matched, num_seeds)


def difference(pairs: list[tuple[Found, Found]]) -> tuple[float, float]:
    """Return the mean difference of the average accuracies, ours less theirs, and half its 95 % interval, by seeds."""
    apart = [here.average - there.average for here, there in pairs]
    half = scipy.stats.t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5
    return statistics.mean(apart), float(half)


def largest(pairs: list[tuple[Found, Found]]) -> float:
    """Return the largest difference of the accuracies on any task."""
    return max(abs(a - b) for here, there in pairs for a, b in zip(here.accuracies, there.accuracies, strict=True))


def importance_ratio(each: Runs, matched: Runs) -> float:
    """Return how much larger importances of single examples are than those of batches, at the same parameters."""
    key = ("task_incremental", "ewc")
    pairs = zip(each[key], matched[key], strict=False)
    return statistics.mean(single[1].importance / batch[1].importance for batch, single in pairs)


def _figures(each: Runs, matched: Runs) -> dict[str, float]:
    figures = {"importance_ratio": importance_ratio(each, matched)}
    for (scenario, name), pairs in each.items():
        for side, found in zip(("here", "avalanche"), zip(*pairs, strict=True), strict=True):
            figures[f"accuracy_{scenario}_{name}_{side}"] = statistics.mean(f.average for f in found)
            figures[f"step_ms_{scenario}_{name}_{side}"] = statistics.median(f.step_ms for f in found)
        figures[f"difference_{scenario}_{name}"] = difference(pairs)[0]
    return figures | {f"matched_{scenario}_{name}": largest(pairs) for (scenario, name), pairs in matched.items()}


def _lines(each: Runs, matched: Runs, num_seeds: int) -> list[str]:
    trainer = composed("task_incremental", 0).trainer
    lines = [
        "## Beside Avalanche\n",
        f"avalanche-lib 0.6.0; the whole ViT and its heads train (`{' '.join(SHARED[:2])}`), so no adapter library "
        "stands between the two. Split digits, 5 tasks of 2: the same weights, initial heads, batches in the same "
        f"order, {trainer.epochs} epochs of batches of {trainer.batch_size}, AdamW with weight decay "
        f"{trainer.weight_decay}, heads at {trainer.head_learning_rate}, warm-up, linear decay, clipping at "
        f"{trainer.gradient_clip}. AdamW starts anew with each task, which Avalanche does when told to. Both sides "
        "take turns, run by run. Average accuracy after the last task, mean ± standard deviation of "
        f"{num_seeds} seeds; the difference with its 95 % interval, "
        "paired by seed; the median step from the second task on.\n",
    ]
    for scenario in SCENARIOS:
        lines += [
            f"| {scenario.replace('_', '-')} | here | Avalanche | difference | ms a step here | Avalanche |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in EACH:
            pairs = each[scenario, row.name]
            cells = [f"`{row.name}`"]
            for found in zip(*pairs, strict=True):
                averages = [f.average for f in found]
                cells.append(f"{statistics.mean(averages):.3f} ± {statistics.stdev(averages):.3f}")
            mean, half = difference(pairs)
            cells.append(f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})")
            cells += [f"{statistics.median(f.step_ms for f in found):.1f}" for found in zip(*pairs, strict=True)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    ratio = importance_ratio(each, matched)
    lines.append("Where an interval holds 0 these seeds cannot tell the two apart. What differs:\n")
    naive = max(largest(each[scenario, "naive"]) for scenario in SCENARIOS)
    measured = {"importance_ratio": ratio, "as_ours": 200 / ratio, "naive": naive}
    lines += [f"- `{row.name}`: {row.what.format(**measured)}" for row in EACH]
    worst = max(map(largest, matched.values()))
    agree = "give the same accuracy on every task" if worst == 0 else f"differ by {worst:.3f} at most"
    lines += [
        "\nWhether this is all can be tried. With these differences taken away the two sides "
        f"{agree}, of {min(2, num_seeds)} seeds. This is in double precision: AdamW makes whole steps of rounding "
        "errors where a gradient is zero, as that of `lwf` is when a task begins.\n",
        "| | changed | " + " | ".join(f"largest difference, {s.replace('_', '-')}" for s in SCENARIOS) + " |",
        "| --- | --- | --- | --- |",
    ]
    for row in MATCHED:
        found = [f"{largest(matched[scenario, row.name]):.3f}" for scenario in SCENARIOS]
        lines.append(f"| `{row.name}` | {row.what} | {' | '.join(found)} |")
    lines.append("\nThe difference is that of a task's accuracy in the end, the largest of all tasks and seeds.")
    return lines
