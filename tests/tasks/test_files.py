"""The user's own data: what is found, what is held out, in which order, when it is prepared again, and a run."""

import io
from pathlib import Path

import pytest
from own_data import WORDS, error_of, image, rows_of, stream_of, write
from rich.console import Console
from trials import quiet

import clora_exp.tasks.__main__ as tasks_main
from clora_exp.compose import compose_experiment
from clora_exp.errors import ConfigError
from clora_exp.identity import run_hash
from clora_exp.loop import run
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory
from clora_exp.tasks.names import in_order
from clora_exp.tasks.stream import SPLITS, Task, TaskStream, load_stream


def test_a_folder_a_task_becomes_the_stream_sorted_by_name(folder) -> None:
    stream = stream_of(folder)
    assert stream.names == ["legal", "medical"]
    assert [[len(task.split(split)) for split in SPLITS] for task in stream] == [[27, 3, 30], [24, 24, 24]]
    assert stream.tasks[1].labels == ["bird", "cat", "dog"]
    assert stream.tasks[1].test[0].text == "cat 200"
    assert stream.tasks[1].notes == ["columns text → label of medical/train.jsonl"]


def test_tasks_and_integer_labels_are_in_the_order_a_reader_counts(tmp_path) -> None:
    for name in ("part10", "part2"):
        for start, split in enumerate(("train", "test")):
            write(tmp_path / name / f"{split}.jsonl", rows_of([10, 9, -1], 12, 100 * start))
    stream = stream_of(tmp_path)
    assert stream.names == ["part2", "part10"]
    assert stream.tasks[0].labels == ["-1", "9", "10"]
    assert in_order(["b2", "B10", "a", "b2"]) == ["a", "b2", "B10"]


def test_a_whole_number_that_became_a_float_is_that_number_and_a_boolean_a_word(tmp_path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "a" / f"{split}.jsonl", rows_of([1.0, True], 4))
    assert stream_of(tmp_path).tasks[0].labels == ["1", "true"]


def test_the_validation_split_is_held_out_by_label_and_data_seed(folder) -> None:
    legal, again, other = (stream_of(folder, data_seed=seed).tasks[0] for seed in (0, 0, 1))
    assert legal.label_counts("validation") == {"gold": 1, "iron": 1, "tin": 1}
    assert legal.sha256 == again.sha256
    assert legal.sha256["validation"] != other.sha256["validation"]
    assert legal.sha256["test"] == other.sha256["test"]
    assert legal.notes[1] == "validation: 10% of train, held out here by data_seed=0"
    half = stream_of(folder, "tasks.files.validation_fraction=0.5").tasks[0]
    assert half.label_counts("validation") == {"gold": 5, "iron": 5, "tin": 5}


def test_a_group_is_held_out_whole(tmp_path) -> None:
    rows = [{**row, "group": f"g{i // 4}"} for i, row in enumerate(rows_of(["a"], 40))]
    write(tmp_path / "t" / "train.jsonl", rows)
    write(tmp_path / "t" / "test.jsonl", rows_of(["a"], 4, 100))
    (task,) = stream_of(tmp_path)
    assert len(task.validation) == 4
    assert len({example.group for example in task.validation}) == 1


def test_a_group_in_train_and_test_is_refused(tmp_path) -> None:
    for start, split in enumerate(("train", "test")):
        rows = [{**row, "group": "patient 1"} for row in rows_of(["a", "b"], 4, 100 * start)]
        write(tmp_path / "t" / f"{split}.jsonl", [*rows, *rows_of(["a", "b"], 4, 50 + 100 * start)])
    assert error_of(tmp_path) == "task 't': group 'patient 1' stands in both train and test"


def test_columns_are_renamed_in_the_configuration(tmp_path) -> None:
    for start, split in enumerate(("train", "test")):
        rows = [{"body": row["text"], "kind": row["label"]} for row in rows_of(["a", "b"], 8, 100 * start)]
        write(tmp_path / "t" / f"{split}.csv", rows)
    (task,) = stream_of(tmp_path, "tasks.files.text_column=body", "tasks.files.label_column=kind")
    assert task.labels == ["a", "b"]


def test_prompt_and_response_make_a_free_form_task(tmp_path, capsys) -> None:
    for start, split in enumerate(("train", "test")):
        rows = [{"prompt": f"say {i}", "response": f"it is {i}"} for i in range(100 * start, 100 * start + 20)]
        write(tmp_path / "chat" / f"{split}.jsonl", rows)
    (task,) = stream_of(tmp_path)
    assert task.is_free_form
    assert [len(task.split(split)) for split in SPLITS] == [18, 2, 20]
    assert (task.test[0].text, task.test[0].label) == ("say 100", "it is 100")
    assert tasks_main.main(["describe", "files", f"tasks.path={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "18 train, 2 validation, 20 test texts; free-form responses" in shown
    assert "   say 0 → it is 0\n" in shown


def test_one_table_with_a_task_column_is_split_here_by_label(tmp_path) -> None:
    rows = [{"task": task, **row} for task in ("b", "a") for row in rows_of(["x", "y"], 40)]
    for path in (write(tmp_path / "alone" / "all.csv", rows).parent, write(tmp_path / "all.jsonl", rows)):
        stream = stream_of(path)
        assert stream.names == ["a", "b"]
        assert [[len(task.split(split)) for split in SPLITS] for task in stream] == [[28, 4, 8]] * 2
        assert stream.tasks[0].label_counts("test") == {"x": 4, "y": 4}
        assert stream.tasks[0].notes[1:3] == [
            "test: 20% of train, held out here by data_seed=0",
            "validation: 10% of train, held out here by data_seed=0",
        ]


def test_one_table_with_a_split_column_is_split_as_it_says(tmp_path) -> None:
    splits = ["train"] * 10 + ["Valid"] * 2 + ["test"] * 4
    rows = [{"task": "a", "split": split, **row} for split, row in zip(splits, rows_of(["x", "y"], 16), strict=True)]
    (task,) = stream_of(write(tmp_path / "all.csv", rows))
    assert [len(task.split(split)) for split in SPLITS] == [10, 2, 4]


def test_parquet_is_read_like_the_others(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for start, split in enumerate(("train", "test")):
        (tmp_path / "a").mkdir(exist_ok=True)
        rows = [*rows_of([0, 1], 8, 100 * start)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a" / f"{split}.parquet")
    (task,) = stream_of(tmp_path)
    assert (task.labels, task.test[0].text) == (["0", "1"], "0 100")
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"text": "", "label": 1}]), tmp_path / "a" / "test.parquet")
    assert error_of(tmp_path) == "a/test.parquet, row 9: text is empty"
    (tmp_path / "a" / "test.parquet").write_bytes(b"no")
    assert error_of(tmp_path).startswith("a/test.parquet: no Parquet file: ")


def test_an_image_folder_a_task_keeps_paths_and_describe_shows_them(tmp_path, capsys) -> None:
    for start, split in enumerate(("train", "test")):
        for i in range(8):
            image(tmp_path / "shapes" / split / ("round" if i % 2 else "square") / f"{i}.png", 10 * start + i)
    (task,) = stream_of(tmp_path)
    assert (task.modality, task.labels) == ("image", ["round", "square"])
    assert [len(task.split(split)) for split in SPLITS] == [6, 2, 8]
    assert task.test[0].image == str(tmp_path / "shapes" / "test" / "round" / "1.png")
    assert tasks_main.main(["describe", "files", f"tasks.path={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "6 train, 2 validation, 8 test images; 2 labels: round, square" in shown
    assert str(tmp_path / "shapes" / "train") in shown.replace("\n", "")


def test_texts_that_stand_in_train_and_test_are_a_warning_with_their_number(folder) -> None:
    write(folder / "legal" / "test.csv", [*rows_of(["iron", "gold", "tin"], 3), *rows_of(["tin"], 7, 100)])
    assert stream_of(folder).tasks[0].notes[-1] == (
        "warning: 3 of 10 test texts stand in train too, the first is test-1"
    )


def test_an_exported_stream_reads_back_as_the_same_texts_and_labels(folder, tmp_path) -> None:
    assert tasks_main.main(["export", "files", str(tmp_path / "out"), f"tasks.path={folder}"]) == 0
    assert stream_of(tmp_path / "out").fingerprints() == stream_of(folder).fingerprints()


def test_a_number_as_order_is_a_permutation_by_that_seed(tmp_path) -> None:
    for name in "abcdef":
        for start, split in enumerate(("train", "test")):
            write(tmp_path / name / f"{split}.jsonl", rows_of(["x", "y"], 6, 100 * start))
    orders = [stream_of(tmp_path, f"tasks.order={seed}").names for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list("abcdef") != orders[0]
    assert stream_of(tmp_path, "tasks.order=[c,a]").names == ["c", "a"]


@pytest.mark.parametrize("order", ["-1", "first", "[]", "true", "1.5"])
def test_an_order_that_is_neither_list_nor_seed_is_refused(order: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a list of task names, or a seed to permute them by") as caught:
        compose_experiment([f"tasks.order={order}"])
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_prepared_again_and_an_unchanged_one_is_not(folder) -> None:
    config = compose_experiment(["tasks=files", f"tasks.path={folder}"]).tasks
    prepared: list[str] = []

    def load() -> TaskStream:
        class Preparing:
            def __init__(self, name: str) -> None:
                prepared.append(name)

            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...

        return load_stream(config, 0, Preparing)

    first, again = load(), load()
    assert prepared == ["files"]
    assert list(again) == list(first)
    assert [task.notes for task in again] == [task.notes for task in first]
    write(folder / "legal" / "test.csv", rows_of(WORDS["legal"], 31, 100))
    assert len(load().tasks[0].test) == 31
    assert prepared == ["files", "files"]


def test_equal_data_in_another_folder_is_the_same_run(folder, tmp_path) -> None:
    def digest(path: Path) -> str:
        config = compose_experiment(["tasks=files", f"tasks.path={path}"])
        return run_hash(config, load_stream(config.tasks, 0), "model")

    before = digest(folder)
    moved = folder.rename(tmp_path / "moved")
    assert digest(moved) == before
    write(moved / "legal" / "test.csv", rows_of(WORDS["legal"], 31, 100))
    assert digest(moved) != before


def test_labels_lose_the_spaces_around_them_and_those_that_look_alike_are_a_warning(folder) -> None:
    rows = "".join(f"text {i},{label}\n" for i, label in enumerate(["red", "red ", " Red", "blue"] * 3))
    for split in ("train", "test"):
        for path in (folder / "legal").glob(f"{split}.*"):
            path.unlink()
        (folder / "legal" / f"{split}.csv").write_text("text,label\n" + rows)
    legal = next(task for task in stream_of(folder) if task.name == "legal")
    assert sorted(legal.labels) == ["Red", "blue", "red"]
    assert "warning: labels 'Red' and 'red' differ in case or spaces alone" in legal.notes


def test_notes_are_no_part_of_a_split_s_fingerprint(folder) -> None:
    task = stream_of(folder).tasks[0]
    assert Task(**{**vars(task), "notes": ["another"]}).sha256 == task.sha256


def test_a_method_learns_files_and_says_before_what_it_found(folder, tiny) -> None:
    for task, words in WORDS.items():  # texts of the tiny model's words alone
        rows = [{"text": f"{w} {v}", "label": w} for w in words for v in ("red", "one", "green", "two")]
        write(folder / task / "train.jsonl", rows * 3)  # equal texts are held out together
        write(folder / task / "test.jsonl", rows)
        for old in [*(folder / task).glob("*.csv"), *(folder / task).glob("dev*")]:
            old.unlink()
    terminal = Terminal(Console(file=io.StringIO(), width=100))
    result: RunDirectory = run(
        tiny("tasks=files", f"tasks.path={folder}", "method=lora", "trainer.epochs=16"), "", terminal
    )
    shown = terminal.console.file.getvalue()
    assert "task     legal: 27 train, 9 validation, 12 test texts; 3 labels: gold, iron, tin\n" in shown
    assert "         columns text → label of legal/train.jsonl\n" in shown
    assert "         warning: 12 of 12 test texts stand in train too, the first is test-1\n" in shown
    matrix = result.read().matrix
    assert matrix.tasks == ["legal", "medical"]
    assert matrix.values[1, 0] > 0.9
    run(
        tiny("tasks=files", f"tasks.path={folder.rename(folder.parent / 'moved')}", "method=lora", "trainer.epochs=16"),
        "",
        quiet(),
    )
    assert len(list(result.path.parent.iterdir())) == 1
