"""The user's tables in every format: what is written is what is read, and what cannot be read is a DataError."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from clora_exp.errors import DataError
from clora_exp.tasks.names import in_order
from clora_exp.tasks.sources import files
from clora_exp.tasks.stream import Example, Task
from clora_exp.tasks.tables import Problems, rows

Table = list[dict[str, str]]
odd = st.sampled_from(
    [
        "a,b",
        'say "x"',
        '"',
        "two\nlines",
        "cr\rhere",
        "crlf\r\nhere",
        "NA",
        "null",
        "1.0",
        "01",
        "é",
        "\u2028",
        "\ufeffx",
    ]
)
texts = (odd | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)).filter(
    str.strip
)
FEWER = settings(max_examples=settings.default.max_examples // 3)  # of what writes files
labels = texts.map(str.strip)  # spaces around a label are no part of it


def write(path: Path, table: Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]), quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(table)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(table), path)


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Table]:
    """Train, validation and test rows of one task, each with text, label, id and group."""
    known = draw(st.lists(labels, min_size=2, max_size=4, unique=True))
    found: dict[str, Table] = {}
    for split in ("train", "validation", "test"):
        ids = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
        label = st.just(known) if split == "train" else st.lists(st.sampled_from(known), min_size=4, max_size=4)
        answers = draw(label)
        found[split] = [
            {"text": draw(texts), "label": answers[i % len(answers)], "id": name, "group": split + draw(texts)}
            for i, name in enumerate(ids)
        ]
    used = {row["label"] for row in found["train"]}
    for split in ("validation", "test"):
        assume(all(row["label"] in used for row in found[split]))
    return found


def expected(table: Table) -> list[Example]:
    return [Example(row["id"], row["text"], row["label"], row["group"]) for row in table]


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("tables")


def read(path: Path) -> list[Task]:
    return files.tasks(files.Config(path=str(path)), data_seed=0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@FEWER
@given(found=splits())
def test_a_folder_of_tables_is_read_as_it_was_written(new_folder, suffix: str, found: dict[str, Table]) -> None:
    root = new_folder()
    for split, table in found.items():
        write(root / "task" / f"{split}.{suffix}", table)
    (task,) = read(root)
    assert {split: task.split(split) for split in found} == {split: expected(table) for split, table in found.items()}
    assert task.labels == in_order(row["label"] for row in found["train"])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@FEWER
@given(
    of_tasks=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,6}", fullmatch=True), splits(), min_size=1, max_size=2
    )
)
def test_one_table_of_several_tasks_is_read_as_it_was_written(new_folder, suffix: str, of_tasks: dict) -> None:
    every = [
        {**row, "task": name, "split": split}
        for name, found in of_tasks.items()
        for split, table in found.items()
        for row in table
    ]
    path = new_folder() / f"every.{suffix}"
    write(path, every)
    made = read(path)
    assert [task.name for task in made] == in_order(of_tasks)
    for task in made:
        assert {s: task.split(s) for s in of_tasks[task.name]} == {
            s: expected(t) for s, t in of_tasks[task.name].items()
        }


def is_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    problems = Problems(path.name)
    try:
        for line, row in rows(path, problems, ["text", "label"]):
            assert line >= 1
            json.dumps(row, ensure_ascii=False).encode()  # what is read can be written
        problems.check()
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert not message or message.startswith(path.name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@given(content=st.binary(max_size=60) | st.text('"{}[],:\n\r\\u0d81eE.-', max_size=40).map(str.encode))
@example(content=b'{"text": "\\ud800"}\n')
@example(content=b'{"text": ' + b"1" * 5000 + b"}\n")
@example(content=b"[" * 100_000)
def test_whatever_a_table_holds_it_is_read_or_refused_by_name(new_folder, suffix: str, content: bytes) -> None:
    is_read_or_refused(new_folder() / f"some.{suffix}", content)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@FEWER
@given(found=splits(), data=st.data())
def test_a_table_with_a_changed_byte_is_read_or_refused_by_name(new_folder, suffix: str, found: dict, data) -> None:
    path = new_folder() / f"some.{suffix}"
    write(path, found["train"])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    is_read_or_refused(path, bytes(content))


def test_parquet_that_is_cut_or_has_a_changed_byte_is_read_or_refused_by_name(new_folder) -> None:
    """One file and chosen bytes: what is in the library's own hands is not ours to search."""
    path = new_folder() / "some.parquet"
    write(path, [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)])
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        is_read_or_refused(path, content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
    for length in range(0, len(content), 40):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"some\.parquet: no Parquet file"):
            list(rows(path, Problems(path.name), ["text", "label"]))


@given(st.lists(texts), st.randoms(use_true_random=False))
def test_names_have_one_order_whatever_order_they_come_in(names: list[str], random) -> None:
    ordered = in_order(names)
    assert sorted(ordered) == sorted(set(names))
    random.shuffle(names)
    assert in_order(names) == ordered
    assert in_order(reversed(ordered)) == ordered


@given(st.sets(st.integers(-(10**17), 10**17)))
def test_names_that_are_integers_are_in_the_order_of_numbers(numbers: set[int]) -> None:
    assert in_order(map(str, numbers)) == [str(number) for number in sorted(numbers)]
