"""An encoder-decoder (T5, BART and their like): the encoder reads the prompt, the decoder writes the answer.

How it learns: `language.py`. Features, by which tasks are told apart, are the encoder's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from clora_exp.config import ModelConfig
from clora_exp.models.language import TOKENIZER, LanguageConfig, LanguageModel
from clora_exp.models.language_code import seq2seq_code
from clora_exp.models.language_loading import load_language_model
from clora_exp.models.likelihood import Prefix
from clora_exp.models.prompts import Prompts, Told
from clora_exp.models.weights import sha256, weights_folder


@dataclass(frozen=True)
class Config(LanguageConfig):
    """See `language.py`."""


class Seq2Seq(LanguageModel):
    """Encoder, decoder and the projection to the vocabulary."""

    pads_left: ClassVar[bool] = False
    task_type: ClassVar[str] = "SEQ_2_SEQ_LM"

    def __init__(self, backbone: Any, tokenizer: Any, folder: Path, config: LanguageConfig) -> None:
        super().__init__(backbone, tokenizer, folder, config)
        self.prompts = Prompts(tokenizer, config.prompt, config.prompts, config.max_length)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean of the encoder's last hidden states over each prompt's tokens, (n, d)."""
        mask = inputs["attention_mask"]
        hidden = self.backbone.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        return (hidden * mask.unsqueeze(-1)).sum(1).float() / mask.sum(1, keepdim=True)

    def taught(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what predicts each token of the answers: hidden states (m, d), logits (m, V)."""
        answers, mask = inputs["answer_ids"], inputs["answer_mask"]
        kept, logits, _ = self.call(
            mask.bool(),
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=torch.cat([self._start(len(answers), answers), answers[:, :-1]], dim=1),
        )
        assert kept.hidden is not None
        return kept.hidden, logits

    def _start(self, n: int, like: Tensor) -> Tensor:
        return like.new_full((n, 1), self.backbone.config.decoder_start_token_id)

    def read(self, inputs: dict[str, Tensor]) -> Prefix:
        """Return what is left of the prompts when they have been read: the decoder has its first token."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        _, logits, output = self.call(
            torch.ones(len(ids), 1, dtype=torch.bool, device=ids.device),
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=self._start(len(ids), ids),
            use_cache=True,
        )
        return Prefix(logits, output.past_key_values, mask, output.encoder_last_hidden_state)

    def go_on(self, prefix: Prefix, ids: Tensor, mask: Tensor, where: Tensor) -> Tensor:
        """Return logits (m, V) at the positions `where` of ids (n, k) that follow the decoder's first token."""
        _, logits, _ = self.call(
            where,
            encoder_outputs=(prefix.encoded,),
            attention_mask=prefix.mask,
            decoder_input_ids=ids,
            past_key_values=prefix.cache,
            use_cache=True,
        )
        return logits

    def written(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the token ids that the decoder writes, (n, k)."""
        prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return self.backbone.generate(**prompt, **options)

    def loading_code(self, told: Told, is_merged: bool = False) -> str:
        """Return Python that answers `texts` from an exported task with PEFT and transformers alone."""
        return seq2seq_code(self, told, is_merged)


def identity(config: ModelConfig) -> str:
    """Return the SHA-256 of weights, architecture and tokenizer, whatever folder they lie in.

    Raises:
        ModelError: the weights are missing.
    """
    return sha256(weights_folder(config), "*.safetensors", "config.json", *TOKENIZER)


def build(config: ModelConfig, backend: str = "peft") -> Seq2Seq:
    """Load the model, frozen and in evaluation mode.

    Raises:
        ModelError: the weights are missing or are no encoder-decoder.
    """
    backbone, tokenizer, folder = load_language_model(config, backend, "AutoModelForSeq2SeqLM")
    return Seq2Seq(backbone, tokenizer, folder, config.settings)
