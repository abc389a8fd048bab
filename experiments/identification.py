"""Which way tells the tasks apart, and says of foreign text that it is for none?

Run: python experiments/identification.py (about a quarter of an hour on two cores, most of it two ordinary runs, which
are not repeated where they are finished). Each stream is learned by `method=clora_xs` into a store, then each way of
`clora_exp/inference/identification.py` is learned on training and validation texts and measured on test texts and on
texts of no task. Writes results/identification/ (README.md, identification.csv).

Foreign texts are paragraphs of Python's documentation (its help topics), of scikit-learn's (data set descriptions,
docstrings) and of this project's pages; what the ways learn to refuse are the descriptions of other packages.
"""

import argparse
import ast
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.inference.background import drawn, package_texts, paragraphs
from clora_exp.inference.engine import TaskEngine
from clora_exp.inference.finding import features_of, file_of, learn
from clora_exp.inference.identification import FALSE_UNKNOWN, UNKNOWN, WAYS, Identification
from clora_exp.inference.loaded import Loader
from clora_exp.inference.measuring import StoredData
from clora_exp.inference.places import Place
from clora_exp.interrupts import ended_in_order
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.time_left import TimeLeft
from clora_exp.reports.words import markdown_row, size, threads
from clora_exp.store.folder import Store

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "identification"
STREAMS = {
    "med_legal_code": (["tasks=med_legal_code"], "three tasks of different kinds"),
    "ICD chapters": (
        ["tasks=icd10_chapters", "tasks.icd10.sessions=7"],
        "seven tasks of one kind: three chapters of diagnoses each",
    ),
}
NUM_FOREIGN = 600  # of each source
NUM_BACKGROUND = 10_000
NUM_TIMED = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=ROOT / "results" / "stores", help="where the stores are made")
    parser.add_argument("--precision", default="32-true", help="trainer.precision of the runs (default 32-true)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write")
    options = parser.parse_args()
    foreign = foreign_texts()
    background = package_texts(NUM_BACKGROUND, without=("scikit-learn", "clora-exp"))
    rows = []
    for name, (words, _) in STREAMS.items():
        path = options.stores / name.replace(" ", "_").lower()
        command = [*words, "method=clora_xs", f"store.path={path}", f"trainer.precision={options.precision}"]
        run(compose_experiment(command), " ".join(["python run.py", *command]), Terminal())
        rows += measured(name, Place(Store(path)), foreign, background)
    options.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    write_atomically(options.out / "identification.csv", table.to_csv(index=False, float_format="%.5g").encode())
    write_atomically(options.out / "README.md", ("\n".join(page(table, options.precision)) + "\n").encode())
    print(f"{options.out}/README.md")


def foreign_texts() -> dict[str, list[str]]:
    """Return paragraphs of no task, by source."""
    import pydoc_data.topics

    import sklearn

    folder = Path(sklearn.__file__).parent
    described = [text for path in sorted(folder.glob("datasets/descr/*.rst")) for text in read(path)]
    docstrings = [
        text
        for path in sorted(folder.rglob("*.py"))
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for text in paragraphs((ast.get_docstring(node) or "").split("Parameters\n")[0])
    ]
    topics: dict[str, str] = pydoc_data.topics.topics
    own = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {
        "Python": [text for topic in sorted(topics) for text in paragraphs(topics[topic])],
        "scikit-learn": sorted({*described, *docstrings}),
        "this project": [text for path in own for text in read(path)],
    }
    return {name: drawn(texts, NUM_FOREIGN, 0) for name, texts in found.items()}


def read(path: Path) -> list[str]:
    """Return the paragraphs of a file."""
    return list(paragraphs(path.read_text(encoding="utf-8")))


def measured(name: str, place: Place, foreign: dict[str, list[str]], background: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row a way."""
    data, engine = StoredData(), TaskEngine(place)
    texts: list[str] = []
    truth: list[str] = []
    right: list[bool] = []  # the oracle's answer
    for task in place.tasks():
        examples = data.task(place.store.manifest(task)).test
        answers = engine.predict(task, [example.text for example in examples])
        texts += [example.text for example in examples]
        truth += [task] * len(examples)
        right += [answer.label == example.label for answer, example in zip(answers, examples, strict=True)]
    manifest = place.store.manifest(place.tasks()[0])
    rows = []
    for way in WAYS:
        with TimeLeft(f"{name}: learning {way}") as bar:
            started = time.perf_counter()
            found = learn(place, way, background, progress=bar)
            seconds = time.perf_counter() - started
        features = features_of(Loader(place), manifest.base)
        answers_of = found.find(texts, features)
        best = np.array([one.best for one in answers_of])
        task = np.array([one.task for one in answers_of])
        row = {
            "stream": name,
            "way": way,
            "best": np.mean(best == truth),
            "known": np.mean(task != UNKNOWN),
            "identified": np.mean(task == truth),
            "routed": np.mean((task == truth) & np.array(right)),
            "oracle": np.mean(right),
        }
        strange = {source: found.find(rows_, features) for source, rows_ in foreign.items()}
        row |= {f"taken for known: {s}": np.mean([o.task != UNKNOWN for o in f]) for s, f in strange.items()}
        every = [one for found_ in strange.values() for one in found_]
        row["taken for known"] = np.mean([one.task != UNKNOWN for one in every])
        row |= {"milliseconds": timed(found, texts, features), "learning_s": seconds}
        rows.append(row | {"bytes": file_of(place).stat().st_size})
    return rows


def timed(found: Identification, texts: Sequence[str], features: Any) -> float:
    """Return the median milliseconds of one text alone."""
    order = np.random.default_rng(0).permutation(len(texts))[:NUM_TIMED]
    took = []
    for i in order:
        started = time.perf_counter()
        found.find([texts[i]], features)
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


def page(table: pd.DataFrame, precision: str) -> list[str]:
    """Return the lines of the page."""
    sources = [name for name in table.columns if name.startswith("taken for known: ")]
    lines = [
        "# Which task is a text for?\n",
        f"`python experiments/identification.py --precision {precision}`\n",
        "The ways are those of `clora_exp/inference/identification.py`; what is learned uses training and validation "
        f"texts, these figures the test texts. The threshold gives up {FALSE_UNKNOWN:.2%} of the tasks' own validation "
        "texts. Nearest: the nearest task is the right one, whether or not it is near enough. Identified: it is the "
        "right one, and near enough. Answered: the label is right when the identified task answers; oracle: when the "
        f"task is told. Foreign: up to {NUM_FOREIGN} paragraphs each of documentation that no task is for, the share "
        "that was taken for a task's. Milliseconds are of one text alone, the median of "
        f"{NUM_TIMED}; torch {torch.__version__}, {threads(torch.get_num_threads())}, "
        f"{psutil.cpu_count(logical=False)} cores, no GPU.\n",
    ]
    for name, rows in table.groupby("stream", sort=False):
        names = [source.partition(": ")[2] for source in sources]
        head = ["way", "nearest", "identified", "answered", "oracle", "foreign", *names, "ms", "learned in", "bytes"]
        lines += [f"## {name}: {STREAMS[str(name)][1]}\n", markdown_row(head), markdown_row(["---"] * len(head))]
        for row in rows.to_dict("records"):
            shares = [row[key] for key in ("best", "identified", "routed", "oracle")]
            strange = [row["taken for known"], *(row[source] for source in sources)]
            cells = [f"`{row['way']}`", *(f"{x:.3f}" for x in shares), *(f"{x:.1%}" for x in strange)]
            lines.append(
                markdown_row(
                    [*cells, f"{row['milliseconds']:.2f}", f"{row['learning_s']:.0f} s", size(int(row["bytes"]))]
                )
            )
        lines.append("")
    return lines[:-1]


if __name__ == "__main__":
    ended_in_order(main)
