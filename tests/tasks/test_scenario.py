import pytest

from clora_exp.errors import ConfigError
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import Example, Task, TaskStream


def _stream(**labels: list[str]) -> TaskStream:
    def rows(name: str, split: str) -> list[Example]:
        return [Example(f"{split}{i}", "x", label, f"{name}{split}{i}") for i, label in enumerate(labels[name])]

    splits = ("train", "validation", "test")
    return TaskStream("s", [Task(n, "", "", "", labels[n], **{s: rows(n, s) for s in splits}) for n in labels])


def test_a_known_task_is_answered_among_its_own_labels() -> None:
    scenario = Scenario("task_incremental", _stream(one=["a", "b"], two=["c", "a", "d"]))
    assert [scenario.labels(t) for t in (0, 1)] == [["a", "b"], ["c", "a", "d"]]
    assert [scenario.index(t).tolist() for t in (0, 1)] == [[0, 1], [0, 1, 2]]
    assert scenario.head_sizes(True) == scenario.head_sizes(False) == [2, 3]
    assert scenario.can_answer(1, 0)


def test_classes_of_later_tasks_come_after_those_before() -> None:
    scenario = Scenario("class_incremental", _stream(one=["b", "a"], two=["c"], three=["e", "d"]))
    assert scenario.labels(0) == scenario.labels(2) == ["b", "a", "c", "e", "d"]
    assert [scenario.index(t).tolist() for t in range(3)] == [[0, 1], [2], [3, 4]]
    assert scenario.head_sizes(False) == [2, 1, 2]
    assert [scenario.can_answer(1, n) for n in range(4)] == [False, False, True, True]


def test_a_fixed_label_space_has_the_first_tasks_order_and_one_head() -> None:
    scenario = Scenario("domain_incremental", _stream(one=["b", "a"], two=["a", "b"]))
    assert scenario.labels(1) == ["b", "a"]
    assert scenario.index(1).tolist() == [1, 0]
    assert (scenario.head_sizes(False), scenario.head_sizes(True)) == ([2], [2, 2])
    assert scenario.can_answer(1, 0)


@pytest.mark.parametrize(
    ("kind", "labels", "says"),
    [
        ("task_incremental", {"one": ["a"]}, "task 'one': all 1 training examples are of one class, 'a'; a head of"),
        ("domain_incremental", {"one": ["a"]}, "task 'one': all 1 training examples are of one class"),
        ("class_incremental", {"one": ["a"]}, "the stream has one class, 'a'"),
        ("class_incremental", {"one": ["a", "b"], "two": ["b"]}, "label 'b' stands in the tasks 'one' and 'two'"),
        ("domain_incremental", {"one": ["a", "b"], "two": ["a", "c"]}, "label 'b' stands in only one of the tasks"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused_with_the_label(kind, labels, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Scenario(kind, _stream(**labels))


@pytest.mark.parametrize("kind", ["class_incremental", "domain_incremental"])
def test_written_answers_have_no_label_space(kind) -> None:
    rows = {s: [Example(s, "x", "an answer", s)] for s in ("train", "validation", "test")}
    with pytest.raises(ConfigError, match="task 'one' is free-form, it has no labels to choose among"):
        Scenario(kind, TaskStream("s", [Task("one", "", "", "", [], **rows)]))
