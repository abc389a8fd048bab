"""What the loop costs: this project's beside a hand-written one, transformers' Trainer and Avalanche's.

MiniLM learns medical → legal → code with `method=lora`. First with the very same batches on all sides, and the losses
compared, so that what is left is the loop; then each as its users have it: here batches of similar length and answers
carried over where nothing changed, there shuffled batches of any lengths and every task seen evaluated again.
Run: python benchmarks/loop.py [--rounds 8] [--peer PYTHON]; writes results/benchmarks/loop.md, and prints one JSON
object as its last line. How to make the environment of --peer: benchmarks/peers/avalanche_texts.py.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import transformers
from adapters import interval, processor
from beside import Peer
from loop_sides import Chunk, HuggingFace, Ours, Plain, Setting, Side
from progress import left
from safetensors.torch import save_file

from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.files import write_atomically
from clora_exp.methods.base import Method
from clora_exp.models.weights import weights_folder
from clora_exp.optimizers import warmup_then_linear
from clora_exp.randomness import seed_everything
from clora_exp.tasks.stream import load_stream

FOLDER = Path(__file__).parent.parent / "results" / "benchmarks"
PEER = Path(__file__).parent / "peers" / "avalanche_texts.py"
NAMES = {
    "ours": "here",
    "plain": "PyTorch and PEFT by hand",
    "trainer": "transformers' `Trainer`",
    "avalanche": "Avalanche's `Naive`",
    "lora": "here, `lora`",
    "lora_per_task": "here, `lora_per_task`",
}
PARTS = ("both", "train", "evaluate")


class Times(NamedTuple):
    """Of each side, by round: seconds of training and of evaluation, over all tasks; and what came out."""

    train: dict[str, np.ndarray]
    evaluate: dict[str, np.ndarray]
    apart: dict[str, float]  # the largest difference of a loss from the first side's
    disagree: dict[str, int]  # answers that are not the first side's
    tokens: float  # of an epoch, padding included: in batches of similar length over shuffled ones

    def of(self, part: str, side: str) -> np.ndarray:
        """Return the seconds of a side, by round."""
        train, evaluate = self.train[side], self.evaluate[side]
        return {"train": train, "evaluate": evaluate, "both": train + evaluate}[part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="times each side learns all tasks (default 8)")
    parser.add_argument("--steps", type=int, default=16, help="steps of each task (default 16)")
    parser.add_argument("--examples", type=int, default=96, help="held-out examples of each task (default 96)")
    parser.add_argument("--lengths", default="48,128", help="tokens of a text at most, short and long (default 48,128)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side (default 1)")
    parser.add_argument("--peer", help="the python of an environment with Avalanche; without it that side is left out")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for loop.md")
    options = parser.parse_args()
    if options.rounds < 2 or not 1 <= options.steps <= 60 or options.examples < 32:
        parser.error("2 or more rounds; 1 to 60 steps; 32 or more examples")
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if not options.peer:
        print(f"no --peer: Avalanche is left out. How to make its environment: {PEER.name}", file=sys.stderr)
    lengths = [int(length) for length in options.lengths.split(",")]
    same = compared(options, lengths[0], own_batches=False)
    own = {length: compared(options, length, own_batches=True) for length in lengths}
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "loop.md", page(same, own, options).encode())
    print(json.dumps({name: round(value, 4) for name, value in figures(same, own).items()}))


def compared(options: argparse.Namespace, max_length: int, own_batches: bool) -> Times:
    """Let all sides learn all tasks so many times, in turn task by task; return what that took."""
    words = [f"model.text_encoder.max_length={max_length}", "trainer.accelerator=cpu"]
    words += [f"trainer.max_steps={options.steps}", f"trainer.max_eval_examples={options.examples}"]
    setting, methods = prepared(words, ["lora", "lora_per_task"] if own_batches else ["lora"])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tokenizer = methods["lora"].model.tokenizer
        sides: dict[str, Side]
        if own_batches:
            sides = {name: Ours(setting, method, carries_over=True) for name, method in methods.items()}
        else:
            sides = {"ours": Ours(setting, methods["lora"]), "plain": Plain(setting)}
        sides["trainer"] = HuggingFace(setting, folder, tokenizer, own_batches)
        if options.peer:
            hand_over(Path(folder), setting, options)
            peer = stack.enter_context(Peer(options.peer, Path(folder), PEER))
            sides["avalanche"] = Avalanche(peer, own_batches)
        times = taken(sides, options.rounds, len(setting.stream), f"{max_length} tokens, round")
        return times._replace(tokens=tokens(setting))


def tokens(setting: Setting) -> float:
    """Return the tokens of an epoch of all tasks, padding included, over those of shuffled batches."""
    rng, size = np.random.default_rng(0), setting.config.trainer.batch_size
    grouped = shuffled = 0
    for split in setting.train:
        lengths, order = split.lengths, rng.permutation(len(split))
        anyhow = [order[i : i + size] for i in range(0, len(order), size)]
        similar = split.training_batches(size, 0).sampler
        grouped += sum(int(lengths[rows].max()) * len(rows) for rows in similar)
        shuffled += sum(int(lengths[rows].max()) * len(rows) for rows in anyhow)
    return grouped / shuffled


def prepared(words: list[str], names: list[str]) -> tuple[Setting, dict[str, Method]]:
    """Return what all sides have in common, and a method for each name, all from the same weights."""
    methods: dict[str, Method] = {}
    config: ExperimentConfig
    for name in reversed(names):
        config = compose_experiment([*words, f"method={name}"])
        stream = load_stream(config.tasks, config.data_seed)
        stream = stream.thinned(config.eval_split, config.trainer.max_eval_examples)
        seed_everything(config.seed)
        methods[name] = Method(config, stream)
    method: Any = methods["lora"]
    start = {f"heads.{name}": value for name, value in method.model.heads.state_dict().items()}
    for name, value in method.model.backbone.state_dict().items():
        if ".lora_A." in name or ".lora_B." in name:
            start[f"backbone.base_model.model.{name}"] = value
    splits = ([method.encode(t, task, split) for t, task in enumerate(stream)] for split in ("train", "test"))
    setting = Setting(config, stream, *splits, {name: value.clone() for name, value in start.items()})
    return setting, {name: methods[name] for name in names}


class Avalanche:
    """Avalanche's loop in its own process, which measures itself and rests meanwhile."""

    def __init__(self, peer: Peer, own_batches: bool) -> None:
        self._peer, self._own = peer, own_batches

    def restart(self, seed: int) -> None:
        self._peer.answer({"do": "restart", "seed": seed})

    def train(self, t: int) -> Chunk:
        return Chunk(**self._peer.answer({"do": "train", "t": t, "own_batches": self._own}))

    def evaluate(self, tasks: Sequence[int]) -> Chunk:
        found = self._peer.answer({"do": "evaluate", "tasks": list(tasks), "own_batches": self._own})
        return Chunk(found["seconds"], [], [np.array(answers) for answers in found["answers"]])


def hand_over(folder: Path, setting: Setting, options: argparse.Namespace) -> None:
    """Write what Avalanche's side reads: settings, weights, tokens, and of each round the batches."""
    config, trainer = setting.config, setting.config.trainer
    tensors = {}
    for name, splits in (("train", setting.train), ("test", setting.held_out)):
        for t, split in enumerate(splits):
            parts = {"token_ids": split.token_ids, "starts": split.starts, "labels": split.labels}
            tensors |= {f"{t}/{name}/{part}": torch.from_numpy(value) for part, value in parts.items()}
    save_file(tensors, folder / "splits.safetensors")
    save_file(setting.start, folder / "start.safetensors")
    tasks = range(len(setting.stream))
    for seed in range(options.rounds + 1):
        orders = [list(setting.batches(seed, t).sampler)[: setting.num_steps] for t in tasks]
        (folder / f"order-{seed}.json").write_text(json.dumps(orders))
    orders = [list(split.evaluation_batches(trainer.eval_batch_size).sampler) for split in setting.held_out]
    (folder / "order-test.json").write_text(json.dumps(orders))
    one = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    factor = warmup_then_linear(one, setting.num_steps, trainer.warmup).lr_lambdas[0]
    settings = {
        **dataclasses.asdict(trainer),
        "model": str(weights_folder(config.model)),
        "num_tasks": len(setting.stream),
        "threads": options.threads,
        "factors": [factor(step) for step in range(setting.num_steps)],
        "lora": {
            "r": config.method.rank,
            "lora_alpha": config.method.alpha,
            "target_modules": config.model.settings.target_modules,
        },
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def taken(sides: dict[str, Side], rounds: int, num_tasks: int, what: str) -> Times:
    """Let the sides learn the tasks in turn: who is first changes from task to task; the first round warms up."""
    names = list(sides)
    found: dict[tuple[str, str], list[list[Chunk]]] = {(part, name): [] for part in PARTS[1:] for name in names}
    for i in left(what, [1] * (rounds + 1)):
        for name, side in sides.items():
            side.restart(i)
            for part in PARTS[1:]:
                found[part, name].append([])
        for t in range(num_tasks):
            turn = (i + t) % len(names)
            for name in names[turn:] + names[:turn]:
                found["train", name][-1].append(sides[name].train(t))
                found["evaluate", name][-1].append(sides[name].evaluate(range(t + 1)))

    def seconds(part: str) -> dict[str, np.ndarray]:
        return {name: np.array([sum(c.seconds for c in chunks) for chunks in found[part, name][1:]]) for name in names}

    def everything(name: str) -> tuple[np.ndarray, np.ndarray]:
        losses = [loss for chunks in found["train", name] for chunk in chunks for loss in chunk.losses]
        answers = [a for chunks in found["evaluate", name] for chunk in chunks for a in chunk.answers]
        return np.array(losses), np.concatenate(answers)

    losses, answers = everything(names[0])
    others = {name: everything(name) for name in names[1:]}
    apart = {name: float(np.abs(found - losses).max()) for name, (found, _) in others.items()}
    disagree = {name: int((found != answers).sum()) for name, (_, found) in others.items()}
    return Times(seconds("train"), seconds("evaluate"), apart, disagree, tokens=1.0)


def median_ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the median of the rounds' ratios."""
    return float(np.median(ours / theirs))


def figures(same: Times, own: dict[int, Times]) -> dict[str, float]:
    """Return ratios by name, and how far the losses are apart."""
    found: dict[str, float] = {}
    for other, part in ((other, part) for other in list(same.train)[1:] for part in PARTS):
        found[f"same_{part}_over_{other}"] = median_ratio(same.of(part, "ours"), same.of(part, other))
    found |= {f"losses_apart_{name}": value for name, value in same.apart.items()}
    for length, times in own.items():
        found[f"own_{length}_tokens"] = times.tokens
        for name in ("lora", "lora_per_task"):
            for other in list(times.train)[2:]:
                ratio = median_ratio(times.of("both", name), times.of("both", other))
                found[f"own_{length}_{name}_over_{other}"] = ratio
    return found


def page(same: Times, own: dict[int, Times], options: argparse.Namespace) -> str:
    """Return the page."""
    cores, memory = psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total / 1e9
    command = f"python benchmarks/loop.py --rounds {options.rounds}"
    for name, default in (("steps", 16), ("examples", 96), ("lengths", "48,128"), ("threads", 1)):
        command += f" --{name} {vars(options)[name]}" if vars(options)[name] != default else ""
    command += " --peer PYTHON" if options.peer else ""
    lines = [
        "# What the loop costs\n",
        f"`{command}`\n",
        "MiniLM with LoRA (rank 16, on the attention) and a head a task learns medical → legal → code, "
        f"{options.steps} steps of 16 examples each; after each task {options.examples} held-out examples of every "
        f"task seen are answered. float32, {options.threads} thread(s), torch {torch.__version__}, transformers "
        f"{transformers.__version__}, avalanche-lib 0.6.0; {processor()}, {cores} cores, {memory:.0f} GB, no GPU. The "
        f"sides take turns, task by task, {options.rounds} rounds after one to warm up; seconds are medians of a whole "
        "round, ratios medians of the rounds' ratios with a 95 % interval by bootstrap over the rounds. All that a "
        "task's training needs counts: optimiser, schedule, a new Trainer here and with transformers. Nobody writes "
        "checkpoints; dropout is 0.\n",
        *_same_lines(same),
        *_own_lines(own),
    ]
    return "\n".join(lines) + "\n"


def _cells(times: Times, ours: str, other: str, targets: dict[str, str]) -> str:
    cells = []
    for part in PARTS:
        value, low, high = interval(median_ratio, times.of(part, ours), times.of(part, other))
        cells.append(f"{value:.3f} ({low:.3f} to {high:.3f}){targets.get(part, '')}")
    return " | ".join(cells)


def _same_lines(same: Times) -> list[str]:
    targets = {"plain": ", target ≤ 1.03", "trainer": ", target ≤ 1.00", "avalanche": ", target ≤ 1.00"}
    lines = [
        "## With the same batches\n",
        "Every side has this project's batches, from the same weights with the same learning rates and clipping.\n",
        "| | seconds | here over it | in training | in evaluation | largest difference of a loss | other answers |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {NAMES['ours']} | {np.median(same.of('both', 'ours')):.2f} | | | | | |",
    ]
    for other in list(same.train)[1:]:
        seconds = f"{np.median(same.of('both', other)):.2f}"
        cells = _cells(same, "ours", other, {"both": targets[other]})
        lines.append(
            f"| {NAMES[other]} | {seconds} | {cells} | {same.apart[other]:.1e} | {same.disagree[other]} |",
        )
    return lines


def _own_lines(own: dict[int, Times]) -> list[str]:
    lines = [
        "\n## As users have it\n",
        "Here batches are of texts of similar length, and an evaluation is not repeated where nothing that decides it "
        "has changed: with `lora` every task changes the one adapter, so all that it gains is less padding; with "
        "`lora_per_task` the answers to earlier tasks are carried over. The others shuffle, pad to the longest of the "
        "batch and evaluate every task seen, in the order of the data; they train one LoRA, which takes them as long "
        "as one a task would. All have tokenised beforehand. Texts are cut at the default of "
        f"{min(own)} tokens, or at {max(own)}: with the shorter ones most texts of two of the three tasks are cut and "
        "equally long, so there is little padding to save: an epoch has "
        + ", ".join(f"{times.tokens:.2f} times the tokens at {length}" for length, times in own.items())
        + ". Same number of steps and examples on all sides, other batches.\n",
    ]
    for length, times in own.items():
        lines += [
            f"| {length} tokens | seconds | over it | in training | in evaluation |",
            "| --- | --- | --- | --- | --- |",
        ]
        ours, others = list(times.train)[:2], list(times.train)[2:]
        for name in ours:
            lines.append(f"| {NAMES[name]} | {np.median(times.of('both', name)):.2f} | | | |")
            for other in others:
                seconds = f"{np.median(times.of('both', other)):.2f}"
                cells = _cells(times, name, other, {"both": ", target ≤ 0.7"})
                lines.append(f"| {NAMES[other]} | {seconds} | {cells} |")
        lines.append("")
    return lines


if __name__ == "__main__":
    main()
