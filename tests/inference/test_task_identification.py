"""Identification: each way finds its tasks, rejects what is none's, keeps its state, and refuses what is damaged."""

import numpy as np
import pytest

from clora_exp.errors import StoreError
from clora_exp.inference import identification
from clora_exp.inference.identification import UNKNOWN, WAYS, Identification, TaskTexts, check_way, learned

WORDS = {"wine": ["grape", "barrel", "vintage"], "cars": ["engine", "wheel", "petrol"]}
STRANGE = ["cloud", "rain", "storm", "wind"]


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(["the", *rng.choice(words, size=3), "is", "a"]) for _ in range(count)]


TASKS = {
    name: TaskTexts(
        f"about {' '.join(words)}", texts(words, 30, 1), [str(i % 2) for i in range(30)], texts(words, 80, 2)
    )
    for name, words in WORDS.items()
}


def features(batch) -> np.ndarray:
    """What a base that knows these words would see: how often each occurs, and a constant."""
    every = [*WORDS["wine"], *WORDS["cars"], *STRANGE]
    return np.array([[*(text.split().count(word) for word in every), 0.3] for text in batch], dtype=np.float32)


@pytest.fixture(scope="module")
def ways() -> dict[str, Identification]:
    return {way: learned(way, TASKS, texts(STRANGE, 60, 3), features) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_texts_of_tasks_are_found_and_others_are_unknown(ways, way) -> None:
    for name, words in WORDS.items():
        found = ways[way].find(texts(words, 40, 4), features)
        assert np.mean([one.task == name for one in found]) > 0.9
        assert all(one.best == name for one in found)
    strange = ways[way].find(texts(STRANGE, 40, 5), features)
    assert np.mean([one.task == UNKNOWN for one in strange]) > 0.9


@pytest.mark.parametrize("way", WAYS)
def test_the_threshold_gives_up_the_share_of_validation_texts_that_it_says(ways, way) -> None:
    validation = [text for task in TASKS.values() for text in task.validation]
    rows = ways[way].scores(validation, features)
    margins = rows[:, :-1].max(axis=1) - rows[:, -1]
    assert ways[way].threshold == pytest.approx(np.quantile(margins, identification.FALSE_UNKNOWN))
    assert np.mean(margins < ways[way].threshold) <= identification.FALSE_UNKNOWN + 1 / len(validation)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_back_answers_the_same_to_the_bit(ways, way, tmp_path) -> None:
    path = tmp_path / "identification.safetensors"
    ways[way].write(path)
    again = Identification.read(path)
    batch = [*texts(WORDS["wine"], 5, 6), "nothing that it knows", ""]
    assert again.find(batch, features) == ways[way].find(batch, features)
    assert (again.way, again.tasks, again.threshold) == (way, list(WORDS), ways[way].threshold)


@pytest.mark.parametrize("way", WAYS)
def test_probabilities_are_shares_and_sorted(ways, way) -> None:
    (found,) = ways[way].find(["the grape is a"], features)
    shares = list(found.probabilities.values())
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) < 1  # the rest is none's
    assert found.probability == found.probabilities[found.best] == shares[0]


def test_why_names_the_words(ways) -> None:
    terms = [reason.term for reason in ways["combined"].why("the grape and the barrel", "wine")]
    assert "grape" in terms
    assert "barrel" in terms
    assert ways["centroids"].why("the grape", "wine") == []
    with pytest.raises(StoreError, match="Did you mean 'wine'"):
        ways["examples"].why("the grape", "wines")


def test_a_way_that_is_none_is_named() -> None:
    with pytest.raises(StoreError, match="have: centroids, combined, descriptions, examples"):
        check_way("magic")


@pytest.mark.parametrize("damage", ["missing", "cut", "rubbish", "nan", "format"])
def test_a_damaged_state_is_one_error(ways, damage, tmp_path) -> None:
    path = tmp_path / "identification.safetensors"
    ways["examples"].write(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "rubbish":
        path.write_bytes(b"rubbish" * 20)
    elif damage == "nan":
        path.write_bytes(content[:-8] + b"\xff" * 8)
    else:
        path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    words = {"missing": "has been learned", "nan": "NaN", "format": "has format 9"}.get(damage, "cannot be read")
    with pytest.raises(StoreError, match=words):
        Identification.read(path)
