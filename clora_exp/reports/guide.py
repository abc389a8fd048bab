"""What no run measures and the guide's comparison asks for: how much code a method is, and what switching tasks takes.

Both are looked up when a report is made and kept in its `sources.json`, so that a report can be verified later.
"""

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from clora_exp.compose import CONF
from clora_exp.reports.settings import Setting

PACKAGE = Path(__file__).parent.parent
SWITCHING = PACKAGE.parent / "results" / "benchmarks" / "adapters.json"
MEASURES_SWITCHING = "python benchmarks/adapters.py"
GUIDE = {  # the rows of the guide's table, and the methods that each is
    "C-LoRA": ("clora", "clora_gated", "clora_xs"),
    "full fine-tuning": ("full",),
    "standard LoRA": ("lora",),
    "EWC": ("ewc",),
    "GEM": ("gem",),
    "progressive networks": ("progressive",),
    "replay": ("replay",),
}
OF_SETTINGS = {  # a field of the adapter family → the value that needs no code of its own, and the file of the others
    "routing": ("none", "adapters/routed.py"),
    "orthogonality": ("none", "adapters/penalty.py"),
    "composition": ("own", "adapters/composition.py"),
}
OF_ALL = {"base", "strategy", "invariant", "outputs", "word_outputs"}  # modules of methods/ that every method uses


def looked_up(settings: list[Setting]) -> dict[str, Any]:
    """Return, as JSON values, each method's code and the switch times that have been measured."""
    methods = {s.method: s.first.run.config["method"] for s in settings}
    times = json.loads(SWITCHING.read_text(encoding="utf-8")) if SWITCHING.exists() else None
    return {"code": {name: complexity(name, config) for name, config in methods.items()}, "switching": times}


def complexity(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files that are the method's own, their lines of code, what they build on, and the preset's fields.

    Its own are its strategies and the files of the adapter family that only some settings need. What it imports from
    `methods/` beside what every method uses is named, not counted: other methods use it too.
    """
    strategies = [name for name in config if (PACKAGE / "methods" / f"{name}.py").exists()]
    files = [f"methods/{name}.py" for name in strategies]
    files += [file for key, (plain, file) in OF_SETTINGS.items() if config.get(key, plain) != plain]
    builds_on = set().union(*(_imported(name) for name in strategies)) - set(strategies) - OF_ALL
    preset = CONF / "method" / f"{method}.yaml"
    return {
        "files": files,
        "lines": sum(lines_of_code((PACKAGE / file).read_text(encoding="utf-8")) for file in files),
        "builds_on": sorted(f"methods/{name}.py" for name in builds_on),
        "fields": _num_fields(yaml.safe_load(preset.read_text(encoding="utf-8"))) if preset.exists() else None,
    }


def _imported(name: str) -> set[str]:
    """Return the modules of `methods/` that one of them imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / "methods" / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "clora_exp.methods":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clora_exp.methods."):
            found.add(str(node.module).split(".")[2])
    return found


def lines_of_code(source: str) -> int:
    """Return the number of lines of a module that hold code: no blank ones, comments or docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            words |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - words)


def _num_fields(preset: Mapping[str, Any]) -> int:
    """Return how many fields a preset sets, its strategies' included; `lora.yaml` has those that all share."""
    if "defaults" not in preset:
        return 0
    own = {key: value for key, value in preset.items() if key not in ("defaults", "name")}
    return sum(len(value) if isinstance(value, dict) else 1 for value in own.values())


def can_be_crossed(setting: Setting) -> bool:
    """Tell whether each adapter can be measured on every task's data, as far as the configuration says: see cross.py.

    What else there may be, e.g. runs without their adapters, `cross` says when it is asked.
    """
    config = setting.first.run.config
    method, scenario = config["method"], config.get("scenario", "task_incremental")
    is_low_rank = method["trainable"] == "adapters" and method.get("composition", "own") != "columns"
    is_apart = scenario == "task_incremental" or (scenario == "domain_incremental" and not owns_parts(setting))
    is_linear = method.get("head", "linear") == "linear"
    has_labels = "exact_match" not in setting.spread  # a score of free-form tasks alone
    return is_low_rank and is_linear and is_apart and method["protocol"] != "joint" and has_labels


def owns_parts(setting: Setting) -> bool:
    """Tell whether tasks own parts of the adapters, so that another task means other parts."""
    from clora_exp.adapters.family import owned_parts  # with torch, which only this line needs

    config = setting.first.run.config["method"]
    return config["trainable"] == "adapters" and bool(owned_parts(SimpleNamespace(**config)))  # type: ignore[arg-type]
