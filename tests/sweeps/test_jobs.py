"""Which jobs a sweep has: params, grids, what is typed."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from clora_exp.compose import CONF
from clora_exp.errors import ConfigError
from clora_exp.sweeps.jobs import expand, labels


def expanded(params, grids, *typed: str) -> list[list[str]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return expand(params, grids, typed, GlobalHydra.instance().config_loader())


def test_params_are_combined_and_what_is_typed_wins() -> None:
    assert expanded({"seed": "0,1", "method": "lora,ewc"}, {}, "seed=7") == [
        ["seed=7", "method=lora"],
        ["seed=7", "method=ewc"],
    ]


def test_each_grid_goes_with_the_params_and_changes_them_and_no_job_comes_twice() -> None:
    grids = {"plain": {}, "rank": {"method.rank": "2,4"}, "again": {"method": "lora"}, "other": {"method": "ewc"}}
    assert expanded({"method": "lora", "seed": "range(2)"}, grids, "tasks=words") == [
        ["method=lora", "seed=0", "tasks=words"],
        ["method=lora", "seed=1", "tasks=words"],
        ["method=lora", "seed=0", "method.rank=2", "tasks=words"],
        ["method=lora", "seed=0", "method.rank=4", "tasks=words"],
        ["method=lora", "seed=1", "method.rank=2", "tasks=words"],
        ["method=lora", "seed=1", "method.rank=4", "tasks=words"],
        ["method=ewc", "seed=0", "tasks=words"],
        ["method=ewc", "seed=1", "tasks=words"],
    ]


def test_lists_are_values_and_glob_finds_the_group() -> None:
    orders = expanded({"tasks.order": "[a,b],[b,a]"}, {})
    assert orders == [["tasks.order=[a,b]"], ["tasks.order=[b,a]"]]
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    assert expanded({"method": "glob(*, exclude=single)"}, {}) == [[f"method={n}"] for n in every if n != "single"]


def test_an_interval_is_for_a_search() -> None:
    with pytest.raises(ConfigError, match=r"an interval is for a search, python -m clora_exp\.search"):
        expanded({}, {}, "method.learning_rate=interval(0,1)")


def test_a_label_is_what_differs() -> None:
    assert labels([["a=1", "seed=0"], ["a=1", "seed=1"]]) == ["seed=0", "seed=1"]
    assert labels([["a=1", "seed=0"]]) == ["a=1 seed=0"]
