"""The user's own folders: layouts that are none, labels and splits that do not fit, images that cannot be read."""

import csv
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from bad_cases import Case, Place, Words, emptied, garbage, truncated, without_privileges

LABELS = {"a": ["cat", "dog", "bird"], "b": ["iron", "gold", "tin"]}
SIZES = {"train": 24, "validation": 6, "test": 12}


def write_ready(ready: Path) -> None:
    """Write two tasks as tables, and two as folders of images."""
    from PIL import Image

    for task, labels in LABELS.items():
        for start, (split, size) in enumerate(SIZES.items()):
            words = [labels[i % 3] for i in range(size)]
            write(
                ready / "data" / task / f"{split}.csv", [(f"{w} one {100 * start + i}", w) for i, w in enumerate(words)]
            )
            for i in range(8):
                path = ready / "images" / task / split / labels[i % 2] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (100 * (i % 2), 10 * i, 50 * start)).save(path)


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> None:
    """Write a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.StringIO()
    csv.writer(packed, lineterminator="\n").writerows([header, *rows])
    path.write_text(packed.getvalue(), encoding="utf-8")


def _table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        for task in LABELS:
            for path in sorted((data / task).iterdir()):
                path.unlink()
            (data / task).rmdir()
        write(data / "all.csv", rows, header)

    return change


def _shown(change: Callable[[Path], object]) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        change(place.copy("data"))
        return place.run_py()

    return make


def _of_images(change: Callable[[Path], object]) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        change(place.copy("images"))
        own = [f"model.path={place.copy('vit')}", f"tasks.path={place.folder / 'images'}", "tasks=files", "model=vit"]
        small = ["trainer.accelerator=cpu", "trainer.epochs=1", "method=lora", "method.rank=4", "report=false"]
        return ["run.py", *own, *small, "results_dir=runs"]

    return make


def _png(width: int, height: int) -> bytes:
    """Return a PNG whose header promises so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def _image(content: bytes | None, damage: Callable[[Path], None] | None = None) -> Callable[[Place], Words]:
    def change(images: Path) -> None:
        path = images / "a" / "train" / "cat" / "0.png"
        if content is not None:
            path.write_bytes(content)
        if damage:
            damage(path)

    return _of_images(change)


def _link(path: str, target: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        if (data / path).exists():
            (data / path).unlink()
        (data / path).symlink_to(target.replace("HERE", str(data)))

    return change


def _moved(path: str, target: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        (data / target).parent.mkdir(parents=True, exist_ok=True)
        (data / path).rename(data / target)

    return change


def _folder_for_file(data: Path) -> None:
    (data / "a" / "train.csv").unlink()
    (data / "a" / "train.csv").mkdir()


def _no_permission(path: str) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        place.copy("data")
        words = place.run_py()
        (place.folder / "data" / path).chmod(0)
        without_privileges()
        return words

    return make


def _fifo(data: Path) -> None:
    (data / "a" / "train.csv").unlink()
    os.mkfifo(data / "a" / "train.csv")


def _test_label(data: Path) -> None:
    write(data / "a" / "test.csv", [("cat 1", "cat"), ("fox 1", "fox"), ("fox 2", "fox")])


def _validation_label(data: Path) -> None:
    write(data / "a" / "validation.csv", [("cat 1", "cat"), ("fox 1", "fox")])


def _path(value: str) -> Callable[[Place], Words]:
    return lambda place: place.run_py(f"tasks.path={value.replace('HERE', str(place.folder))}")


SPLIT = ("task", "split", "text", "label")
FOLDERS: tuple[tuple[str, Callable[[Place], Words], str], ...] = (
    ("nothing there", _path("HERE/nowhere"), "nowhere: no such file or folder"),
    ("a file that is no table", _path("HERE/model/config.json"), "config.json: no table"),
    ("a folder without data", _path("HERE/model"), "holds no data"),
    ("a path of 300 letters", _path("x" * 300), "tasks.path=xxx"),
    ("a device", _path("/dev/null"), "tasks.path=/dev/null"),
    ("no train split", _shown(_moved("a/train.csv", "a/trian.csv")), "no train split; looked for"),
    ("no test split", _shown(_moved("a/test.csv", "a/tset.csv")), "no test split; looked for"),
    ("a split twice", _shown(_moved("a/validation.csv", "a/train.jsonl")), "are both train; keep one"),
    ("a table beside the folders", _shown(_moved("b/validation.csv", "all.csv")), "the table all.csv"),
    ("a task in the place of tasks", _path("HERE/data/a"), "put them into"),
    ("a task's name with a blank", _shown(_moved("a", "a task")), "its name becomes a folder's"),
    ("a task called init", _shown(_moved("a", "init")), "no task can be called 'init'"),
    ("a task called after", _shown(_moved("a", "after")), "no task can be called 'after'"),
    ("a folder called train.csv", _shown(_folder_for_file), "no train split; looked for"),
    ("a pipe called train.csv", _shown(_fifo), "train.csv"),
    ("a link to itself", _shown(_link("a/train.csv", "HERE/a/train.csv")), "train.csv"),
    ("links in a ring", _shown(lambda d: (_link("a/train.csv", "HERE/a/x.csv")(d), _link("a/x.csv", "HERE/a/train.csv")(d))), "train"),  # noqa: E501
    ("a link to nowhere", _shown(_link("a/train.csv", "HERE/nowhere.csv")), "train.csv"),
    ("a link out of the folder", _shown(_link("a/train.csv", "/etc/passwd")), "is a link that leads out of"),
    ("a task that links to its parent", _shown(_link("c", "HERE")), "task 'c': no train split"),
    ("a table nobody may read", _no_permission("a/train.csv"), "train.csv: cannot be read: Permission denied"),
    ("a folder nobody may list", _no_permission("a"), "Permission denied"),
    ("labels in test alone", _shown(_test_label), "label 'fox' does not occur in training"),
    ("labels in validation alone", _shown(_validation_label), "label 'fox' does not occur in training"),
    ("one table: no column task", _shown(_table([("cat 1", "cat")], ("text", "label"))), "no column 'task'"),
    ("one table: a split of another name", _shown(_table([("a", "tset", "x", "cat")], SPLIT)), "unknown split 'tset'"),
    ("one table: train alone", _shown(_table([("a", "train", "x", "cat")], SPLIT)), "has no test rows"),
    ("one table: an empty split", _shown(_table([("a", "", "x", "cat")], SPLIT)), "split is empty"),
    ("one table: no task", _shown(_table([("", "train", "x", "cat")], SPLIT)), "task is empty"),
    ("one table: a task's name leads out", _shown(_table([("../../x", "train", "x", "cat")], SPLIT)), "'../../x'"),
    ("one table: a task called .", _shown(_table([(".", "train", "x", "cat")], SPLIT)), "task '.'"),
    ("one table: a name of 300 letters", _shown(_table(
        [("x" * 300, s, f"{w} {s} {i}", w) for s in SIZES for i in range(4) for w in ("cat", "dog")], SPLIT)), "xxx"),
    ("one table: two rows", _shown(_table([("a", "x", "cat"), ("a", "y", "dog")], ("task", "text", "label"))), "task 'a'"),  # noqa: E501
    ("a group in two splits", _shown(_table(
        [("a", s, f"{w} {s} {i}", w, "g") for s in SIZES for i in range(4) for w in ("cat", "dog")],
        (*SPLIT, "group"))), "group 'g' stands in both"),
    ("free-form answers for an encoder", _shown(_table(
        [("a", s, f"ask {s} {i}", "say") for s in SIZES for i in range(4)], ("task", "split", "prompt", "response"))),
        "have no labels"),
    ("every row the same", _shown(_table([("a", "cat", w) for w in ("cat", "dog") for _ in range(9)],
        ("task", "text", "label"))), "task 'a'"),
)  # fmt: skip
BOMB = _png(60_000, 60_000)
IMAGES: tuple[tuple[str, Callable[[Place], Words], str], ...] = (
    ("a text", _image(b"no image"), "a/train/cat/0.png: no image that can be read"),
    ("empty", _image(None, emptied), "a/train/cat/0.png: no image that can be read"),
    ("random bytes", _image(None, garbage), "a/train/cat/0.png: no image that can be read"),
    ("truncated", _image(None, truncated), "0.png"),
    ("pixels too few", _image(_png(64, 64)), "0.png"),
    ("3.6 billion pixels", _image(BOMB), "pixels"),
    ("more pixels than a file can have", _image(_png(2**31 - 1, 2**31 - 1)), "0.png"),
    ("no width", _image(_png(0, 16)), "0.png"),
    ("SVG", _image(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "no image that can be read"),
    ("PostScript", _image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no image that can be read"),
    ("a folder called 0.png", _image(None, lambda p: (p.unlink(), p.mkdir())), "0.png"),
    ("a link to itself", _image(None, lambda p: (p.unlink(), p.symlink_to(p))), "0.png"),
    ("a link out of the folder", _image(None, lambda p: (p.unlink(), p.symlink_to("/etc/passwd"))), "link"),
    ("a label without images", _of_images(lambda d: (d / "a/train/owl").mkdir()), "a/train/owl: holds no images"),
    ("images without labels", _of_images(_moved("a/train/cat/0.png", "a/train/0.png")), "a/train/0.png"),
    ("a label in test alone", _of_images(_moved("a/test/cat", "a/test/owl")), "label 'owl' does not occur"),
    ("images and a table", _of_images(lambda d: write(d / "b" / "dev.csv", [("x", "y")])), "are both validation"),
    ("texts for an image model", lambda p: [*_of_images(str)(p), f"tasks.path={p.copy('data')}"], "texts"),
    ("images for a text model", lambda p: p.run_py(f"tasks.path={p.copy('images')}"), "are images"),
)


def cases() -> list[Case]:
    """Return the cases."""
    found = [Case("folders", what, what, make, says) for what, make, says in FOLDERS]
    return found + [Case("images", what, f"an image: {what}", make, says) for what, make, says in IMAGES]
