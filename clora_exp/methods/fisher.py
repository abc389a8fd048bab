"""The diagonal Fisher information of a classifier, from the gradients of single examples.

F_i = E_x E_{y ~ p(·|x, θ)} (∂ log p(y | x, θ) / ∂θ_i)². The outer mean is over examples, so F depends neither on their
number nor on batches: the square of a batch's mean gradient is something else (van de Ven 2025, arXiv 2502.11756).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from clora_exp.methods.invariant import Invariant, distance

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


def softmax_regression() -> Iterator[Invariant]:
    """The three kinds on logits W x, whose Fisher information has closed forms, independent of batches."""
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(4, 5, generator=draw, dtype=torch.float64).requires_grad_()
    x, labels = torch.randn(30, 5, generator=draw, dtype=torch.float64), torch.randint(4, (30,), generator=draw)

    def found(kind: Kind, seed: int = 0, times: int = 1) -> Tensor:
        rows = list(range(len(x))) * times
        examples = ((lambda i=i: torch.log_softmax(W @ x[i], -1), int(labels[i])) for i in rows)
        return diagonal_fisher(examples, [W], kind, torch.Generator().manual_seed(seed))[0]

    p = torch.softmax(x @ W.detach().T, -1)
    analytic = torch.einsum("nc,nd->cd", p * (1 - p), x.square()) / len(x)
    residual = torch.nn.functional.one_hot(labels, 4) - p
    empirical = torch.einsum("nc,nd->cd", residual.square(), x.square()) / len(x)
    source = "softmax regression, E p (1 − p) x²"
    exact = found("exact")
    yield Invariant("exact Fisher information", source, distance(exact, analytic), 1e-10)
    yield Invariant("empirical Fisher information", "E (1[y] − p)² x²", distance(found("empirical"), empirical), 1e-10)
    yield Invariant(
        "the number of examples cancels", "each three times", distance(found("exact", times=3), exact), 1e-12
    )
    fourth = torch.einsum("nc,nd->cd", p * (1 - p) ** 4 + (1 - p) * p**4, x**4)
    second = torch.einsum("nc,nd->cd", (p * (1 - p)).square(), x**4)
    deviation = ((fourth - second) / len(x) ** 2 / 40).sqrt()
    mean = torch.stack([found("sampled", seed) for seed in range(40)]).mean(0)
    z = float(((mean - analytic).abs() / deviation).max())
    yield Invariant("sampled Fisher, largest deviation in σ", source, z, 4.5)
