"""Imports point downwards only, and what must be quick imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clora_exp

ROOT = Path(clora_exp.__file__).parent
LAYERS = [  # each may import its own layer and those before it
    {"errors", "discovery", "files", "locks", "processes", "randomness", "received", "__init__"},
    {"config", "structuring"},
    {"tasks", "adapters", "evaluation", "optimizers", "states", "compose", "own_configs", "help"},
    {"models"},
    {"methods"},
    {"session", "environment", "interrupts", "checkpoints", "runs", "saved", "sums"},
    {"store"},
    {"verification"},
    {"progress", "identity"},
    {"results", "following"},
    {"reports"},
    {"inference"},
    {"loggers"},
    {"loop"},
    {"reproduction", "dry_run"},
    {"command"},
    {"sweeps"},
    {"search"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in node.body:
                inner.module = None
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("clora_exp.")}
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("clora_exp"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names if len(name.split(".")) > 1}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if path.name == "__main__.py":  # an entry, as run.py is
        own = "search"
    for name in _imports(path):
        assert LEVEL[name] <= LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    "module", ["clora_exp.compose", "clora_exp.tasks.stream", "clora_exp.config", "clora_exp.store.__main__"]
)
def test_configuration_tasks_and_lists_of_the_store_import_no_torch(module: str) -> None:
    """Composing loads the torch of the one model kind it names; its error words and --help need none."""
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
