"""Does a run give the same bytes again? Every method, in fresh processes, with loader workers, in other batches.

Run: python experiments/robustness/determinism.py [--methods lora,clora] (a quarter of an hour on one core), and
python experiments/robustness/determinism.py --real (the real model, five minutes).
Writes results/robustness/determinism/ (README.md, processes.csv, batches_*.csv, flips_*.csv).

All methods run one after another in a fresh process, then in others in the opposite order: again, with one loader
worker, with two. The accuracy matrix, the metrics, every answer, every adapter and every training loss must be the same
bytes. Then each runs in evaluation batches of other sizes: matrix products add in another order then, texts are padded
to another length, and a logit may round to another float32. The answers may differ only where two logits are closer
than that.
"""

import argparse
import io
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from kills import content
from rich.console import Console

from clora_exp import loop
from clora_exp.compose import CONF, compose_experiment
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.evaluation.written import Predicted
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "results" / "robustness" / "determinism"
TINY = ["model=vit_digits", "tasks=split_digits", "tasks.digits.num_tasks=2", "trainer.epochs=1"]
REAL = ["model=minilm", "tasks=med_legal_code", "trainer.max_steps=40", "trainer.max_eval_examples=200"]
DROPOUT = "method.dropout=0.1"  # the adapters' own; what has no adapters has no use for it
AGAIN = {"again": 0, "1 worker": 1, "2 workers": 2}
USUAL, OTHERS = 32, (1, 7, 100)
UNIT_ROUNDOFF = 2.0**-24  # of float32, rounding to nearest


class Again(NamedTuple):
    """One run in a fresh process beside the first: how many files and answers were compared, and which differ."""

    method: str
    what: str
    files: int
    training_losses: int
    answers: int
    differing: str


class InBatches(NamedTuple):
    """One run in evaluation batches of one size beside the usual one."""

    method: str
    batch_size: int
    answers: int
    largest_logit: float
    largest_difference: float
    bound: float  # of that difference: its smallest multiple over the evaluations
    share: float  # difference over bound, the largest over the evaluations
    flips: int
    flips_beyond: int  # whose margin is above twice the bound
    same_bytes: bool  # of adapters and training losses


def settings(method: str, words: list[str], folder: str) -> list[str]:
    """Return what a run is composed of; one thread, so that sums have one order."""
    return [f"method={method}", *words, f"results_dir={folder}", "report=false", "trainer.accelerator=cpu"]


def sweep(methods: list[str], folder: Path, num_workers: int) -> None:
    """Run `python run.py -m` over the methods in a process of its own, with a hash seed of its own, on one thread."""
    words = settings(",".join(methods), [*TINY, DROPOUT, f"trainer.num_workers={num_workers}"], str(folder))
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "run.py", "-m", *words], cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def in_processes(methods: list[str]) -> list[Again]:
    """Compare every method's run with the same in other processes, in another order, without and with workers."""
    found = []
    with tempfile.TemporaryDirectory() as root:
        started = time.monotonic()
        sweep(methods, Path(root, "first"), 0)
        for i, (what, workers) in enumerate(AGAIN.items()):
            say(i, [*AGAIN, ""], f"{len(methods)} runs in a process of their own", started)
            sweep(methods[::-1], Path(root, what), workers)
            for first in sorted(path.parent for path in Path(root, "first").rglob("config.yaml")):
                again = Path(root, what, first.relative_to(Path(root, "first")))
                found.append(Again(first.parent.name, what, *beside(first, again)))
    return found


def beside(first: Path, again: Path) -> tuple[int, int, int, str]:
    """Return how many files, training losses and answers were compared, and what differs."""
    before, now = content(first), content(again)
    num_losses = int((pd.read_csv(first / "metrics.csv").metric == "train_loss").sum())
    differing = sorted(name for name in before | now if before.get(name) != now.get(name))
    return len(before), num_losses, len(read_predictions(first / "predictions.csv.gz")), " ".join(differing)


def factor(model: Any, num_tokens: int) -> float:
    """Return F: how many unit roundoffs two evaluations may lie apart, of the largest |logit|.

    A sum of n terms in another order differs by about √n unit roundoffs (Ipsen & Zhou 2020, arXiv 1906.10465: √n, and
    not n, with high probability). Of each layer: the projections to query, key, value, the scores, their mean of the
    values, the output, the two matrices of the MLP, two normalisations; then the head. Two evaluations: twice.
    """
    wide, inner, heads = model.hidden_size, model.intermediate_size, model.num_attention_heads
    terms = [wide, wide // heads, num_tokens, wide, wide, inner, wide, wide]
    return 2 * (model.num_hidden_layers * sum(map(math.sqrt, terms)) + math.sqrt(wide))


def logits_of(method: Method, split: EncodedSplit, batch_size: int) -> np.ndarray:
    """Return the logits of every example, (n, c), in batches of one size; −inf for what is no label of the task."""
    found: list[np.ndarray | None] = [None] * len(split)
    modes = {module: module.training for module in method.model.modules()}
    method.model.eval()
    with torch.inference_mode():
        for batch in split.evaluation_batches(batch_size):
            for row, logits in zip(batch.rows.tolist(), method.logits(batch).numpy(), strict=True):
                found[row] = logits
    for module, is_training in modes.items():
        module.training = is_training
    return np.stack([logits for logits in found if logits is not None])


class Watched:
    """The logits of every evaluation of a run, by its place (row of the matrix, task) and the batches' size."""

    def __init__(self) -> None:
        self.logits: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        self.factor = 0.0
        self._num_rows, self._real = 0, loop.evaluate

    def __call__(
        self, method: Method, splits: list[EncodedSplit], tasks: Iterable[int], *rest: Any
    ) -> tuple[dict[int, Predicted], float]:
        """Stand in for the loop's `evaluate`."""
        wanted = list(tasks)
        longest = 1 + max(int(split.lengths.max()) for split in splits)  # an image is one of its patches' number
        sizes = method.model.backbone.config
        if hasattr(sizes, "patch_size"):
            longest = 1 + (sizes.image_size // sizes.patch_size) ** 2
        self.factor = factor(sizes, longest)
        for t in wanted:
            at = {size: logits_of(method, splits[t], size) for size in (USUAL, *OTHERS)}
            self.logits[self._num_rows, t] = at
        self._num_rows += 1
        return self._real(method, splits, wanted, *rest)


def run_in_batches(method: str, words: list[str], batch_size: int, folder: str) -> Path:
    """Do the run, here, and return its folder."""
    config = compose_experiment([*settings(method, words, folder), f"trainer.eval_batch_size={batch_size}"])
    return loop.run(config, "python run.py", Terminal(Console(file=io.StringIO()))).path


def in_batches(method: str, words: list[str]) -> tuple[list[InBatches], list[dict[str, Any]]]:
    """Compare a method's run with the same in other evaluation batches; return that, and every answer that differs."""
    with tempfile.TemporaryDirectory() as root:
        watched, real = Watched(), loop.evaluate
        loop.evaluate = watched  # type: ignore[assignment]
        try:
            usual = run_in_batches(method, words, USUAL, root)
        finally:
            loop.evaluate = real
        answers = read_predictions(usual / "predictions.csv.gz")
        rows, flips = [], []
        for size in OTHERS:
            other = run_in_batches(method, words, size, root)
            same = {name for name, found in content(usual).items() if content(other).get(name) == found}
            is_same = all(name in same for name in content(usual) if name.startswith(("adapters/", "training")))
            apart = flipped(answers, read_predictions(other / "predictions.csv.gz"), watched, size)
            flips += [{"method": method, "batch_size": size, **flip} for flip in apart]
            of = [compared(at, size, watched.factor) for at in watched.logits.values()]
            beyond = sum(flip["margin"] > flip["margin_bound"] for flip in apart)
            largest = max(of, key=lambda one: one[1])
            share = max(difference / bound for _, difference, bound in of)
            logit = max(one[0] for one in of)
            rows.append(InBatches(method, size, len(answers), logit, *largest[1:], share, len(apart), beyond, is_same))
        return rows, flips


def compared(at: dict[int, np.ndarray], size: int, times: float) -> tuple[float, float, float]:
    """Return of one evaluation the largest |logit|, the largest difference between two sizes, and its bound."""
    usual, other = at[USUAL], at[size]
    is_label = np.isfinite(usual)
    largest = float(np.abs(usual[is_label]).max())
    return largest, float(np.abs(usual[is_label] - other[is_label]).max()), times * UNIT_ROUNDOFF * largest


def flipped(usual: pd.DataFrame, other: pd.DataFrame, watched: Watched, size: int) -> list[dict[str, Any]]:
    """Return each answer that another batch size gives otherwise, with its margin and what that may be."""
    places = [(place, row) for place in sorted(watched.logits) for row in range(len(watched.logits[place][USUAL]))]
    assert len(places) == len(usual) == len(other)
    found = []
    for at in np.flatnonzero(usual["predicted"] != other["predicted"]):
        place, row = places[at]
        logits = watched.logits[place]
        first, second = np.sort(logits[USUAL][row])[[-1, -2]]
        bound = compared(logits, size, watched.factor)[2]
        named = usual.iloc[at]
        found.append(
            {
                **{name: named[name] for name in ("after", "task", "example")},
                "usual": named["predicted"],
                "other": other.iloc[at]["predicted"],
                "margin": float(first - second),
                "margin_bound": 2 * bound,  # the two logits may come towards each other
            }
        )
    return found


def main() -> None:
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(every), help="some of them: they run, and nothing is written")
    parser.add_argument("--real", action="store_true", help="one method on the real model and data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = ["clora"] if options.real else options.methods.split(",")
    again = [] if options.real else in_processes(methods)
    batches: list[InBatches] = []
    flips: list[dict[str, Any]] = []
    started = time.monotonic()
    for i, method in enumerate(methods):
        rows, apart = in_batches(method, REAL if options.real else TINY)
        batches, flips = batches + rows, flips + apart
        share = max(row.share for row in rows)
        say(i, methods, f"{method:<14} {len(apart)} flips, differences up to {share:.1%} of the bound", started)
    if options.real or set(methods) == set(every):
        write("real" if options.real else "tiny", again, batches, flips)
    is_wrong = any(one.differing for one in again) or any(row.flips_beyond or row.share > 1 for row in batches)
    sys.exit(1 if is_wrong else 0)


def say(i: int, methods: list[str], line: str, started: float) -> None:
    """Print a line with the time left."""
    left = (time.monotonic() - started) / (i + 1) * (len(methods) - i - 1)
    print(f"{line}; about {left:.0f} s left", flush=True)


def write(which: str, again: list[Again], batches: list[InBatches], flips: list[dict[str, Any]]) -> None:
    """Write the tables, and the page of all that there are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    columns = ["method", "batch_size", "after", "task", "example", "usual", "other", "margin", "margin_bound"]
    tables = {f"batches_{which}": pd.DataFrame(batches), f"flips_{which}": pd.DataFrame(flips, columns=columns)}
    if again:
        tables["processes"] = pd.DataFrame(again)
    for name, table in tables.items():
        write_atomically(FOLDER / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(FOLDER / "README.md", page().encode())


def page() -> str:
    """Return what was found as one Markdown page, from the tables that there are."""
    parts = ["# The same run again, the same bytes\n", (__doc__ or "").split("\n\n")[2].strip() + "\n"]
    if (FOLDER / "processes.csv").exists():
        parts += processes_in_words(pd.read_csv(FOLDER / "processes.csv", keep_default_na=False))
    parts += ["## Evaluation batches of other sizes\n", *bound_in_words()]
    for which, what in (
        ("tiny", f"every method on the small ViT (`{' '.join(TINY)}`)"),
        ("real", f"clora on MiniLM (`{' '.join(REAL)}`)"),
    ):
        if (FOLDER / f"batches_{which}.csv").exists():
            tables = (pd.read_csv(FOLDER / f"{name}_{which}.csv") for name in ("batches", "flips"))
            parts += batches_in_words(what, *tables)
    return "\n".join(parts)


def processes_in_words(table: pd.DataFrame) -> list[str]:
    """Return what fresh processes gave."""
    wrong = table[table.differing != ""]
    verdict = "all of them the same" if wrong.empty else f"not equal: {', '.join(sorted(wrong.method.unique()))}"
    counts = f"{table.files.sum():,} files, {table.training_losses.sum():,} losses and {table.answers.sum():,} answers"
    lines = [
        "## Fresh processes, and loader workers\n",
        f"`python experiments/robustness/determinism.py`, `{' '.join(TINY)} {DROPOUT}`: {len(table)} runs of "
        f"{table.method.nunique()} methods beside a first one, {counts} compared: {verdict}. Each process has another "
        "hash seed, and each run another before it; dropout draws in every step. All on one thread of the CPU: with "
        "another number of threads sums have another order, in training too.\n",
        markdown_row(["beside the first", "runs", "files", "losses", "answers", "differ"]),
        markdown_row(["---"] * 6),
    ]
    for what, of in table.groupby("what", sort=False):
        sums = [f"{of[name].sum():,}" for name in ("files", "training_losses", "answers")]
        lines.append(markdown_row([str(what), str(len(of)), *sums, str((of.differing != "").sum())]))
    return [*lines, ""]


def bound_in_words() -> list[str]:
    """Return how far logits may lie apart, and why."""
    return [
        "Two evaluations of one example do the same operations, and add in other orders. A sum of n terms in another "
        "order differs by about √n unit roundoffs of its terms' size (Ipsen & Zhou 2020, arXiv 1906.10465: √n and not "
        "n, with high probability). An error made in one operation is passed on by the next; here it is taken to grow "
        "neither more nor less than the logits themselves do, which is an assumption, since layers normalise. "
        "Summed over the operations of all layers, and twice, for the two evaluations:\n",
        "    |difference of a logit| ≤ F · 2⁻²⁴ · largest |logit|,\n"
        "    F = 2 · (layers · (5 √d + √(d / heads) + √tokens + √m) + √d)\n",
        "with d the width and m that of the MLP. An answer can flip only where its margin, the difference of its two "
        "largest logits, is at most twice that, since the two may come towards each other. What was measured beside "
        "it is how good the assumption is: the share of the bound that the largest difference has.\n",
    ]


def batches_in_words(what: str, table: pd.DataFrame, flips: pd.DataFrame) -> list[str]:
    """Return what other sizes gave, a line a size, and every flip."""
    beyond = int(table.flips_beyond.sum())
    held = "inside its bound" if table.share.max() <= 1 and not beyond else "NOT inside its bound"
    found = (
        f"{len(flips)} flips, {beyond} of them beyond the margin that rounding explains" if len(flips) else "no flip"
    )
    same = "the same bytes" if table.same_bytes.all() else "NOT the same bytes"
    lines = [
        f"### {what[0].upper() + what[1:]}\n",
        f"{table.answers.sum():,} answers in batches of {', '.join(map(str, OTHERS))} beside those of {USUAL}: "
        f"{found}; every difference of a logit "
        f"{held}, the largest at {table.share.max():.1%} of it. Adapters and training losses are {same}.\n",
        markdown_row(["batch", "answers", "largest logit", "largest difference", "its bound", "of a bound", "flips"]),
        markdown_row(["---"] * 7),
    ]
    for size, of in table.groupby("batch_size"):
        at = of.loc[of.largest_difference.idxmax()]
        cells = [f"{of.largest_logit.max():.2f}", f"{at.largest_difference:.1e}", f"{at.bound:.1e}"]
        cells += [f"{of.share.max():.1%}", str(of.flips.sum())]
        lines.append(markdown_row([str(size), f"{of.answers.sum():,}", *cells]))
    if len(flips):
        lines += ["\nEach flip:\n", markdown_row(flips.columns), markdown_row(["---"] * len(flips.columns))]
        for flip in flips.itertuples(index=False):
            lines.append(markdown_row([*map(str, flip[:-2]), f"{flip.margin:.1e}", f"{flip.margin_bound:.1e}"]))
    return [*lines, ""]


if __name__ == "__main__":
    ended_in_order(main)
