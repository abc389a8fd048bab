"""The diagonal Fisher information of a classifier, from the gradients of single examples.

F_i = E_x E_{y ~ p(·|x, θ)} (∂ log p(y | x, θ) / ∂θ_i)². The outer mean is over examples, so F depends neither on their
number nor on batches: the square of a batch's mean gradient is something else (van de Ven 2025, arXiv 2502.11756).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["exact", "sampled", "empirical"]


def diagonal_fisher(
    examples: Iterable[tuple[Callable[[], Tensor], int]],
    parameters: Sequence[Tensor],
    kind: Kind,
    generator: torch.Generator,
) -> list[Tensor]:
    """Return F for each parameter, in its shape.

    `exact` sums over all labels weighted by p(y | x), as the definition says: a backward pass a label. `sampled` draws
    one label an example from p, an unbiased estimate. `empirical` takes the example's own label, which is no estimate
    of F (Kunstner et al. 2019, arXiv 1905.12558).

    Args:
        examples: for each a function that returns log p(· | x, θ), (c,), −inf for what cannot be, and its label.
        generator: what labels are drawn from, on the CPU.
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    for log_probabilities, label in examples:
        log_p = log_probabilities()
        p = log_p.detach().exp()
        match kind:
            case "exact":
                chosen = [(y, float(p[y])) for y in p.nonzero().flatten().tolist()]
            case "sampled":
                chosen = [(int(torch.multinomial(p.cpu().double(), 1, generator=generator)), 1.0)]
            case "empirical":
                chosen = [(label, 1.0)]
        for i, (y, weight) in enumerate(chosen):
            is_last = i == len(chosen) - 1
            gradients = torch.autograd.grad(log_p[y], parameters, retain_graph=not is_last, allow_unused=True)
            for sum_of_squares, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sum_of_squares.add_(gradient.square(), alpha=weight)
        count += 1
    return [sum_of_squares / max(count, 1) for sum_of_squares in total]
