"""What a search tries, in Hydra's words for sweeps: which keys, from where to where. Everything else is fixed.

method.rank=4,8,16                                     one of these (choice(4,8,16) is the same)
method.rank=range(2,33,2)                              whole numbers, the end not included
method.dropout=interval(0.0, 0.3)                      any number between; int(interval(1, 9)): whole ones
method.learning_rate=tag(log, interval(1e-4, 1e-1))    the same, evenly on a logarithmic scale
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from clora_exp.errors import ConfigError

EXAMPLE = "'method.learning_rate=tag(log, interval(1e-4, 1e-1))'"


@dataclass(frozen=True)
class Space:
    """The searched keys with their distributions, the settings that are fixed, the seeds that a trial averages over."""

    searched: dict[str, BaseDistribution]
    fixed: list[str]
    seeds: list[int]

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """Return a trial's settings as they are typed; a number has four digits, and the run has those."""
        return [f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in params.items()]

    @property
    def identity(self) -> str:
        """What is searched, such that two searches of the same have the same."""
        return json.dumps({key: distribution_to_json(of) for key, of in self.searched.items()} | {"": self.seeds})


def space_of(overrides: list[Override]) -> Space:
    """Return what overrides search and fix; a key that comes twice counts as it comes last.

    Raises:
        ConfigError: nothing is searched, the test data is asked for, or a range that is none.
    """
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    seeds = [0]
    for override in overrides:
        key = override.get_key_element()
        searched.pop(key, None)
        fixed.pop(key, None)
        if key == "eval_split" and override.value() != "validation":
            raise ConfigError(f"{override.input_line}: a search looks at validation data alone; leave it out")
        if key == "seed":
            seeds = _seeds(override)
        elif override.is_sweep_override():
            try:
                searched[key] = _distribution(override)
            except ValueError as error:
                raise ConfigError(f"{override.input_line}: {error}") from error
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not searched:
        raise ConfigError(f"nothing is searched: write a key with where to look, e.g. {EXAMPLE}")
    return Space(searched, list(fixed.values()), seeds)


def _seeds(override: Override) -> list[int]:
    try:
        is_list = override.is_sweep_override()
        return [int(seed) for seed in (override.sweep_string_iterator() if is_list else [str(override.value())])]
    except (ValueError, TypeError, HydraException) as error:
        raise ConfigError(f"{override.input_line}: a trial is the mean over seeds; write seed=0,1,2") from error


def _distribution(override: Override) -> BaseDistribution:
    """Raises ValueError where a range is none."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        is_log, is_whole = "log" in value.tags, isinstance(value.start, int) and isinstance(value.end, int)
        if is_whole:
            return IntDistribution(int(value.start), int(value.end), log=is_log)
        return FloatDistribution(float(value.start), float(value.end), log=is_log)
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.step, int):
        values = list(map(int, value.range()))
        if not values:
            raise ValueError("no number lies in it")
        return IntDistribution(values[0], values[-1], step=value.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))
