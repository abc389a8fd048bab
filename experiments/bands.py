"""How do the methods do where the field knows what to expect? The runs of `split_digits_wide` beside published bands.

Run: python experiments/bands.py, after `python run.py -m experiment=split_digits_wide` and the `strip` that
experiments/split_digits_wide.md has. Reads results/split_digits_wide/runs; writes bands.md and bands.png beside them.

The bands were written down before the first runs, from what was published on split MNIST; nothing is tuned to them.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.reports.found import find_runs, with_progress
from clora_exp.reports.words import markdown_row, size
from clora_exp.runs import StoredRun, read_run

FOLDER = Path(__file__).parent.parent / "results" / "split_digits_wide"
SCENARIOS = ("task_incremental", "class_incremental")
THREE = "van de Ven & Tolias 2019, table 4"
ISOLATED = ["clora_gated", "clora_shared", "clora_xs", "frozen", "lora_per_task", "progressive"]
REPLAY = ["clora_replay", "der", "derpp", "replay"]
TASK = "any method does well when the task is known (van de Ven et al. 2020, fig. 3b)"
CLASS_BANDS = {  # average accuracy in the end, percent, and why
    "lora": (15, 30, f"without a defence 19.9 ({THREE})"),
    "full": (15, 30, f"without a defence 19.9 ({THREE})"),
    "clora": (15, 35, "one head that grows, nothing against its bias: as without a defence"),
    "ewc": (15, 35, f"EWC 20.0, online 20.0 ({THREE})"),
    "clora_ewc": (15, 35, "as EWC"),
    "lwf": (15, 60, f"LwF 23.9 ({THREE}), there with all classes competing in the new examples' loss"),
    "agem": (20, 75, "a constraint on average: between no defence and replay"),
    "gem": (40, 95, "a constraint for each task: near replay"),
    **dict.fromkeys(REPLAY, (65, 97, f"replay of generated examples 90.8 ({THREE}); here a tenth is kept, or 200")),
    "joint": (90, 100, "all classes at once"),
    "frozen": (15, 60, "a linear head that grows: features stay, the head is biased to the last classes"),
    **dict.fromkeys(
        [name for name in ISOLATED if name != "frozen"],
        (70, 97, "at best as good as the task is identified from frozen features"),
    ),
    "olora": (15, 60, "a sum in one head that grows"),
    "sdlora": (20, 80, "a sum, and classes that do not compete in training"),
    "inflora": (30, 90, "a sum that leaves earlier inputs alone, and classes that do not compete in training"),
}


def band(scenario: str, method: str) -> tuple[int, int, str]:
    """Return what to expect of a method's accuracy in the end, in percent: from, to, and why."""
    return CLASS_BANDS[method] if scenario == "class_incremental" else (85, 100, TASK)


def main() -> None:
    found: dict[tuple[str, str], list[StoredRun]] = {}
    for one in with_progress(find_runs([FOLDER / "runs"]), "reading runs"):
        stored = read_run(one.path)
        found.setdefault((stored.config["scenario"], stored.method), []).append(stored)
    write(table(found))


def table(found: dict[tuple[str, str], list[StoredRun]]) -> pd.DataFrame:
    """Return one row a run."""
    rows = []
    for (scenario, method), runs in found.items():
        for stored in runs:
            metrics = {name: metric.value for name, metric in stored.metrics.items() if metric.value is not None}
            costs = stored.costs
            rows.append(
                {
                    "scenario": scenario,
                    "method": method,
                    "seed": stored.seed,
                    **metrics,
                    "adapter_bytes": int(costs["adapter_bytes"].iloc[-1]),
                    "answering_bytes": int(costs["answering_bytes"].iloc[-1]),
                    "kept_bytes": int(costs["kept_bytes"].iloc[-1]),
                    "train_seconds": float(costs["train_seconds"].sum()),
                }
            )
    return pd.DataFrame(rows)


def write(rows: pd.DataFrame) -> None:
    """Write the page and the figure."""
    notes = FOLDER / "bands_notes.md"
    words = notes.read_text(encoding="utf-8") if notes.exists() else ""
    write_atomically(FOLDER / "bands.md", page(rows, words).encode())
    draw(rows, FOLDER / "bands.png")


def page(rows: pd.DataFrame, notes: str) -> str:
    """Return the result as one Markdown page; `notes` is what was found out about the differences."""
    lines = [
        "# Split digits: what the literature leads one to expect, and what was measured\n",
        "`python experiments/bands.py`\n",
        f"Five tasks of two digits on a small ViT, five epochs a task; means over {rows['seed'].nunique()} seeds ± "
        "their standard deviation. A band is what published results on split MNIST lead one to expect of the "
        "accuracy in the end; it was written down before the first runs. Bytes: of all that answers the ten digits in "
        "the end, beside a frozen backbone; kept: examples and importances, to learn by.\n",
        "![accuracy in the end](bands.png)\n",
    ]
    for scenario in SCENARIOS:
        of_scenario = rows[rows["scenario"] == scenario]
        is_class = scenario == "class_incremental"
        heads = ["method", "in the end, %", "band", "", "right after learning", "forgetting"]
        heads += ["task identified", "then right"] if is_class else []
        heads += ["bytes", "kept"]
        lines += [f"## {scenario.replace('_', '-')}\n", markdown_row(heads), "|" + " --- |" * len(heads)]
        lines += [_line(scenario, method, of) for method, of in _ordered(of_scenario)] + [""]
        if is_class:
            why = {method: band(scenario, method)[2] for method in of_scenario["method"].unique()}
            lines += [
                "Where the bands come from:\n",
                *(f"- `{method}`: {reason}" for method, reason in why.items()),
                "",
            ]
        else:
            lines += [f"The band: {TASK}.", ""]
    return "\n".join(lines) + (f"\n{notes}" if notes else "")


def _ordered(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    means = rows.groupby("method")["average_accuracy"].mean().fillna(-1).sort_values(ascending=False)
    return [(str(method), rows[rows["method"] == method]) for method in means.index]


def _line(scenario: str, method: str, of: pd.DataFrame) -> str:
    low, high, _ = band(scenario, method)
    accuracy = 100 * of["average_accuracy"].mean()
    where = "above" if accuracy > high else "below" if accuracy < low else "inside"
    where = "" if np.isnan(accuracy) else where
    cells = [f"`{method}`", _spread(of, "average_accuracy", 100, 1), f"{low}–{high}", where]
    cells += [_spread(of, "learning_accuracy", 100, 1), _spread(of, "forgetting", 1, 3)]
    if scenario == "class_incremental":
        cells += [_spread(of, "task_identification", 100, 1), _spread(of, "within_task_accuracy", 100, 1)]
    kept = of["kept_bytes"].mean()
    return markdown_row([*cells, size(of["answering_bytes"].mean()), size(kept) if kept else "–"])


def _spread(of: pd.DataFrame, name: str, factor: float, decimals: int) -> str:
    values = factor * of[name]
    if values.isna().any():
        return "–"
    if not values.any():
        return "0"
    spread = f" ± {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{spread}".replace("-", "−")


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw each method's accuracies over its band, a panel a scenario."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 6.5), sharey=False)
    for axes, scenario in zip(panels, SCENARIOS, strict=True):
        of_scenario = rows[(rows["scenario"] == scenario) & rows["average_accuracy"].notna()]
        ordered = _ordered(of_scenario)[::-1]
        for y, (method, of) in enumerate(ordered):
            low, high, _ = band(scenario, method)
            axes.barh(y, high - low, left=low, height=0.7, color="#d9dee5")
            color = "#c1440e" if method.startswith("clora") else "#1f3b5c"
            axes.plot(100 * of["average_accuracy"], np.full(len(of), y), "|", color=color, ms=9, mew=1.6)
        axes.set_yticks(range(len(ordered)), [method for method, _ in ordered])
        axes.set_xlim(10 * (100 * of_scenario["average_accuracy"].min() // 10), 100.5)
        axes.set_xlabel("accuracy over all tasks in the end, %")
        axes.set_title(scenario.replace("_", "-"), fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("grey: the band one expects; a mark a seed; the C-LoRA family in red", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    ended_in_order(main)
