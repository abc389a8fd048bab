"""What the trials of every method share: which methods there are, what they promise, and how runs are compared."""

import hashlib
import io

import yaml
from rich.console import Console

from clora_exp.compose import CONF
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory

METHODS = [*sorted(path.stem for path in (CONF / "method").glob("*.yaml")), "lora_anchor"]
IN_TURN = [name for name in METHODS if name not in ("joint", "single")]
_KEYS = {name: yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text()) for name in METHODS[:-1]}
SETTINGS = [name for name in IN_TURN[:-1] if not any(isinstance(value, dict) for value in _KEYS[name].values())]
BYTES = ["accuracy_matrix.csv", "metrics.json", "predictions.csv.gz"]


def quiet() -> Terminal:
    """Return a terminal that nobody looks at."""
    return Terminal(Console(file=io.StringIO(), width=100))


def content(folder: RunDirectory) -> dict[str, str]:
    """Return the hash of every file that equal runs, resumed or not, must have in common."""
    paths = [folder.path / name for name in BYTES] + sorted((folder.path / "adapters").rglob("*.*"))
    return {str(p.relative_to(folder.path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}
