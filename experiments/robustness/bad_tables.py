"""The user's own tables that cannot be read, byte by byte and row by row: CSV, JSON Lines, Parquet."""

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

from bad_cases import Case, Place, Words, truncated

HEAD = b"text,label\n"
ROWS = b"".join(b"%s %d,%s\n" % (word, i, word) for i in range(8) for word in (b"cat", b"dog", b"bird"))
GOOD = HEAD + ROWS
LINES = b"".join(
    json.dumps({"text": f"{word} {i}", "label": word}).encode() + b"\n" for i in range(8) for word in ("cat", "dog")
)
BOM = "\ufeff".encode()
HUGE = 50 * 2**20
CSV: tuple[tuple[str, bytes, str], ...] = (
    ("empty", b"", "a/train.csv: holds no rows"),
    ("only an end of line", b"\n", "a/train.csv: holds no rows"),
    ("header alone", HEAD, "a/train.csv: holds no rows"),
    ("no header", ROWS, "a/train.csv: no column 'text'"),
    ("NUL bytes in a cell", HEAD + b"cat\0 1,cat\n" + ROWS, "line 2"),
    ("NUL bytes alone", b"\0" * 5000, "line 1: no text: a NUL byte"),
    ("no UTF-8", HEAD + "größe,cat\n".encode("latin-1") + ROWS, "line 2: no UTF-8: byte 0xf6"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "line 1: no UTF-8"),
    ("UTF-16 without a mark", GOOD.decode().encode("utf-16-le"), "a/train.csv"),
    ("UTF-32", GOOD.decode().encode("utf-32"), "a/train.csv"),
    ("an overlong encoding of UTF-8", HEAD + b"\xc0\xaf,cat\n" + ROWS, "line 2: no UTF-8"),
    ("half of a surrogate pair", HEAD + b"\xed\xa0\x80,cat\n" + ROWS, "line 2: no UTF-8"),
    ("old ends of lines, CR alone", GOOD.replace(b"\n", b"\r"), "a/train.csv"),
    ("semicolons", GOOD.replace(b",", b";"), "no column 'text'"),
    ("tabs", GOOD.replace(b",", b"\t"), "no column 'text'"),
    ("a quote that is never closed", HEAD + b'"cat 1,cat\n' + ROWS, "line 2: no CSV: a quote is opened and never"),
    ("a word after a quote", HEAD + b'"cat" 1,cat\n' + ROWS, "line 2: no CSV"),
    ("a field too many", HEAD + ROWS + b"cat,cat,cat\n", "line 26: no CSV: 2 fields wanted"),
    ("a field too few", HEAD + b"cat\n" + ROWS, "line 2: no CSV: 2 fields wanted"),
    ("rows of every length", HEAD + b"a\nb,c,d\ne,f,g,h\n" + ROWS, "and 2 more lines like it"),
    ("two columns of one name", b"text,label,label\ncat 1,cat,dog\n", "two columns are called 'label'"),
    ("two columns without a name", b"text,label,,\ncat 1,cat,1,2\n", "two columns are called ''"),
    ("no label column", b"text,class\ncat 1,cat\n", "no column 'label'; have: text, class"),
    ("no text column", b"texts,label\ncat 1,cat\n", "Did you mean 'texts'?"),
    ("columns in other case", b"Text,Label\ncat 1,cat\n", "Did you mean 'Text'?"),
    ("a blank in the header", b"text, label\ncat 1,cat\n", "no column 'label'"),
    ("an empty label", HEAD + b"cat 1,\n" + ROWS, "line 2: label is empty"),
    ("a label of blanks", HEAD + b"cat 1,   \n" + ROWS, "line 2: label is empty"),
    ("an empty text", HEAD + b",cat\n" + ROWS, "line 2: text is empty"),
    ("every label empty", HEAD + b"cat,\ndog,\n", "and 1 more line like it"),
    ("an id twice", b"id,text,label\n1,cat,cat\n2,dog,dog\n1,cat 2,cat\n", "id '1' stands in line 2 already"),
    ("one class", HEAD + b"cat 1,cat\ncat 2,cat\ncat 3,cat\n", "label"),
    ("gzip under the name of CSV", gzip.compress(GOOD), "line 1: no "),
    ("half of a gzip file", gzip.compress(GOOD)[:40], "line 1: no "),
    ("a line of 50 MB without a comma", HEAD + b"x" * HUGE + b"\n", "line 2: no CSV: 2 fields wanted"),
    ("a header of 50 MB", b"x" * HUGE + b"\ncat,cat\n", "a/train.csv"),
    ("fifty thousand columns", b",".join(b"c%d" % i for i in range(50_000)) + b"\n1\n", "a/train.csv"),
    ("a page of HTML", b"<html><body>Not found</body></html>\n", "a/train.csv"),
    (
        "a pointer in place of the file",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "a/train",
    ),
)
JSONL: tuple[tuple[str, bytes, str], ...] = (
    ("empty", b"", "a/train.jsonl: holds no rows"),
    ("empty lines alone", b"\n\n\n", "a/train.jsonl: holds no rows"),
    ("a broken line", LINES + b'{"text": "cat"\n', "line 17: no JSON"),
    ("a comma between two lines", LINES.replace(b"}\n", b"},\n"), "line 1: no JSON"),
    (
        "one array of objects",
        b"[" + LINES.replace(b"}\n", b"},")[:-1] + b"]",
        "no JSON object; each line is one object",
    ),
    ("an array a line", b'["cat 1", "cat"]\n' * 4, "line 1: no JSON object"),
    ("a number a line", b"1\n2\n", "line 1: no JSON object"),
    ("objects over several lines", b'{\n"text": "cat",\n"label": "cat"\n}\n', "line 1: no JSON"),
    ("an object as text", LINES + b'{"text": {"a": 1}, "label": "cat"}\n', "line 17: text is a dict"),
    ("a list as label", LINES + b'{"text": "x", "label": ["cat"]}\n', "line 17: label is a list"),
    ("null as label", LINES + b'{"text": "x", "label": null}\n', "line 17: label is empty"),
    ("NaN as label", LINES + b'{"text": "x", "label": NaN}\n', "line 17: label is empty"),
    ("Infinity as label", LINES + b'{"text": "x", "label": Infinity}\n', "line 17"),
    ("no label", LINES + b'{"text": "x"}\n', "line 17: no label"),
    ("a key twice in a line", LINES + b'{"text": "x", "label": "cat", "label": "dog"}\n', "line 17"),
    ("text and number as labels", LINES + b'{"text": "x", "label": 1}\n{"text": "y", "label": "1"}\n', "label"),
    ("true and the word as labels", LINES + b'{"text": "x", "label": true}\n{"text": "y", "label": "true"}\n', "label"),
    ("half of a surrogate pair", LINES + b'{"text": "\\ud800", "label": "cat"}\n', "line 17: no Unicode"),
    ("no UTF-8", LINES + b'{"text": "\xe9", "label": "cat"}\n', "line 17: no UTF-8"),
    ("brackets a million deep", LINES + b"[" * 1_000_000 + b"\n", "line 17: no JSON: too deep"),
    ("a number of ten thousand digits", LINES + b'{"text": "x", "label": ' + b"9" * 10_000 + b"}\n", "line 17"),
    ("an object of 50 MB that is not closed", LINES + b'{"text": "' + b"x" * HUGE + b"\n", "line 17: no JSON"),
    ("Python's own notation", b"{'text': 'cat', 'label': 'cat'}\n", "line 1: no JSON"),
    ("an id twice", b'{"id": 7, "text": "a", "label": "b"}\n{"id": 7, "text": "c", "label": "b"}\n', "id '7' stands"),
)


def _of_bytes(name: str, content: bytes, command: str) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        folder = place.copy("data") / "a"
        (folder / "train.csv").unlink()
        (folder / name).write_bytes(content)
        if command == "run.py":
            return place.run_py()
        return ["clora_exp.tasks", command, "files", *(["out"] * (command == "export")), f"tasks.path={folder.parent}"]

    return make


def _parquet(columns: dict[str, Sequence[Any]] | None, damage: Callable[..., None] | None = None) -> Callable:
    def make(place: Place) -> Words:
        import pyarrow
        from pyarrow.parquet import write_table

        folder = place.copy("data") / "a"
        (folder / "train.csv").unlink()
        good = {"text": [f"cat {i}" for i in range(999)], "label": ["cat", "dog", "bird"] * 333}
        write_table(pyarrow.table(good if columns is None else columns), folder / "train.parquet")
        if damage:
            damage(folder / "train.parquet")
        return place.run_py()

    return make


def _flip_in_page(path: Any) -> None:
    content = bytearray(path.read_bytes())
    for i in range(40, 80):
        content[i] ^= 0xFF
    path.write_bytes(content)


PARQUET: tuple[tuple[str, Callable[[Place], Words], str], ...] = (
    ("no Parquet", _of_bytes("train.parquet", GOOD, "run.py"), "a/train.parquet: no Parquet file"),
    ("empty", _of_bytes("train.parquet", b"", "run.py"), "a/train.parquet: no Parquet file"),
    ("magic bytes alone", _of_bytes("train.parquet", b"PAR1" * 3, "run.py"), "a/train.parquet: no Parquet file"),
    ("truncated", _parquet(None, truncated), "a/train.parquet: no Parquet file"),
    ("damaged in a page", _parquet(None, _flip_in_page), "a/train.parquet"),
    ("another schema", _parquet({"x": [1.0], "y": [2.0]}), "no column 'text'"),
    ("lists as text", _parquet({"text": [["a"], ["b"]], "label": ["cat", "dog"]}), "text is a list"),
    ("null as label", _parquet({"text": ["a", "b"], "label": ["cat", None]}), "row 2: label is empty"),
    ("NaN as label", _parquet({"text": ["a", "b"], "label": [1.0, float("nan")]}), "label is empty"),
    ("infinity as label", _parquet({"text": ["a", "b"], "label": [1.0, float("inf")]}), "row 2"),
    ("no rows", _parquet({"text": [], "label": []}), "a/train.parquet: holds no rows"),
    ("bytes as text", _parquet({"text": [b"\xff\xfe", b"b"], "label": ["cat", "dog"]}), "text is"),
)


def cases() -> list[Case]:
    """Return the cases."""
    found = []
    for kind, rows in (("csv", CSV), ("jsonl", JSONL)):
        for i, (what, content, says) in enumerate(rows):
            command = ("run.py", "run.py", "describe", "export")[i % 4]
            make = _of_bytes(f"train.{kind}", content, command)
            found.append(Case("tables", f"{kind}: {what}", f"a/train.{kind}: {what}", make, says))
    found += [
        Case("tables", f"parquet: {what}", f"a/train.parquet: {what}", make, says) for what, make, says in PARQUET
    ]
    good = (("csv", BOM, "a/train.csv begins with a byte order mark, which is left out"),)
    for kind, before, says in good:
        make = _marked(before)
        found.append(Case("tables", f"{kind}: a byte order mark", "three bytes before the header", make, says, True))
    return found


def _marked(before: bytes) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        path = place.copy("data") / "a" / "train.csv"
        path.write_bytes(before + path.read_bytes())
        return place.run_py()

    return make
