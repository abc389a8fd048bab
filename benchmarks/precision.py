"""What a training step of `clora` on MiniLM takes in bfloat16 and in single precision, on one thread of a CPU.

Three sides take turns on the same batches of 16 texts (the legal task): single precision; bfloat16 as `fit` trains, by
plain products in attention; bfloat16 with torch's fused attention. Run: python benchmarks/precision.py [--rounds 20].
Writes results/benchmarks/precision.md.
"""

import argparse
import platform
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.methods.base import Method
from clora_exp.reports.words import markdown_row
from clora_exp.session import attention_for
from clora_exp.tasks.stream import load_stream

CPU = torch.device("cpu")
SIDES = {
    "single precision": ("32-true", True),
    "bfloat16, plain products": ("bf16-mixed", True),
    "bfloat16, fused attention": ("bf16-mixed", False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of all three sides, default 20")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = compose_experiment(["method=clora", "tasks.order=[legal]"])
    stream = load_stream(config.tasks, config.data_seed)
    method = Method(config, stream, CPU)
    method.before_task(0, stream.tasks[0])
    split = method.encode(0, stream.tasks[0], "train")
    batches = [split[list(range(16 * i, 16 * i + 16))] for i in range(len(split) // 16)]
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for i in range(options.rounds + 1):
        for name, (precision, is_ours) in SIDES.items():
            started = time.perf_counter()
            with attention_for(precision, CPU) if is_ours else nullcontext():
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = method.training_loss(batches[i % len(batches)])
                loss.backward()
            if i:  # the first one warms up
                times[name].append(1000 * (time.perf_counter() - started))
    write(times, options)


def write(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Write the page and print it."""
    base = statistics.median(times["single precision"])
    amx = "with" if torch.cpu._is_amx_tile_supported() else "without"
    lines = [
        "# A training step in bfloat16 on a CPU\n",
        f"`python benchmarks/precision.py --rounds {options.rounds}`\n",
        f"`clora` on MiniLM, 16 texts, forward and backward; torch {torch.__version__}, one thread, "
        f"{platform.machine()} {amx} AMX. Medians over {options.rounds} rounds, the sides in turn.\n",
        markdown_row(["side", "ms a step", "over single precision"]),
        "| --- | --- | --- |",
    ]
    for name, found in times.items():
        middle = statistics.median(found)
        lines.append(markdown_row([name, f"{middle:.0f}", f"{middle / base:.2f}"]))
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "precision.md", text.encode())
    print(text)


if __name__ == "__main__":
    ended_in_order(main)
