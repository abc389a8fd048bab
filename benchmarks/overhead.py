"""What the framework costs a training step: `lora` here over a bare PyTorch + PEFT loop, in one process, alternating.

Both train MiniLM with the same adapters, head, optimiser, clipping and batches (the legal task); a step is the time
from one optimiser step to the next, so everything between them counts. Run: python benchmarks/overhead.py [--pairs 8]
"""

import argparse
import io
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import nn

from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.interrupts import StopOnSignal
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit
from clora_exp.models.weights import weights_folder
from clora_exp.randomness import seed_everything
from clora_exp.reports.terminal import Terminal
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream

TASK = 0  # the stream's only one, legal: its texts have a middling length


def bare_loop(config: ExperimentConfig, split: EncodedSplit, num_labels: int) -> Callable[[int], list[float]]:
    """Return a function that trains the plain way and returns the seconds of each step but the first."""
    from transformers import AutoModel

    settings, folder = config.model.settings, weights_folder(config.model)
    method = config.method
    lora = LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=settings.target_modules)
    model = get_peft_model(AutoModel.from_pretrained(folder, dtype=torch.float32), lora).eval()
    head = nn.Linear(384, num_labels)
    adapters = [p for p in model.parameters() if p.requires_grad]

    def train(seed: int) -> list[float]:
        groups = [{"params": adapters, "lr": 1e-3}, {"params": head.parameters(), "lr": 1e-2}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        times = []
        for batch in split.training_batches(config.trainer.batch_size, seed):
            mask = batch.inputs["attention_mask"][..., None].float()
            hidden = model(**batch.inputs).last_hidden_state
            loss = F.cross_entropy(head((hidden * mask).sum(1) / mask.sum(1)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*adapters, *head.parameters()], 1.0)
            optimizer.step()
            loss.item()
            times.append(time.perf_counter())
            if len(times) == config.trainer.max_steps:
                break
        return [after - before for before, after in itertools.pairwise(times)]

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="alternating pairs of blocks (default 8)")
    parser.add_argument("--steps", type=int, default=16, help="steps a block (default 16)")
    options = parser.parse_args()
    if options.pairs < 2 or not 2 <= options.steps <= 32:
        parser.error("at least 2 pairs, and 2 to 32 steps a block: an epoch has 32")

    config = compose_experiment(
        ["method=lora", "tasks.order=[legal]", f"trainer.max_steps={options.steps}", "trainer.accelerator=cpu"]
    )
    stream = load_stream(config.tasks, config.data_seed)
    seed_everything(0)
    method = Method(config, stream)
    split = method.model.encode(TASK, stream.tasks[TASK], "train")
    bare = bare_loop(config, split, len(stream.tasks[TASK].labels))

    def ours(seed: int) -> list[float]:
        method.before_task(TASK, stream.tasks[TASK])
        watch = Terminal(Console(file=io.StringIO())).watching(config.trainer, [StopOnSignal()])  # as in a run
        callbacks = watch.learning("legal", split)
        ends = [step.seconds for step in fit(method, split, "legal", config.trainer, seed, callbacks)]
        method.model.eval()  # the session stays open: the next block goes on
        return [after - before for before, after in itertools.pairwise(ends)]

    bare(0), ours(0)  # warm up
    ratios, seconds = [], {"ours": [], "bare": []}
    for pair in range(options.pairs):
        order = [("ours", ours), ("bare", bare)][:: 1 if pair % 2 else -1]  # who goes first alternates
        took = {name: train(pair) for name, train in order}
        for name, times in took.items():
            seconds[name] += times
        ratios.append(statistics.mean(took["ours"]) / statistics.mean(took["bare"]))
        print(f"pair {pair + 1}/{options.pairs}: ratio {ratios[-1]:.3f}", file=sys.stderr)
    low, _, high = statistics.quantiles(ratios, n=4)
    figures = {
        "step_ratio": round(statistics.median(ratios), 4),
        "step_ratio_quartiles": [round(low, 4), round(high, 4)],
        "ours_ms": round(1000 * statistics.median(seconds["ours"]), 1),
        "bare_ms": round(1000 * statistics.median(seconds["bare"]), 1),
        "pairs": options.pairs,
        "steps": options.steps,
        "threads": torch.get_num_threads(),
    }
    print(f"{'':22}median step")
    print(f"{'bare PyTorch + PEFT':22}{figures['bare_ms']:>8} ms")
    print(f"{'lora here':22}{figures['ours_ms']:>8} ms")
    print(f"{'ratio':22}{figures['step_ratio']:>8}    quartiles {low:.3f} to {high:.3f}, target ≤ 1.03")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
