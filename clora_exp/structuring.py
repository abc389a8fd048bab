"""What Hydra composed, turned into dataclasses or one clear error: all problems at once, before any work.

A key that is no field and a value that cannot be end here. The keys of strategies, data sources, model kinds and
loggers are declared beside their code and handed in as `Sections`; the words for composing are in `compose.py`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from clora_exp.config import ExperimentConfig
from clora_exp.errors import ConfigError, nearest, unknown


class PartsLike(Protocol):
    """What `structure` needs of `discovery.Parts`."""

    def names(self) -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def load(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Sections:
    """The parts whose keys are declared beside their code, by the section of the configuration they stand in."""

    method: PartsLike
    tasks: PartsLike
    model: PartsLike
    logger: PartsLike


PARTS = {"method": "strategies", "tasks": "sources", "logger": "loggers"}  # the field that holds a section's parts


def structure(raw: Mapping[str, Any], sections: Sections) -> ExperimentConfig:
    """Turn a composed, resolved mapping into an `ExperimentConfig`.

    Raises:
        ConfigError: one line a problem, all problems at once, each with key, value, choices and nearest match.
    """
    problems: list[str] = []
    values = dict(raw)
    for section in dataclasses.fields(sections):
        name = section.name
        if name == "logger" and name not in values:  # a run's config.yaml from before there were any
            continue
        values[name] = _with_parts(name, values.get(name), getattr(sections, name), problems)
    config = _build(ExperimentConfig, values, "", problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _with_parts(section: str, value: Any, parts: PartsLike, problems: list[str]) -> Any:
    """Move the keys of `value` that name parts into the field that holds their Configs."""
    owner = _type_of(ExperimentConfig, section)
    if not isinstance(value, Mapping):
        return value
    hidden = {*PARTS.values(), "kind", "settings"}
    own = {f.name for f in dataclasses.fields(owner)} - hidden
    plain, built = {}, {}
    for key, entry in value.items():
        if key in own:
            plain[key] = entry
        elif parts.has(key) and not isinstance(entry, Mapping):
            problems.append(f"{section}.{key}={_short(entry)}: must be a section, {section}.{key}.<key>=<value>")
        elif parts.has(key):
            built[key] = _build(parts.load(key).Config, entry, f"{section}.{key}", problems)
        else:
            choices = own | set(parts.names())
            problems.append(unknown(f"key {section}.{key}={_short(entry)}: no field", key, choices))
    if section != "model":
        return plain | {PARTS[section]: built}
    if len(built) != 1:
        problems.append(
            f"model: needs exactly one kind, has {sorted(built) or 'none'}; have: {', '.join(parts.names())}"
        )
        return plain
    return plain | {"kind": next(iter(built)), "settings": next(iter(built.values()))}


def _build(cls: type, value: Any, path: str, problems: list[str]) -> Any:
    try:
        return TypeAdapter(cls).validate_python(value)
    except ValidationError as error:
        problems.extend(_in_words(problem, cls, path) for problem in error.errors())
        return None


def _in_words(problem: Any, cls: type, path: str) -> str:
    """Say one pydantic problem as "key=value: what is wrong; choices. Did you mean …?"."""
    keys = [str(part) for part in problem["loc"] if not str(part).startswith(("list[", "constrained", "function-"))]
    keys = [key for key in keys if key not in {"int", "float", "str", "bool"}]
    name = ".".join([path, *keys]).strip(".")
    asked = f"{name}={_short(problem['input'])}"
    owner = _owner(cls, keys[:-1])
    match problem["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            fields = [f.name for f in dataclasses.fields(owner)] if owner else []
            return unknown(f"key {asked}: no field", keys[-1], fields)
        case "missing" | "missing_argument":
            return f"{name}: needs a value"
        case "literal_error":
            choices = _choices(_type_of(owner, keys[-1])) if owner else []
            return f"{asked}: must be one of {', '.join(choices)}.{nearest(problem['input'], choices)}"
        case "value_error":
            of = name if isinstance(problem["input"], Mapping | ArgsKwargs) else asked
            return f"{of + ': ' if of else ''}{problem['ctx']['error']}"
        case _:
            message = problem["msg"].replace("Input should be", "must be").replace("a valid integer", "an integer")
            return f"{asked}: {message[0].lower() + message[1:]}"


def _owner(cls: type, keys: list[str]) -> type | None:
    for key in keys:
        if typing.get_origin(cls) is dict:  # its keys are names
            cls = typing.get_args(cls)[1]
        elif dataclasses.is_dataclass(cls):
            cls = _type_of(cls, key)
        else:
            return None
    return cls if dataclasses.is_dataclass(cls) else None


def _type_of(cls: type, name: str) -> Any:
    return typing.get_type_hints(cls).get(name)


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for arg in typing.get_args(annotation) for choice in _choices(arg)]
    return [str(arg) for arg in typing.get_args(annotation)] if typing.get_origin(annotation) is Literal else []


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
