"""`python run.py --help` and `--cfg job`: one screen each, taken from the files, in well under two seconds.

What is not asked like this (`--hydra-help`, `--info`, `--cfg hydra`, …) is answered by Hydra.
"""

import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from clora_exp import config
from clora_exp.compose import CONF, compose_raw

WIDTH = 80
EXAMPLES = [
    ("python run.py method=clora tasks=med_legal_code", "C-LoRA, real tasks"),
    ("python run.py method=lora method.rank=8 trainer.epochs=1", "any setting is a key"),
    ("python run.py -m method=lora,clora seed=0,1,2", "a sweep"),
]
OPTIONS = [  # what one reaches for first; the rest is in --cfg job
    "scenario",
    "seed",
    "results_dir",
    "dry_run",
    "overwrite",
    "logger",
    "method.rank",
    "method.learning_rate",
    "trainer.epochs",
]


def answer(arguments: Sequence[str]) -> str | None:
    """Return the text that the command line asks for, or None where it asks for a run or for Hydra.

    Raises: what Hydra raises where `--cfg job` asks for a configuration that does not compose.
    """
    words = list(arguments)
    if "--help" in words or "-h" in words:
        return help_text()
    for flag in ("--cfg", "-c"):
        if flag in words and words[words.index(flag) + 1 :][:1] == ["job"] and len(words) == len(_keys(words)) + 2:
            return configuration(_keys(words))
    return None


def help_text() -> str:
    """Return the help: examples, methods, streams, models, the options that matter."""
    lines = ["Learn tasks in turn on a frozen pre-trained model; measure what is forgotten.", ""]
    lines += _table([(f"  {command}", purpose) for command, purpose in EXAMPLES])
    for group, title in (("method", "methods"), ("tasks", "streams of tasks"), ("model", "models")):
        lines += ["", f"{title}: {group}=…"]
        paths = sorted((CONF / group).glob("*.yaml"))
        larger = [
            path for path in paths if re.search(r"^path: (?!null)", path.read_text(encoding="utf-8"), re.MULTILINE)
        ]
        rows = [(f"  {path.stem}", describe(path)) for path in paths if path not in larger]
        lines += _table([*rows, *([("  from the Hub", ", ".join(path.stem for path in larger))] if larger else [])])
    sweeps = (path.stem for path in (CONF / "experiment").glob("*.yaml") if not path.stem.startswith("search_"))
    names = ", ".join(sorted(sweeps))
    lines += ["", *textwrap.wrap(f"sweeps, -m experiment=…: {names}", WIDTH, subsequent_indent="  ")]
    lines += ["", "options that matter (all: --cfg job; their meaning: clora_exp/config.py)"]
    composed = compose_raw([])
    lines += _table([(f"  {key}={_value(composed, key)}", meaning(key)) for key in OPTIONS])
    return "\n".join(lines)


def configuration(overrides: Sequence[str]) -> str:
    """Return what the overrides compose to as YAML that can be copied; a section's keys run on in one line."""
    composed = OmegaConf.to_container(compose_raw(overrides), resolve=True)
    assert isinstance(composed, dict)
    return yaml_text({key: value for key, value in composed.items() if value != {}})  # logger=csv has no keys


def yaml_text(composed: Any) -> str:
    """Return a configuration as YAML that can be copied."""
    text = yaml.safe_dump(composed, default_flow_style=None, sort_keys=False, width=WIDTH - 28, allow_unicode=True)
    return text.rstrip()


def describe(path: Path) -> str:
    """Return the one line that says what a configuration file is: its `description`, or its first comment."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^description: (.+)$", text, re.MULTILINE) or re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip("\"'") if found else ""


def meaning(key: str) -> str:
    """Return the comment beside a key's field in `config.py`; "" where it has none."""
    section, _, name = key.rpartition(".")
    owner = {"": config.ExperimentConfig, "method": config.MethodConfig, "trainer": config.TrainerConfig}[section]
    found = re.search(rf"^    {name}: .*?  # (.+)$", inspect.getsource(owner), re.MULTILINE)
    return found[1] if found else ""


def _keys(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("-") and word != "job"]


def _value(composed: Any, key: str) -> str:
    value = OmegaConf.select(composed, key)
    if key == "logger":
        return "csv"  # the group's choice; its keys are loggers
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines of two columns, at most WIDTH wide: what does not fit is cut at a word."""
    first = max(len(left) for left, _ in rows) + 2
    return [f"{left:<{first}}{_cut(right, WIDTH - first)}".rstrip() for left, right in rows]


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return text[: width - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"
