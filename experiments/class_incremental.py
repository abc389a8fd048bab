"""Which method that keeps no example is best where the task is not known, and at how many bytes?

Run: python experiments/class_incremental.py [--seeds 0] [--methods lora,clora] (an hour on two cores; --precision
bf16-mixed is quicker on a processor that has it). Every run is the ordinary `python run.py method=<name> seed=<n>
scenario=class_incremental tasks=<name>`: what is finished is not repeated. Writes results/class_incremental/
(README.md, runs.csv, a figure).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from clora_exp.compose import compose_experiment
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.evaluation.statistics import mcnemar
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row, p_value, size

FOLDER = Path(__file__).parent.parent / "results" / "class_incremental"
STREAMS = {
    "med_legal_code": ("tasks=med_legal_code", "three tasks of 21, 6 and 12 classes, of different kinds"),
    "icd10_chapters, 10 sessions": (
        "tasks=icd10_chapters tasks.icd10.sessions=10",
        "21 chapters of diagnoses, two a session, three in the last: all of one kind",
    ),
}
METHODS = [
    "frozen",
    "lora",
    "ewc",
    "lwf",
    "olora",
    "sdlora",
    "inflora",
    "lora_per_task",
    "clora",
    "clora_gated",
    "clora_gated method.rank=2",
    "clora_xs",
    "clora_shared",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0", help="default 0")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them: they run, and nothing is written")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the runs (default 32-true)")
    options = parser.parse_args()
    methods, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    for method in methods:
        if method not in METHODS:
            parser.error(f"unknown method {method!r}; have: {', '.join(METHODS)}")
    rows: list[dict[str, Any]] = [
        {"stream": stream, "method": method, "seed": seed, **result(method, words, seed, options.precision)}
        for stream, (words, _) in STREAMS.items()
        for method in methods
        for seed in seeds
    ]
    for stream in STREAMS:
        of_stream = [row for row in rows if row["stream"] == stream]
        best = max(of_stream, key=lambda row: row["average_accuracy"])["method"]
        for row in of_stream:
            other = next(r for r in of_stream if (r["method"], r["seed"]) == (best, row["seed"]))
            row["p_against_best"] = None if row is other else mcnemar(*_paired(row["right"], other["right"])).p_value
    for row in rows:
        del row["right"]
    if methods == METHODS:
        flag = "" if options.precision == "32-true" else f" --precision {options.precision}"
        write(pd.DataFrame(rows), f"--seeds {options.seeds}{flag}")


def _paired(one: "pd.Series[bool]", other: "pd.Series[bool]") -> tuple[np.ndarray, np.ndarray]:
    assert one.index.equals(other.index)
    return one.to_numpy(), other.to_numpy()


def result(method: str, stream: str, seed: int, precision: str) -> dict[str, Any]:
    """Run one method on one stream and return its metrics, bytes, and which examples it answers right in the end."""
    words = [*f"method={method}".split(), *stream.split(), "scenario=class_incremental", f"seed={seed}"]
    words += [f"trainer.precision={precision}"]
    command = f"python run.py {' '.join(words)}"
    print(f"\n$ {command}", file=sys.stderr, flush=True)
    stored = run(compose_experiment([*words, "report=false"]), command, Terminal(interval_s=60)).read()
    metrics = {name: metric.value for name, metric in stored.metrics.items() if metric.value is not None}
    before, last = stored.costs["answering_bytes"].iloc[-2:].astype(int)
    sizes = {"answering_bytes": last, "last_task_bytes": last - before}
    frame = read_predictions(stored.path / "predictions.csv.gz")
    end = frame[frame["after"] == stored.matrix.rows[-1]].set_index(["task", "example"]).sort_index()
    right = end["label"] == end["predicted"]
    return {**metrics, **sizes, "kept_bytes": int(stored.costs["kept_bytes"].iloc[-1]), "right": right}


def write(rows: pd.DataFrame, options: str) -> None:
    """Write the table, the page and the figure; notes.md, where there is one, ends the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomically(FOLDER / "runs.csv", rows.round(6).to_csv(index=False, lineterminator="\n").encode())
    notes = FOLDER / "notes.md"
    words = f"\n{notes.read_text(encoding='utf-8')}" if notes.exists() else ""
    write_atomically(FOLDER / "README.md", (page(rows, options) + words).encode())
    draw(rows, FOLDER / "accuracy_bytes.png")


def page(rows: pd.DataFrame, options: str) -> str:
    """Return the result as one Markdown page."""
    lines = [
        "# Class-incremental without kept examples: accuracy, and bytes\n",
        f"`python experiments/class_incremental.py {options}`\n",
        "MiniLM; the task of an example is not known, all classes seen so far compete. Bytes: of all that answers in "
        "the end beside a frozen backbone, adapters, heads and what identifies tasks; then what the last task added. "
        "Kept: importances, bases that later tasks are learned by; no method here keeps an example. `task identified` "
        "× `then right` is the accuracy over all examples; `in the end` is the mean over tasks, large or small. "
        "p: McNemar's exact test on the same test examples against the best in the table.\n",
        "![accuracy in the end against bytes](accuracy_bytes.png)\n",
    ]
    for stream, (_, words) in STREAMS.items():
        heads = ["method", "in the end, %", "incremental, %", "right after learning, %", "task identified, %"]
        lines += [f"## {stream}\n", f"{words[0].upper()}{words[1:]}.\n"]
        heads += ["then right, %", "bytes", "the last task's", "kept", "p"]
        lines += [markdown_row(heads), "|" + " --- |" * len(heads)]
        lines += [_line(method, of) for method, of in _ordered(rows, stream)] + [""]
    return "\n".join(lines)


def _ordered(rows: pd.DataFrame, stream: str) -> list[tuple[str, pd.DataFrame]]:
    of_stream = rows[rows["stream"] == stream]
    means = of_stream.groupby("method")["average_accuracy"].mean().sort_values(ascending=False)
    return [(str(method), of_stream[of_stream["method"] == method]) for method in means.index]


def _line(method: str, of: pd.DataFrame) -> str:
    names = ("average_accuracy", "incremental_accuracy", "learning_accuracy")
    names += ("task_identification", "within_task_accuracy")
    cells = [f"{100 * of[name].mean():.1f}" if of[name].notna().all() else "–" for name in names]
    kept = of["kept_bytes"].mean()
    sizes = [size(of[name].mean()) for name in ("answering_bytes", "last_task_bytes")]
    p_values = [p_value(p) for p in of["p_against_best"].dropna()]
    return markdown_row(
        [f"`{_short(method)}`", *cells, *sizes, size(kept) if kept else "–", ", ".join(p_values) or "–"]
    )


def _short(method: str) -> str:
    return method.replace("method.", "")


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw accuracy in the end against bytes, a panel a stream, with the front no other method is beyond."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(STREAMS), figsize=(6 * len(STREAMS), 5))
    for axes, stream in zip(panels, STREAMS, strict=True):
        means = rows[rows["stream"] == stream].groupby("method")[["answering_bytes", "average_accuracy"]].mean()
        means = means.sort_values(["answering_bytes", "average_accuracy"], ascending=[True, False])
        best = means["average_accuracy"].cummax().shift(fill_value=-1.0)
        front = means[means["average_accuracy"] > best]
        axes.step(front["answering_bytes"], 100 * front["average_accuracy"], where="post", color="#b9c0ca", zorder=1)
        for method, (size_, accuracy) in means.iterrows():
            color = "#c1440e" if str(method).startswith("clora") else "#1f3b5c"
            axes.plot(size_, 100 * accuracy, "o", color=color, ms=5, zorder=3)
        axes.set_xscale("log")
        axes.set_xlim(means["answering_bytes"].min() / 2, means["answering_bytes"].max() * 8)
        axes.set_ylim(0, min(105, 100 * float(np.max(means["average_accuracy"])) + 12))
        axes.set_xlabel("bytes that answer, beside a frozen backbone")
        axes.set_ylabel("accuracy over all classes in the end, %")
        axes.set_title(stream, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        _label(axes, {_short(str(method)): (x, 100 * y) for method, (x, y) in means.iterrows()})
    figure.suptitle("no example kept; the C-LoRA family in red; grey: nothing is both smaller and better", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write each point's name beside it; names of points that lie on one another stand in one block."""
    blocks: list[tuple[float, float, list[str]]] = []
    for name, (x, y) in points.items():
        near = next((names for a, b, names in blocks if 0.85 < a / x < 1.18 and abs(b - y) < 1.5), None)
        if near is None:
            blocks.append((x, y, [name]))
        else:
            near.append(name)
    for x, y, names in blocks:
        is_left = any(x < a < 8 * x and abs(b - y) < 2.5 for a, b, _ in blocks)  # else names meet
        side = {"ha": "right", "xytext": (-6, 0)} if is_left else {"ha": "left", "xytext": (6, 0)}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.annotate(
            "\n".join(names), (x, y), **side, textcoords="offset points", fontsize=8, va="center", bbox=box, zorder=2
        )


if __name__ == "__main__":
    ended_in_order(main)
