"""Does a parent help a child that has few examples? healthcare → medical → surgery, from ICD-10-CM.

- healthcare: a diagnosis → its chapter, of 21, 80 training texts each;
- medical, over healthcare: a disease of circulation, breathing or digestion → its block, up to 20 each;
- surgery: an injury → its block, 2, 4 or 8 texts each, over nothing, over healthcare, over medical (over healthcare).

Run: python experiments/hierarchy.py [--seeds 0,1,2,3,4] (three quarters of an hour on one thread). A seed draws the
texts and trains; every run is an ordinary `python run.py tasks=files … store.parent=…`, with 100 steps for surgery:
what is finished is not repeated. Writes results/hierarchy/ (README.md, runs.csv).
"""

import argparse
import csv
import io
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import markdown_row
from clora_exp.runs import read_run
from clora_exp.store.folder import Store
from clora_exp.tasks.sources.icd10 import NAMES

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "hierarchy"
METHODS = ("clora_gated", "clora_xs")
INNER = ("9", "10", "11")  # chapters: circulation, breathing, digestion
INJURY = "19"
SHOTS = (2, 4, 8)
TEST, VALIDATION = 20, 4
LEAST = {"test": 10, "validation": 2, "train": 8}  # texts of a class, or it is left out
PARENTS = ("none", "healthcare", "medical")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="default 0,1,2,3,4")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the runs (default 32-true)")
    parser.add_argument("--stores", type=Path, default=ROOT / "results" / "stores", help="where tables and stores go")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write")
    options = parser.parse_args()
    codes = diagnoses()
    rows = []
    for seed in (int(word) for word in options.seeds.split(",")):
        tables = options.stores / f"hierarchy-tables-{seed}"
        if not tables.exists():
            write_tables(codes, tables, seed)
        for method in METHODS:
            rows += family(method, seed, tables, options.stores / f"hierarchy-{method}-{seed}", options.precision)
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "runs.csv", table.to_csv(index=False).encode())
    write_atomically(options.out / "README.md", ("\n".join(page(table, options.precision)) + "\n").encode())
    print(f"{options.out}/README.md")


def diagnoses() -> dict[str, list[tuple[str, str, str]]]:
    """Return texts by chapter: text, block, category."""
    import simple_icd_10_cm as icd

    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for code in icd.get_all_codes(with_dots=True):
        if icd.is_leaf(code) and not icd.is_chapter_or_block(code):
            ancestors = icd.get_ancestors(code)
            block = icd.get_description(ancestors[-2]) if len(ancestors) > 2 else ""
            found[ancestors[-1]].append((icd.get_description(code), block, code.split(".")[0]))
    return found


def write_tables(codes: dict[str, list[tuple[str, str, str]]], folder: Path, seed: int) -> None:
    """Write a folder a task; a category of three characters never stands in two splits."""
    chapters = {NAMES[chapter]: [(text, group) for text, _, group in codes[chapter]] for chapter in NAMES}
    write_task(folder / "healthcare", chapters, 80, seed)
    inner: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for chapter in INNER:
        for text, block, group in codes[chapter]:
            inner[block].append((text, group))
    write_task(folder / "medical", inner, 20, seed)
    injuries: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text, block, group in codes[INJURY]:
        injuries[block].append((text, group))
    for shots in SHOTS:
        write_task(folder / f"surgery{shots}", injuries, shots, seed)


def write_task(folder: Path, classes: dict[str, list[tuple[str, str]]], train: int, seed: int) -> None:
    """Write train, validation and test tables of up to so many texts a class, from as many categories as can be.

    Two fifths of a class's categories are tested on, a fifth validates; classes with too few texts are left out.
    """
    rows: dict[str, list[list[str]]] = {split: [] for split in LEAST}
    for label in sorted(label for label in classes if label):  # a chapter may have codes outside its blocks
        rng = np.random.default_rng([seed, *label.encode()])
        groups: dict[str, list[str]] = defaultdict(list)
        for text, group in classes[label]:
            groups[group].append(text)
        names = [sorted(groups)[i] for i in rng.permutation(len(groups))]
        num_test, num_validation = round(0.4 * len(names)), max(1, round(0.2 * len(names)))
        parts = {
            "test": (names[:num_test], TEST),
            "validation": (names[num_test : num_test + num_validation], VALIDATION),
            "train": (names[num_test + num_validation :], train),
        }
        own = {split: in_turn(groups, part, count, label, rng) for split, (part, count) in parts.items()}
        if all(len(own[split]) >= min(least, parts[split][1]) for split, least in LEAST.items()):
            for split in LEAST:
                rows[split] += own[split]
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        text = io.StringIO()
        csv.writer(text).writerows([["text", "label", "group"], *found])
        write_atomically(folder / f"{split}.csv", text.getvalue().encode())


def in_turn(
    groups: dict[str, list[str]], names: Sequence[str], count: int, label: str, rng: np.random.Generator
) -> list[list[str]]:
    """Return rows of up to so many texts, one of each category in turn."""
    left = {name: [groups[name][i] for i in rng.permutation(len(groups[name]))] for name in names}
    found: list[list[str]] = []
    while len(found) < count and any(left.values()):
        found += [[left[name].pop(), label, name] for name in names if left[name]]
    return found[:count]


def family(method: str, seed: int, tables: Path, store: Path, precision: str) -> list[dict[str, Any]]:
    """Learn a seed's parents and children; return a row a child."""
    fixed = [f"method={method}", f"seed={seed}", f"trainer.precision={precision}", "report=false"]
    learn([*fixed, f"tasks.path={tables / 'healthcare'}"], store, None, alone(tables, "healthcare"))
    learn(fixed, store, "healthcare", alone(tables, "medical"))
    rows = []
    for shots in SHOTS:
        for parent in PARENTS:
            words = [*fixed, "trainer.max_steps=100", "trainer.epochs=100"]
            accuracy = learn(words, store, None if parent == "none" else parent, alone(tables, f"surgery{shots}"))
            rows.append({"method": method, "seed": seed, "shots": shots, "parent": parent, "accuracy": accuracy})
    return rows


def alone(tables: Path, task: str) -> list[str]:
    """Return the words that name one task of the tables."""
    return ["tasks=files", f"tasks.path={tables}", f"tasks.order=[{task}]"]


def learn(words: Sequence[str], store: Path, parent: str | None, tasks: Sequence[str]) -> float:
    """Do one ordinary run, or find it done; return its accuracy."""
    command = [*tasks, *(word for word in words if not word.startswith("tasks.")), f"store.path={store}"]
    if parent:
        command.append(f"store.parent={parent}@{Store(store).resolve(parent, 'v1').id[:16]}")
    folder = run(compose_experiment(command), shlex.join(["python", "run.py", *command]), Terminal(is_brief=True))
    return float(read_run(folder.path).matrix.values[1][0])


def page(table: pd.DataFrame, precision: str) -> list[str]:
    """Return the lines of the page."""
    num = table["seed"].nunique()
    lines = [
        "# Does a parent help a child with few examples?\n",
        f"`python experiments/hierarchy.py --precision {precision}`\n",
        "healthcare: a diagnosis → its chapter, of 21, 80 texts each. medical, over healthcare: a disease of "
        "circulation, breathing or digestion → its block, up to 20 texts each. surgery: an injury → its block, with "
        "few texts, over nothing, over healthcare, over medical over healthcare; 100 steps. Accuracy on up to "
        f"{TEST} test texts a block, mean ± standard deviation over {num} seeds, which draw the texts too; in brackets "
        "the difference to no parent, mean and range over the seeds, and on how many it is better.\n",
    ]
    for method, rows in table.groupby("method", sort=False):
        lines += [
            f"## `{method}`\n",
            markdown_row(["texts a block", *PARENTS]),
            markdown_row(["---"] * (1 + len(PARENTS))),
        ]
        for shots, own in rows.groupby("shots"):
            by = {name: part.sort_values("seed")["accuracy"].to_numpy() for name, part in own.groupby("parent")}
            cells = [str(shots)]
            for name in PARENTS:
                cell = f"{by[name].mean():.3f} ± {by[name].std(ddof=1) if num > 1 else 0:.3f}"
                if name != "none" and num > 1:
                    gain = by[name] - by["none"]
                    between = f"{gain.min():+.3f} to {gain.max():+.3f}"
                    cell += f" ({gain.mean():+.3f}, {between}; {(gain > 0).sum()} of {num} better)"
                cells.append(cell)
            lines.append(markdown_row(cells))
        lines.append("")
    return lines[:-1]


if __name__ == "__main__":
    ended_in_order(main)
