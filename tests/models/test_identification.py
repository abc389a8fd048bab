"""The identifiers against scikit-learn's classifiers and covariance, and by hand."""

import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from clora_exp.models.identification import IDENTIFIERS, CentroidIdentifier, GaussianIdentifier, shrunk_covariance

CLASSES = {0: [0, 1], 1: [2], 2: [3, 4, 5]}  # task → its classes


def _examples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six correlated Gaussians in nine dimensions, of as many examples each."""
    draw = torch.Generator().manual_seed(0)
    means, mix = torch.randn(6, 9, generator=draw), torch.randn(9, 9, generator=draw)
    labels = torch.arange(6).repeat_interleave(n)
    noise = torch.randn(6 * n, 9, generator=torch.Generator().manual_seed(seed)) @ mix
    return means[labels] * 2 + noise, labels


def _learned(kind: type, n: int):
    features, labels = _examples(n, 1)
    identifier = kind(9)
    for task, classes in CLASSES.items():
        rows = torch.isin(labels, torch.tensor(classes))
        identifier.add(task, features[rows], labels[rows])
    return identifier, features, labels


def test_shrinkage_is_scikit_learns() -> None:
    features, _ = _examples(4, 1)
    expected, _ = oas(features.double().numpy(), assume_centered=True)
    found = shrunk_covariance(features.double().T @ features.double(), len(features))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [2, 40])
def test_gaussian_is_linear_discriminant_analysis_with_that_covariance(n: int) -> None:
    identifier, features, labels = _learned(GaussianIdentifier, n)
    queries, _ = _examples(50, 2)
    means = torch.stack([features[labels == c].double().mean(0) for c in range(6)])
    centred = features.double() - means[labels]
    covariance = shrunk_covariance(centred.T @ centred, len(features) - 6)

    class Given:  # what scikit-learn takes for an estimator of the covariance within classes
        covariance_ = covariance.numpy()

        def fit(self, _):
            return self

    reference = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Given(), priors=[1 / 6] * 6)
    expected = reference.fit(features.double().numpy(), labels.numpy()).predict(queries.double().numpy())
    found = identifier.nearness(queries).argmax(-1).numpy()
    assert (found == expected).all()


def test_centroid_is_the_nearest_on_the_sphere() -> None:
    identifier, features, labels = _learned(CentroidIdentifier, 20)
    queries, _ = _examples(50, 2)
    means = torch.stack([features[labels == c].double().mean(0) for c in range(6)])
    reference = NearestCentroid().fit(normalize(means.numpy()), range(6))
    expected = reference.predict(normalize(queries.double().numpy()))
    assert (identifier.nearness(queries).argmax(-1).numpy() == expected).all()


@pytest.mark.parametrize("kind", list(IDENTIFIERS.values()))
def test_the_task_is_that_of_the_nearest_class_also_after_a_state_went_elsewhere(kind: type) -> None:
    identifier, features, labels = _learned(kind, 40)
    fresh = kind(9)
    fresh.load_state_dict(identifier.state_dict())
    owner = torch.tensor([t for t, classes in CLASSES.items() for _ in classes])
    assert torch.equal(fresh.identify(features), owner[identifier.nearness(features).argmax(-1)])
    assert (fresh.identify(features) == owner[labels]).float().mean() > 0.6
    assert fresh.size_bytes == identifier.size_bytes


@pytest.mark.parametrize("kind", list(IDENTIFIERS.values()))
def test_tasks_come_in_any_order_and_one_by_one_as_all_at_once(kind: type) -> None:
    features, labels = _examples(10, 1)
    at_once, _, _ = _learned(kind, 10)
    other = kind(9)
    for task in (2, 0, 1):
        rows = torch.isin(labels, torch.tensor(CLASSES[task]))
        other.add(task, features[rows], labels[rows])
    assert torch.equal(other.identify(features), at_once.identify(features))


def test_examples_without_any_spread_are_still_told_apart() -> None:
    identifier = GaussianIdentifier(2)
    identifier.add(0, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    identifier.add(1, torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert identifier.identify(torch.tensor([[0.9, 0.2], [0.1, 0.7]])).tolist() == [0, 1]
