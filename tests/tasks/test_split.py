from collections import Counter

import pytest

from clora_exp.errors import DataError
from clora_exp.tasks.split import PerClass, distinct, grouped_splits, mask
from clora_exp.tasks.stream import Example


def _examples(num_groups: int = 12, per_group: int = 5) -> list[Example]:
    return [
        Example(f"{label}{g}.{k}", f"text {label} {g} {k}", label, group=f"{label}{g}")
        for label in "xyz"
        for g in range(num_groups)
        for k in range(per_group)
    ]


def test_splits_share_no_group_and_are_balanced() -> None:
    splits = grouped_splits("t", _examples(), PerClass(20, 5, 10), data_seed=0)
    groups = [{e.group for e in splits[name]} for name in ("train", "validation", "test")]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    for name, count in (("train", 20), ("validation", 5), ("test", 10)):
        assert Counter(e.label for e in splits[name]) == {"x": count, "y": count, "z": count}


def test_splits_depend_on_the_seed_and_not_on_the_order_of_the_examples() -> None:
    sizes = PerClass(20, 5, 10)
    one = grouped_splits("t", _examples(), sizes, data_seed=0)
    assert grouped_splits("t", _examples()[::-1], sizes, data_seed=0) == one
    assert grouped_splits("t", _examples(), sizes, data_seed=1) != one


def test_no_large_group_dominates_a_split() -> None:
    big = [Example(f"big{k}", f"big {k}", "x", group="big") for k in range(1000)]
    for seed in range(20):
        splits = grouped_splits("t", _examples() + big, PerClass(20, 5, 10), data_seed=seed)
        for rows in splits.values():
            groups = Counter(e.group for e in rows if e.label == "x")
            assert len(groups) >= 3
            assert max(groups.values()) <= -(-len(rows) // 3 // len(groups)) + 1  # taken in turn


def test_a_class_of_few_groups_is_still_split_where_it_can_be() -> None:
    rows = [
        Example(f"{g}.{k}", f"{g} {k}", "x", g) for g, size in (("a", 30), ("b", 9), ("c", 12)) for k in range(size)
    ]
    splits = grouped_splits("t", rows, PerClass(8, 5, 5), data_seed=0)
    assert [len({e.group for e in splits[name]}) for name in ("train", "validation", "test")] == [1, 1, 1]


def test_a_class_with_too_few_groups_is_one_clear_error() -> None:
    with pytest.raises(DataError, match=r"task 't', class 'x': 20 train examples wanted, \d+ there"):
        grouped_splits("t", _examples(num_groups=3), PerClass(20, 5, 10), data_seed=0)


def test_distinct_keeps_a_text_once_and_drops_a_text_with_two_labels() -> None:
    rows = [
        Example("1", "The Same, text 1.0", "x", "a"),
        Example("2", "the same text", "x", "b"),
        Example("3", "both", "x", "a"),
        Example("4", "Both!", "y", "c"),
        Example("5", "123", "x", "a"),
    ]
    assert [e.id for e in distinct(rows)] == ["1"]


def test_mask_hides_names_in_any_case_and_punctuation_but_not_inside_words() -> None:
    assert (
        mask("Under the Apache-License 2.0 or apache license_2_0.", ["apache license 2.0"]) == "Under the ___ or ___."
    )
    assert mask("permit MIT submit", ["mit"]) == "permit ___ submit"
    assert mask("import json; json_dumps = json.dumps", ["json"]) == "import ___; ____dumps = ___.dumps"
    assert mask("as is", ["is"]) == "as is"


def test_a_class_with_little_material_has_fewer_training_examples_and_full_held_out_splits() -> None:
    scarce = [e for e in _examples() if e.label != "x" or int(e.group[1:]) < 6]  # 30 of x, 60 of y and z
    splits = grouped_splits("t", scarce, PerClass(20, 5, 10), data_seed=0)
    for name, count in (("validation", 5), ("test", 10)):
        assert Counter(e.label for e in splits[name]) == {"x": count, "y": count, "z": count}
    found = Counter(e.label for e in splits["train"])
    assert (found["y"], found["z"]) == (20, 20)
    assert 10 <= found["x"] < 20
