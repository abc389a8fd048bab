"""Linear scores of a text's words: TF-IDF over words, punctuation and their pairs, times a direction a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

MAX_TERMS = 50_000
INVERSE_PENALTY = 10.0  # C of the logistic regression: 10 to 100 differ little on validation texts
_OPTIONS = {
    "sublinear_tf": True,
    "strip_accents": "unicode",
    "token_pattern": r"\w+|[^\w\s]",  # punctuation tells code, lists and prose apart
    "ngram_range": (1, 2),
    "max_features": MAX_TERMS,
    "dtype": np.float64,
}


@dataclass(frozen=True)
class Reason:
    """A term of a text, and what it adds to the score of a task."""

    term: str
    amount: float


class Words:
    """Scores (n, k) of texts: unit TF-IDF rows (n, m) times directions (m, k), plus offsets (k,)."""

    def __init__(self, terms: Sequence[str], idf: np.ndarray, directions: np.ndarray, offsets: np.ndarray) -> None:
        """Take what `similar`, `separating` or a file gives."""
        self.terms, self.idf, self.directions, self.offsets = list(terms), idf, directions, offsets
        self._vectorizer = TfidfVectorizer(**_OPTIONS, vocabulary={term: i for i, term in enumerate(self.terms)})
        self._vectorizer.idf_ = idf

    @classmethod
    def similar(cls, documents: Mapping[str, str]) -> "Words":
        """Score by the cosine to one document a task."""
        vectorizer = TfidfVectorizer(**_OPTIONS)
        rows = vectorizer.fit_transform(documents.values())
        return cls(_terms(vectorizer), vectorizer.idf_, rows.T.toarray(), np.zeros(len(documents)))

    @classmethod
    def separating(cls, texts: Sequence[str], classes: np.ndarray) -> "Words":
        """Score by multinomial logistic regression over texts of classes (n,), 0 to k − 1, of equal weight."""
        vectorizer = TfidfVectorizer(**_OPTIONS)
        rows = vectorizer.fit_transform(texts)
        weights, offsets = regression(rows, classes, INVERSE_PENALTY)
        return cls(_terms(vectorizer), vectorizer.idf_, weights, offsets)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, k)."""
        return np.asarray(self._rows(texts) @ self.directions + self.offsets)

    def why(self, text: str, task: int, most: int = 8) -> list[Reason]:
        """Return the terms that speak most for a task against the mean of all, the strongest first."""
        row = self._rows([text])
        amounts = row.data * (self.directions[row.indices, task] - self.directions[row.indices].mean(axis=1))
        best = np.argsort(-amounts, kind="stable")[:most]
        return [Reason(self.terms[row.indices[i]], float(amounts[i])) for i in best if amounts[i] > 0]

    def _rows(self, texts: Sequence[str]) -> csr_matrix:
        return self._vectorizer.transform(list(texts))


def _terms(vectorizer: TfidfVectorizer) -> list[str]:
    return [str(term) for term in vectorizer.get_feature_names_out()]


def regression(
    rows: np.ndarray | csr_matrix, classes: np.ndarray, inverse_penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return directions (m, k) and offsets (k,) of multinomial logistic regression, classes of equal weight.

    For two classes scikit-learn has one direction; it is halved to one each, which gives the same probabilities.
    """
    found = LogisticRegression(C=inverse_penalty, max_iter=3000, class_weight="balanced").fit(rows, classes)
    weights, offsets = found.coef_.T, found.intercept_
    if weights.shape[1] == 1:
        weights, offsets = np.hstack([-weights, weights]) / 2, np.concatenate([-offsets, offsets]) / 2
    return weights, offsets
