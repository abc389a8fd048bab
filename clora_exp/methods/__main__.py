"""Look at the methods, or have them keep their promises, your own too.

python -m clora_exp.methods list
python -m clora_exp.methods verify
python -m clora_exp.methods verify method=ewc,clora_replay
python -m clora_exp.methods verify method=ewc method.ewc.mode=online
python -m clora_exp.methods verify --config-dir FOLDER method=mine
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from clora_exp.adapters.family import owned_parts
from clora_exp.compose import CONF, compose_experiment
from clora_exp.config import MethodConfig
from clora_exp.errors import CloraError, ConfigError, unknown
from clora_exp.help import describe
from clora_exp.methods.invariant import Invariant
from clora_exp.methods.strategy import EVERY_SCENARIO
from clora_exp.methods.suitable import strategy_class
from clora_exp.own_configs import check_folders, own_folders
from clora_exp.verification import check, promises


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status: 1 where a promise is not kept."""
    parser = argparse.ArgumentParser(
        prog="python -m clora_exp.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="each method: source, what it stores, what it costs, its scenarios")
    verify_parser = commands.add_parser("verify", help="measure what methods promise, on small exact problems")
    verify_parser.add_argument("overrides", nargs="*", help="method=a,b: these only; and any key, as on run.py")
    verify_parser.add_argument("--config-dir", metavar="FOLDER", help="methods of your own, FOLDER/method/*.yaml too")
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    console = Console(highlight=False)
    try:
        if options.command == "list":
            show(console)
            return 0
        own = [f"hydra.searchpath=[file://{Path(options.config_dir).absolute()}]"] if options.config_dir else []
        check_folders([*own, *options.overrides])
        return 0 if verify([*own, *options.overrides], console) else 1
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def methods(overrides: Sequence[str]) -> dict[str, MethodConfig]:
    """Return the methods that are asked for, composed; all without method=.

    Raises:
        ConfigError: an unknown name or key.
    """
    folders = [CONF, *own_folders(overrides)]
    every = sorted({path.stem for folder in folders for path in (folder / "method").glob("*.yaml")})
    asked = [word.removeprefix("method=") for word in overrides if word.startswith("method=")]
    names = [name for word in asked for name in word.split(",")] or every
    for name in names:
        if name not in every:
            raise ConfigError(unknown("method", name, every))
    rest = [word for word in overrides if not word.startswith("method=")]
    return {name: compose_experiment([f"method={name}", *rest]).method for name in names}


def verify(overrides: Sequence[str], console: Console) -> bool:
    """Print every promise with its error; return whether all are kept.

    Raises:
        ConfigError: an unknown name or key.
    """
    chosen = methods(overrides)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("promise", "against"):
        table.add_column(name)
    for name in ("error", "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    failed = 0
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("", total=len(chosen))
        for name, settings in chosen.items():
            progress.update(bar, description=name)
            if reason := check(settings):
                raise ConfigError(reason)
            table.add_row(Text(name, style="bold"))
            for promise in promises(settings):
                table.add_row(f"  {promise.name}", promise.source, *_numbers(promise))
                failed += not promise.holds
            progress.advance(bar)
    console.print(table)
    count = "every promise is kept" if not failed else f"{failed} not kept"
    console.print(Text(f"\n{len(chosen)} method{'s' if len(chosen) > 1 else ''}: {count}", style="bold"))
    return not failed


def _numbers(promise: Invariant) -> tuple[str, str, Text]:
    allowed = f"{promise.tolerance:.0e}" if 0 < promise.tolerance < 0.1 else f"{promise.tolerance:g}"
    error = "0" if promise.error == 0 else f"{promise.error:.1e}" if promise.error < 0.01 else f"{promise.error:.2f}"
    return error, allowed, Text("kept", "green") if promise.holds else Text("BROKEN", "bold red")


def show(console: Console) -> None:
    """Print each method with its source, what it keeps between tasks, its cost, and its scenarios."""
    for name, settings in methods([]).items():
        strategies = [strategy_class(strategy) for strategy in settings.strategies]
        facts = {
            "source": "; ".join(strategy.source for strategy in strategies if strategy.source),
            "keeps": "; ".join([_kept(settings), *(s.stores for s in strategies if s.stores != "nothing")]),
            "a step": "; ".join(strategy.step_cost for strategy in strategies) or _step(settings),
            "a task": "; ".join(s.task_cost for s in strategies if s.task_cost != "none"),
            "scenarios": ", ".join(scenario.removesuffix("_incremental") for scenario in scenarios_of(settings)),
        }
        console.print(Text(f"{name:<14}", style="bold").append(describe(CONF / "method" / f"{name}.yaml"), "default"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for fact, words in facts.items():
            if words:
                grid.add_row(" " * 12, Text(fact, style="dim"), words)
        console.print(grid)


def scenarios_of(settings: MethodConfig) -> list[str]:
    """Return the scenarios in which a method can run."""
    strategies = [strategy_class(strategy) for strategy in settings.strategies]
    allowed = [s for s in EVERY_SCENARIO if all(s in strategy.scenarios for strategy in strategies)]
    return [s for s in allowed if settings.protocol != "single" or s != "class_incremental"]


def _kept(settings: MethodConfig) -> str:
    if settings.trainable != "adapters":
        return "heads" if settings.trainable == "heads" else "the backbone, heads"
    owned = owned_parts(settings)
    parts = f"{', '.join(owned)} of each task" if owned else "one adapter for all"
    return f"{parts}, heads"


def _step(settings: MethodConfig) -> str:
    grows = {"sum": "grows: the rank of the sum", "columns": "grows: a pass a column"}
    return grows.get(settings.composition, "flat")


if __name__ == "__main__":
    sys.exit(main())
