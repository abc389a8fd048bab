"""Parts found by their file name: strategies, data sources, kinds of model, loggers.

A part is one module with a `Config` dataclass whose fields are the keys under the part's name in the yaml
(`method.ewc.strength`). Adding one adds a file and edits none: there is no registry.
"""

import importlib
import pkgutil
from types import ModuleType


class Parts:
    """The modules of one package that define a `Config`, by file name."""

    def __init__(self, package: str) -> None:
        self._package = package

    def names(self) -> list[str]:
        """Return the names of all parts, sorted. Imports every module of the package."""
        path = importlib.import_module(self._package).__path__
        found = sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))
        return [name for name in found if self.has(name)]

    def has(self, name: str) -> bool:
        """Tell whether `name` is a part; imports that module only."""
        path = importlib.import_module(self._package).__path__
        if not any(module.name == name for module in pkgutil.iter_modules(path)):
            return False
        return hasattr(self.load(name), "Config")

    def load(self, name: str) -> ModuleType:
        """Import and return the module of a part."""
        return importlib.import_module(f"{self._package}.{name}")


strategies = Parts("clora_exp.methods")
sources = Parts("clora_exp.tasks.sources")
model_kinds = Parts("clora_exp.models")
loggers = Parts("clora_exp.loggers")
