"""What tasks in a store cost to answer with: the first time, a switch, a mixed batch, and a thousand of them.

A thousand tasks are made of one that `method=clora_xs` learned: its routings and its head, each with a little noise of
its own, saved, hashed and probed as any other. The sides of a ratio take turns in one process. Beside the engine stand
PEFT's `adapter_names` with LoRAs of the same rank, and the engine with room for 32 tasks, which loads the others on
demand.
Run: python benchmarks/stored_tasks.py [--tasks 1,10,100,1000]; writes results/benchmarks/stored_tasks.md, and prints
one JSON object as its last line. The store is made in results/stores, by an ordinary run, where it is not there yet.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from adapters import interval, processor, ratio
from peft import LoraConfig, get_peft_model

from clora_exp.compose import compose_experiment
from clora_exp.files import write_atomically
from clora_exp.inference.background import package_texts
from clora_exp.inference.engine import Request, TaskEngine
from clora_exp.inference.finding import learn
from clora_exp.inference.loaded import NO_TASK, Loader
from clora_exp.inference.measuring import StoredData, logits_of
from clora_exp.inference.places import Place
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.time_left import TimeLeft
from clora_exp.store.folder import Store, Stored
from clora_exp.store.index import listing
from clora_exp.store.manifest import Probe
from clora_exp.store.opening import opened
from clora_exp.store.saving import packed
from clora_exp.tasks.stream import Example

ROOT = Path(__file__).parent.parent
CACHE = 32  # tasks that a server with a cache has room for
BATCH = 32
TARGETS = {
    "cold_load_ms": 30.0,
    "mixed_over_bare": 1.15,
    "mixed_long_over_bare": 1.15,
    "identify_ms": 2.0,
    "list_1000_s": 1.0,
    "rollback_ms": 50.0,
    "growth_mb": 1.0,
}
WORDS = {
    "cold_load_ms": "first answer of a task, int8: read, hashed, unpacked, checked, probed; ms",
    "switch_p99_ms": "finding the version of a task that is in memory, 99th percentile; ms",
    "mixed_over_bare": f"{BATCH} diagnoses to {BATCH} tasks through the engine, over the bare model; both tokenise",
    "one_task_over_bare": f"{BATCH} diagnoses to one task, over the bare model",
    "mixed_long_over_bare": f"{BATCH} licence texts (cut to the model's length) to {BATCH} tasks, over the bare model",
    "identify_ms": "which task a text is for, by its words; ms",
    "list_1000_s": "a thousand stored tasks listed, index at hand; s",
    "list_1000_process_s": "the same as a process, `python -m clora_exp.store list --json`; s",
    "reindex_1000_s": "the index of a thousand tasks made anew; s",
    "rollback_ms": "a rollback; ms",
    "growth_mb": "what the process has grown by over so many loads and unloads, after a hundred; MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="1,10,32,33,100,1000", help="numbers of tasks (default 1,10,32,33,100,1000)")
    parser.add_argument("--peft-most", type=int, default=100, help="adapters that PEFT is measured up to (default 100)")
    parser.add_argument("--cycles", type=int, default=1000, help="loads and unloads (default 1000)")
    parser.add_argument("--rounds", type=int, default=30, help="measurements of each side (default 30)")
    parser.add_argument("--foreign", type=int, default=10_000, help="texts of no task that are learned (default 10000)")
    parser.add_argument("--store", type=Path, default=ROOT / "results" / "stores" / "med_legal_code", help="of the run")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks", help="the page's folder")
    options = parser.parse_args()
    counts = sorted({int(count) for count in options.tasks.split(",")})
    if counts[0] < 1 or options.rounds < 2:
        parser.error("1 task or more, 2 rounds or more")
    words = ["method=clora_xs", "tasks=med_legal_code", f"store.path={options.store}"]
    if not (options.store / "store.json").exists():
        run(compose_experiment(words), " ".join(["python run.py", *words]), Terminal())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store", is_new=True)
        many(Store(options.store), store, max(*counts, BATCH))
        texts, licences = (texts_of(Store(options.store), task) for task in ("medical", "legal"))
        found = alone(store, texts, licences, options.rounds) | by_words(
            options.store, texts, options.rounds, options.foreign
        )
        found["growth_mb"] = [growth(store, options.cycles)]
        rates = served(store, texts, counts, options.rounds, options.peft_most)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = page(found, rates, options.rounds)
    write_atomically(options.out / "stored_tasks.md", ("\n".join(lines) + "\n").encode())
    flat = {name: round(value[0], 4) for name, value in found.items()}
    print(json.dumps(flat | {f"{side}_{n}": round(rate, 2) for (side, n), rate in rates.items()}))


def texts_of(learned: Store, task: str) -> list[str]:
    """Return a task's test texts."""
    return [example.text for example in StoredData().task(learned.manifest(task)).test]


def many(learned: Store, store: Store, count: int) -> None:
    """Fill a store with tasks made of one."""
    source = learned.read("medical")
    weights = source.manifest.weights
    assert weights.basis_sha256 is not None
    basis = (learned.path / "bases" / f"{weights.basis_sha256}.clora").read_bytes()
    store_of_basis = store.path / "bases" / f"{weights.basis_sha256}.clora"
    write_atomically(store_of_basis, basis)
    loader, words = Loader(Place(store)), source.manifest.probe.words
    generator = torch.Generator().manual_seed(0)
    with TimeLeft(f"storing {count} tasks") as bar:
        bar.expect(count)
        for i in range(count):
            tensors = {
                n: x + 0.01 * x.std() * torch.randn(x.shape, generator=generator) for n, x in source.tensors.items()
            }
            content, new = packed(tensors, weights.layers, "routed", basis_sha256=weights.basis_sha256, number="int8")
            manifest = dataclasses.replace(source.manifest, task=f"task-{i:04d}", weights=new, probe=Probe([], []))
            entry = loader.take_in(Stored(manifest, "", opened(manifest, content)))
            logits = logits_of(loader, entry, words).double().tolist()
            loader.let_go(entry)
            store.add(dataclasses.replace(manifest, probe=Probe(words, logits)), content)
            bar(1)


def alone(store: Store, texts: Sequence[str], licences: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Measure what one process does: loads, switches, batches, lists."""
    engine = TaskEngine(Place(store))
    names = store.tasks()
    engine.load_task(names[0])  # the base model and its bank
    loads = [seconds(lambda name=name: engine.load_task(name)) * 1e3 for name in names[1 : rounds + 1]]
    for name in names[:BATCH]:
        engine.load_task(name)
    switches = [seconds(lambda i=i: engine.load_task(names[i % BATCH])) * 1e3 for i in range(500)]
    ratios = beside_bare(engine, names, texts, licences, rounds)
    listing(store)
    lists = [seconds(lambda: listing(store)) for _ in range(5)]
    again = [seconds(lambda: listing(store, is_new=True))]
    command = [sys.executable, "-m", "clora_exp.store", "list", "--json", "--store", str(store.path)]
    process = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3)]
    source = store.manifest(names[0])
    content = (store.path / "tasks" / names[0] / "v1" / "adapter.clora").read_bytes()
    store.add(source, content)
    rollbacks = [seconds(lambda: store.rollback(names[0])) * 1e3 for _ in range(20)]
    return ratios | {
        "cold_load_ms": of(loads),
        "switch_p99_ms": [float(np.percentile(switches, 99))],
        "list_1000_s": of(lists),
        "list_1000_process_s": of(process),
        "reindex_1000_s": of(again),
        "rollback_ms": of(rollbacks),
    }


def beside_bare(
    engine: TaskEngine, names: Sequence[str], texts: Sequence[str], licences: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """Measure batches through the engine over the same texts through the base model alone."""
    model = engine._loader.base

    def bare(texts: Sequence[str]) -> None:
        examples = [Example(str(i), text, "", str(i)) for i, text in enumerate(texts)]
        with torch.inference_mode():
            model.features(model.inputs_of(examples, NO_TASK))

    batches = {
        "mixed": [Request(name, text) for name, text in zip(names, texts[:BATCH], strict=False)],
        "one_task": [Request(names[0], text) for text in texts[:BATCH]],
        "mixed_long": [Request(name, text) for name, text in zip(names, licences[:BATCH], strict=False)],
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in batches}
    for _ in range(rounds + 2):  # the first two warm up
        for name, batch in batches.items():
            of_base = seconds(lambda batch=batch: bare([request.text for request in batch]))
            took[name].append((seconds(lambda batch=batch: engine.batch(batch)), of_base))
    return {f"{name}_over_bare": [*interval(ratio, *np.array(values[2:]).T)] for name, values in took.items()}


def growth(store: Store, cycles: int) -> float:
    """Return by how many MB the process grows while one task comes and goes."""
    engine = TaskEngine(Place(store))
    kept, other = store.tasks()[:2]
    engine.load_task(kept)
    process, before = psutil.Process(), 0
    with TimeLeft(f"{cycles} loads and unloads") as bar:
        bar.expect(100 + cycles)
        for i in range(100 + cycles):
            if i == 100:
                before = process.memory_info().rss
            engine.load_task(other)
            engine.unload(other)
            bar(1)
    return (process.memory_info().rss - before) / 1e6


def by_words(path: Path, texts: Sequence[str], rounds: int, foreign: int) -> dict[str, list[float]]:
    """Measure identification by words."""
    place = Place(Store(path))
    found = learn(place, "examples", package_texts(foreign))
    return {"identify_ms": of([seconds(lambda text=text: found.find([text])) * 1e3 for text in texts[: 10 * rounds]])}


def served(
    store: Store, texts: Sequence[str], counts: Sequence[int], rounds: int, peft_most: int
) -> dict[tuple[str, int], float]:
    """Return requests a second of random tasks, in batches, by side and number of tasks; all take turns."""
    place, names = Place(store), store.tasks()
    some = TaskEngine(place)
    for name in names[:CACHE]:
        some.load_task(name)
    sides: dict[tuple[str, int], Callable[[list[Request]], Any]] = {}
    for count in counts:
        whole = TaskEngine(place)
        for name in names[:count]:
            whole.load_task(name)
        sides["engine", count] = whole.batch
        sides["cache", count] = TaskEngine(place, max_bytes=some.num_bytes).batch
        if count <= peft_most:
            sides["peft", count] = PeftServer(store, count).batch
    draw = np.random.default_rng(0)
    took: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    with TimeLeft("asking") as bar:
        bar.expect(rounds + 2)
        for _ in range(rounds + 2):
            for (side, count), answer in sides.items():
                chosen, of = draw.integers(count, size=BATCH), draw.integers(len(texts), size=BATCH)
                requests = [Request(names[k], texts[i]) for k, i in zip(chosen, of, strict=True)]
                took[side, count].append(seconds(lambda answer=answer, requests=requests: answer(requests)))
            bar(1)
    return {side: BATCH / statistics.median(values[2:]) for side, values in took.items()}


class PeftServer:
    """LoRAs of the same rank and layers in one PEFT model, and a head each."""

    def __init__(self, store: Store, count: int) -> None:
        self._stored = store.read(store.tasks()[0])
        weights = self._stored.manifest.weights
        modules = sorted({name for names in weights.layers.values() for name in names})
        config = LoraConfig(r=weights.rank, lora_alpha=weights.rank, target_modules=modules, init_lora_weights=False)
        model = Place(store).build(self._stored.manifest.base)
        self._inputs = model.inputs_of
        self._peft = get_peft_model(model.backbone, config, adapter_name="task-0000")
        for i in range(1, count):
            self._peft.add_adapter(f"task-{i:04d}", config)
        self._peft.eval()

    def batch(self, requests: Sequence[Request]) -> Any:
        """Answer requests, labels from a softmax a row, as the engine does."""
        inputs = self._inputs([Example(str(i), r.text, "", str(i)) for i, r in enumerate(requests)], NO_TASK)
        with torch.inference_mode():
            hidden = self._peft(**inputs, adapter_names=[r.task for r in requests]).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            features = (hidden * mask).sum(1) / mask.sum(1)
            head = self._stored.tensors["head.weight"]
            return torch.softmax((features @ head.T).double(), -1).tolist()


def seconds(do: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def of(values: Sequence[float]) -> list[float]:
    """Return the median and its interval."""
    if len(values) < 3:
        return [statistics.median(values)]
    return [*interval(np.median, np.array(values))]


def page(found: dict[str, list[float]], rates: dict[tuple[str, int], float], rounds: int) -> list[str]:
    """Return the lines of the page."""
    cores, memory = psutil.cpu_count(logical=False) or 1, psutil.virtual_memory().total / 1e9
    lines = [
        "# What stored tasks cost to answer with\n",
        "`python benchmarks/stored_tasks.py`\n",
        f"MiniLM, tasks of `clora_xs` in int8; torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{processor()}, {cores} cores, {memory:.0f} GB, no GPU. Medians over {rounds} rounds, the sides of a ratio in "
        "turn; in brackets 95 % intervals by bootstrap.\n",
        "| what | measured | target |",
        "| --- | --- | --- |",
    ]
    for name, says in WORDS.items():
        middle, *between = found[name]
        shown = f"{middle:.3g}" + (f" ({between[0]:.3g} to {between[1]:.3g})" if between else "")
        lines.append(f"| {says} | {shown} | {f'≤ {TARGETS[name]:g}' if name in TARGETS else ''} |")
    counts = sorted({count for _, count in rates})
    lines += [
        "\n## Requests a second\n",
        f"Texts of random tasks in batches of {BATCH}, tokenised, answered, with probabilities; all cells in turn.\n",
        "| tasks | engine, all in memory | PEFT, `adapter_names` | engine, room for 32 tasks |",
        "| --- | --- | --- | --- |",
    ]
    for count in counts:
        cells = [f"{rates[side, count]:.0f}" if (side, count) in rates else "–" for side in ("engine", "peft", "cache")]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
