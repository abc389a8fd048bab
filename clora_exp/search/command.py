"""Find settings on validation data, within a budget; a search that was stopped goes on by the same command.

python -m clora_exp.search method=clora 'method.learning_rate=tag(log, interval(1e-4, 1e-1))' --trials 20
python -m clora_exp.search experiment=search_learning_rate method=lora seed=0,1,2 --minutes 60
python -m clora_exp.search method=lora method.rank=4,8,16 'method.dropout=interval(0.0, 0.3)' --trials 10

Keys are those of run.py; what is searched is written as Hydra's sweeps are: a,b,c, choice, range, interval, tag.
Several seeds: a trial is their mean. Trials are ordinary runs with eval_split=validation: test data are not looked at.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from clora_exp.compose import in_words
from clora_exp.errors import CloraError, ConfigError, Interrupted
from clora_exp.interrupts import StopOnSignal
from clora_exp.locks import held
from clora_exp.reports.notices import collected_notices
from clora_exp.reports.terminal import Terminal
from clora_exp.runs import unwritable
from clora_exp.search.space import Space, space_of
from clora_exp.search.study import Budget, Search
from clora_exp.sweeps.sweep import composition

SHOWN = 5  # trials of the table on the screen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    again = shlex.join(["python", "-m", "clora_exp.search", *words])
    options = _options(words)
    budget = Budget(options.trials, options.minutes)
    if budget.trials is None and budget.minutes is None:
        budget = Budget(20, None)
    console = Console(highlight=False, markup=False)
    try:
        with collected_notices(Terminal(console).notices), StopOnSignal() as stop:
            search = Search(space(options.overrides), options.metric, options.seed)
            stop.check()
            try:
                search.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(str(search.folder.parent.parent), error.strerror) from error
            with held(search.folder, again):
                search.open()
                if search.trials:
                    console.print(f"{len(search.trials)} trials done before")
                search.go_on(budget, lambda line: console.print(line, soft_wrap=True), stop.check)
                show(search, console)
    except Interrupted as stopped:
        print(f"\n{stopped}; finished trials are kept, the same command goes on: {again}", file=sys.stderr)
        return 128 + stopped.signal_number
    except CloraError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m clora_exp.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as of run.py; a list or an interval is searched"
    )
    parser.add_argument(
        "--trials", type=_positive(int), help="how many in all (default 20, where no --minutes are given)"
    )
    parser.add_argument("--minutes", type=_positive(float), help="no trial begins when those before took so long")
    parser.add_argument("--metric", default="average_accuracy", help="what is to be large (default average_accuracy)")
    parser.add_argument("--seed", type=int, default=0, help="of what is proposed (default 0); seed=… is of the runs")
    return parser.parse_intermixed_args(words)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text}: must be greater than 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def space(typed: list[str]) -> Space:
    """Return what a command line searches: of its experiment's `params`, and of what was typed, which wins.

    Raises:
        ConfigError: what cannot be read or composed.
    """
    with composition(["-m", *typed]) as (master, context):
        params = OmegaConf.to_container(master.hydra.sweeper.params)
        if master.hydra.sweeper.grids:
            name = master.hydra.runtime.choices["experiment"]
            raise ConfigError(f"experiment={name} is a sweep of grids, no space to search; see conf/experiment/")
        assert isinstance(params, dict)
        try:
            words = [*(f"{key!s}={value}" for key, value in params.items()), *typed]
            return space_of(OverridesParser.create(config_loader=context.config_loader).parse_overrides(words))
        except HydraException as error:
            raise in_words(error, typed) from error


def show(search: Search, console: Console) -> None:
    """Print the best trials and the command that runs the best settings on the test data.

    Raises:
        RunError: every trial failed.
    """
    best, table = search.best, search.table()
    if best is None:
        errors = " · ".join(dict.fromkeys(table["error"]))
        raise ConfigError(f"all {len(table)} trials failed: {errors}")
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    columns = ["trial", *search.space.searched, search.metric, "seconds"]
    for column in columns:
        shown.add_column(column, justify="right")
    for row in table.sort_values(search.metric, ascending=False, kind="stable")[columns].head(SHOWN).to_dict("records"):
        shown.add_row(*(f"{value:.4f}" if column == search.metric else str(value) for column, value in row.items()))
    console.print()
    console.print(shown)
    took = f"{len(table)} trials, {search.seconds:.0f} s, on validation data; all in {search.folder / 'trials.csv'}"
    console.print(f"\n{took}\nthe best on test data:", soft_wrap=True)
    fixed = [word for word in search.space.fixed if not word.startswith("eval_split=")]
    seeds = ",".join(map(str, search.space.seeds))
    start = ["python", "run.py", *(["-m"] if len(search.space.seeds) > 1 else [])]
    command = shlex.join([*start, *fixed, *search.space.words(best.params), f"seed={seeds}"])
    console.print(f"  {command}", soft_wrap=True)
