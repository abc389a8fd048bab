"""A task as a plain PEFT LoRA folder, or as a plain transformers checkpoint: both load without this project.

The update of every setting of the family is one vanilla pair, so nothing is lost: A' = A, B' = g · s · B R, folded in
double precision and rounded once, alpha = r, one rank. `certificate.py` reloads a folder and measures that it is so;
`read_peft` is the way back in.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.exported import Classifier, Exported
from clora_exp.adapters.pairs import merge_into
from clora_exp.adapters.targets import matches
from clora_exp.errors import ModelError, unknown

PREFIX = "base_model.model."  # of PEFT's tensors; other software insists on it


def write_peft(folder: Path, exported: Exported) -> None:
    """Write a plain PEFT LoRA into `folder`, in single precision, with labels and a README. Equal tasks, equal bytes.

    A head that fits transformers' own classifier is in `modules_to_save`; another is in `head.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = exported.classifier.prefix if exported.classifier else ""
    names = sorted(prefix + name for name in exported.pairs)
    rank = next(iter(exported.pairs.values()))[0].shape[0]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=names,
        task_type="SEQ_CLS" if exported.classifier else exported.task_type,
        modules_to_save=[exported.classifier.head] if exported.classifier else None,
        base_model_name_or_path=exported.base,
        fan_in_fan_out=exported.is_conv1d,
        inference_mode=True,
    )
    tensors = {}
    for name, (A, B) in exported.pairs.items():
        tensors[f"{PREFIX}{prefix}{name}.lora_A.weight"] = A.float().cpu().contiguous()
        tensors[f"{PREFIX}{prefix}{name}.lora_B.weight"] = B.float().cpu().contiguous()
    files = "`adapter_config.json` and `adapter_model.safetensors` are what PEFT's `save_pretrained` writes."
    if exported.classifier and exported.head is not None:
        head = exported.head.items()
        tensors |= {f"{PREFIX}{exported.classifier.head}.{name}": x.detach().float().cpu() for name, x in head}
    plain: dict[str, Any] = {key: _sorted(value) for key, value in config.to_dict().items()}
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    title = f"{exported.task}: a PEFT LoRA for {exported.base}"
    _write_beside(folder, exported, title, files, "`BASE` the base model's folder, `HERE` this one")


def write_merged(folder: Path, exported: Exported, backbone: nn.Module, tokenizer: Any) -> None:
    """Write the backbone with the task's update added to its weights, as a plain transformers checkpoint.

    `backbone` is changed; the sum is formed in double and rounded once. `exported.code` reads HERE alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merge_into(backbone, exported.pairs)
    model: Any = backbone
    if exported.classifier and exported.head is not None:
        model = _as_classifier(model, exported)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = "A transformers checkpoint: the task is merged into the weights."
    title = f"{exported.task}: {exported.base} with the task in its weights"
    _write_beside(folder, exported, title, files, "`HERE` this folder")


def _as_classifier(backbone: Any, exported: Exported) -> Any:
    from transformers import AutoModelForSequenceClassification

    assert exported.classifier
    assert exported.head is not None
    config = backbone.config
    config.id2label = dict(enumerate(exported.labels))
    config.label2id = {label: i for i, label in enumerate(exported.labels)}
    model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, exported.classifier.prefix.removesuffix("."), backbone)
    model.get_submodule(exported.classifier.head).load_state_dict(dict(exported.head))
    return model


def _write_beside(folder: Path, exported: Exported, title: str, files: str, names: str) -> None:
    """Write what belongs to either kind of folder: a head of its own, labels, README."""
    if exported.head is not None and not exported.classifier:
        head = {name: tensor.detach().float().cpu().contiguous() for name, tensor in exported.head.items()}
        (folder / "head.safetensors").write_bytes(save(head))
        files += " The task's head is in `head.safetensors`."
    if exported.labels:
        text = json.dumps(list(exported.labels), ensure_ascii=False) + "\n"
        (folder / "labels.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(exported.as_readme(title, files, names), encoding="utf-8")


def _sorted(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.value if hasattr(value, "value") else value


REFUSED = {  # what makes a folder more than pairs of factors: key of adapter_config.json → the value it may have
    "use_dora": False,
    "bias": "none",
    "layer_replication": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "lora_bias": False,
}
PATTERN = re.compile(r"\^?(\w|-|\\?\.|\\d|\||\.\*)+\$?")  # of a layer's name: no group, no other repetition
MAX_STARS = 3  # each takes as many steps as a name is long, for every step of the others
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # init_lora_weights that subtract from the base


@dataclass(frozen=True)
class Imported:
    """What a PEFT LoRA folder holds: its scale is folded into B'."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    head: dict[str, Tensor]  # weight and bias of the classifier; empty where there is none


def read_peft(folder: Path, layers: Mapping[str, Any], classifier: Classifier | None = None) -> Imported:
    """Read a plain PEFT LoRA folder; strictly: PEFT passes over a name that fits nothing.

    Args:
        layers: the backbone's linear layers by name, e.g. `Adapters.layers`.
        classifier: where a head may stand, for a LoRA of a sequence classification model.

    Raises:
        ModelError: no such folder, a kind of adapter that is no plain LoRA, or a tensor that is missing, left over, of
            another shape or for a layer that is not there; the message names it.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no PEFT adapter that can be read: {error}") from error
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: peft_type={config.get('peft_type')}; only LORA can be read")
    for key, value in (REFUSED | ({} if classifier else {"modules_to_save": None})).items():
        if (config.get(key) or value) != value:
            raise ModelError(
                f"{folder}: {key}={config[key]!r} is more than a low-rank update; only {value!r} can be read"
            )
    if str(config.get("init_lora_weights")).startswith(CHANGES_BASE):
        raise ModelError(f"{folder}: init_lora_weights={config['init_lora_weights']!r} also changed the base model")
    prefix = PREFIX + (classifier.prefix if classifier else "")
    of_head = f"{PREFIX}{classifier.head}." if classifier else None
    head = {
        key.removeprefix(of_head): tensors.pop(key) for key in sorted(tensors) if of_head and key.startswith(of_head)
    }
    names = set()
    for key in sorted(tensors):
        name = key.removeprefix(prefix).removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")
        if key not in (f"{prefix}{name}.lora_A.weight", f"{prefix}{name}.lora_B.weight"):
            raise ModelError(f"{folder}: tensor {key!r} is no {prefix}<layer>.lora_A.weight or .lora_B.weight")
        if name not in layers:
            raise ModelError(f"{folder}: tensor {key!r}: " + unknown("layer", name, layers))
        names.add(name)
    names |= {name for name in layers if _is_target(config, prefix.removeprefix(PREFIX) + name)}
    if not names:
        raise ModelError(f"{folder}: no layer is adapted in it")
    pairs = {name: _pair(folder, config, tensors, prefix, name, layers[name]) for name in sorted(names)}
    return Imported(pairs, head)


def _is_target(config: Any, module: str) -> bool:
    """Tell whether adapter_config.json says that PEFT adapted a linear layer; where it names some layers only, no."""
    targets = config.get("target_modules") or []
    if isinstance(targets, str):
        return False  # a regular expression: what it matched is in the tensors
    is_partial = any(
        config.get(key) is not None for key in ("layers_to_transform", "layers_pattern", "exclude_modules")
    )
    return not is_partial and any(matches(module, target) for target in targets)


def _pair(
    folder: Path, config: Any, tensors: Mapping[str, Tensor], prefix: str, name: str, layer: Any
) -> tuple[Tensor, Tensor]:
    """Return A' and B' of a layer; `read_peft` says what it raises."""
    keys = [f"{prefix}{name}.lora_{factor}.weight" for factor in "AB"]
    for key in keys:
        if key not in tensors:
            raise ModelError(f"{folder}: tensor {key!r} is missing")
    A, B = (tensors[key] for key in keys)
    module = keys[0].removeprefix(PREFIX).removesuffix(".lora_A.weight")
    rank = _of_pattern(folder, config, "rank_pattern", module, "r")
    alpha = _of_pattern(folder, config, "alpha_pattern", module, "lora_alpha")
    size_in, size_out = (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
    for key, tensor, shape in ((keys[0], A, (rank, size_in)), (keys[1], B, (size_out, rank))):
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{folder}: tensor {key!r} is {tuple(tensor.shape)}; with r={rank} it must be {shape}")
    return A, B * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_pattern(folder: Path, config: Any, pattern: str, name: str, default: str) -> Any:
    """Return the value of the first key of a PEFT pattern that is an end of the name, as a regular expression.

    Raises:
        ModelError: a key that could take for ever to match, or a value that is no positive number.
    """
    value = config.get(default)
    for key, own in (config.get(pattern) or {}).items():
        if not PATTERN.fullmatch(key) or key.count("*") > MAX_STARS:
            raise ModelError(f"{folder}: {pattern} has the key {key!r}; names, with . and .* in them, can be read")
        if re.match(rf"(.*\.)?({key})$", name):
            value = own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ModelError(f"{folder}: {default}={value!r} for {name}; it must be a positive number")
    return value
