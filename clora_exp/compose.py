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
        return experiment(_compose(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise in_words(error, overrides) from error


def in_words(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return Hydra's error as one of ours: what was asked, what is possible, what is near."""
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: write key=value, e.g. method=lora trainer.epochs=3")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return ConfigError(unknown(group, name or group, error.options or []))
    try:  # a key that is not there: let it through, and the dataclasses say what is wrong with it, and with the rest
        experiment(_compose([_forced(override) for override in overrides]))
    except ConfigError as mistake:
        return mistake
    except (HydraException, OmegaConfBaseException):
        pass
    return ConfigError(_first_line(error))


def _compose(overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def _forced(override: str) -> str:
    """Return the override with `++`, so that an unknown key reaches the dataclasses; groups stay as they are."""
    parsed = OverridesParser.create().parse_override(override)
    is_group = parsed.key_or_group in {path.name for path in CONF.iterdir() if path.is_dir()}
    is_plain = parsed.type is not None and parsed.type.name in ("CHANGE", "ADD") and not is_group
    return "++" + override.lstrip("+") if is_plain else override


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0]
