"""What in a model's folder could load something else than the safetensors in it. Imports no torch.

transformers would follow an index to files elsewhere or to pickles, an adapter's configuration to another base model,
and the name of an attention kernel to code on the Hub. Code beside the weights (`auto_map`) is never run: every call of
`from_pretrained` says trust_remote_code=False, so that transformers does not ask at the terminal either.
"""

import json
import re
from pathlib import Path
from typing import Any

from clora_exp.errors import ModelError


def check_folder(folder: Path) -> None:
    """Look through the JSON files that decide what is loaded.

    Raises:
        ModelError: one of them leads out of the folder, to a pickle or to code.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.path={folder}: holds an adapter (adapter_config.json), which names a base model of its own; merge "
            "it into its base model and name that folder"
        )
    for path in sorted(folder.glob("*.index.json")):
        weights = _json(path).get("weight_map")
        files = weights.values() if isinstance(weights, dict) else [weights]
        for file in files:
            if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
                raise ModelError(f"{path}: names {file!r}; weights are read from .safetensors files of the same folder")
    if (folder / "config.json").exists():
        _check_kernels(_json(folder / "config.json"), folder / "config.json")


def _check_kernels(config: dict[str, Any], path: Path) -> None:
    """Refuse org/name in place of an implementation that transformers has, of the model or of a part of it."""
    for key, value in config.items():
        names = [value] if isinstance(value, str) else list(value.values()) if isinstance(value, dict) else []
        if key.endswith("_implementation") and any("/" in str(name) for name in names):
            raise ModelError(f"{path}: {key}={value!r} is code from the Hub, which is not run; remove the key")
        if isinstance(value, dict):
            _check_kernels(value, path)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} cannot be read: it is no JSON object")
    return found
