"""A decoder (GPT, Llama, Gemma and their like): it goes on from a prompt with the answer. How it learns: `language.py`.

Prompts are padded in front, so that answers follow them without a gap; positions are counted without padding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from clora_exp.config import ModelConfig
from clora_exp.models.language import TOKENIZER, LanguageConfig, LanguageModel
from clora_exp.models.language_code import causal_code
from clora_exp.models.language_loading import load_language_model
from clora_exp.models.likelihood import Prefix
from clora_exp.models.prompts import DecoderPrompts, Told
from clora_exp.models.weights import sha256, weights_folder


@dataclass(frozen=True)
class Config(LanguageConfig):
    """See `language.py`."""


class CausalLM(LanguageModel):
    """A decoder with its projection to the vocabulary."""

    pads_left: ClassVar[bool] = True
    task_type: ClassVar[str] = "CAUSAL_LM"

    def __init__(self, backbone: Any, tokenizer: Any, folder: Path, config: LanguageConfig) -> None:
        super().__init__(backbone, tokenizer, folder, config)
        self.prompts = DecoderPrompts(tokenizer, config.prompt, config.prompts, config.max_length)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean of the last hidden states over each prompt's tokens, (n, d)."""
        mask = inputs["attention_mask"]
        kept, _, _ = self.call(torch.zeros_like(mask, dtype=torch.bool), **_placed(inputs["input_ids"], mask))
        assert kept.every is not None
        return (kept.every * mask.unsqueeze(-1)).sum(1).float() / mask.sum(1, keepdim=True)

    def taught(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what predicts each token of the answers: hidden states (m, d), logits (m, V)."""
        ids, mask = self.sequence(inputs)
        prompt = inputs["input_ids"].shape[1]
        where = torch.zeros_like(mask, dtype=torch.bool)
        where[:, prompt - 1 :] = inputs["answer_mask"].bool()  # a position predicts the token after it
        kept, logits, _ = self.call(where, **_placed(ids, mask))
        assert kept.hidden is not None
        return kept.hidden, logits

    def sequence(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what is read in training, prompts and answers without their last token, and its mask."""
        ids = torch.cat([inputs["input_ids"], inputs["answer_ids"][:, :-1]], dim=1)
        return ids, torch.cat([inputs["attention_mask"], inputs["answer_mask"][:, 1:]], dim=1)

    def read(self, inputs: dict[str, Tensor]) -> Prefix:
        """Return what is left of the prompts when they have been read."""
        where = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
        where[:, -1] = True
        arguments = _placed(inputs["input_ids"], inputs["attention_mask"])
        _, logits, output = self.call(where, **arguments, use_cache=True)
        return Prefix(logits, output.past_key_values, inputs["attention_mask"])

    def go_on(self, prefix: Prefix, ids: Tensor, mask: Tensor, where: Tensor) -> Tensor:
        """Return logits (m, V) at the positions `where` of ids (n, k) that follow the prompts."""
        arguments = _placed(ids, torch.cat([prefix.mask, mask], dim=1))
        _, logits, _ = self.call(where, **arguments, past_key_values=prefix.cache, use_cache=True)
        return logits

    def written(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the token ids that follow the prompts, (n, k)."""
        prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return self.backbone.generate(**prompt, **options)[:, inputs["input_ids"].shape[1] :]

    def loading_code(self, told: Told, is_merged: bool = False) -> str:
        """Return Python that answers `texts` from an exported task with PEFT and transformers alone."""
        return causal_code(self, told, is_merged)


def _placed(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the last tokens of a sequence with its whole mask, and their positions, counted without padding."""
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def identity(config: ModelConfig) -> str:
    """Return the SHA-256 of weights, architecture and tokenizer, whatever folder they lie in.

    Raises:
        ModelError: the weights are missing.
    """
    return sha256(weights_folder(config), "*.safetensors", "config.json", *TOKENIZER)


def build(config: ModelConfig, backend: str = "peft") -> CausalLM:
    """Load the model, frozen and in evaluation mode.

    Raises:
        ModelError: the weights are missing or are no decoder.
    """
    backbone, tokenizer, folder = load_language_model(config, backend, "AutoModelForCausalLM")
    return CausalLM(backbone, tokenizer, folder, config.settings)
