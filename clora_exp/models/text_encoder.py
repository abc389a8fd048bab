"""A text encoder (BERT and its like): texts → one vector each, which heads read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from clora_exp.adapters.exported import Classifier
from clora_exp.config import STRICT, Count, ModelConfig, Targets
from clora_exp.errors import DataError, ModelError
from clora_exp.models.backends import load_backbone
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import EncodedTexts, padded
from clora_exp.models.prompts import Told
from clora_exp.models.weights import in_one_line, sha256, weights_folder
from clora_exp.tasks.cache import cache_dir, store
from clora_exp.tasks.stream import Example, Task

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Config:
    """How a text becomes one vector."""

    __pydantic_config__ = STRICT
    files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json", "*.safetensors")
    max_length: Count = 48  # tokens; longer texts are cut. Measured: experiments/token_length.py
    pooling: Literal["mean", "pooler"] = "mean"  # mean over the mask, or the model's pooler on the first token
    target_modules: Targets = None  # adapted unless the method says otherwise; null: attention


class TextEncoder(TaskModel):
    """Backbone and heads. Shapes: n examples, l tokens, d hidden size."""

    def __init__(self, backbone: Any, tokenizer: Any, folder: Path, config: Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.tokenizer = tokenizer
        self._tokenizer_sha256 = sha256(folder, *TOKENIZER)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector an example, (n, d)."""
        output = self.backbone(**inputs)
        if self.config.pooling == "pooler":
            return output.pooler_output
        mask_nl1 = inputs["attention_mask"].unsqueeze(-1).to(output.last_hidden_state.dtype)
        return (output.last_hidden_state * mask_nl1).sum(1) / mask_nl1.sum(1)

    def inputs_of(self, examples: Sequence[Example], told: Told) -> dict[str, Tensor]:
        """Return token ids and mask, (n, l) each."""
        texts = [example.text for example in examples]
        return dict(
            self.tokenizer(texts, truncation=True, max_length=self.config.max_length, padding=True, return_tensors="pt")
        )

    def unbatch(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the token ids of each example, (l,) int32."""
        ids, lengths = inputs["input_ids"].to("cpu", torch.int32), inputs["attention_mask"].sum(1).tolist()
        return [{"input_ids": row[:length].clone()} for row, length in zip(ids, lengths, strict=True)]

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return token ids and mask, padded to the longest, (n, l)."""
        return padded([example["input_ids"].numpy() for example in examples], self.tokenizer.pad_token_id)

    @property
    def classifier(self) -> Classifier | None:
        """BERT's own classifier reads the pooler, as a head does here with pooling=pooler; its dropout is off."""
        is_bert = self.backbone.config.model_type == "bert"
        return Classifier("bert.", "classifier") if is_bert and self.config.pooling == "pooler" else None

    def loading_code(self, told: Told, is_merged: bool = False) -> str:
        """Return Python that answers `texts` from an exported task with PEFT and transformers alone."""
        kind = "AutoModelForSequenceClassification" if self.classifier else "AutoModel"
        imports = ["import json", "import torch"]
        imports += [] if is_merged else ["from peft import PeftModel"]
        imports += [] if self.classifier else ["from safetensors.torch import load_file"]
        imports += [f"from transformers import {kind}, AutoTokenizer", ""]
        labels = 'labels = json.load(open(f"{HERE}/labels.json"))'
        fresh = ", num_labels=len(labels)" if self.classifier and not is_merged else ""
        base = "HERE" if is_merged else "BASE"
        lines = [
            labels,
            f"model = {kind}.from_pretrained({base}, dtype=torch.float32{fresh}).eval()",
            *([] if is_merged else ["model = PeftModel.from_pretrained(model, HERE).eval()"]),
            f"tokenizer = AutoTokenizer.from_pretrained({base})",
            *([] if self.classifier else ['head = load_file(f"{HERE}/head.safetensors")']),
            "",
            f"inputs = tokenizer(texts, truncation=True, max_length={self.config.max_length}, padding=True, "
            'return_tensors="pt")',
            "with torch.no_grad():",
            "    output = model(**inputs)",
        ]
        mean = [
            '    mask = inputs["attention_mask"].unsqueeze(-1)',
            "    features = (output.last_hidden_state * mask).sum(1) / mask.sum(1)",
        ]
        pooled = ["    features = output.pooler_output"] if self.config.pooling == "pooler" else mean
        apart = [*pooled, '    logits = features @ head["weight"].T + head["bias"]']
        lines += ["    logits = output.logits"] if self.classifier else apart
        return "\n".join([*imports, *lines, "predicted = [labels[i] for i in logits.argmax(-1)]"])

    def encode(self, t: int, task: Task, split: str) -> EncodedTexts:
        """Tokenise a split once; afterwards it comes from the cache, keyed by tokenizer, split and length.

        Raises:
            DataError: the task's examples are images, or it is free-form; a token that the model does not know.
        """
        if task.modality != "text" or task.is_free_form:
            what = "are images" if task.modality != "text" else "have no labels"
            raise DataError(f"task {task.name!r}: its examples {what}; a text encoder needs texts with labels")
        parts = f"{self._tokenizer_sha256} {task.sha256[split]} {self.config.max_length}"
        key = hashlib.sha256(parts.encode()).hexdigest()[:32]
        path = cache_dir() / "tokens" / f"{key}.safetensors"
        try:
            arrays = load_arrays(path.read_bytes())
            token_ids, starts = arrays["token_ids"], arrays["starts"]
            if len(starts) != len(task.split(split)) + 1 or starts[-1] != len(token_ids):
                raise ValueError("another number of examples")
        except (OSError, ValueError, KeyError, SafetensorError):
            token_ids, starts = self._tokenise([example.text for example in task.split(split)])
            store(path, save_arrays({"token_ids": token_ids, "starts": starts}))
        num_words = len(self.backbone.get_input_embeddings().weight)
        if token_ids.min() < 0 or token_ids.max() >= num_words:
            raise DataError(
                f"task {task.name!r}: its tokenizer gives token {token_ids.max()}, and the model knows {num_words}; "
                "tokenizer.json and config.json are of two models"
            )
        index = {label: i for i, label in enumerate(task.labels)}
        labels = np.array([index[example.label] for example in task.split(split)], dtype=np.int64)
        return EncodedTexts(labels, t, token_ids, starts, self.tokenizer.pad_token_id)

    def _tokenise(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.tokenizer(texts, truncation=True, max_length=self.config.max_length)["input_ids"]
        starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in encoded]), starts


def identity(config: ModelConfig) -> str:
    """Return the SHA-256 of weights, architecture and tokenizer, whatever folder they lie in.

    Raises:
        ModelError: the weights are missing.
    """
    return sha256(weights_folder(config), "*.safetensors", "config.json", *TOKENIZER)


def build(config: ModelConfig, backend: str = "peft") -> TextEncoder:
    """Load the backbone, frozen and in evaluation mode.

    Raises:
        ModelError: the weights are missing or are no text encoder, or the texts are longer than it reads.
    """
    import transformers

    settings: Config = config.settings
    folder = weights_folder(config)
    with in_one_line(config, folder):
        backbone, missing = load_backbone(folder, backend, settings.max_length)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("a word")
        special = tokenizer.num_special_tokens_to_add()
    if tokenizer.pad_token_id is None:
        raise ModelError(f"model={config.name}: the tokenizer in {folder} has no pad_token; a batch needs one")
    needed = [name for name in missing if settings.pooling == "pooler" or "pooler" not in name]
    if needed:
        raise ModelError(
            f"model={config.name}: {folder} has no weights for {sorted(needed)[0]} ({len(needed)} missing)"
        )
    if settings.pooling == "pooler" and getattr(backbone, "pooler", None) is None:
        raise ModelError(f"model.text_encoder.pooling=pooler: {config.name} has no pooler; have: mean")
    if settings.max_length <= special:
        raise ModelError(
            f"model.text_encoder.max_length={settings.max_length}: leaves no room for a word, {config.name} puts "
            f"{special} tokens of its own into each text"
        )
    positions = getattr(backbone.config, "max_position_embeddings", settings.max_length)
    if settings.max_length > positions:
        raise ModelError(
            f"model.text_encoder.max_length={settings.max_length}: {config.name} has {positions} positions"
        )
    backbone.requires_grad_(False)
    return TextEncoder(backbone, tokenizer, folder, settings)
