"""A small ViT that has learned by how much a digit is turned, from the training images of scikit-learn's digits.

Telling rotations apart needs no label and gives features of the content (Gidaris et al. 2018, arXiv 1803.07728).
Neither a label nor a validation or test image is used.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.files import folder_written_atomically
from clora_exp.models.recipes import Progress
from clora_exp.tasks.cache import cache_dir
from clora_exp.tasks.sources import digits

WIDTH, LAYERS, NUM_HEADS, PATCH = 128, 2, 4, 2
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY, SEED = 1000, 64, 1e-3, 0.01, 0


def folder() -> Path:
    """Return where the weights are, or will be: named by this code and the images."""
    code = Path(__file__).read_bytes()
    key = hashlib.sha256(code + digits.fingerprint().encode()).hexdigest()[:16]
    return cache_dir() / "models" / f"digits_rotations-{key}"


def make(progress: Progress) -> None:
    """Train, and write the folder as transformers' save_pretrained does."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # of a second, under the bar that there is
    images, _ = digits.images("train")
    pixels = torch.from_numpy(images).float().div(127.5).sub(1)[:, None]  # as the processor below normalises
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=NUM_HEADS,
        intermediate_size=2 * WIDTH,
        image_size=images.shape[-1],
        patch_size=PATCH,
        num_channels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order, however many threads the run has
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            backbone = ViTModel(config, add_pooling_layer=False)
            _train(backbone, pixels, progress)
    finally:
        torch.set_num_threads(num_threads)
    processor = ViTImageProcessorPil(
        do_resize=True,
        size={"height": images.shape[-1], "width": images.shape[-1]},
        image_mean=[0.5],
        image_std=[0.5],
    )
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_atomically(target) as new:
        backbone.eval().save_pretrained(new)
        processor.save_pretrained(new)


def _train(backbone: Any, pixels: Tensor, progress: Progress) -> None:
    head = nn.Linear(WIDTH, 4)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    rng = np.random.default_rng(SEED)
    with progress("pre-training a ViT on rotated digits", STEPS) as advance:
        for _ in range(STEPS):
            batch = pixels[rng.integers(len(pixels), size=BATCH)]
            turns = torch.from_numpy(rng.integers(4, size=BATCH))
            turned = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(batch, turns, strict=True)])
            features = backbone(turned).last_hidden_state[:, 0]
            loss = F.cross_entropy(head(features), turns)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance()
