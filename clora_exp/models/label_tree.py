"""Which rows the likelihoods of many labels need: labels with a common beginning share what is predicted there.

log p(label | prompt) = Σ_k log p(token k | prompt, tokens before k), the token that ends an answer included. The
distribution behind a prefix is needed once, whatever the number of labels that begin with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelChunk:
    """Some labels, read in one call behind the prompt. Shapes: c labels, k the longest's tokens but its last, u nodes.

    A node is a prefix of one token or more; node 0 stands for the empty one, which the prompt itself answers.
    """

    labels: np.ndarray  # (c,): their indices
    ids: np.ndarray  # (c, k), padded with 0
    mask: np.ndarray  # (c, k)
    is_node: np.ndarray  # (c, k): where a distribution is looked at, u of them in row order
    node: np.ndarray  # (steps,): behind which node, from 0; 1 is the first in `is_node`
    token: np.ndarray  # (steps,): which token comes next
    label: np.ndarray  # (steps,): of which of the c labels


def label_chunks(answers: Sequence[np.ndarray], size: int) -> Iterator[LabelChunk]:
    """Yield the labels, `size` at a time, those with a common beginning together."""
    order = sorted(range(len(answers)), key=lambda i: answers[i].tolist())
    for start in range(0, len(order), size):
        yield _chunk(answers, order[start : start + size])


def _chunk(answers: Sequence[np.ndarray], chosen: list[int]) -> LabelChunk:
    longest = max(len(answers[i]) for i in chosen) - 1
    ids = np.zeros((len(chosen), longest), dtype=np.int64)
    mask, is_node = np.zeros_like(ids), np.zeros(ids.shape, dtype=bool)
    nodes: dict[tuple[int, ...], int] = {(): 0}
    node, token, label = [], [], []
    for row, i in enumerate(chosen):
        tokens = answers[i].tolist()
        ids[row, : len(tokens) - 1], mask[row, : len(tokens) - 1] = tokens[:-1], 1
        for depth, following in enumerate(tokens):
            prefix = tuple(tokens[:depth])
            if prefix not in nodes:
                nodes[prefix] = len(nodes)
                is_node[row, depth - 1] = True
            node.append(nodes[prefix])
            token.append(following)
            label.append(row)
    arrays = (np.asarray(values, dtype=np.int64) for values in (chosen, node, token, label))
    which, *steps = arrays
    return LabelChunk(which, ids, mask, is_node, *steps)
