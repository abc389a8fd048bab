"""A search looks at validation data alone, keeps its budget, and goes on as if it had not been stopped."""

from pathlib import Path

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from clora_exp.errors import ConfigError
from clora_exp.search.command import main, space
from clora_exp.search.space import Space, space_of
from clora_exp.search.study import Budget, Search

CONF_OF_TESTS = Path(__file__).parent.parent / "conf"
RATE = "method.learning_rate=tag(log, interval(1e-4, 1e-1))"


def read(*overrides: str) -> Space:
    return space_of(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("k=interval(0.0, 0.5)", FloatDistribution(0.0, 0.5)),
        ("k=tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("k=int(interval(1, 9))", IntDistribution(1, 9)),
        ("k=tag(log, int(interval(2, 32)))", IntDistribution(2, 32, log=True)),
        ("k=range(2, 9, 3)", IntDistribution(2, 8, step=3)),
        ("k=4,8", CategoricalDistribution(["4", "8"])),
        ("k=choice(sgd, adamw)", CategoricalDistribution(["sgd", "adamw"])),
    ],
)
def test_what_hydra_sweeps_becomes_a_distribution(override: str, expected) -> None:
    assert read(override).searched == {"k": expected}


def test_what_is_typed_last_counts_seeds_are_averaged_and_numbers_have_four_digits() -> None:
    found = read("a=1,2", "b=3", "seed=0,2", "a=interval(0.0, 1.0)", "b=4")
    assert (list(found.searched), found.fixed, found.seeds) == (["a"], ["b=4"], [0, 2])
    assert found.words({"a": 0.00123456, "c": 12345, "d": "x"}) == ["a=0.001235", "c=12345", "d=x"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["a=1,2", "eval_split=test"], "a search looks at validation data alone"),
        (["a=1,2", "eval_split=test,validation"], "a search looks at validation data alone"),
        (["a=1"], "nothing is searched"),
        (["a=1,2", "seed=interval(0,1)"], "a trial is the mean over seeds"),
        (["a=tag(log, interval(-1.0, 1.0))"], "a=tag(log, interval(-1.0, 1.0)): "),
        (["a=range(3, 3)"], "no number lies in it"),
    ],
)
def test_what_cannot_be_searched_is_one_line(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_experiment_gives_the_space_and_what_is_typed_wins() -> None:
    words = ["experiment=search_learning_rate", "method=ewc", "seed=1"]
    found = space(words)
    assert found.searched == {"method.learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}
    assert found.fixed == ["experiment=search_learning_rate", "method=ewc"]
    with pytest.raises(ConfigError, match="nothing is searched"):
        space([*words, "method.learning_rate=0.1"])
    with pytest.raises(ConfigError, match="is a sweep of grids"):
        space(["experiment=clora_ablation"])


@pytest.fixture
def words(tiny_bert: Path, tmp_path: Path) -> list[str]:
    fixed = [f"hydra.searchpath=[file://{CONF_OF_TESTS}]", "model=tiny", f"model.path={tiny_bert}", "tasks=words"]
    short = ["trainer.max_steps=3", "method.rank=4", "trainer.accelerator=cpu", "method=lora"]
    return [*fixed, *short, f"results_dir={tmp_path / 'runs'}", RATE]


def begun(words: list[str], seed: int = 0) -> Search:
    search = Search(read(*words), "average_accuracy", seed)
    search.folder.mkdir(parents=True, exist_ok=True)
    search.open()
    return search


def go_on(search: Search, trials: int) -> None:
    search.go_on(Budget(trials, None), lambda line: None, lambda: None)


def outcome(search: Search) -> pd.DataFrame:
    return search.table().drop(columns="seconds")


def test_a_search_that_was_stopped_ends_as_one_that_was_not(words: list[str], tmp_path: Path) -> None:
    """Stopped between two trials, and once a trial had been proposed."""
    whole = begun(words)
    go_on(whole, 3)
    elsewhere = [*words, f"results_dir={tmp_path / 'again'}"]
    go_on(begun(elsewhere), 1)
    proposed = begun(elsewhere)._next()
    stopped = begun(elsewhere)
    assert stopped._next() == proposed
    go_on(stopped, 3)
    assert stopped.folder.parent == tmp_path / "again" / ".searches"
    pd.testing.assert_frame_equal(outcome(stopped), outcome(whole))
    runs = len(list((tmp_path / "again").rglob("STATUS")))
    go_on(begun(elsewhere), 3)
    assert len(list((tmp_path / "again").rglob("STATUS"))) == runs == 3


def test_trials_are_measured_on_validation_data_and_the_mean_of_seeds_counts(words: list[str], tmp_path: Path) -> None:
    search = begun([*words, "seed=0,1"])
    go_on(search, 1)
    configs = [path.read_text() for path in tmp_path.rglob("config.yaml")]
    assert len(configs) == 2
    assert all("eval_split: validation" in config for config in configs)
    (row,) = search.table().to_dict("records")
    assert row["average_accuracy"] == pytest.approx((row["seed 0"] + row["seed 1"]) / 2)
    assert (search.folder / "trials.csv").read_text().startswith("trial,method.learning_rate,average_accuracy,seed 0,")


def test_a_trial_that_fails_is_counted_and_the_next_one_runs(words: list[str]) -> None:
    search = begun([*words, "method.learning_rate=interval(9e5, 1e6)", "method=full"])
    go_on(search, 2)
    assert [trial.state for trial in search.trials] == [TrialState.FAIL] * 2
    assert search.best is None
    assert "the loss became" in search.table()["error"][0]


def test_minutes_are_those_of_all_calls_and_one_trial_always_begins(words: list[str]) -> None:
    search = begun(words)
    search.go_on(Budget(None, 1e-9), lambda line: None, lambda: None)
    assert len(search.trials) == 1
    search.go_on(Budget(None, 1e-9), lambda line: None, lambda: None)
    assert len(search.trials) == 1


def test_other_seeds_spaces_and_data_are_other_searches(words: list[str]) -> None:
    folders = {
        Search(read(*words, *more), "average_accuracy", seed).folder
        for more, seed in (([], 0), ([], 1), (["seed=1"], 0), (["data_seed=1"], 0), (["method.rank=4,8"], 0))
    }
    assert len(folders) == 5


def test_the_command_prints_the_best_as_a_command_to_type(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--trials", "2", "--seed", "3"]) == 0
    printed = capfd.readouterr().out
    assert "trial 1/2  method.learning_rate=" in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("  python run.py ")
    assert "method=lora" in last
    assert "method.learning_rate=" in last
    assert "eval_split" not in last
    assert main([*words, "--trials", "2", "--seed", "3"]) == 0
    assert "2 trials done before" in capfd.readouterr().out
    assert main([*words, "eval_split=test"]) == 2
    assert "validation data alone" in capfd.readouterr().err
