"""What do checkpoints cost? The seconds that whole runs spend in writing, over those they spend in training.

Run: python benchmarks/checkpoints.py (twenty minutes on two cores). Writes results/benchmarks/checkpoints.md.
The runs are ordinary ones on the real model and data, with the default `trainer.checkpoint_every`: `lora`, whose
checkpoints are small, `replay`, which keeps examples, and `full`, which writes all weights and both moments of each.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row, size, threads
from clora_exp.results import RunDirectory

PAGE = Path(__file__).parent.parent / "results" / "benchmarks" / "checkpoints.md"
METHODS = ["lora", "replay", "full"]
WORDS = ["tasks=med_legal_code", "report=false"]


class Found(NamedTuple):
    """Of one run: seconds of training, and number, seconds and largest size of checkpoints in and after sessions."""

    method: str
    training_s: float
    in_sessions: int
    in_sessions_s: float
    session_bytes: int
    after_sessions: int
    after_sessions_s: float
    state_bytes: int

    @property
    def share(self) -> float:
        """Seconds of writing over seconds of training."""
        return (self.in_sessions_s + self.after_sessions_s) / self.training_s


def measure(method: str, words: list[str]) -> Found:
    """Run a method once and take the time of what it writes."""
    seconds: dict[str, list[float]] = {"save_session": [], "save_progress": []}
    sizes = {"session": 0, "state": 0}
    real = {name: getattr(RunDirectory, name) for name in seconds}

    def timed(name: str) -> Any:
        def wrapped(self: RunDirectory, *arguments: Any) -> None:
            started = time.perf_counter()
            real[name](self, *arguments)
            seconds[name].append(time.perf_counter() - started)
            for kind in sizes:
                path = self.path / "checkpoint" / f"{kind}.safetensors"
                sizes[kind] = max(sizes[kind], path.stat().st_size if path.exists() else 0)

        return wrapped

    for name in real:
        setattr(RunDirectory, name, timed(name))
    try:
        with tempfile.TemporaryDirectory() as root:
            config = compose_experiment([f"method={method}", *words, f"results_dir={root}"])
            costs = run(config, "", Terminal(interval_s=60)).read().costs
    finally:
        for name, function in real.items():
            setattr(RunDirectory, name, function)
    inside, after = seconds["save_session"], seconds["save_progress"]
    training = float(costs.train_seconds.sum())
    return Found(method, training, len(inside), sum(inside), sizes["session"], len(after), sum(after), sizes["state"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help=f"default {','.join(METHODS)}")
    parser.add_argument("--words", nargs="*", default=WORDS, help="what else is typed; others: nothing is written")
    options = parser.parse_args()
    found = [measure(method, options.words) for method in options.methods.split(",")]
    lines = [
        "# What checkpoints cost\n",
        f"`python benchmarks/checkpoints.py`: whole runs, `{' '.join(options.words)}`, {threads(_num_threads())}. Aim: "
        "at most 2 % of the time of training. After a session the result files are written too, and are counted.\n",
        markdown_row(
            ["method", "training", "in sessions", "seconds", "largest", "after sessions", "seconds", "largest", "share"]
        ),
        markdown_row(["---"] * 9),
    ]
    for f in found:
        inside = [str(f.in_sessions), f"{f.in_sessions_s:.2f}", size(f.session_bytes)]
        after = [str(f.after_sessions), f"{f.after_sessions_s:.2f}", size(f.state_bytes)]
        lines.append(markdown_row([f"`{f.method}`", f"{f.training_s:.0f} s", *inside, *after, f"{f.share:.2%}"]))
    text = "\n".join(lines) + "\n"
    Console(markup=False, highlight=False).print(text, soft_wrap=True)
    if (options.words, options.methods) == (WORDS, ",".join(METHODS)):
        write_atomically(PAGE, text.encode())


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    main()
