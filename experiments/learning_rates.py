"""Which learning rate, or strength, does each method get? Chosen on validation data, four trials for every method.

Run: python experiments/learning_rates.py [--methods lora,clora] (two hours on two cores; --precision bf16-mixed is
quicker on a processor that has it). Every trial is an ordinary run under results/runs: a finished one is not repeated.
Writes results/learning_rates/table.csv and README.md; what other methods have there stays.
"""

import argparse
import math
import sys
from pathlib import Path

import pandas as pd

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal

CRITERION = "average_accuracy"  # at the end, every task counts the same: it rewards learning and keeping
NOISE = 0.01  # of the mean accuracy over about 1050 validation examples
FOLDER = Path(__file__).parent.parent / "results" / "learning_rates"
HEADS = "method.head_learning_rate=3e-2"  # tried with the best of a method's three; those have the trainer's
RATES = [f"method.learning_rate={rate}" for rate in ("5e-4", "1e-3", "2e-3")]
GRID = {
    "frozen": [f"method.head_learning_rate={rate}" for rate in ("3e-3", "1e-2", "3e-2", "1e-1")],
    "full": [f"method.learning_rate={rate}" for rate in ("5e-5", "1e-4", "2e-4")],
    "lora": RATES,
    "lora_per_task": RATES,
    "clora": [f"method.learning_rate={rate} method.factor_learning_rate=5e-4" for rate in ("1e-2", "2e-2", "5e-2")],
    "clora_gated": RATES,
    "clora_xs": [f"method.learning_rate={rate}" for rate in ("1e-2", "2e-2", "4e-2")],
    "clora_shared": [
        f"method.learning_rate={rate} method.factor_learning_rate=1e-3" for rate in ("5e-3", "1e-2", "2e-2")
    ],
    "ewc": [f"method.ewc.strength={strength}" for strength in ("1e2", "1e4", "1e6")],
    "clora_ewc": [f"method.ewc.strength={strength}" for strength in ("1.0", "10.0", "100.0")],
    "lwf": [f"method.lwf.strength={strength}" for strength in ("0.3", "1.0", "3.0")],
    "olora": [f"method.olora.strength={strength}" for strength in ("0.05", "0.5", "5.0")],
    "inflora": RATES,
    "sdlora": RATES,
    "progressive": RATES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(GRID), help=f"some of them (default all: {','.join(GRID)})")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the trials (default 32-true)")
    options = parser.parse_args()
    methods = options.methods.split(",")
    for method in methods:
        if method not in GRID:
            parser.error(f"unknown method {method!r}; have: {', '.join(GRID)}")
    path = FOLDER / "table.csv"
    stored = pd.read_csv(path).to_dict("records") if path.exists() else []
    others = [row for row in stored if row["method"] not in methods]
    if any(row["precision"] != options.precision for row in others):
        parser.error(f"the other methods' trials in {path} have --precision {others[0]['precision']}")
    rows = [row for method in methods for row in trials(method, options.precision)] + others
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(sorted(rows, key=lambda row: list(GRID).index(row["method"])))
    write_atomically(path, table.round(4).to_csv(index=False, lineterminator="\n").encode())
    write_atomically(FOLDER / "README.md", page(table, options.precision).encode())
    print(page(table, options.precision))


def trials(method: str, precision: str) -> list[dict[str, str | float]]:
    """Run the four trials of a method."""
    rows: list[dict[str, str | float]] = []
    settings = list(GRID[method])
    for setting in settings:
        rows.append({"method": method, "setting": setting, "precision": precision, **trial(method, setting, precision)})
        print(rows[-1], file=sys.stderr, flush=True)
        if len(rows) == 3 and len(settings) == 3:
            best = max(rows, key=lambda row: row[CRITERION])["setting"]
            settings.append(f"{best} {HEADS}")
    return rows


def trial(method: str, setting: str, precision: str) -> dict[str, float]:
    """Run one setting on validation data and return its metrics."""
    fixed = [f"trainer.precision={precision}", "eval_split=validation"]
    heads = [] if "head_learning_rate" in setting else ["method.head_learning_rate=null"]  # whatever was chosen before
    overrides = [f"method={method}", *setting.split(), *heads, *fixed]
    command = f"python run.py {' '.join(overrides)}"
    metrics = run(compose_experiment([*overrides, "report=false"]), command, Terminal(interval_s=60)).read().metrics
    names = (CRITERION, "learning_accuracy", "forgetting")
    return {name: math.nan if metrics[name].value is None else metrics[name].value for name in names}


def chosen(rows: pd.DataFrame) -> int:
    """Return the index of a method's best trial: of those within the noise of the best, the one that learns most."""
    return rows.loc[rows[CRITERION] >= rows[CRITERION].max() - NOISE, "learning_accuracy"].idxmax()


def page(table: pd.DataFrame, precision: str) -> str:
    """Return the result as one Markdown page; the best of each method is bold."""
    best = {chosen(rows) for _, rows in table.groupby("method", sort=False)}
    flag = "" if precision == "32-true" else f" --precision {precision}"
    lines = [
        "# Which learning rate, or strength, each method gets\n",
        f"`python experiments/learning_rates.py{flag}`\n",
        "Four trials a method, seed 0, on the validation split (about 350 examples a task). The measure is the",
        "accuracy at the end, averaged over the tasks, which rewards both learning and keeping; of the trials within",
        "0.01 of the best, which is noise, the one with the highest accuracy right after learning is bold and is the",
        "method's default. `joint`, `single` and what is not here take `lora`'s rates, `progressive` those of",
        "`lora_per_task`, untuned. Heads learn at 1e-2 where nothing else is said.\n",
        "| method | setting | at the end | right after learning | forgetting |",
        "| --- | --- | --- | --- | --- |",
    ]
    for i, row in table.iterrows():
        setting = row["setting"].replace("method.", "")
        numbers = [f"{round(row[name], 3) + 0.0:.3f}" for name in (CRITERION, "learning_accuracy", "forgetting")]
        numbers[0] = f"**{numbers[0]}**" if i in best else numbers[0]
        lines.append(f"| {' | '.join(['`' + row['method'] + '`', f'`{setting}`', *numbers])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ended_in_order(main)
