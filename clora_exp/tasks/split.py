"""Balanced samples whose splits share no group, a part held out, and the masking of names that give a label away."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from clora_exp.errors import DataError

if TYPE_CHECKING:
    from clora_exp.tasks.stream import Example

MASK = "___"


@dataclass(frozen=True)
class PerClass:
    """Examples a class in each split; of training examples at most, a class with less material has fewer."""

    train: int
    validation: int
    test: int


def mask(text: str, names: Iterable[str]) -> str:
    """Replace every whole-word occurrence of `names` (any case, any of " -_." between words) by `___`.

    Names shorter than three characters are left: they would mask ordinary words.
    """
    words = (re.split(r"[\s\-_.]+", name.strip()) for name in set(names) if len(name.strip()) >= 3)
    patterns = [r"[\s\-_.]*".join(re.escape(part) for part in parts if part) for parts in words]
    patterns = sorted((pattern for pattern in patterns if pattern), key=len, reverse=True)
    if not patterns:
        return text
    return re.sub(rf"(?<![^\W_])(?:{'|'.join(patterns)})(?![^\W_])", MASK, text, flags=re.IGNORECASE)


def distinct(examples: Iterable["Example"]) -> list["Example"]:
    """Keep each text once, compared without case, digits and punctuation; drop texts that carry two labels."""
    first: dict[str, Example] = {}
    labels = defaultdict(set)
    for example in examples:
        key = " ".join(re.findall(r"[^\W\d_]+", example.text.lower()))
        first.setdefault(key, example)
        labels[key].add(example.label)
    return [example for key, example in first.items() if key and len(labels[key]) == 1]


class Splits(TypedDict):
    """The examples of each split."""

    train: list["Example"]
    validation: list["Example"]
    test: list["Example"]


def grouped_splits(task: str, examples: list["Example"], sizes: PerClass, data_seed: int) -> Splits:
    """Draw examples of every class for each split, no group in two splits.

    Validation and test have the same number of every class; training has as many where there is the material, and what
    the other two leave where there is less (in steps of a tenth, down to half).

    Within a class the groups are shuffled and dealt, each to the split that is furthest from its share; a group counts
    for at most a quarter of what a split wants, so that no large file fills one (where a class has too little material
    for that, for half, or for all of itself). A split then takes its examples from its groups in turn, one a group. The
    examples of a split are shuffled. Depends on `data_seed` and on nothing but the set of examples.

    Raises:
        DataError: a class whose groups do not hold enough examples, with what there is.
    """
    rng = np.random.default_rng([data_seed, *task.encode()])
    wanted = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    splits: dict[str, list[Example]] = {name: [] for name in wanted}
    by_class: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in sorted(examples, key=lambda e: e.id):
        by_class[example.label][example.group].append(example)
    for label, groups in sorted(by_class.items()):
        order = [list(groups.values())[i] for i in rng.permutation(len(groups))]
        trials = [
            (share, {**wanted, "train": math.ceil(wanted["train"] * tenths / 10)})
            for share in (0.25, 0.5, math.inf)
            for tenths in range(10, 4, -1)
        ]
        deals = ((_deal(order, want, share), want) for share, want in trials)
        fits = ((deal, want) for deal, want in deals if not _short_of(deal, want))
        dealt, want = next(fits, (_deal(order, wanted, math.inf), wanted))
        for name in _short_of(dealt, want):
            raise DataError(
                f"task {task!r}, class {label!r}: {wanted[name]} {name} examples wanted, "
                f"{sum(map(len, dealt[name]))} there after splitting by group "
                f"({sum(map(len, groups.values()))} examples in {len(groups)} groups)"
            )
        for name in wanted:
            splits[name] += _in_turn(dealt[name], want[name], rng)
    shuffled = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in splits.items()}
    return Splits(train=shuffled["train"], validation=shuffled["validation"], test=shuffled["test"])


def held_out(
    examples: list["Example"], fraction: float, key: str, data_seed: int
) -> tuple[list["Example"], list["Example"]]:
    """Return what stays and what is held out: of every label about `fraction` of its examples, at least one.

    Whole groups; a group belongs to the label that most of it has, and of a label at least one group stays. Groups that
    would exceed the share are passed over, unless nothing else is there. Both keep their order. Depends on
    `data_seed`, `key` (the task and what is held out) and the examples. Free-form examples, whose labels are responses,
    are given with one label.
    """
    rng = np.random.default_rng([data_seed, *key.encode()])
    groups: dict[str, list[Example]] = defaultdict(list)
    group_of = _with_equal_texts(examples)
    for example in examples:
        groups[group_of[example.group]].append(example)
    by_label: dict[str, list[str]] = defaultdict(list)
    for name, members in groups.items():
        by_label[Counter(example.label for example in members).most_common(1)[0][0]].append(name)
    taken: set[str] = set()
    for _, names in sorted(by_label.items()):
        order = [names[i] for i in rng.permutation(len(names))][:-1]
        wanted = max(1, round(fraction * sum(len(groups[name]) for name in names)))
        left = wanted
        for name in order:
            if len(groups[name]) <= left:
                taken.add(name)
                left -= len(groups[name])
        if order and left == wanted:
            taken.add(min(order, key=lambda name: len(groups[name])))
    held = [group_of[example.group] in taken for example in examples]
    return [e for e, is_held in zip(examples, held, strict=True) if not is_held], [
        e for e, is_held in zip(examples, held, strict=True) if is_held
    ]


def _with_equal_texts(examples: list["Example"]) -> dict[str, str]:
    """Return group → the first of the groups that it is one with: those that have a text in common are."""
    parent = {example.group: example.group for example in examples}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for example in examples:
        if example.text:
            parent[root(example.group)] = root(first.setdefault(example.text, example.group))
    return {group: root(group) for group in parent}


def _deal(
    groups: list[list["Example"]], wanted: dict[str, int], largest_share: float
) -> dict[str, list[list["Example"]]]:
    """Deal whole groups to the splits in proportion to what each wants, a group counting for no more than its share."""
    dealt: dict[str, list[list[Example]]] = {name: [] for name in wanted}
    held = dict.fromkeys(wanted, 0.0)
    for group in groups:
        neediest = min(wanted, key=lambda name: held[name] / wanted[name])
        dealt[neediest].append(group)
        held[neediest] += min(len(group), largest_share * wanted[neediest])
    return dealt


def _short_of(dealt: dict[str, list[list["Example"]]], wanted: dict[str, int]) -> list[str]:
    """Return the splits that were dealt fewer examples than they want."""
    return [name for name in wanted if sum(map(len, dealt[name])) < wanted[name]]


def _in_turn(groups: list[list["Example"]], wanted: int, rng: np.random.Generator) -> list["Example"]:
    """Take `wanted` examples, one from each group in turn, each group in random order."""
    queues = [[group[i] for i in rng.permutation(len(group))] for group in groups]
    taken: list[Example] = []
    while len(taken) < wanted and any(queues):
        for queue in queues:
            if queue and len(taken) < wanted:
                taken.append(queue.pop())
    return taken
