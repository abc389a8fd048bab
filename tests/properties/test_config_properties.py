"""A configuration through the config.yaml of a run, and the hash that names the run, over any values of its fields."""

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import Strict

from clora_exp.compose import SECTIONS, compose_experiment
from clora_exp.config import (
    ExperimentConfig,
    FolderName,
    MethodConfig,
    Name,
    NonNegativeFloat,
    Order,
    PositiveFloat,
    StoreConfig,
    Targets,
    TrainerConfig,
)
from clora_exp.identity import NOT_IN_HASH, SINCE, plain_config, run_hash
from clora_exp.structuring import structure
from clora_exp.tasks.stream import Example, Task, TaskStream

FEWER = settings(max_examples=settings.default.max_examples // 2)  # building takes milliseconds
SHIPPED = ["clora", "clora_ewc", "clora_xs", "derpp", "full", "gem", "joint", "lora_per_task", "olora", "sdlora"]
PLACES = ("path", "package", "subfolder", "recipe", "hub_id")  # of a model; its weights' hash stands for them
SPLIT = {name: [Example(name, name, label, name) for label in "xy"] for name in ("train", "validation", "test")}
STREAM = TaskStream("s", [Task("t", "", "", "", ["x", "y"], **SPLIT)])
words = st.text(max_size=8)
word_lists = st.lists(words, min_size=1, max_size=3)
folder_names = words.filter(lambda text: text.strip() and "\0" not in text)
OTHERWISE = {  # what a type alone does not say
    Name: st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True),
    Targets: st.none() | st.sampled_from(["all-linear", "attention"]) | word_lists,
    FolderName: folder_names,
    StoreConfig: st.builds(StoreConfig, path=st.none() | folder_names),
    Order: st.none() | st.integers(min_value=0) | word_lists,
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that a field's annotation admits."""
    for known, strategy in OTHERWISE.items():
        if known is kind:
            return strategy
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(*map(values, arguments), max_size=3)
    if origin is Annotated:
        bounds = [bound for bound in arguments[1:] if not isinstance(bound, Strict)]
        bounded = st.from_type(Annotated[arguments[0], *bounds] if bounds else arguments[0])
        return bounded.filter(lambda value: value not in (math.inf, -math.inf))
    return st.from_type(kind)


def fields_of(section: Any) -> dict[str, Any]:
    """The fields with values of their own: no names, which are another method, and no sections."""
    hints = typing.get_type_hints(type(section), include_extras=True)
    names = [field.name for field in dataclasses.fields(section)]
    return {name: hints[name] for name in names if name not in ("name", "strategies", "sources", "kind", "settings")}


def varied(draw: st.DrawFn, section: Any) -> Any:
    """The section with some fields drawn anew, each kept where its owner has nothing against it."""
    fields = fields_of(section)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=6, unique=True)) if fields else []:
        try:
            section = dataclasses.replace(section, **{name: draw(values(fields[name]), label=name)})
        except ValueError:
            continue
    return section


@functools.cache
def shipped(method: str) -> ExperimentConfig:
    return compose_experiment([f"method={method}"])


@st.composite
def configs(draw: st.DrawFn) -> ExperimentConfig:
    """One of some shipped methods with fields of every section drawn anew, its strategies' and the paths among them."""
    base = shipped(draw(st.sampled_from(SHIPPED)))
    strategies = {name: varied(draw, section) for name, section in base.method.strategies.items()}
    method = dataclasses.replace(varied(draw, base.method), strategies=strategies)
    sections = {"method": method, "trainer": varied(draw, base.trainer)}
    sections |= {"tasks": varied(draw, base.tasks), "model": varied(draw, base.model), "logger": base.logger}
    try:
        own = [name for name in fields_of(base) if name not in sections]
        hints = fields_of(base)
        drawn = {name: draw(values(hints[name]), label=name) for name in draw(st.sets(st.sampled_from(own)))}
        return dataclasses.replace(base, **sections, **drawn)
    except ValueError:
        return dataclasses.replace(base, **sections)


def through_yaml(config: ExperimentConfig) -> ExperimentConfig:
    text = yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True)
    return structure(yaml.safe_load(text), SECTIONS)


def hash_of(config: ExperimentConfig) -> str:
    return run_hash(config, STREAM, "weights")


def what_decides(config: ExperimentConfig) -> dict[str, Any]:
    """Every field that the run's hash is documented to depend on, flat."""
    flat: dict[str, Any] = {}

    def enter(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                enter(f"{path}.{key}", inner)
        else:
            flat[path.removeprefix(".")] = value

    enter("", plain_config(config))
    left_out = {*NOT_IN_HASH, "tasks.description", *(f"model.{name}" for name in PLACES)}
    is_place = lambda key: key.startswith("tasks.") and key.rpartition(".")[2] in ("path", "revision")  # noqa: E731
    return {key: value for key, value in flat.items() if key not in left_out and not is_place(key)}


@FEWER
@given(configs())
def test_a_configuration_reads_back_equal_and_names_the_same_run(config: ExperimentConfig) -> None:
    again = through_yaml(config)
    assert again == config
    assert hash_of(again) == hash_of(config)
    assert yaml.safe_dump(plain_config(again)) == yaml.safe_dump(plain_config(config))


@FEWER
@given(configs(), st.data())
def test_what_does_not_change_the_numbers_does_not_change_the_hash(config: ExperimentConfig, data) -> None:
    def drawn(section: Any, names: list[str]) -> Any:
        hints = typing.get_type_hints(type(section), include_extras=True)
        new = {name: data.draw(values(hints[name]), label=name) for name in names}
        return dataclasses.replace(section, **new)

    other = drawn(config, [name for name in NOT_IN_HASH if "." not in name and name != "logger"])
    other = dataclasses.replace(
        other,
        logger=compose_experiment(
            [f"logger={data.draw(st.sampled_from(['csv', 'wandb', 'tensorboard', 'mlflow']))}"]
        ).logger,
        trainer=drawn(config.trainer, [n.removeprefix("trainer.") for n in NOT_IN_HASH if n.startswith("trainer.")]),
        model=drawn(config.model, list(PLACES)),
        tasks=drawn(config.tasks, ["description", "path"]),
    )
    assert hash_of(other) == hash_of(config)


@pytest.mark.parametrize("section", ["method", "trainer"])
@FEWER
@given(data=st.data())
def test_any_other_field_with_another_value_is_another_run(section: str, data: st.DataObject) -> None:
    config = data.draw(configs())
    owner = getattr(config, section)
    fields = {name: kind for name, kind in fields_of(owner).items() if f"{section}.{name}" not in NOT_IN_HASH}
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(values(fields[name]))
    assume(value != getattr(owner, name))
    try:
        other = dataclasses.replace(config, **{section: dataclasses.replace(owner, **{name: value})})
    except ValueError:
        assume(False)
    assert hash_of(other) != hash_of(config)


@FEWER
@given(configs(), configs())
def test_two_runs_have_one_hash_where_all_that_decides_is_equal_and_nowhere_else(
    config: ExperimentConfig, other: ExperimentConfig
) -> None:
    assert (hash_of(config) == hash_of(other)) is (what_decides(config) == what_decides(other))


@FEWER
@given(configs())
def test_a_field_that_came_later_is_left_out_at_the_value_that_runs_had_before(config: ExperimentConfig) -> None:
    """The hash is that of the configuration in which such fields are not there, and of no other."""
    flat = what_decides(config)
    is_old = all(flat.get(key, value) == value for key, value in SINCE.items())
    back = config
    for key, value in SINCE.items():
        section, _, name = key.rpartition(".")
        if section in ("method", "trainer"):
            back = _replaced(back, section, name, value)
        elif not section:
            back = dataclasses.replace(back, **{name: value})
    assert (hash_of(back) == hash_of(config)) is is_old


def _replaced(config: ExperimentConfig, section: str, name: str, value: Any) -> ExperimentConfig:
    try:
        return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})
    except ValueError:
        assume(False)
        raise


@settings(max_examples=10)
@given(st.data())
def test_a_whole_number_where_a_float_is_wanted_is_that_float(data: st.DataObject) -> None:
    whole: dict[str, Any] = {}
    plain = plain_config(shipped("lora"))
    for section, owner in (("method", MethodConfig), ("trainer", TrainerConfig)):
        fields = typing.get_type_hints(owner, include_extras=True).items()
        floats = [name for name, kind in fields if kind in (PositiveFloat, PositiveFloat | None, NonNegativeFloat)]
        whole[section] = {name: data.draw(st.integers(1, 1000), label=name) for name in floats}
    both = [
        structure({**plain, **{s: {**plain[s], **{n: kind(v) for n, v in whole[s].items()}} for s in whole}}, SECTIONS)
        for kind in (int, float)
    ]
    assert both[0] == both[1]
    assert hash_of(both[0]) == hash_of(both[1])
