"""Lines of a pipe as requests."""

import pytest

from clora_exp.errors import DataError
from clora_exp.inference.engine import Request
from clora_exp.inference.requests import Line, read_lines


def test_a_line_is_a_text_or_an_object_with_its_own_task() -> None:
    lines = ["red cat\n", "\n", '{"text": "one", "task": "numbers", "version": "v2", "id": 7}\n', "[a list] is a text"]
    assert list(read_lines(lines, "auto", "current")) == [
        Line(Request("auto", "red cat", "current")),
        Line(Request("numbers", "one", "v2"), 7),
        Line(Request("auto", "[a list] is a text", "current")),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 2 begins as a JSON object and is none"),
        ('{"txt": "a"}', "line 2: unknown key 'txt'; have: text, task, version, id"),
        ('{"task": "a"}', "line 2: no text in it"),
        ('{"text": 3}', "line 2: text=3 is no string"),
        ('{"text": "a", "task": null}', "line 2: task=None is no string"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_lines(["good", line], "auto", "current"))
