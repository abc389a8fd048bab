"""Is one setting better than another? Paired tests over seeds and over examples, each family corrected by Holm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clora_exp.evaluation.statistics import McNemar, SignFlip, Spread, holm, mcnemar, on_every_seed, sign_flip, spreads
from clora_exp.reports.settings import Setting

OVER_SEEDS = ("average_accuracy", "learning_accuracy", "forgetting")  # a family each


@dataclass(frozen=True)
class SeedTest:
    """A setting's number less that of the reference, on the seeds that both have."""

    label: str
    name: str
    seeds: list[int]
    difference: Spread
    test: SignFlip | None  # None of fewer than two seeds
    corrected: float = np.nan


@dataclass(frozen=True)
class ExampleTest:
    """A setting against the reference on every example of all tasks, after the last task, seed by seed."""

    label: str
    seeds: list[int]
    num_examples: int
    tests: list[McNemar]
    p_value: float  # of being better, or worse, on every seed
    corrected: float = np.nan

    @property
    def difference(self) -> float:
        """The difference in accuracy over the examples, mean over the seeds."""
        return float(np.mean([(t.only_first - t.only_second) / self.num_examples for t in self.tests]))


def over_seeds(settings: Sequence[Setting], reference: Setting) -> list[SeedTest]:
    """Return the paired tests over seeds of every other setting; those of one number are a family."""
    found = []
    for name in OVER_SEEDS:
        family = [
            _over_seeds(setting, reference, name)
            for setting in settings
            if setting is not reference and set(setting.values.get(name, {})) & set(reference.values.get(name, {}))
        ]
        tested = [test for test in family if test.test is not None]
        corrected = dict(zip([t.label for t in tested], holm([t.test.p_value for t in tested if t.test]), strict=True))
        found += [replace(test, corrected=corrected.get(test.label, np.nan)) for test in family]
    return found


def _over_seeds(setting: Setting, reference: Setting, name: str) -> SeedTest:
    first, second = setting.values[name], reference.values[name]
    seeds = [seed for seed in first if seed in second]
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    return SeedTest(setting.label, name, seeds, spreads(differences[None])[0], sign_flip(differences.round(12)))


def over_examples(settings: Sequence[Setting], reference: Setting) -> list[ExampleTest]:
    """Return McNemar's tests of every other setting; the claims of being better on every seed are one family."""
    right = {seed: evidence.right for seed, evidence in reference.runs.items()}
    family = []
    for setting in settings:
        tests: dict[int, McNemar] = {}
        for seed, evidence in setting.runs.items() if setting is not reference else ():
            first, second = evidence.right, right.get(seed)
            if first is not None and second is not None:  # comparable runs have the same examples, in this order
                tests[seed] = mcnemar(first, second)
        if tests:
            num_examples = int(setting.first.num_examples.sum())
            p_value = on_every_seed(list(tests.values()))
            family.append(ExampleTest(setting.label, list(tests), num_examples, list(tests.values()), p_value))
    corrected = holm([test.p_value for test in family])
    return [replace(test, corrected=p) for test, p in zip(family, corrected, strict=True)]
