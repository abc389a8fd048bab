"""TF-IDF scores against scikit-learn's own pipeline, and the reasons that sum up to them."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from clora_exp.inference.words import Words, regression

RED, GREEN, BLUE = (
    ["red wine, red meat", "a red car!", "red (again)"],
    ["green tea", "so green", "a green car"],
    ["blue", "blue sky", "the sea"],
)
OPTIONS = {"sublinear_tf": True, "strip_accents": "unicode", "token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}


def test_similarity_is_the_cosine_of_tf_idf_rows() -> None:
    documents = {"wine": "red wine and white wine", "cars": "a red car, a blue car", "tea": "green tea"}
    vectorizer = TfidfVectorizer(**OPTIONS).fit(documents.values())
    texts = ["red wine", "a blue car", "nothing of it"]
    expected = cosine_similarity(vectorizer.transform(texts), vectorizer.transform(documents.values()))
    np.testing.assert_allclose(Words.similar(documents).scores(texts), expected, atol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_separation_is_the_logistic_regression_of_scikit_learn(num_classes: int) -> None:
    texts = [*RED, *GREEN, *(BLUE if num_classes == 3 else [])]
    classes = np.repeat(np.arange(num_classes), 3)
    words = Words.separating(texts, classes)
    scores = words.scores(["a red sky", "tea (green)"])
    vectorizer = TfidfVectorizer(**OPTIONS)
    model = LogisticRegression(C=10.0, max_iter=3000, class_weight="balanced").fit(
        vectorizer.fit_transform(texts), classes
    )
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        shares, model.predict_proba(vectorizer.transform(["a red sky", "tea (green)"])), atol=1e-9
    )


def test_reasons_are_what_each_term_adds_to_a_score_over_the_mean() -> None:
    words = Words.separating([*RED, *GREEN, *BLUE], np.repeat(np.arange(3), 3))
    reasons = words.why("a red car", 0, most=100)
    assert reasons[0].term == "red"
    assert [r.amount for r in reasons] == sorted((r.amount for r in reasons), reverse=True)
    against = words.directions - words.directions.mean(axis=1, keepdims=True)
    row = words._rows(["a red car"]).toarray()[0]
    every = {term: float(row[i] * against[i, 0]) for i, term in enumerate(words.terms) if row[i]}
    assert {r.term: pytest.approx(r.amount) for r in reasons} == {t: v for t, v in every.items() if v > 0}
    scores = words.scores(["a red car"])[0] - words.offsets
    assert sum(every.values()) == pytest.approx(scores[0] - scores.mean())


def test_two_classes_have_the_same_probabilities_as_one_direction() -> None:
    rng = np.random.default_rng(0)
    rows, classes = rng.normal(size=(40, 3)), np.arange(40) % 2
    weights, offsets = regression(rows, classes, 1.0)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=3000).fit(rows, classes)
    scores = rows @ weights + offsets
    np.testing.assert_allclose(
        1 / (1 + np.exp(scores[:, 0] - scores[:, 1])), model.predict_proba(rows)[:, 1], atol=1e-9
    )
