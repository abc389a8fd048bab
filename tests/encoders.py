"""Tiny random encoders of texts and images, as folders that transformers reads."""

from pathlib import Path

import torch
from language import WORDS


def save_bert(folder: Path, seed: int = 0) -> None:
    """Write a random BERT of width 32 and two layers, and a word tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)


def save_vit(folder: Path, num_channels: int = 3) -> None:
    """Write a random ViT of width 32 for images of 16×16, and a processor that resizes and normalises."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
        num_channels=num_channels,
        initializer_range=0.3,
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    mean, std = [0.4] * num_channels, [0.3] * num_channels
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=mean, image_std=std).save_pretrained(
        folder
    )
