"""Lines of a pipe as requests."""

import pytest

from clora_exp.inference.engine import Request
from clora_exp.inference.requests import Line, read_lines


def test_a_line_is_a_text_or_an_object_with_its_own_task() -> None:
    lines = ["red cat\n", '{"text": "one", "task": "numbers", "version": "v2", "id": 7}\n', "[a list] is a text"]
    assert list(read_lines(lines, "auto", "current")) == [
        Line(Request("auto", "red cat", "current")),
        Line(Request("numbers", "one", "v2"), 7),
        Line(Request("auto", "[a list] is a text", "current")),
    ]


@pytest.mark.parametrize("before", ["\ufeff", "  ", "\ufeff\t"])
def test_an_object_behind_a_mark_of_the_byte_order_or_white_space_is_one(before: str) -> None:
    assert next(read_lines([before + '{"text": "one", "task": "numbers"}'], "colours", "v1")).request.task == "numbers"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a"', "line 2: it begins as a JSON object and is none"),
        ('{"txt": "a"}', "line 2: unknown key 'txt'; have: text, task, version, id"),
        ('{"task": "a"}', "line 2: no text in it"),
        ('{"text": 3}', "line 2: text=3 is no string"),
        ('{"text": "a", "task": null}', "line 2: task=None is no string"),
        ("\n", "line 2: no text in it"),
    ],
)
def test_a_line_that_cannot_be_read_says_why_and_the_others_are_read(line: str, problem: str) -> None:
    first, second, third = read_lines(["good", line, "too"], "auto", "current")
    assert second.problem.startswith(problem)
    assert [first, third] == [Line(Request("auto", "good")), Line(Request("auto", "too"))]


def test_the_id_of_an_object_without_a_text_is_kept() -> None:
    assert next(read_lines(['{"id": 3}'], "auto", "current")).id == 3
