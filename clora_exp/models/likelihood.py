"""log p(label | prompt) for many labels: a prompt is read once, its keys and values serve every label.

The labels follow in one call behind the repeated cache, a chunk at a time; what is predicted behind a beginning that
several labels share is looked at once (`label_tree.py`). Shapes as in `language.py`.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clora_exp.adapters.active import repeated
from clora_exp.models.label_tree import label_chunks

if TYPE_CHECKING:
    from clora_exp.models.language import LanguageModel

MOST_ROWS = 256  # of a repeated cache


@dataclass
class Prefix:
    """Prompts that have been read: logits of the first token of an answer (n, V), and what is needed to go on."""

    logits: Tensor
    cache: Any  # transformers'
    mask: Tensor  # (n, l), of the prompts
    encoded: Tensor | None = None  # (n, l, d), of an encoder

    def repeated(self, times: int) -> "Prefix":
        """Return every prompt so many times, one after another; this one's cache stays as it is."""
        cache = _copied(self.cache)
        cache.batch_repeat_interleave(times)
        encoded = None if self.encoded is None else self.encoded.repeat_interleave(times, 0)
        return dataclasses.replace(self, cache=cache, mask=self.mask.repeat_interleave(times, 0), encoded=encoded)


def _copied(cache: Any) -> Any:
    """Return a cache with the same tensors, which goes on by itself; a deep copy would lose their gradients."""
    new = copy.copy(cache)
    if hasattr(cache, "cross_attention_cache"):
        new.self_attention_cache = _copied(cache.self_attention_cache)
        new.cross_attention_cache = _copied(cache.cross_attention_cache)
        new.is_updated = dict(cache.is_updated)
    else:
        new.layers = [copy.copy(layer) for layer in cache.layers]
    return new


def label_scores(
    model: "LanguageModel", inputs: dict[str, Tensor], answers: Sequence[np.ndarray], most_logits: int
) -> Tensor:
    """Return log p of each answer behind each prompt, (n, c).

    Args:
        answers: the labels' tokens, the one that ends an answer included.
        most_logits: numbers that one call of the vocabulary's projection may give.
    """
    prefix = model.read(inputs)
    n, V = prefix.logits.shape
    longest = max(len(answer) for answer in answers)
    size = max(1, min(MOST_ROWS // n, most_logits // (n * longest * V)))
    found, places = [], []
    for chunk in label_chunks(answers, size):
        c, k = chunk.ids.shape
        logits = prefix.logits[:, None]  # (n, nodes, V)
        if k:
            ids, mask, where = (
                torch.from_numpy(array).to(prefix.mask.device).repeat(n, 1)
                for array in (chunk.ids, chunk.mask, chunk.is_node)
            )
            with repeated(c):
                behind = model.go_on(prefix.repeated(c), ids, mask, where)
            logits = torch.cat([logits, behind.view(n, -1, V)], dim=1)
        steps = logits[:, chunk.node, chunk.token] - logits.logsumexp(-1)[:, chunk.node]
        label = torch.from_numpy(chunk.label).to(steps.device)
        found.append(steps.new_zeros(n, c).index_add(1, label, steps))
        places += chunk.labels.tolist()
    return torch.cat(found, dim=1)[:, np.argsort(places)]
