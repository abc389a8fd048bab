"""From what was typed to an `ExperimentConfig`: Hydra's composition, and its errors in this project's words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clora_exp import discovery
from clora_exp.config import ExperimentConfig, Sections, structure
from clora_exp.errors import ConfigError, unknown

CONF = Path(__file__).parent.parent / "conf"
SECTIONS = Sections(method=discovery.strategies, tasks=discovery.sources, model=discovery.model_kinds)


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
        return experiment(compose_raw(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise in_words(error, overrides) from error


def in_words(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return Hydra's error as one of ours: what was asked, what is possible, what is near."""
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: write key=value, e.g. method=lora trainer.epochs=3")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return ConfigError(unknown(group, name or group, error.options or []))
    try:  # a key that is not there: let it through, and the dataclasses say what is wrong with it, and with the rest
        is_sweep = any(override in ("-m", "--multirun") for override in overrides)
        keys = [override for override in overrides if not override.startswith("-")]
        experiment(compose_raw([_forced(override, is_sweep) for override in keys]))
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
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    if override.is_sweep_override():
        if not is_sweep:
            raise ConfigError(f"{text}: several values need a sweep, python run.py -m {text}")
        text = f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    value = override.value()
    if override.key_or_group in groups and (value is None or not isinstance(value, str) or text[0] in "+~"):
        choices = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
        raise ConfigError(f"{text}: write {override.key_or_group}=<name>; have: {', '.join(choices)}")
    is_plain = text[0] != "~" and override.key_or_group not in groups
    return "++" + text.lstrip("+") if is_plain else text


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0]
