"""Every experiment composes, and asks of no method what it cannot do."""

import itertools
from functools import cache

import pytest
from omegaconf import OmegaConf

from clora_exp.compose import CONF, compose_experiment
from clora_exp.methods.__main__ import scenarios_of
from clora_exp.methods.outputs import Outputs
from clora_exp.methods.suitable import check_strategies
from clora_exp.sweeps.jobs import expand
from clora_exp.sweeps.sweep import composition
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import load_stream

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SWEEPS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if not path.stem.startswith("search"))


@cache
def jobs_of(name: str, *typed: str) -> list[list[str]]:
    with composition(["-m", f"experiment={name}", *typed]) as (master, context):
        swept, words = master.hydra.sweeper, OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
        return expand(swept.params, swept.grids, words, context.config_loader)


def values(jobs: list[list[str]], key: str) -> list[str]:
    return [next((word.split("=", 1)[1] for word in job if word.startswith(f"{key}=")), "") for job in jobs]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_seed_has_all_jobs(name: str) -> None:
    seeds = set(values(jobs_of(name), "seed"))
    assert len(jobs_of(name, "seed=0")) * len(seeds) == len(jobs_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_composes_and_its_stream_fits_its_scenario_and_its_methods(name: str) -> None:
    streams = {}
    for job in jobs_of(name, "seed=0"):
        config = compose_experiment(job)
        check_strategies(config)
        key = repr(config.tasks)
        streams[key] = streams.get(key) or load_stream(config.tasks, config.data_seed)
        Outputs(config, Scenario(config.scenario, streams[key]))


def test_the_comparison_has_every_method_three_times() -> None:
    jobs = jobs_of("med_legal_code_comparison")
    pairs = sorted(zip(values(jobs, "method"), values(jobs, "seed"), strict=True))
    assert pairs == sorted(itertools.product(METHODS, "012"))


def test_wide_has_of_each_scenario_the_methods_that_it_allows() -> None:
    jobs = jobs_of("split_digits_wide")
    found = set(zip(values(jobs, "scenario"), values(jobs, "method"), strict=True))
    allowed = {name: scenarios_of(compose_experiment([f"method={name}"]).method) for name in METHODS}
    both = ("task_incremental", "class_incremental")
    assert found == {(scenario, name) for scenario in both for name in METHODS if scenario in allowed[name]}
    assert len(jobs) == 10 * len(found)


def test_the_ablation_changes_one_factor_at_a_time() -> None:
    plain = compose_experiment(jobs_of("clora_ablation", "seed=0")[0]).method
    assert plain == compose_experiment(["method=clora"]).method
    for job in jobs_of("clora_ablation", "seed=0")[1:]:
        if "method=clora" in job:
            other = compose_experiment(job).method
            assert sum(getattr(other, key) != getattr(plain, key) for key in vars(plain)) == 1, job


def test_all_orders_differ_and_sessions_are_those_asked_for() -> None:
    orders = set(values(jobs_of("task_order"), "tasks.order"))
    assert orders == {f"[{','.join(order)}]" for order in itertools.permutations(("medical", "legal", "code"))}
    assert set(values(jobs_of("icd10_class_incremental"), "tasks.icd10.sessions")) == {"5", "10", "20"}
    assert compose_experiment(jobs_of("long_sequence")[0]).tasks.sources["digits"].num_tasks == 50
