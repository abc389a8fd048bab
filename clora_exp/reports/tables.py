"""The tables of a comparison as plain cells, which Markdown and HTML both show: here numbers become words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clora_exp.evaluation.cost_per_point import PER_POINT, joules
from clora_exp.evaluation.statistics import LEVEL, NUM_RESAMPLES
from clora_exp.reports.comparison import ComparableSet
from clora_exp.reports.paired import OVER_SEEDS
from clora_exp.reports.settings import AT_THE_END, COSTS, RIGHT_AFTER, Setting, differing, flat_config
from clora_exp.reports.words import METRICS, SIGNED, duration, in_joules, p_value, signed, size

NONE = "–"
NOT_TOLD, LARGEST_P = "neither", 0.05
MAIN = ("average_accuracy", "learning_accuracy", "forgetting")
HEADS = {
    "average_accuracy": "accuracy at the end",
    "learning_accuracy": "right after learning",
    "bytes_a_task": "bytes a task",
    "answering_bytes": "bytes, all tasks",
    "kept_bytes": "kept to learn by",
    "train_seconds": "learning",
    "evaluation_ms": "ms an example",
    "trainable_parameters": "trainable parameters",
    "energy_joules": "energy of learning",
    "peak_memory_bytes": "peak memory",
    "seconds_per_point": "learning, a point",
    "bytes_per_point": "bytes a task, a point",
    "joules_per_point": "energy, a point",
}


@dataclass(frozen=True)
class Cell:
    """What is shown, and by what a column is sorted: a number, or the text itself."""

    text: str
    order: float | None = None
    is_code: bool = False


@dataclass(frozen=True)
class Table:
    """A titled table with lines that explain it."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def tables(found: ComparableSet, guide: Table) -> list[Table]:
    """Return the tables of one set, in the order of a reader's questions."""
    every = [
        _results(found),
        *_tests(found),
        _each_task(found),
        _other_metrics(found),
        *_costs(found),
        guide,
        *_settings(found),
    ]
    return [table for table in every if table.rows]


def shown(name: str, setting: Setting, with_interval: bool = True) -> Cell:
    """Return a number of a setting, mean ± sd and the interval; a dash where no seed defines it."""
    spread = setting.spread.get(name)
    if spread is None:
        return Cell(NONE)
    words = _words(name)
    text = words(spread.mean)
    if spread.n > 1 and spread.sd > 0:
        text += f" ± {words(spread.sd).lstrip('+')}"
        if with_interval:
            text += f" [{words(spread.low)}, {words(spread.high)}]" + ("" if spread.interval == "BCa" else "†")
    if spread.n < len(setting.runs):
        text += f" (n = {spread.n})"
    return Cell(text, spread.mean)


def _words(name: str) -> Callable[[float], str]:
    if name.endswith("bytes") or name in ("bytes_a_task", "bytes_per_point"):
        return lambda value: "0" if value == 0 else size(value)
    if name in ("train_seconds", "seconds_per_point"):
        return lambda value: duration(value) if value >= 10 or name == "train_seconds" else f"{value:.3g} s"
    if name in ("energy_joules", "joules_per_point"):
        return in_joules
    if name == "trainable_parameters":
        return lambda value: f"{value:,.0f}"
    if name in ("evaluation_ms", "answer_perplexity"):
        return lambda value: f"{value:.3g}"
    return (lambda value: signed(value, 3)) if name in SIGNED else (lambda value: f"{value:.3f}".replace("-", "−"))


def _name(setting: Setting) -> Cell:
    return Cell(setting.label, is_code=True)


def _seeds(setting: Setting) -> Cell:
    return Cell(str(len(setting.runs)), len(setting.runs))


def _grid(title: str, found: ComparableSet, names: Sequence[str], notes: list[str], with_interval: bool) -> Table:
    there = [name for name in names if any(name in s.spread for s in found.settings)]
    heads = ["method", "seeds", *(HEADS.get(name, name.replace("_", " ")) for name in there)]
    rows = [[_name(s), _seeds(s), *(shown(name, s, with_interval) for name in there)] for s in found.settings]
    return Table(title, heads, rows if there else [], notes)


def _results(found: ComparableSet) -> Table:
    table = _grid("Results", found, MAIN, [], True)
    table.heads[-1:] = [*table.heads[-1:], "bytes a task", "learning"]
    for row, setting in zip(table.rows, found.settings, strict=True):
        row += [shown("bytes_a_task", setting, False), shown("train_seconds", setting, False)]
    table.notes.extend(_how_spread(found))
    return table


def _how_spread(found: ComparableSet) -> list[str]:
    counts = sorted({len(s.runs) for s in found.settings})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts[-1] == 1:
        return ["One seed: no standard deviation and no interval. Another seed may come out otherwise."]
    notes = [
        f"Mean ± standard deviation (divisor n − 1) over {seeds} seeds; in brackets the {LEVEL:.0%} bootstrap interval "
        f"of the mean over seeds, BCa, {NUM_RESAMPLES} resamples. Without either: the same on every seed"
        + ("." if counts[0] > 1 else ", or one seed.")
    ]
    if counts[0] < 10:
        notes.append("Bootstrap intervals of few seeds are too narrow, by about √((n − 1)/n) or more.")
    if any(
        s.spread[n].interval == "percentile" and s.spread[n].sd > 0
        for s in found.settings
        for n in METRICS
        if n in s.spread
    ):
        notes.append("†: a percentile interval, since BCa is not defined there.")
    return notes


def _tests(found: ComparableSet) -> list[Table]:
    if found.reference is None:
        return []
    against = found.reference.label
    return [_over_examples(found, against), *(_over_seeds(found, against, name) for name in OVER_SEEDS)]


def _over_examples(found: ComparableSet, against: str) -> Table:
    rows = []
    for test in found.over_examples:
        each = ", ".join(f"{t.only_first}:{t.only_second} (p {p_value(t.p_value)})" for t in test.tests)
        difference = Cell(signed(test.difference, 3), test.difference)
        p = Cell(p_value(test.corrected), test.corrected)
        verdict = "" if test.corrected >= LARGEST_P else "better" if test.difference > 0 else "worse"
        rows.append([Cell(test.label, is_code=True), difference, p, Cell(verdict), Cell(each)])
    count = found.settings[0].first.num_examples.sum()
    return Table(
        f"Against {against}, over examples",
        ["method", "difference", "p, every seed", "on every seed", "seed by seed"],
        rows,
        [
            f"McNemar's exact test on the {count} examples of all tasks after the last task, seed by seed: examples "
            f"that only the method : only {against} answers right. Seeds are not pooled, since they answer the same "
            "examples. The p-value is that of the claim to be better, or worse, on every seed: the largest of the "
            "seeds' (1 where they disagree which), corrected by Holm for the methods of this table.",
            *_left_out(found, {test.label for test in found.over_examples}, "an answer to every example at the end"),
        ],
    )


def _left_out(found: ComparableSet, tested: set[str], what: str) -> list[str]:
    others = [s.label for s in found.settings if s is not found.reference and s.label not in tested]
    return [f"Not tested, without {what} on a seed that both have: {', '.join(others)}."] if others else []


def _over_seeds(found: ComparableSet, against: str, name: str) -> Table:
    tests = [test for test in found.over_seeds if test.name == name]
    rows = []
    for test in tests:
        spread = test.difference
        text = signed(spread.mean, 3)
        if spread.n > 1 and spread.sd > 0:
            text += f" ± {spread.sd:.3f} [{signed(spread.low, 3)}, {signed(spread.high, 3)}]"
        p = Cell(NONE) if test.test is None else Cell(p_value(test.test.p_value), test.test.p_value)
        corrected = Cell(NONE) if test.test is None else Cell(p_value(test.corrected), test.corrected)
        seeds = Cell(", ".join(map(str, test.seeds)), len(test.seeds))
        rows.append([Cell(test.label, is_code=True), Cell(text, spread.mean), p, corrected, seeds])
    smallest = {test.test.n: test.test.smallest_p for test in tests if test.test}
    limits = ", ".join(f"{p_value(p)} with {n} seeds" for n, p in sorted(smallest.items()))
    note = (
        "Paired over the seeds that both have; p by flipping the signs of the differences, two-sided, all 2ⁿ of them "
        f"up to 16 seeds. The smallest p that can come out: {limits}." if limits else "One seed in common: no test."
    )  # fmt: skip
    return Table(
        f"Against {against}, over seeds: {HEADS.get(name, name.replace('_', ' '))}",
        ["method", "difference", "p", "p, Holm", "seeds"],
        rows,
        [note, *_left_out(found, {test.label for test in tests}, "this number")],
    )


def _each_task(found: ComparableSet) -> Table:
    heads = ["method", *found.tasks]
    rows = []
    for setting in found.settings:
        cells = [_name(setting)]
        for task in found.tasks:
            learned, end = (shown(f"{when}: {task}", setting, False) for when in (RIGHT_AFTER, AT_THE_END))
            both = (learned, end) if task != found.tasks[-1] or end.text == NONE else (end,)
            text = " → ".join(cell.text for cell in both if cell.text != NONE) or NONE
            cells.append(Cell(text, learned.order if end.order is None else end.order))
        rows.append(cells)
    note = (
        "Accuracy right after learning the task → at the end, for the last task the same; of joint and single one each."
    )
    return Table("Each task", heads, rows, [note])


def _other_metrics(found: ComparableSet) -> Table:
    names = [name for name in METRICS if name not in MAIN]
    there = [name for name in names if any(name in s.spread for s in found.settings)]
    notes = ["; ".join(f"{name.replace('_', ' ')}: {METRICS[name]}" for name in there) + "."]
    undefined: dict[str, list[str]] = {}  # reason → the metrics
    for name in names:
        for reason in dict.fromkeys(s.reasons[name] for s in found.settings if name in s.reasons):
            undefined.setdefault(reason, []).append(name.replace("_", " "))
    notes += [f"Undefined, {reason}: {', '.join(metrics)}." for reason, metrics in undefined.items()]
    return _grid("Other metrics", found, names, notes, True)


def _costs(found: ComparableSet) -> list[Table]:
    """Return what learning and answering cost, and what a point of accuracy costs, where a `frozen` run tells."""
    there = {name: words for name, words in COSTS.items() if any(name in s.spread for s in found.settings)}
    notes = ["; ".join(f"{HEADS[name]}: {words}" for name, words in there.items()) + "."]
    where = sorted({_machine(evidence.run.environment) for s in found.settings for evidence in s.runs.values()})
    notes.append(f"Measured in the runs themselves, on {'; '.join(where)}, with whatever else ran there at the time.")
    if any("evaluation_ms" in s.reasons for s in found.settings):
        notes.append("ms an example: a dash stands where runs are of a version that did not count examples.")
    notes += _how_energy(found, "energy_joules")
    of_points = _cost_of_a_point(found)
    if not of_points.rows and PER_POINT[0] in found.settings[0].reasons:
        notes.append(f"What a point of accuracy costs: {found.settings[0].reasons[PER_POINT[0]]}.")
    return [_grid("Cost", found, list(COSTS), notes, False), of_points]


def _cost_of_a_point(found: ComparableSet) -> Table:
    notes = [
        "A point is a hundredth of the accuracy at the end above that of the `frozen` run of the same seed (heads on "
        "the backbone as it is), so what is forgotten again counts for nothing; the cost is the whole run's. Bytes "
        "are a task's on disk. n: the seeds that have such a run and gain a point, where those are not all.",
        *_how_energy(found, "joules_per_point"),
    ]
    without: dict[str, list[str]] = {}  # reason → the settings
    for setting in found.settings:
        if PER_POINT[0] in setting.reasons:
            without.setdefault(setting.reasons[PER_POINT[0]], []).append(setting.label)
    notes += [f"None of {', '.join(labels)}: {reason}." for reason, labels in without.items()]
    return _grid("Cost of a point", found, PER_POINT, notes, False)


def _how_energy(found: ComparableSet, name: str) -> list[str]:
    """Return how the energy of a column was found, measured or estimated; nothing where there is no such column."""
    there = [s for s in found.settings if name in s.spread]
    if not there:
        return []
    by_source: dict[str, list[str]] = {}
    for setting in there:
        for source in sorted({joules(e.run).reason for e in setting.runs.values() if joules(e.run).value is not None}):
            by_source.setdefault(source, []).append(setting.label)
    only = len(by_source) == 1
    how = "; ".join(source if only else f"{source}: {', '.join(names)}" for source, names in by_source.items())
    is_whole = all(name in s.spread and s.spread[name].n == len(s.runs) for s in found.settings)
    return [
        f"Energy is {how}" + ("." if is_whole else "; a dash stands where nobody counted it, or no point is gained.")
    ]


def _machine(environment: Mapping[str, Any]) -> str:
    threads = environment["torch_threads"]
    if environment["device"] != "cpu":
        return str(environment["device"])
    return f"{threads} thread{'' if threads == 1 else 's'} of a CPU with {environment.get('cpu_cores', '?')} cores"


def _settings(found: ComparableSet) -> list[Table]:
    """Return for each method with several settings the keys in which they differ."""
    result = []
    for method in dict.fromkeys(s.method for s in found.settings):
        same = [s for s in found.settings if s.method == method]
        different = differing([flat_config(s.first.run.config) for s in same])
        rows = [
            [Cell(key, is_code=True), *(Cell("null" if value is None else str(value)) for value in values)]
            for key, values in different.items()
        ]
        if len(same) > 1:
            result.append(Table(f"Settings of {method}", ["key", *(s.label for s in same)], rows))
    return result


def best(found: ComparableSet) -> list[str]:
    """Return the result in a few sentences: who is best, and who differs from the reference on every seed."""
    ranked = [s for s in found.settings if "average_accuracy" in s.spread]
    lines = []
    if ranked:
        first = shown("average_accuracy", ranked[0]).text
        lines.append(f"Most accurate at the end: {ranked[0].label}, {first}.")
    if found.reference and found.over_examples:
        own = shown("average_accuracy", found.reference).text
        lines.append(f"Against {found.reference.label}, {own}, on the same examples (McNemar, Holm, p < {LARGEST_P}):")
        verdicts: dict[str, list[str]] = {"better": [], "worse": [], NOT_TOLD: []}
        for test in found.over_examples:
            told = NOT_TOLD if test.corrected >= LARGEST_P else "better" if test.difference > 0 else "worse"
            verdicts[told].append(test.label)
        seeds = "on every seed" if max(len(test.seeds) for test in found.over_examples) > 1 else "on this seed"
        says = {"better": f"better {seeds}", "worse": f"worse {seeds}", NOT_TOLD: f"neither {seeds}"}
        lines += [f"{says[told]}: {', '.join(names)}." for told, names in verdicts.items() if names]
    return lines
