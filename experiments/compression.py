"""How small can stored tasks be, and what does each step of making them smaller contribute and cost?

Run: python experiments/compression.py (half an hour on two cores, beside ordinary runs of `lora_per_task` and
`clora_xs` on `med_legal_code` into a store each, which are not repeated where they are finished). Every scheme below,
of `clora_exp/store/schemes.py`, is applied to the three tasks and measured on their test texts; nothing is kept.
Writes results/compression/ (README.md, compression.csv, frontier.png).
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.inference.compressing import Compressor
from clora_exp.inference.places import Place
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.figures import PALETTE
from clora_exp.reports.scatter import pareto_front
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row, size
from clora_exp.store.encoding import Number
from clora_exp.store.folder import Store
from clora_exp.store.saving import packed
from clora_exp.store.schemes import pruned

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "compression"
EVERY = ["bf16", "fp16", "int8", "int8+zstd19", "prune0.5", "prune0.7", "prune0.9", "prune0.5+int8", "prune0.7+int8"]
RANKS = ["svd8", "svd4", "svd8+int8", "distil8", "distil8+int8", "distil4+int8", "distil8+prune0.7+int8"]
SCHEMES = {"lora_per_task": [*EVERY, *RANKS], "clora_xs": EVERY}
NUMBERS: list[Number] = ["float32", "bfloat16", "int8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=ROOT / "results" / "stores", help="where the stores are made")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the runs (default 32-true)")
    parser.add_argument("--most", type=int, help="test texts of each task (default: all)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    for method, schemes in SCHEMES.items():
        path = options.stores / f"med_legal_code-{method}"
        words = [f"method={method}", "tasks=med_legal_code", f"store.path={path}"]
        words.append(f"trainer.precision={options.precision}")
        run(compose_experiment(words), " ".join(["python run.py", *words]), Terminal())
        store = Store(path)
        compressor = Compressor(Place(store), max_examples=options.most)
        for task in store.tasks():
            stages += lossless(method, store, task)
            for scheme in schemes:
                made = compressor.compress(task, scheme, "v1", keep=False)
                row = {"method": method, "task": task, "scheme": scheme, "bytes": made.bytes_after}
                rows.append(
                    row | {"accuracy": made.after.accuracy, "changed": made.num_changed / made.after.num_examples}
                )
                print(f"{method} {task} {scheme}: {size(made.bytes_after)}, {made.after.accuracy:.4f}", flush=True)
            before = compressor.before(store.read(task, "v1"))
            row = {"method": method, "task": task, "scheme": "as stored", "changed": 0.0, "accuracy": before.accuracy}
            rows.append(row | {"bytes": store.manifest(task, "v1").weights.num_bytes})
    options.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    write_atomically(options.out / "compression.csv", table.to_csv(index=False, float_format="%.6g").encode())
    summary = table.groupby(["method", "scheme"], sort=False)[["bytes", "accuracy", "changed"]].mean().reset_index()
    draw(summary, options.out / "frontier.png")
    lines = page(summary, pd.DataFrame(stages), options.precision)
    write_atomically(options.out / "README.md", ("\n".join(lines) + "\n").encode())
    print(f"{options.out}/README.md")


def lossless(method: str, store: Store, task: str) -> list[dict[str, Any]]:
    """Return what zstd and the byte shuffle do to the same tensors, by kind of number."""
    stored = store.read(task, "v1")
    weights = stored.manifest.weights
    rows = []
    for what, tensors in (("all", stored.tensors), ("pruned to 30 %", pruned(stored.tensors, 0.7))):
        for number in NUMBERS:
            made = {
                step: packed(
                    tensors,
                    weights.layers,
                    weights.form,
                    basis_sha256=weights.basis_sha256,
                    number=number,
                    sparse=is_sparse,
                    is_shuffled=is_shuffled,
                    level=level,
                )[1].num_bytes
                for step, (is_shuffled, level, is_sparse) in STEPS.items()
            }
            item = {"float32": 4, "bfloat16": 2, "int8": 1}[number]
            raw = sum(x.numel() * (item if x.ndim > 1 else 4) for x in tensors.values())
            rows.append({"method": method, "entries": what, "number": number, "raw": raw, **made})
    return rows


STEPS = {
    "zstd 9": (False, 9, False),
    "shuffled, zstd 9": (True, 9, False),
    "shuffled, zstd 19": (True, 19, False),
    "zeros left out, shuffled, zstd 9": (True, 9, True),
}


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Draw accuracy over bytes with the front of each method."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    methods = list(summary["method"].unique())
    figure, axes = plt.subplots(1, len(methods), figsize=(6.4 * len(methods), 4.8), sharey=True, layout="constrained")
    for axis, method, colour in zip(np.atleast_1d(axes), methods, PALETTE, strict=False):
        rows = summary[summary["method"] == method]
        points = list(zip(rows["bytes"] / 1e3, rows["accuracy"], strict=True))
        axis.scatter(*zip(*points, strict=True), color=colour, zorder=3)
        front = pareto_front(points)
        axis.step(*zip(*front, strict=True), where="post", color="#999999", lw=1.2, ls="--")
        for name, (x, y) in zip(rows["scheme"], points, strict=True):
            axis.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set_xscale("log")
        axis.set_xlabel("kB of a task")
        axis.set_title(method)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("accuracy on test texts, mean of three tasks")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(summary: pd.DataFrame, stages: pd.DataFrame, precision: str) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# How small can stored tasks be?\n",
        f"`python experiments/compression.py --precision {precision}`\n",
        "Means over medical, legal and code; test texts of each. Changed: answers that are others than before. On the "
        "front: no other scheme of the method is smaller and more accurate.\n",
        "![Accuracy against bytes](frontier.png)\n",
    ]
    for method, rows in summary.groupby("method", sort=False):
        stored = rows[rows["scheme"] == "as stored"].iloc[0]
        front = set(pareto_front(list(zip(rows["bytes"], rows["accuracy"], strict=True))))
        head = ["scheme", "bytes of a task", "times smaller", "accuracy", "difference", "changed", "on the front"]
        lines += [f"## `{method}`\n", markdown_row(head), markdown_row(["---"] * len(head))]
        for row in rows.sort_values("bytes", ascending=False).to_dict("records"):
            is_front = (row["bytes"], row["accuracy"]) in front
            cells = [f"{stored['bytes'] / row['bytes']:.2f}", f"{row['accuracy']:.4f}"]
            cells += [
                f"{row['accuracy'] - stored['accuracy']:+.4f}",
                f"{row['changed']:.1%}",
                "yes" if is_front else "",
            ]
            lines.append(markdown_row([f"`{row['scheme']}`", size(round(row["bytes"])), *cells]))
        lines.append("")
    lines += [
        "## What each step contributes\n",
        "The same tensors, nothing lost but by the kind of number: bytes as they are, then how many times smaller each "
        "step makes them.\n",
    ]
    head = ["method", "entries", "number", "raw", *STEPS]
    lines += [markdown_row(head), markdown_row(["---"] * len(head))]
    for (method, entries, number), rows in stages.groupby(["method", "entries", "number"], sort=False):
        raw = rows["raw"].mean()
        cells = [f"{raw / rows[step].mean():.2f}" for step in STEPS]
        lines.append(markdown_row([f"`{method}`", str(entries), str(number), size(round(raw)), *cells]))
    return lines


if __name__ == "__main__":
    ended_in_order(main)
