"""Whether a setting and its strategies can do what is asked of them, said before any work; a strategy by name."""

from clora_exp import discovery
from clora_exp.config import ExperimentConfig, MethodConfig
from clora_exp.errors import ConfigError
from clora_exp.methods.strategy import Strategy
from clora_exp.methods.word_outputs import not_in_words
from clora_exp.models.language import LanguageConfig
from clora_exp.processes import world_size


def check_strategies(config: ExperimentConfig) -> None:
    """Look whether the strategies can work in this experiment.

    Raises:
        ConfigError: one cannot, with the reason.
    """
    strategies = {name: strategy_class(name) for name in config.method.strategies}
    if isinstance(config.model.settings, LanguageConfig) and (reason := not_in_words(config, strategies)):
        raise ConfigError(reason)
    for name, strategy in strategies.items():
        if config.scenario not in strategy.scenarios:
            have = ", ".join(strategy.scenarios)
            raise ConfigError(f"scenario={config.scenario}: method.{name} cannot run in it; have: {have}")
        if world_size() > 1 and strategy.needs_one_process:
            raise ConfigError(f"method.{name}: runs in one process: {strategy.needs_one_process}; leave torchrun out")
        if reason := strategy.objection(config):
            raise ConfigError(f"method.{name}: {reason}")


def not_exportable(config: MethodConfig) -> str | None:
    """Return why what a method learns is no low-rank update of the backbone; None where it is one."""
    if config.trainable != "adapters":
        return f"method.trainable={config.trainable}: there is no adapter to export"
    if config.composition == "columns":
        return (
            "method.composition=columns: a column reads others' activations, it is no low-rank update of the backbone"
        )
    if config.head != "linear":
        return f"method.head={config.head}: the exported head is linear"
    for name in config.strategies:
        if strategy_class(name).route is not Strategy.route:
            return f"method.{name} chooses what answers by the input; one low-rank update cannot express that"
    return None


def strategy_class(name: str) -> type[Strategy]:
    """Return the strategy of that name, the one that its module defines."""
    module = discovery.strategies.load(name)
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    found = [cls for cls in classes if issubclass(cls, Strategy) and cls.__module__ == module.__name__]
    if len(found) != 1:
        raise AssertionError(f"methods/{name}.py defines {len(found)} strategies; one file, one strategy")
    return found[0]
