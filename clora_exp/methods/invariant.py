"""What a method promises, as numbers: an error that is measured against something independent, and what it may be."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Invariant:
    """One promise, kept where `error` is at most `tolerance`; an error that is no number is not."""

    name: str
    source: str  # where it is written, or what it is compared with
    error: float
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.error <= self.tolerance


def distance(found: Tensor | float, expected: Tensor | float) -> float:
    """Return the largest difference, over the largest number expected where that is above 1; of other shapes NaN."""
    found, expected = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (found, expected))
    if found.shape != expected.shape:
        return math.nan
    if found.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0))


def distance_of_all(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest `distance` of pairs; NaN where there are more of one than of the other."""
    if len(found) != len(expected):
        return math.nan
    return max((distance(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """Return the gradient of a scalar function at a point in double precision, by central differences."""
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        moved = torch.zeros_like(at).view(-1)
        moved[i] = step
        moved = moved.view_as(at)
        gradient.view(-1)[i] = (function(at + moved) - function(at - moved)) / (2 * step)
    return gradient
