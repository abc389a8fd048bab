"""Which task is an example from? Found from the frozen backbone's features, which no later task changes.

Task identification times accuracy within the task is the accuracy of a class-incremental model that answers with
isolated parts (Kim et al. 2022, arXiv 2211.02633, eq. 1). What is kept of a task are its classes' means, and of all
tasks together one covariance: nothing is trained, and no example is kept.

Shapes: n examples, d features, k pairs of task and class.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Identifier:
    """Means of each task's classes in double precision; a subclass says which is nearest."""

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        self.means = torch.zeros(0, num_features, dtype=torch.float64, device=device)  # (k, d)
        self.tasks = torch.zeros(0, dtype=torch.int64, device=device)  # (k,)

    def add(self, t: int, features: Tensor, labels: Tensor) -> None:
        """Take in the training examples of task t: features (n, d), labels (n,)."""
        features = features.to(self.means)
        classes, rows = labels.to(self.means.device).unique(return_inverse=True)
        counts = torch.bincount(rows).to(self.means)
        means = torch.zeros(len(classes), features.shape[1]).to(self.means).index_add_(0, rows, features)
        means /= counts[:, None]
        self._add_spread(features - means[rows], len(features) - len(classes))
        self.means = torch.cat([self.means, means])
        self.tasks = torch.cat([self.tasks, torch.full_like(classes, t)])

    def _add_spread(self, residuals: Tensor, degrees: int) -> None:
        """Take in the examples' distances from their class's mean, (n, d), of so many degrees of freedom."""

    def nearness(self, features: Tensor) -> Tensor:
        """Return how near each example is to each class, (n, k), the nearest highest."""
        raise AssertionError(f"{type(self).__name__} defines no nearness")

    def identify(self, features: Tensor) -> Tensor:
        """Return each example's task, (n,): that of the nearest class."""
        return self.tasks[self.nearness(features).argmax(-1)]

    @property
    def size_bytes(self) -> int:
        """Bytes of what is kept."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.means, self.tasks))

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes back."""
        return {"means": self.means, "tasks": self.tasks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.means, self.tasks = state["means"].to(self.means), state["tasks"].to(self.tasks)


class CentroidIdentifier(Identifier):
    """The class whose mean makes the smallest angle with the example (nearest mean of exemplars, iCaRL 2017, eq. 2).

    Differs: the mean is of all training examples, taken before it is normalised.
    """

    def nearness(self, features: Tensor) -> Tensor:
        """Return cosines, (n, k)."""
        return F.normalize(features.to(self.means), dim=-1) @ F.normalize(self.means, dim=-1).T


class GaussianIdentifier(Identifier):
    """The class of highest density, a Gaussian a class with one covariance Σ for all: linear discriminant analysis.

    log p(x | c) = μ_cᵀ Σ⁻¹ x − ½ μ_cᵀ Σ⁻¹ μ_c + what all classes have in common (Hastie et al. 2009, eq. 4.10, equal
    priors); so the nearest by Mahalanobis distance, as Lee et al. 2018 (arXiv 1807.03888) detect strange inputs. Σ is
    the pooled covariance within classes, shrunk towards a multiple of the identity as Chen et al. 2010 (OAS, eq. 23).
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_features, device)
        self.scatter = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)  # (d, d)
        self.degrees = 0  # of freedom
        self._weights: tuple[Tensor, Tensor] | None = None  # (d, k) and (k,), made when asked for

    def _add_spread(self, residuals: Tensor, degrees: int) -> None:
        self.scatter = self.scatter + residuals.T @ residuals
        self.degrees += degrees
        self._weights = None

    def nearness(self, features: Tensor) -> Tensor:
        """Return log densities, what classes have in common left out, (n, k)."""
        if self._weights is None:
            directions = torch.linalg.solve(shrunk_covariance(self.scatter, self.degrees), self.means.T)
            self._weights = directions, -0.5 * (self.means * directions.T).sum(-1)
        directions, offsets = self._weights
        return features.to(self.means) @ directions + offsets

    @property
    def size_bytes(self) -> int:
        """Bytes of what is kept."""
        return super().size_bytes + self.scatter.numel() * self.scatter.element_size()

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes back."""
        return super().state_dict() | {"scatter": self.scatter, "degrees": self.degrees}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.scatter, self.degrees, self._weights = state["scatter"].to(self.scatter), state["degrees"], None


IDENTIFIERS = {"gaussian": GaussianIdentifier, "centroid": CentroidIdentifier}


def shrunk_covariance(scatter: Tensor, degrees: int) -> Tensor:
    """Return (1 − ρ) S + ρ tr(S)/d I of S = scatter / degrees, by the oracle approximating shrinkage.

    ρ = min(1, (a + m²) / ((n + 1)(a − m²/d))) with a the mean squared entry of S, m = tr(S)/d, n the degrees of
    freedom: Chen et al. 2010, eq. 23, without the terms in 2/d, as scikit-learn computes it. Without spread: I.
    """
    d = len(scatter)
    eye = torch.eye(d).to(scatter)
    S = scatter / max(degrees, 1)
    m, a = S.trace() / d, S.square().mean()
    if m == 0:
        return eye
    spread = (max(degrees, 1) + 1) * (a - m.square() / d)
    rho = torch.clamp((a + m.square()) / spread, max=1.0) if spread > 0 else torch.ones(()).to(scatter)
    return (1 - rho) * S + rho * m * eye
