"""What `python run.py` does once its configuration is composed: look, then run, say what would run, or run again."""

import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from clora_exp import processes
from clora_exp.compose import experiment
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ConfigError, Differs
from clora_exp.loggers.base import check_loggers
from clora_exp.models.weights import check_backend, check_layers
from clora_exp.runs import check_writable, read_run


def typed() -> list[str]:
    """Return the settings of the job that Hydra runs as they were typed, ${…} too, but what would start it again."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words if str(word).lstrip("+").split("=")[0] not in ("overwrite", "dry_run")]


def in_a_shell(overrides: list[str]) -> str:
    """Return the command of a run."""
    return shlex.join([*processes.launcher(), "run.py", *overrides])


def checked(composed: DictConfig, overrides: list[str]) -> ExperimentConfig:
    """Return the configuration, looked at as far as it takes no seconds; `overrides` is what was typed.

    Raises:
        CloraError: what cannot be.
    """
    config = experiment(composed)
    _check_swept(overrides)
    others = [word for word in overrides if not word.lstrip("+").startswith("reproduce=")]
    if config.reproduce is not None and (others or config.dry_run):
        beside = " ".join([*others, *(["dry_run=true"] if config.dry_run else [])])
        raise ConfigError(f"reproduce={config.reproduce} runs what was recorded; leave out {beside}")
    for asked, what in ((config.reproduce is not None, f"reproduce={config.reproduce}"), (config.dry_run, "dry_run")):
        if asked and processes.world_size() > 1:
            raise ConfigError(f"{what} runs in one process; leave torchrun out")
    check_writable(config)
    if config.reproduce is not None:
        read_run(Path(config.reproduce))
    check_layers(config)
    check_backend(config.method.backend)
    check_loggers(config)
    return config


def _check_swept(overrides: list[str]) -> None:
    """Raises ConfigError where an experiment sweeps what a single run has not said."""
    swept, typed_keys = HydraConfig.get().sweeper, {word.lstrip("+").split("=")[0] for word in overrides}
    keys_of_grids = [[*swept.params, *grid] for grid in swept.grids.values()] or [list(swept.params)]
    missing = [[key for key in dict.fromkeys(keys) if key not in typed_keys] for keys in keys_of_grids]
    if all(missing):
        name = HydraConfig.get().runtime.choices.get("experiment")
        raise ConfigError(
            f"experiment={name} is a sweep: python run.py -m experiment={name}; for one of its runs write "
            f"{'=… '.join(missing[0])}=… too"
        )


def carry_out(config: ExperimentConfig, command: str, is_one_of_many: bool = False) -> str | None:
    """Run, say what would run, or run again what was recorded; return where that differs, if it does."""
    from clora_exp.loop import run  # Lightning takes seconds to import: only for a right configuration
    from clora_exp.reports.notices import collected_notices
    from clora_exp.reports.terminal import Terminal

    terminal = Terminal(is_brief=is_one_of_many) if processes.rank() == 0 else Terminal.silent()
    with processes.joined(), collected_notices(terminal.notices):
        if config.dry_run:
            from clora_exp.dry_run import show

            show(config, terminal)
        elif config.reproduce is None:
            run(config, command, terminal)
        else:
            from clora_exp.reproduction import reproduce

            try:
                print(reproduce(Path(config.reproduce), terminal))
            except Differs as finding:
                return f"{config.reproduce} differs: {finding}"
    return None
