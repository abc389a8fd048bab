"""Configuration files of the user's own, found by --config-dir or hydra.searchpath: which folders, and what is broken.

Hydra reads them; what it raises over a broken one names no file, or only deep in a traceback.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from clora_exp.errors import ConfigError


def check_folders(words: Sequence[str]) -> None:
    """Look whether the folders that a command line names are there; Hydra only warns.

    Raises:
        ConfigError: one is not, or is no folder.
    """
    for option, folder in _named(words):
        if not folder.is_dir():
            raise ConfigError(f"{option}: no such folder; name one that holds method/, tasks/, model/ or trainer/")


def own_folders(words: Sequence[str]) -> list[Path]:
    """Return the folders that a command line names, beside the project's own."""
    return [folder for _, folder in _named(words)]


def broken_files(words: Sequence[str], groups: set[str]) -> list[str]:
    """Return what is wrong in the files of the user's own folders, one line a file."""
    files = [
        path
        for folder in own_folders(words)
        for group in sorted(groups)
        for path in sorted((folder / group).glob("*.yaml"))
    ]
    return [f"{path}: {problem}" for path in files if (problem := _problem(path))]


def _named(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the folders that a command line names, each with how."""
    try:
        options = get_args_parser().parse_args(list(words))
        overrides = [OverridesParser.create().parse_override(text) for text in options.overrides]
    except (SystemExit, HydraException):
        return []
    named = {"--config-dir": options.config_dir, "--config-path": options.config_path}
    found = [(f"{option} {value}", Path(value)) for option, value in named.items() if value]
    for override in overrides:
        if override.key_or_group == "hydra.searchpath" and not override.is_sweep_override():
            value = override.value()
            for place in value if isinstance(value, list) else [value]:
                text = str(place)
                if not isinstance(place, str) or ("://" in text and not text.startswith(("file://", "pkg://"))):
                    raise ConfigError(f"hydra.searchpath={value}: write hydra.searchpath=[file://FOLDER]")
                if not text.startswith("pkg://"):
                    found.append((f"hydra.searchpath={text}", Path(text.removeprefix("file://"))))
    return found


def _problem(path: Path) -> str:
    """Return what is wrong in a file, "" where nothing is."""
    try:
        content = OmegaConf.load(path)
    except RecursionError:
        return "it is nested too deeply"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return f"no YAML: {error.problem}{f', line {mark.line + 1}' if mark else ''}"
    except Exception as error:  # of yaml, antlr, the file system: whatever it is, the file cannot be read
        return f"cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if isinstance(content, DictConfig) and list(content.values()) == [None] and ":" not in path.read_text("utf-8"):
        return "holds a word; it must hold keys, e.g. name: mine"  # which OmegaConf takes for a key without a value
    if isinstance(content, ListConfig) or not isinstance(content, DictConfig):
        return f"holds a {type(content).__name__.removesuffix('Config').lower()}; it must hold keys, e.g. name: mine"
    defaults = OmegaConf.to_container(content, resolve=False).get("defaults", [])  # type: ignore[union-attr]
    if not isinstance(defaults, list):
        return f"defaults is no list, e.g. defaults: [lora]; it is {defaults!r}"
    if path.stem in defaults:
        return f"names itself, {path.stem!r}, in its defaults"
    return ""
