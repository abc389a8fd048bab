"""The real data: balanced, split by group, masked, the same every time."""

import re
from collections import Counter

import pytest

from clora_exp.compose import compose_experiment
from clora_exp.tasks.sources import icd10, libraries, licences
from clora_exp.tasks.stream import SPLITS, TaskStream, load_stream

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    return load_stream(compose_experiment([]).tasks, 0)


def test_sizes_are_as_documented_and_classes_are_balanced(stream: TaskStream) -> None:
    sizes = {task.name: [len(task.split(s)) for s in SPLITS] for task in stream}
    assert sizes == {"medical": [1680, 399, 798], "legal": [2200, 360, 720], "code": [1008, 288, 720]}
    assert [len(task.labels) for task in stream] == [21, 6, 12]
    for task in stream:
        for split in SPLITS:
            counts = task.label_counts(split)
            if (task.name, split) == ("legal", "train"):  # 34 licences put works into the public domain
                assert counts.pop("public domain") == 200
            assert len(set(counts.values())) == 1


def test_no_group_and_no_text_stands_in_two_splits(stream: TaskStream) -> None:
    for task in stream:
        for what in ("group", "text", "id"):
            seen = Counter(value for s in SPLITS for value in {getattr(e, what) for e in task.split(s)})
            assert set(seen.values()) == {1}, (task.name, what)


def test_groups_are_categories_licences_and_files(stream: TaskStream) -> None:
    medical, legal, code = stream
    assert all(e.id.startswith(e.group) and len(e.group) == 3 for e in medical.train)
    assert all(e.group.endswith(".py") and e.id.startswith(e.group) for e in code.train)
    assert len({e.group for e in legal.train}) > 100


def test_code_comes_from_many_files_of_every_library_and_not_from_its_tests(stream: TaskStream) -> None:
    code = stream.tasks[2]
    for library, (folder, _) in libraries.LIBRARIES.items():
        groups = {e.group for e in code.train if e.label == library}
        assert len(groups) >= 20, library
        assert all(group.startswith(f"{folder}/") for group in groups)
    assert not any(re.search(r"(^|/)tests?/", e.group) for s in SPLITS for e in code.split(s))


def test_the_names_that_give_a_label_away_are_masked(stream: TaskStream) -> None:
    _, legal, code = stream
    for example in [e for s in SPLITS for e in code.split(s)]:
        parts = {part.strip("_") for part in example.group.removesuffix(".py").split("/")} - {"init"}
        for name in (part for part in {*parts, example.label} if len(part) >= 3):
            assert not re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", example.text, re.IGNORECASE), example.id
        for abbreviation in libraries.LIBRARIES[example.label][1].split():
            assert not re.search(rf"\b{abbreviation}\.", example.text), example.id
    for example in [e for s in SPLITS for e in legal.split(s)]:
        assert not re.search(r"https?://|public domain|\bpermissive\b|\bcopyleft\b", example.text, re.IGNORECASE)
    assert sum("___" in e.text for e in legal.train) > 300


def test_no_file_licence_or_category_fills_a_split(stream: TaskStream) -> None:
    for task in stream:
        for split in SPLITS:
            for label in task.labels:
                groups = Counter(e.group for e in task.split(split) if e.label == label)
                assert len(groups) >= 2, (task.name, split, label)
                assert max(groups.values()) <= 0.55 * sum(groups.values()), (task.name, split, label)


def test_another_seed_draws_another_sample_and_the_same_seed_the_same(stream: TaskStream) -> None:
    config = icd10.Config()
    again, other = icd10.tasks(config, 0)[0], icd10.tasks(config, 1)[0]
    assert again.sha256 == stream.tasks[0].sha256
    assert other.sha256 != again.sha256


def test_raw_material_has_a_fingerprint() -> None:
    prints = [source.fingerprint(source.Config()) for source in (icd10, licences, libraries)]
    assert len(set(prints)) == 3
    assert all(len(value) == 64 for value in prints)
    assert prints == [source.fingerprint(source.Config()) for source in (icd10, licences, libraries)]
