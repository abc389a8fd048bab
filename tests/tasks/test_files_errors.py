"""Everything that can be wrong with a user's own data is one clear line, with file and line."""

import codecs
import os
import sys

import pytest
from own_data import WORDS, error_of, image, rows_of, stream_of, write

from clora_exp.compose import compose_experiment
from clora_exp.errors import DataError
from clora_exp.tasks.stream import load_stream


def test_without_a_path_the_error_says_what_to_type() -> None:
    with pytest.raises(DataError, match=r"^tasks=files needs the place of the data: tasks\.path=FOLDER, with FOLDER/"):
        load_stream(compose_experiment(["tasks=files"]).tasks, 0)


def test_a_path_that_is_not_there_or_holds_nothing_is_named(tmp_path) -> None:
    assert error_of(tmp_path / "nowhere") == f"tasks.path={tmp_path / 'nowhere'}: no such file or folder"
    (tmp_path / "notes.txt").write_text("x")
    assert error_of(tmp_path) == (
        f"tasks.path={tmp_path}: holds no data; looked for <task>/train.csv, .jsonl, .parquet, <task>/train/<label>/ "
        "with images, and one table; have: notes.txt"
    )
    assert error_of(tmp_path / "notes.txt") == "notes.txt: no table; have: .csv, .jsonl, .parquet"


def test_a_folder_that_is_one_task_itself_is_told_where_tasks_belong(folder) -> None:
    assert error_of(folder / "legal") == (
        f"tasks.path={folder / 'legal'}: holds test.csv, train.csv itself; a task is a folder: "
        f"put them into {folder / 'legal'}/<task>/"
    )


def test_several_tables_or_a_table_beside_folders_are_ambiguous(folder, tmp_path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "tables" / f"{name}.csv", rows_of(["x"], 2))
    assert error_of(tmp_path / "tables") == (
        f"tasks.path={tmp_path / 'tables'}: holds 2 tables, a.csv, b.csv; have one with a column 'task', or a folder a "
        "task: <task>/train.csv, <task>/test.csv"
    )
    write(folder / "all.csv", rows_of(["x"], 2))
    assert error_of(folder) == (
        f"tasks.path={folder}: holds the folders legal, medical and the table all.csv; "
        f"write tasks.path={folder}/all.csv for the table, or move it away"
    )


def test_a_missing_split_lists_the_names_that_were_looked_for(folder) -> None:
    (folder / "legal" / "test.csv").rename(folder / "legal" / "tets.csv")
    assert error_of(folder) == (
        "task 'legal': no test split; looked for test.csv, test.jsonl, test.parquet and test/<label>/ with images in "
        f"{folder / 'legal'}; have: tets.csv, train.csv. Did you mean 'tets.csv'?"
    )


def test_two_files_for_one_split_are_refused(folder) -> None:
    write(folder / "medical" / "val.csv", rows_of(WORDS["medical"], 3))
    assert error_of(folder) == "task 'medical': dev.jsonl and val.csv are both validation; keep one"


def test_a_missing_column_lists_what_there_is_and_the_nearest(folder) -> None:
    write(folder / "legal" / "train.csv", [{"texts": "a", "label": "b"}])
    assert error_of(folder) == (
        "legal/train.csv: no column 'text' (or 'prompt' for free-form answers); have: texts, label. "
        "Did you mean 'texts'? Another name: tasks.files.text_column=NAME"
    )
    write(folder / "legal" / "train.csv", [{"text": "a", "class": "b"}])
    assert error_of(folder) == (
        "legal/train.csv: no column 'label'; have: text, class. Another name: tasks.files.label_column=NAME"
    )


def test_one_table_without_a_task_column_says_what_it_is_for(tmp_path) -> None:
    assert error_of(write(tmp_path / "all.csv", rows_of(["x"], 2))) == (
        "all.csv: no column 'task', which tells the tasks of one table apart; have: text, label. "
        "Another name: tasks.files.task_column=NAME"
    )


def test_a_table_whose_task_has_no_test_rows_says_which_splits_it_has(tmp_path) -> None:
    rows = [{"task": "a", "split": "train", **row} for row in rows_of(["x"], 4)]
    assert error_of(write(tmp_path / "all.csv", rows)) == (
        "all.csv: task 'a' has no test rows in column 'split'; has: train"
    )
    rows[2]["split"] = rows[3]["split"] = "tset"
    assert error_of(write(tmp_path / "all.csv", rows)) == (
        "all.csv, line 4: unknown split 'tset'; have: dev, test, train, val, valid, validation. Did you mean 'test'? "
        "(and 1 more line like it)"
    )


def test_a_task_name_that_cannot_be_a_folder_is_refused(tmp_path) -> None:
    rows = [{"task": "q & a", **row} for row in rows_of(["x"], 8)]
    assert error_of(write(tmp_path / "all.csv", rows)) == (
        "all.csv: task 'q & a': its name becomes a folder's; rename it with letters, digits, _ . and - alone, "
        "a letter or digit first"
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("jsonl", b'{"text": "a", "label": "b"}\n{"text": "a" "label"}\n{\n',
         "line 2: no JSON: Expecting ',' delimiter at column 14; each line is one object (and 1 more line like it)"),
        ("jsonl", b'{"text": "a", "label": "b", "label": "c"}\n', "line 1: key 'label' stands in it twice"),
        ("jsonl", b'{"text": "a", "label": Infinity}\n', "line 1: label is infinite"),
        ("csv", b"text,label\na\0b,c\n", "line 2: no text: a NUL byte at 2; save it as UTF-8"),
        ("jsonl", b'["a", "b"]\n', "line 1: no JSON object; each line is one object"),
        ("csv", b"text,label,gr\xf6\xdfe\na,b,c\n", "line 1: no UTF-8: byte 0xf6 at 14; save it as UTF-8"),
        ("csv", "text,label\na,b\n".encode("utf-16"), "line 1: no UTF-8: byte 0xff at 1; save it as UTF-8"),
        ("jsonl", b'{"text": "a", "label": "b"}\n{"text": ["a"], "label": "b"}\n',
         "line 2: text is a list, no text or number"),
        ("jsonl", b'{"text": "a", "label": NaN}\n', "line 1: label is empty"),
        ("jsonl", b'{"text": "a", "label": "b"}\n{"text": "\xe9", "label": "b"}\n',
         "line 2: no UTF-8: byte 0xe9 at 11; save it as UTF-8"),
        ("csv", b"text,label\na,b\nc\nd,e,f\ng,h\n",
         "line 3: no CSV: 2 fields wanted, as in the header, not 1 (and 1 more line like it)"),
        ("csv", b'text,label\n"two\nlines",b\n"c,d\n', "line 4: no CSV: a quote is opened and never closed"),
        ("csv", b'text,label\n\na,b\n"c"d,e\n', "line 4: no CSV: ',' expected after '\"'"),
        ("csv", b"text,label\na,b\n ,b\n,b\nc,\n",
         "line 3: text is empty (and 1 more line like it)\ntrain.csv, line 5: label is empty"),
        ("jsonl", b'{"text": "a", "label": "b"}\n{"text": "c"}\n{"text": "c", "label": null}\n',
         "line 2: no label (and 1 more line like it)"),
        ("jsonl", b'{"id": 7, "text": "a", "label": "b"}\n{"id": 7, "text": "c", "label": "b"}\n',
         "line 2: id '7' stands in line 1 already"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_line_is_said_with_file_line_and_how_many_more(
    name: str, content: bytes, says: str, folder
) -> None:
    (folder / "legal" / "train.csv").unlink()
    (folder / "legal" / f"train.{name}").write_bytes(content)
    assert error_of(folder).replace("legal/", "") == f"train.{name}, {says}"


def test_a_pipe_and_a_link_in_a_ring_are_refused_and_not_waited_for(folder) -> None:
    path = folder / "legal" / "train.csv"
    path.unlink()
    os.mkfifo(path)
    assert error_of(folder) == f"{path}: is no file that can be read"
    path.unlink()
    path.symlink_to(path)
    assert error_of(folder).startswith(f"tasks.path={folder}: cannot be read: {path}: ")


def test_a_byte_order_mark_is_left_out_and_said(folder) -> None:
    clean = stream_of(folder).fingerprints()
    path = folder / "legal" / "train.csv"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    marked = stream_of(folder)
    assert marked.fingerprints() == clean
    assert "legal/train.csv begins with a byte order mark, which is left out" in marked.tasks[0].notes


def test_an_empty_parquet_file_and_bytes_in_one_are_refused(folder) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    (folder / "legal" / "train.csv").unlink()
    for columns, says in (
        ({"text": [], "label": []}, ": holds no rows"),
        ({"text": [b"a"], "label": ["b"]}, ", row 1: text is a bytes, no text or number"),
    ):
        write_table(pyarrow.table(columns), folder / "legal" / "train.parquet")
        assert error_of(folder) == f"legal/train.parquet{says}"


def test_a_table_without_rows_or_with_a_column_twice_is_refused(folder) -> None:
    for content, says in (
        ("", "holds no rows"),
        ("text,label\n", "holds no rows"),
        ("text,text\na,b\n", "two columns are called 'text'"),
    ):
        (folder / "legal" / "train.csv").write_text(content)
        assert error_of(folder) == f"legal/train.csv: {says}"


def test_a_label_that_training_does_not_have_is_said_with_its_line(folder) -> None:
    write(folder / "legal" / "test.csv", [*rows_of(WORDS["legal"], 4, 100), *rows_of(["gldo"], 2), *rows_of(["x"], 1)])
    assert error_of(folder) == (
        "legal/test.csv, line 6: label 'gldo' does not occur in training; have: gold, iron, tin. "
        "Did you mean 'gold'? (and 2 more lines like it)"
    )


def test_no_label_with_two_rows_leaves_nothing_to_hold_out(tmp_path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "t" / f"{split}.csv", rows_of(["a", "b"], 2))
    assert error_of(tmp_path) == (
        "task 't': 2 training examples, no label with two groups to hold one out for validation; "
        "give more, or a validation split"
    )


def test_images_that_cannot_be_read_and_labels_not_in_train_name_the_place(tmp_path) -> None:
    for split in ("train", "test"):
        for i in range(2):
            image(tmp_path / "t" / split / "round" / f"{i}.png", i)
    image(tmp_path / "t" / "test" / "rund" / "1.png", 5)
    assert error_of(tmp_path) == (
        "t/test/rund: label 'rund' does not occur in training; have: round. Did you mean 'round'?"
    )
    (tmp_path / "t" / "test" / "rund" / "1.png").write_bytes(b"no image")
    assert error_of(tmp_path) == "t/test/rund/1.png: no image that can be read"
    image(tmp_path / "t" / "test" / "1.png", 5)
    assert error_of(tmp_path) == ("t/test/1.png: an image beside the folders of labels; put it into t/test/<label>/")
    (tmp_path / "t" / "test" / "1.png").unlink()
    (tmp_path / "t" / "test" / "rund" / "1.png").unlink()
    assert error_of(tmp_path) == "t/test/rund: holds no images; looked for .png, .jpg, .jpeg, .bmp, .webp, .gif"


def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "legal" / "train.csv").rename(folder / "legal" / "train.parquet")
    assert error_of(folder) == (
        "legal/train.parquet: Parquet needs pyarrow; run: pip install -e '.[hub]' -c constraints.txt, "
        "or save it as CSV or JSON Lines"
    )
