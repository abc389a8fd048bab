"""From what was typed to an `ExperimentConfig`: Hydra's composition, and its errors in this project's words."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clora_exp import discovery
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ConfigError, unknown
from clora_exp.own_configs import broken_files, check_folders
from clora_exp.structuring import Sections, structure

CONF = Path(__file__).parent.parent / "conf"
LAUNCHERS = (
    "More are installed by: pip install -e '.[launchers]' -c constraints.txt (joblib, submitit_local, submitit_slurm); "
    "ray: see docs/sweeps.md"
)
SECTIONS = Sections(
    method=discovery.strategies, tasks=discovery.sources, model=discovery.model_kinds, logger=discovery.loggers
)


def experiment(composed: DictConfig) -> ExperimentConfig:
    """Return the dataclasses of what Hydra composed.

    Raises:
        ConfigError: every key and value that cannot be, one line each.
    """
    try:
        raw = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    assert isinstance(raw, dict)
    return structure({str(key): value for key, value in raw.items()}, SECTIONS)


def compose_experiment(overrides: Sequence[str]) -> ExperimentConfig:
    """Compose as `python run.py <overrides>` does, without running.

    Raises:
        ConfigError: as `experiment`, and for overrides that Hydra refuses.
    """
    try:
        _check_groups(overrides)
        return experiment(compose_raw(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise in_words(error, overrides) from error


def check_words(words: Sequence[str]) -> None:
    """Look whether a command line can be read, before Hydra says in its own words that it cannot.

    Raises:
        ConfigError: an option that is none, or that stands behind the settings; a group written as a key; a folder of
            configurations that is not there.
        HydraException: an override that cannot be read, for `in_words`.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            f"{message}; write options first, then settings: python run.py -m method=lora,clora seed=0,1. --help shows "
            "the settings"
        )

    setattr(parser, "error", refuse)  # noqa: B010  # argparse would print its own usage and end the process
    _check_groups(parser.parse_args(list(words)).overrides)
    check_folders(words)


def asks_for_sweep(words: Sequence[str]) -> bool:
    """Tell whether a command line runs a sweep."""
    options = get_args_parser().parse_args(list(words))
    asks = (options.cfg, options.info, options.hydra_help, options.shell_completion, options.help)
    return bool(options.multirun) and not any(asks)


def _check_groups(overrides: Sequence[str]) -> None:
    for text in overrides:
        (override,) = OverridesParser.create().parse_overrides([text])
        if not override.key_or_group and text[:1] != "~":
            raise ConfigError(f"cannot read {text!r}: write key=value, e.g. method=lora trainer.epochs=3")
        if isinstance(override.value(), Glob) and override.key_or_group not in _groups():
            raise ConfigError(f"{text}: glob chooses among {', '.join(sorted(_groups()))} alone; list the values")
        if not override.is_sweep_override():
            _check_group(text, override)


def _check_group(text: str, override: Override) -> None:
    """Raises ConfigError where a group's choice is no name."""
    if override.key_or_group not in _groups():
        return
    value = override.value()
    if text[0] in "+~" or not isinstance(value, str) or not re.fullmatch(r"(?!.*\.\.)\w[\w./-]*", value):
        choices = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
        raise ConfigError(f"{text}: write {override.key_or_group}=<name>; have: {', '.join(choices)}")


def _groups() -> set[str]:
    return {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"}


def in_words(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return Hydra's error as one of ours: what was asked, what is possible, what is near; others are raised again."""
    GlobalHydra.instance().clear()  # what follows composes anew, also inside a composition that goes no further
    if broken := broken_files(overrides, _groups()):
        return ConfigError("\n".join(broken))
    if isinstance(error, RecursionError):
        return ConfigError("the configuration files name each other in their defaults, in a ring")
    if isinstance(error, OSError) and not isinstance(error, HydraException):  # a sweep makes its folder first
        return ConfigError(f"{error.filename}: cannot be read or written: {error.strerror}")
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        raise error
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: write key=value, e.g. method=lora trainer.epochs=3")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            return ConfigError(f"{unknown(group, name, error.options or [])} {LAUNCHERS}")
        return ConfigError(unknown(group, name or group, error.options or []))
    try:  # a key that is not there: let it through, and the dataclasses say what is wrong with it, and with the rest
        options = get_args_parser().parse_args(list(overrides))
        found = [f"hydra.searchpath=[file://{Path(options.config_dir).absolute()}]"] if options.config_dir else []
        experiment(compose_raw([*found, *(_forced(override, options.multirun) for override in options.overrides)]))
    except ConfigError as mistake:
        return mistake
    except (HydraException, OmegaConfBaseException, ValueError):
        pass
    return ConfigError(_first_line(error))


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes, unchecked; its own errors."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def _forced(text: str, is_sweep: bool) -> str:
    """Return the override with `++`, so that an unknown key reaches the dataclasses; of a sweep its first value.

    Raises:
        ConfigError: a group written as a key, or several values without a sweep.
    """
    override = OverridesParser.create().parse_override(text)
    if override.is_sweep_override():
        if not is_sweep:
            raise ConfigError(f"{text}: several values need a sweep, python run.py -m {text}")
        text = f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    _check_group(text, OverridesParser.create().parse_override(text))
    is_plain = (
        text[0] != "~" and override.key_or_group not in _groups() and not override.key_or_group.startswith("hydra.")
    )
    return "++" + text.lstrip("+") if is_plain else text


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0]
