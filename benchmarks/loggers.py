"""What following a run costs: sessions with a logger and without one, in one process, alternating.

Both train `lora` on the first task of `split_digits` with the small ViT made here, whose steps are the shortest there
are, so that a logger's share is the largest. Time is the clock's, and beside it the processor time of this process,
which others on the machine disturb less. A session with a logger ends when all its steps are told; Weights & Biases
is offline, MLflow in a SQLite file. Run: python benchmarks/loggers.py [--rounds 10] [--loggers wandb,mlflow]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import torch

from clora_exp.compose import compose_experiment
from clora_exp.environment import describe_environment
from clora_exp.loggers.logs import Logs
from clora_exp.loop import ingredients
from clora_exp.methods.base import Method
from clora_exp.progress import Progress
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory
from clora_exp.session import fit

TASK = 0


def measured(name: str, rounds: int, steps: int) -> dict[str, float]:
    """Return milliseconds a step without and with the logger, by the clock and of this process's processor time.

    And the ratios with over without, and the seconds that the logger's start and end take.
    """
    with tempfile.TemporaryDirectory() as results:
        fixed = ["method=lora", "tasks=split_digits", "model=vit_digits", "trainer.accelerator=cpu"]
        config = compose_experiment(
            [*fixed, f"logger={name}", f"results_dir={results}", f"trainer.max_steps={steps}", "trainer.epochs=100"]
        )
        stream, model_sha256 = ingredients(config, Terminal.silent())
        method = Method(config, stream)
        split = method.encode(TASK, stream.tasks[TASK], "train")
        folder = RunDirectory(config, stream, model_sha256)
        with folder.held("benchmark"):
            folder.prepare("benchmark", describe_environment(stream, model_sha256, torch.device("cpu")))
            progress, logs = Progress(method.scenario, config), Logs(folder, Terminal.silent())
            begun = time.perf_counter()
            logs.begin(progress, is_new=True)
            start_s = time.perf_counter() - begun

            def session(seed: int, is_told: bool) -> tuple[float, float]:
                method.before_task(TASK, stream.tasks[TASK])
                started = time.perf_counter(), time.process_time()
                done = fit(method, split, stream.names[TASK], config.trainer, seed, [logs] if is_told else [])
                took = time.perf_counter() - started[0], time.process_time() - started[1]
                assert len(done) == steps
                if is_told:  # the next session's steps are other points
                    progress.history += [
                        {"task": "0-1", "metric": "train_loss", "value": s.loss, "step": s.step} for s in done
                    ]
                    logs.follow(progress)
                return took

            session(0, True), session(0, False)  # warm up
            told, plain = [], []
            for i in range(rounds):
                for is_told in (True, False) if i % 2 else (False, True):  # who goes first alternates
                    (told if is_told else plain).append(session(i, is_told))
            begun = time.perf_counter()
            logs.__exit__(InterruptedError, InterruptedError("measured"), None)  # no result, so no figures
            end_s = time.perf_counter() - begun
            assert all(follower.listens for follower in logs._followers), f"{name} is in trouble"
    figures = {"start_s": round(start_s, 2), "end_s": round(end_s, 2)}
    for k, clock in enumerate(("", "cpu_")):
        without, with_it = [session[k] for session in plain], [session[k] for session in told]
        figures |= {
            f"{clock}plain_ms": round(1000 * statistics.median(without) / steps, 3),
            f"{clock}told_ms": round(1000 * statistics.median(with_it) / steps, 3),
            f"{clock}ratio": round(statistics.median(a / b for a, b in zip(with_it, without, strict=True)), 4),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="alternating pairs of sessions (default 10)")
    parser.add_argument("--steps", type=int, default=100, help="steps a session (default 100)")
    parser.add_argument("--loggers", default="wandb,tensorboard,mlflow", help="which, by commas")
    options = parser.parse_args()
    if options.rounds < 2 or options.steps < 2:
        parser.error("at least 2 rounds and 2 steps")
    os.environ["WANDB_MODE"] = "offline"
    figures: dict[str, float] = {}
    print(f"{'a step':12}{'without':>11}{'with':>11}{'ratio':>8}{'processor':>14}{'ratio':>8}{'start':>8}{'end':>8}")
    for name in options.loggers.split(","):
        print(f"{name}: {options.rounds} rounds of two sessions", file=sys.stderr)
        found = measured(name, options.rounds, options.steps)
        times = f"{found['plain_ms']:>8.2f} ms{found['told_ms']:>8.2f} ms{found['ratio']:>8.3f}"
        added = f"{found['cpu_told_ms'] - found['cpu_plain_ms']:>+11.2f} ms{found['cpu_ratio']:>8.3f}"
        print(f"{name:12}{times}{added}{found['start_s']:>6} s{found['end_s']:>6} s", flush=True)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    print(json.dumps(figures | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
