"""How a language model's folder becomes a backbone and a tokenizer that can end and pad an answer."""

from pathlib import Path
from typing import Any

import torch

from clora_exp.config import ModelConfig
from clora_exp.errors import ModelError
from clora_exp.models.backends import load_backbone
from clora_exp.models.weights import in_one_line, weights_folder


def load_language_model(config: ModelConfig, backend: str, kind: str) -> tuple[Any, Any, Path]:
    """Return backbone, frozen and in evaluation mode, tokenizer, and the folder; `kind` is a class of transformers.

    Raises:
        ModelError: the folder is no such model, or its tokenizer has no token that ends an answer.
    """
    import transformers

    folder = weights_folder(config)
    with in_one_line(config, folder, f" as {kind}"):
        dtype = getattr(torch, config.settings.dtype)
        backbone, missing = load_backbone(folder, backend, config.settings.max_length, kind, dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if missing:
        raise ModelError(
            f"model={config.name}: {folder} has no weights for {sorted(missing)[0]} ({len(missing)} missing)"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model={config.name}: its tokenizer has no eos_token; an answer could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, whatever it is
    backbone.generation_config = transformers.GenerationConfig()  # its own would decide what `write` leaves open
    return backbone.requires_grad_(False).eval(), tokenizer, folder
