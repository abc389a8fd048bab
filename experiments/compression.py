"""How small can stored tasks be, and what does each step of making them smaller contribute and cost?

Run: python experiments/compression.py (three quarters of an hour on one core, ordinary runs of `lora_per_task` and
`clora_xs` on `med_legal_code` into a store each among it, which are not repeated where they are finished). Every scheme
below, of `clora_exp/store/schemes.py`, is applied to the three tasks and measured on their test texts; nothing is kept.
Writes results/compression/ (README.md, compression.csv, steps.csv, frontier.png); with --page the page and the figure
alone, from the two tables that are there.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.inference.compressing import Compressor
from clora_exp.inference.places import Place
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.figures import PALETTE
from clora_exp.reports.placing import place_labels
from clora_exp.reports.scatter import new_figure, pareto_front
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row, signed, size
from clora_exp.store.encoding import Number
from clora_exp.store.folder import Store
from clora_exp.store.saving import packed
from clora_exp.store.schemes import pruned

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "compression"
EVERY = ["bf16", "fp16", "int8", "int8+zstd19", "prune0.5", "prune0.7", "prune0.9", "prune0.5+int8", "prune0.7+int8"]
RANKS = ["svd8", "svd4", "svd8+int8", "distil8", "distil8+int8", "distil4+int8", "distil8+prune0.7+int8"]
STORED = "as stored"
SCHEMES = {"lora_per_task": [*EVERY, *RANKS], "clora_xs": EVERY}
NUMBERS: list[Number] = ["float32", "bfloat16", "int8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=ROOT / "results" / "stores", help="where the stores are made")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the runs (default 32-true)")
    parser.add_argument("--most", type=int, help="test texts of each task (default: all)")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {name: options.out / f"{name}.csv" for name in ("compression", "steps")}
    if not options.page:
        for name, rows in zip(tables, measured(options.stores, options.precision, options.most), strict=True):
            content = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")
            write_atomically(tables[name], content.encode())
    table, steps = (pd.read_csv(path) for path in tables.values())
    table["variance"] = table["changed"] / table["num_examples"]
    summary = table.groupby(["method", "scheme"], sort=False).mean(numeric_only=True).reset_index()
    summary["chance"] = 1.96 * (summary["variance"] / table["task"].nunique()) ** 0.5
    draw(summary, options.out / "frontier.png")
    lines = page(summary, steps, str(table["precision"].iloc[0]))
    write_atomically(options.out / "README.md", ("\n".join(lines) + "\n").encode())
    print(f"{options.out}/README.md")


Rows = list[dict[str, Any]]


def measured(stores: Path, precision: str, most: int | None) -> tuple[Rows, Rows]:
    """Return what every scheme makes of every task, and what the steps that lose nothing do."""
    rows: Rows = []
    steps: Rows = []
    for method, schemes in SCHEMES.items():
        path = stores / f"med_legal_code-{method}"
        words = [f"method={method}", "tasks=med_legal_code", f"store.path={path}", f"trainer.precision={precision}"]
        run(compose_experiment(words), " ".join(["python run.py", *words]), Terminal())
        store = Store(path)
        compressor = Compressor(Place(store), max_examples=most)
        for task in store.tasks():
            steps += lossless(method, store, task)
            before = compressor.before(store.read(task, "v1"))
            of_all = {"method": method, "task": task, "precision": precision, "num_examples": before.num_examples}
            stored = store.manifest(task, "v1").weights.num_bytes
            rows.append(of_all | {"scheme": STORED, "bytes": stored, "accuracy": before.accuracy, "changed": 0.0})
            for scheme in schemes:
                made = compressor.compress(task, scheme, "v1", keep=False)
                changed = made.num_changed / before.num_examples
                found = {"bytes": made.bytes_after, "accuracy": made.after.accuracy, "changed": changed}
                rows.append(of_all | {"scheme": scheme, **found})
                print(f"{method} {task} {scheme}: {size(made.bytes_after)}, {made.after.accuracy:.4f}", flush=True)
    return rows, steps


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
    """Draw accuracy over bytes with the front of each method; what zstd 19 adds is too little to be seen."""
    methods = list(summary["method"].unique())
    figure = new_figure(7.0 * len(methods), 5.0)
    every = figure.subplots(1, len(methods), squeeze=False)[0]
    drawn = []
    for axes, method, colour in zip(every, methods, PALETTE, strict=False):
        rows = summary[(summary["method"] == method) & ~summary["scheme"].str.endswith("zstd19")]
        points = list(zip(rows["scheme"], rows["bytes"], rows["accuracy"], strict=True))
        axes.scatter(rows["bytes"], rows["accuracy"], color=colour, zorder=3)
        front = pareto_front([(x, y) for _, x, y in points])
        front.append((rows["bytes"].max(), front[-1][1]))
        axes.step(*zip(*front, strict=True), where="post", color="#999999", lw=1.2, ls="--")
        lines = [
            line
            for (x, y), (next_x, next_y) in itertools.pairwise(front)
            for line in (((x, y), (next_x, y)), ((next_x, y), (next_x, next_y)))
        ]
        drawn.append((axes, points, lines))
        axes.set(xscale="log", xlabel="bytes of a task (logarithmic)", title=method)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: size(round(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.12)
        axes.grid(alpha=0.3)
        axes.set_ylabel("accuracy on test texts, mean of three tasks" if axes is every[0] else "")
    figure.tight_layout()
    for axes, points, lines in drawn:
        place_labels(figure, axes, points, lines)
    figure.savefig(path, dpi=110)


def page(summary: pd.DataFrame, stages: pd.DataFrame, precision: str) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# How small can stored tasks be?\n",
        f"`python experiments/compression.py --precision {precision}`\n",
        "Means over medical, legal and code; test texts of each. Changed: answers that are others than before. A "
        "difference within ± chance, 1.96 √(changed / n) over the tasks, is none. On the front: no other scheme of the "
        "method is smaller and more accurate.\n",
        "![Accuracy against bytes](frontier.png)\n",
    ]
    for method, rows in summary.groupby("method", sort=False):
        stored = rows[rows["scheme"] == STORED].iloc[0]
        front = set(pareto_front(list(zip(rows["bytes"], rows["accuracy"], strict=True))))
        head = [
            "scheme",
            "bytes of a task",
            "times smaller",
            "accuracy",
            "difference",
            "± chance",
            "changed",
            "on the front",
        ]
        lines += [f"## `{method}`\n", markdown_row(head), markdown_row(["---"] * len(head))]
        for row in rows.sort_values("bytes", ascending=False).to_dict("records"):
            is_front = (row["bytes"], row["accuracy"]) in front
            cells = [f"{stored['bytes'] / row['bytes']:.2f}", f"{row['accuracy']:.4f}"]
            cells += [
                signed(row["accuracy"] - stored["accuracy"], 4),
                f"{row['chance']:.4f}",
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
