"""Tiny random language models for tests: a decoder and an encoder-decoder with a word tokenizer, and their runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "iron", "gold", "tin"]
MORE = ["Answer:", "words", "(", ")", ",", "say", "it", "very", "The", "Dr."]


def save_tokenizer(folder: Path, ends_texts: bool = False) -> Any:
    """Write a tokenizer that splits at white space; `ends_texts`: texts end with </s>, as T5's do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *WORDS, *MORE])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "$A </s>" if ends_texts else "<s> $A"
    special = [("</s>", 1)] if ends_texts else [("<s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return fast


def save_causal_lm(folder: Path, kind: str = "LlamaForCausalLM", **more: Any) -> None:
    """Write a random decoder of width 32 and two layers."""
    import transformers

    vocabulary_size = len(save_tokenizer(folder))
    cls = getattr(transformers, kind)
    sizes = {
        "vocab_size": vocabulary_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    cls(cls.config_class(**sizes | more)).save_pretrained(folder)


def save_seq2seq(folder: Path) -> None:
    """Write a random T5 of width 32 and two layers on each side."""
    from transformers import T5Config, T5ForConditionalGeneration

    vocabulary_size = len(save_tokenizer(folder, ends_texts=True))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        initializer_factor=1.0,
        dropout_rate=0.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)


def rows_alone(split: Any, rows: Sequence[int]) -> list[Any]:
    """Return each row of a split as a batch of its own."""
    return [split[[row]] for row in rows]
