"""What the adapters cost: training steps, mixed batches, switching, bytes and compiled inference, on MiniLM.

Ratios of medians, measured in one process, the two sides in turn; intervals by bootstrap over the rounds. Texts are
real (the legal task), tokenised beforehand. Run: python benchmarks/adapters.py [--rounds 100] (about seven minutes on
two idle cores); writes results/benchmarks/adapters.md and .json, and prints one JSON object as its last line.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel

from clora_exp.adapters.active import answering
from clora_exp.adapters.active import compiled as compile_for_tasks
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.pairs import merge_into
from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.files import write_atomically
from clora_exp.methods.base import Method
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.heads import Heads
from clora_exp.models.weights import weights_folder
from clora_exp.optimizers import build_optimizer
from clora_exp.tasks.stream import load_stream

FOLDER = Path(__file__).parent.parent / "results" / "benchmarks"
TASK = 1  # legal: its texts have a middling length
TARGETS = {
    "step_ratio_clora": 1.10,
    "step_ratio_clora_gated": 1.05,
    "step_ratio_clora_xs": 1.00,
    "mixed_ratio_32": 1.10,
    "mixed_ratio_1000": 1.10,
    "added_over_peft_32": 0.4,
    "added_over_peft_1": 1.1,
    "switch_p99_ms_1": 1.0,
    "switch_p99_ms_100": 1.0,
    "switch_p99_ms_1000": 1.0,
    "bytes_ratio_xs": 40.0,
    "compiled_ratio": 1.15,
}
WORDS = {
    "step_ratio_clora": "training step of `clora` over PEFT's LoRA",
    "step_ratio_clora_gated": "training step of `clora_gated` over PEFT's LoRA",
    "step_ratio_clora_xs": "training step of `clora_xs` over PEFT's LoRA",
    "mixed_ratio_32": "32 rows of 32 tasks over the same rows of one, 32 tasks loaded",
    "mixed_ratio_1000": "32 rows of 32 tasks over the same rows of one, 1000 tasks loaded",
    "added_over_peft_32": "what 32 tasks in a batch add to the bare base, over what PEFT's `adapter_names` add",
    "added_over_peft_1": "what one task adds to the bare base, over what PEFT's `adapter_names` add",
    "switch_p99_ms_1": "switch, 99th percentile in ms, 1 task loaded",
    "switch_p99_ms_100": "switch, 99th percentile in ms, 100 tasks loaded",
    "switch_p99_ms_1000": "switch, 99th percentile in ms, 1000 tasks loaded",
    "bytes_ratio_xs": "bytes of 1000 LoRAs over those of 1000 tasks of `clora_xs` with their basis (more is better)",
    "compiled_ratio": "inference of one task, compiled, over the merged model, compiled, batch 32",
}

Figures = dict[str, tuple[float, float, float]]  # name → median, and the ends of its 95 % interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="measurements of each side (default 100)")
    parser.add_argument("--rows", type=int, default=32, help="texts answered at once, up to 32; half are trained on")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for adapters.md and .json")
    options = parser.parse_args()
    rounds, rows = options.rounds, options.rows
    if rounds < 1 or not 1 <= rows <= 32:
        parser.error("1 or more rounds; 1 to 32 rows")
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    config = compose_experiment(["method=clora_xs"])
    stream = load_stream(config.tasks, 0)
    split = Method(config, stream).model.encode(TASK, stream.tasks[TASK], "test")
    figures: Figures = {}
    for measure in (steps, mixed_batches, over_peft, switching, sizes, compiled):
        found = measure(split, rounds, rows)
        for name, (value, low, high) in found.items():
            line = f"{WORDS[name]}: {value:.3f} [{low:.3f}, {high:.3f}], target {TARGETS[name]}"
            print(line, file=sys.stderr, flush=True)
        figures |= found
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "adapters.md", page(figures, rounds, rows).encode())
    write_atomically(
        options.out / "adapters.json", f"{json.dumps(switch_times(figures, rounds, rows), indent=2)}\n".encode()
    )
    print(json.dumps({name: round(value, 4) for name, (value, _, _) in figures.items()}))


def alternate(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Call the sides in turn and return the seconds of each call; two rounds to warm up are left out."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 2):
        for name in sorted(sides, reverse=bool(i % 2)):
            start = time.perf_counter()
            sides[name]()
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values[2:]) for name, values in times.items()}


def interval(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float, float, float]:
    """Return the statistic and its 95 % interval by bootstrap over rounds, the sides drawn together."""
    rng, n = np.random.default_rng(0), len(samples[0])
    draws = [statistic(*(sample[rows] for sample in samples)) for rows in rng.integers(n, size=(1000, n))]
    low, high = np.quantile(draws, [0.025, 0.975])
    return statistic(*samples), float(low), float(high)


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Return the ratio of the medians."""
    return float(np.median(a) / np.median(b))


def bare(config: ExperimentConfig) -> Any:
    """Return the backbone alone."""
    return AutoModel.from_pretrained(weights_folder(config.model), dtype=torch.float32).eval().requires_grad_(False)


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the mask, (n, d)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def steps(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Time a training step (forward, backward, clipping, optimiser) of each setting on its second task."""
    batch = split[list(range(max(1, rows // 2)))]
    sides: dict[str, Callable[[], Any]] = {"peft": peft_step(batch)}
    for name in ("clora", "clora_gated", "clora_xs"):
        sides[name] = our_step(compose_experiment([f"method={name}", "method.dropout=0.0"]), batch)
    times = alternate(sides, rounds)
    return {f"step_ratio_{name}": interval(ratio, times[name], times["peft"]) for name in sides if name != "peft"}


def peft_step(batch: Batch) -> Callable[[], Any]:
    """Return a step of PEFT's LoRA, same rank and modules."""
    config = compose_experiment(["method=lora"])
    lora = LoraConfig(
        r=config.method.rank, lora_alpha=config.method.alpha, target_modules=config.model.settings.target_modules
    )
    model, head = get_peft_model(bare(config), lora).eval(), nn.Linear(384, 6)
    parameters = [*(p for p in model.parameters() if p.requires_grad), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        hidden = model(**batch.inputs).last_hidden_state
        loss = F.cross_entropy(head(pooled(hidden, batch.inputs["attention_mask"])), batch.labels)
        finish(loss, parameters, optimizer)

    return step


def our_step(config: ExperimentConfig, batch: Batch) -> Callable[[], Any]:
    """Return a step of a setting, with the loss, penalty and optimisers that a run gives it."""
    stream = load_stream(config.tasks, 0)
    method = Method(config, stream)
    for t in range(TASK):
        method.before_task(t, stream.tasks[t])
        method.after_task(t, stream.tasks[t])
    method.before_task(TASK, stream.tasks[TASK])
    optimizer = build_optimizer(method.parameter_groups(TASK), 0.01)
    parameters = [p for p in method.model.parameters() if p.requires_grad]
    return lambda: finish(method.training_loss(batch), parameters, optimizer)


def finish(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Go back, clip and step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def loaded(num_tasks: int) -> tuple[Any, Adapters, Heads]:
    """Return MiniLM with so many `clora_xs` tasks, and their heads of 21 labels."""
    config = compose_experiment(["method=clora_xs"])
    model = bare(config)
    adapters = Adapters(model, config.method, config.model.settings.target_modules)
    adapters.start_task(0)
    adapters.finish_task()
    like = adapters.owned_by(0)
    adapters.add_tasks([{k: 0.1 * torch.randn_like(v) for k, v in like.items()} for _ in range(num_tasks - 1)])
    return model, adapters, Heads(384, [21] * num_tasks).requires_grad_(False)


def mixed_batches(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Time rows of as many tasks against the same rows of one, heads included."""
    inputs, figures = split[list(range(rows))].inputs, {}
    for num_tasks in (32, 1000):
        model, _, heads = loaded(num_tasks)
        tasks = torch.randperm(num_tasks)[:rows]

        def answer(task: int | Tensor, model: Any = model, heads: Heads = heads) -> Tensor:
            with torch.inference_mode(), answering(task):
                return heads(pooled(model(**inputs).last_hidden_state, inputs["attention_mask"]), task)

        sides = {"mixed": lambda a=answer, t=tasks: a(t), "one": lambda a=answer, t=int(tasks[0]): a(t)}
        times = alternate(sides, rounds)
        figures[f"mixed_ratio_{num_tasks}"] = interval(ratio, times["mixed"], times["one"])
    return figures


def over_peft(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Compare what a batch costs more than on the bare base, with what PEFT's adapter_names cost more."""
    inputs = split[list(range(rows))].inputs
    config = compose_experiment(["method=clora_xs"])
    base, (model, _, _) = bare(config), loaded(32)
    lora = LoraConfig(
        r=config.method.rank, lora_alpha=config.method.alpha, target_modules=config.model.settings.target_modules
    )
    peft = get_peft_model(bare(config), lora, adapter_name="0").eval()
    for t in range(1, 32):
        peft.add_adapter(str(t), lora)

    def ours(task: int | Tensor) -> None:
        with torch.inference_mode(), answering(task):
            model(**inputs)

    def theirs(names: list[str]) -> None:
        with torch.inference_mode():
            peft(**inputs, adapter_names=names)

    def alone() -> None:
        with torch.inference_mode():
            base(**inputs)

    sides = {
        "base": alone,
        "ours_1": lambda: ours(0),
        "ours_32": lambda: ours(torch.arange(rows)),
        "peft_1": lambda: theirs(["0"] * rows),
        "peft_32": lambda: theirs([str(t) for t in range(rows)]),
    }
    times = alternate(sides, rounds)

    def added(ours: np.ndarray, peft: np.ndarray, base: np.ndarray) -> float:
        return float((np.median(ours) - np.median(base)) / (np.median(peft) - np.median(base)))

    return {
        f"added_over_peft_{n}": interval(added, times[f"ours_{n}"], times[f"peft_{n}"], times["base"]) for n in (32, 1)
    }


def switching(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Time what choosing another task costs: everything but the forward pass itself, the numbers of tasks in turn."""
    loads = {num_tasks: loaded(num_tasks)[1] for num_tasks in (1, 100, 1000)}
    rng, times = np.random.default_rng(0), {num_tasks: [] for num_tasks in loads}
    for i in range(50 * rounds + 100):
        for num_tasks, adapters in loads.items():
            task = int(rng.integers(num_tasks))
            start = time.perf_counter()
            with answering(task):
                for layer in adapters.layers.values():
                    layer.parts_of(task)
            if i >= 100:
                times[num_tasks].append(1e3 * (time.perf_counter() - start))
    blocks = {num_tasks: np.array(sample).reshape(rounds, 50) for num_tasks, sample in times.items()}
    return {f"switch_p99_ms_{n}": interval(lambda block: float(np.quantile(block, 0.99)), b) for n, b in blocks.items()}


def switch_times(figures: Figures, rounds: int, rows: int) -> dict[str, Any]:
    """Return what comparison reports quote: of which method and model, and the 99th percentile by tasks loaded."""
    times = {str(n): round(figures[f"switch_p99_ms_{n}"][0], 3) for n in (1, 100, 1000)}
    return {"command": command(rounds, rows), "method": "clora_xs", "model": "minilm", "switch_p99_ms": times}


def command(rounds: int, rows: int) -> str:
    """Return what was typed."""
    return f"python benchmarks/adapters.py --rounds {rounds}" + (f" --rows {rows}" if rows != 32 else "")


def sizes(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Compare the files of a thousand tasks, the basis that they share with them."""
    from clora_exp.adapters.__main__ import measure

    lora, xs = (measure(compose_experiment([f"method={name}"])) for name in ("lora_per_task", "clora_xs"))
    value = 1000 * lora.task_bytes / (1000 * xs.task_bytes + xs.shared_bytes)
    return {"bytes_ratio_xs": (value, value, value)}


def compiled(split: EncodedSplit, rounds: int, rows: int) -> Figures:
    """Time one task, compiled, against the merged model, compiled."""
    inputs = split[list(range(rows))].inputs
    model, adapters, _ = loaded(100)
    merged = bare(compose_experiment(["method=clora_xs"]))
    merge_into(merged, adapters.as_lora(7))

    def ours(inputs: dict[str, Tensor]) -> Tensor:
        return model(**inputs).last_hidden_state

    def plain(inputs: dict[str, Tensor]) -> Tensor:
        return merged(**inputs).last_hidden_state

    fast, reference = compile_for_tasks(ours), torch.compile(plain)
    with torch.no_grad(), answering(7):
        torch.testing.assert_close(fast(inputs), reference(inputs), rtol=0, atol=1e-3)
        times = alternate({"ours": lambda: fast(inputs), "merged": lambda: reference(inputs)}, rounds)
    return {"compiled_ratio": interval(ratio, times["ours"], times["merged"])}


def processor() -> str:
    """Return the processor's name, or its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def page(figures: Figures, rounds: int, rows: int) -> str:
    """Return the result as one Markdown page."""
    cores, memory = psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total / 1e9
    lines = [
        "# What the adapters cost\n",
        f"`{command(rounds, rows)}`\n",
        f"MiniLM, rank 16, all linear layers of the encoder; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {processor()}, {cores} cores, {memory:.0f} GB, no GPU. Medians "
        f"over {rounds} rounds, the sides in turn; 95 % intervals by bootstrap.\n",
        "| what | measured | 95 % interval | target |",
        "| --- | --- | --- | --- |",
    ]
    for name, (value, low, high) in figures.items():
        sign = "≥" if name == "bytes_ratio_xs" else "≤"
        lines.append(f"| {WORDS[name]} | {value:.3f} | {low:.3f} to {high:.3f} | {sign} {TARGETS[name]:g} |")
    lines.append(
        f"\nA training step is the second task's: forward, backward, clipping, optimiser, {max(1, rows // 2)} texts. A "
        "switch is what a call does to find the parts of its task in all 36 layers; nothing is copied. Where an "
        "interval reaches beyond its target, this machine cannot decide. Compiled, a layer computes three thin matrix "
        "products more than one whose weights have the task merged in."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
