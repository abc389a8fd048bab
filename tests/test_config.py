"""Every yaml composes, every misspelt key is named with its nearest match, impossible values are refused."""

import dataclasses

import pytest
import yaml

from clora_exp import compose, discovery
from clora_exp.compose import CONF, compose_experiment
from clora_exp.config import ExperimentConfig, LoggerConfig, MethodConfig, ModelConfig, TasksConfig, TrainerConfig
from clora_exp.errors import ConfigError

GROUPS = {"method": MethodConfig, "tasks": TasksConfig, "model": ModelConfig, "trainer": TrainerConfig,
          "logger": LoggerConfig}  # fmt: skip
FILES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
HIDDEN = {"strategies", "sources", "loggers", "kind", "settings"}  # not keys: parts that stand under their own names


def _parts(group: str) -> discovery.Parts | None:
    return getattr(compose.SECTIONS, group, None)


def _keys(group: str, name: str) -> list[str]:
    """Every key of a composed group, "a" or "part.a"."""
    composed = compose.compose_raw([f"{group}={name}"])[group]
    return [
        k if not hasattr(v, "items") else f"{k}.{inner}"
        for k, v in composed.items()
        for inner in (v if hasattr(v, "items") else [None])
    ]


def test_the_plain_command_composes_to_the_documented_defaults() -> None:
    config = compose_experiment([])
    assert (config.method.name, config.tasks.name, config.model.name) == ("clora", "med_legal_code", "minilm")
    assert (config.seed, config.results_dir, config.overwrite, config.eval_split) == (0, "results/runs", False, "test")


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_yaml_composes_under_its_own_name(group: str, name: str) -> None:
    section = getattr(compose_experiment([f"{group}={name}"]), group)
    assert group == "trainer" or (group == "logger" and list(section.loggers) in ([], [name])) or section.name == name


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_key_is_a_field_and_every_field_is_a_key(group: str, name: str) -> None:
    keys = {key.split(".")[0] for key in _keys(group, name)}
    parts = set(_parts(group).names()) if _parts(group) else set()
    assert keys - parts == {f.name for f in dataclasses.fields(GROUPS[group])} - HIDDEN


@pytest.mark.parametrize(("group", "name"), [f for f in FILES if f[0] in ("tasks", "model", "logger")])
def test_every_key_of_a_part_is_a_field_of_its_config(group: str, name: str) -> None:
    raw = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    for part in set(raw) & set(_parts(group).names()):
        assert set(raw[part]) == {f.name for f in dataclasses.fields(_parts(group).load(part).Config)}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sign", ["", "+"])
def test_every_misspelt_key_is_named_with_its_nearest_match(group: str, sign: str) -> None:
    first: dict[str, str] = {}  # key → a file that has it: what others say to it is the same
    for _, name in [f for f in FILES if f[0] == group and (group != "method" or f[1] == "ewc")]:
        first |= {key: name for key in _keys(group, name) if key not in first}
    for key, name in first.items():
        wrong = f"{group}.{key}x"
        with pytest.raises(ConfigError) as caught:
            compose_experiment([f"{group}={name}", f"{sign}{wrong}=1"])
        assert wrong in str(caught.value)
        assert f"Did you mean '{key.split('.')[-1]}'?" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sign", ["", "+"])
def test_a_misspelt_top_level_key_is_named(sign: str) -> None:
    with pytest.raises(ConfigError, match=r"key sead=1: .*have: .*seed.*Did you mean 'seed'"):
        compose_experiment([f"{sign}sead=1"])


@pytest.mark.parametrize(
    ("group", "wrong", "near"),
    [
        ("method", "lroa", "lora"),
        ("tasks", "med_legal", "med_legal_code"),
        ("model", "minilmm", "minilm"),
        ("trainer", "defualt", "default"),
    ],
)
def test_an_unknown_choice_lists_what_there_is(group: str, wrong: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_experiment([f"{group}={wrong}"])
    choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    assert str(caught.value) == f"unknown {group} '{wrong}'; have: {choices}. Did you mean '{near}'?"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.rank=0", "method.rank=0: must be greater than 0"),
        ("method.rank=3.5", "method.rank=3.5: "),
        ("method.rank=true", "method.rank=True: must be an integer"),
        ("method.rank=many", "method.rank=many: must be an integer"),
        ("method.dropout=1.0", "method.dropout=1.0: must be less than 1"),
        (
            "method.gate=scaler",
            "method.gate=scaler: must be one of none, scalar, per_rank, per_output. Did you mean 'scalar'?",
        ),
        (
            "method.target_modules=query",
            "method.target_modules=query: must be a list of names, all-linear or attention",
        ),
        ("trainer.learning_rate=0", "trainer.learning_rate=0: must be greater than 0"),
        ("trainer.learning_rate=-1e-3", "trainer.learning_rate=-0.001: must be greater than 0"),
        ("trainer.learning_rate=inf", "trainer.learning_rate=inf: must be a finite number"),
        ("method.learning_rate=-1", "method.learning_rate=-1: must be greater than 0"),
        ("trainer.max_steps=0", "trainer.max_steps=0: must be greater than 0"),
        ("seed=-1", "seed=-1: must be greater than or equal to 0"),
        ("overwrite=1", "overwrite=1: must be a valid boolean"),
        ("tasks.icd10.train_per_class=0", "tasks.icd10.train_per_class=0: must be greater than 0"),
        ("method.name=../up", "method.name=../up: "),
        ("tasks.icd10.name=a/b", "tasks.icd10.name=a/b: "),
        ("seed=${nothing}", "nothing"),
        ("a b", "cannot read 'a b'"),
    ],
)
def test_an_impossible_value_is_one_clear_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_experiment([override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=clora", "method.factors=per_task"], "routing=additive needs factors=shared"),
        (["method=lora", "method.basis=svd"], "basis=svd needs"),
        (["method=lora", "method.routing=per_task"], "routing=per_task needs"),
        (["method=lora", "method.orthogonality=row"], "orthogonality=row needs routing=additive"),
    ],
)
def test_settings_that_contradict_each_other_say_why(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose_experiment(overrides)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_experiment(["method.rank=0", "trainer.epochs=none", "+typo=1", "+method.rnk=2"])
    assert len(str(caught.value).splitlines()) == 4


def test_structured_config_holds_no_hydra_objects() -> None:
    def walk(value):
        assert type(value).__module__.split(".")[0] not in ("omegaconf", "hydra")
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, dict | list):
            for entry in value.values() if isinstance(value, dict) else value:
                walk(entry)

    config = compose_experiment([])
    assert isinstance(config, ExperimentConfig)
    walk(config)
